"""OpenCLIP's towers as modules, and which text towers may be given texts without their padding.

Most of a query's time is the text tower, and OpenCLIP pads every text to 77 tokens. In a causal tower the padding comes
after the token whose state is the embedding, and can't change it; so the text is cut there, which is exact (differences
of 1e-7) and two to three times faster. Towers that look both ways get the padding they were trained with.

Exported, causal towers take texts packed into one sequence, of which a mask keeps them apart: nothing is computed for
the shorter of two texts, and hardly two passes differ in shape but in one number. The start that all have in common is
computed then, once, and the last layer of end tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn
from torch.nn import functional

from engine.encoders.texts import TextTower
from engine.preprocess import Preprocessing


@dataclass(frozen=True, slots=True)
class CausalTower:
    """A text tower whose texts may be cut: `parts` has its layers; `end_token` as in `TextTower`."""

    parts: Any
    end_token: int | None

    @classmethod
    def of(cls, model: nn.Module) -> CausalTower | None:
        """The model's text tower if it is OpenCLIP's own, causal and pooled at the end token; else None."""
        parts: Any = model if type(model) is CLIP else getattr(model, "text", None)
        if type(parts) is CLIP:
            pool_type, end_token = parts.text_pool_type, parts.text_eos_id
        elif type(parts) is TextTransformer and parts.cls_emb is None:
            pool_type, end_token = parts.pool_type, parts.eos_id
        else:
            return None
        if parts.attn_mask is None or pool_type not in ("argmax", "eos"):
            return None
        return cls(parts, end_token if pool_type == "eos" else None)

    def encode(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """What encode_text does, which in open_clip 3.3 adds a positional table and a mask of full length only."""
        parts, length = self.parts, tokens.shape[1]
        x = parts.token_embedding(tokens) + parts.positional_embedding[:length]
        x = parts.transformer(x, attn_mask=parts.attn_mask[:length, :length])
        return self._projected(x[torch.arange(x.shape[0], device=x.device), ends])

    def encode_packed(
        self, tokens: Tensor, positions: Tensor, texts: Tensor, ends: Tensor, start: Sequence[Seen] = ()
    ) -> Tensor:
        """The same of texts in one sequence, as `texts.packed` makes it; without their start if `of_start` is given."""
        parts = self.parts
        x = parts.token_embedding(tokens) + parts.positional_embedding[positions]
        sees = (texts[:, None] == texts) & (positions[:, None] >= positions)
        mask = torch.where(sees, 0.0, -torch.inf)
        if not self.is_plain:
            return self._projected(parts.transformer(x[None], attn_mask=mask)[0][ends])
        blocks: list[Any] = list(parts.transformer.resblocks)
        if start:
            mask = functional.pad(mask, (1, 0))
        before: Sequence[Seen | None] = start or [None] * len(blocks)
        for block, seen in zip(blocks[:-1], before, strict=False):
            x = _after(block, x, mask, seen)
        return self._projected(_after(blocks[-1], x, mask, before[-1], ends))

    @property
    def is_plain(self) -> bool:
        """Whether its layers are those that we can write out."""
        blocks: Any = getattr(self.parts.transformer, "resblocks", None)
        return bool(blocks) and all(type(block) is ResidualAttentionBlock for block in blocks)

    @torch.no_grad()
    def of_start(self, token: int) -> list[Seen]:
        """What the texts' common first token shows to those after it in each layer of a plain tower.

        It sees nothing but itself, so this is the same for all texts.
        """
        x = self.parts.token_embedding.weight[token : token + 1] + self.parts.positional_embedding[:1]
        seen = []
        blocks: Any = self.parts.transformer.resblocks
        for block in blocks:
            _, keys, values = _projections(block.attn, block.ln_1(x))
            seen.append((keys, values))
            x = _after(block, x, torch.zeros(1, 1))
        return seen

    def _projected(self, x: Tensor) -> Tensor:
        x = self.parts.ln_final(x)  # the norm is of each position alone
        projection = self.parts.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        features: Tensor = x
        return features


Seen = tuple[Tensor, Tensor]
"""What tokens show to others in one layer: keys (heads, t, d) and values (heads, t, d + 1), of which the last are 1."""


def _after(block: Any, x: Tensor, mask: Tensor, before: Seen | None = None, rows: Tensor | None = None) -> Tensor:
    """States (t, d) after a layer; of some rows only, if they are named: the others are seen by nobody any more.

    `before` is what a token shows that is not in the sequence, and comes first in the mask.
    """
    normed = block.ln_1(x)
    if rows is not None:
        x, mask = x[rows], mask[rows]
    x = x + block.ls_1(_attention(block.attn, normed, mask, before, rows))
    states: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return states


def _attention(attn: Any, x: Tensor, mask: Tensor, before: Seen | None, rows: Tensor | None) -> Tensor:
    """Attention of a sequence (t, d) to itself, to the same numbers whatever else is in it.

    PyTorch's own is traced to twice as many steps, and adds up a softmax in groups that depend on where a text lies.
    That is 1e-7, until it makes a byte of an activation round the other way. Here a column of ones beside the values
    adds up the weights, so both sums are products of matrices, which go from token to token and do not notice zeros.
    """
    q, k, v = _projections(attn, x, rows)
    if before:
        k, v = torch.cat([before[0], k], dim=1), torch.cat([before[1], v], dim=1)
    scores = q @ k.transpose(1, 2) + mask
    seen = (scores - scores.amax(dim=-1, keepdim=True)).exp() @ v
    sums, weights = torch.split(seen, [attn.head_dim, 1], dim=-1)
    out: Tensor = attn.out_proj((sums / weights).transpose(0, 1).reshape(-1, attn.embed_dim))
    return out


def _projections(attn: Any, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of some rows, or of all; keys and values of all, which have a column of ones: each (heads, t, d)."""
    heads, width = attn.num_heads, attn.embed_dim
    scale = attn.head_dim**-0.5
    weights, biases = attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3)
    values = functional.pad(weights[2].unflatten(0, (heads, -1)), (0, 0, 0, 1)).flatten(0, 1)
    ones = functional.pad(biases[2].unflatten(0, (heads, -1)), (0, 1), value=1.0).flatten()
    asking = [weights[0] * scale, biases[0] * scale]
    shown = [torch.cat([weights[1], values]), torch.cat([biases[1], ones])]
    parts: Any
    if rows is None:
        together = functional.linear(x, *(torch.cat(pair) for pair in zip(asking, shown, strict=True)))
        parts = torch.split(together, [width, width, width + heads], dim=-1)
    else:
        queries = functional.linear(x[rows], *asking)
        parts = queries, *torch.split(functional.linear(x, *shown), [width, width + heads], dim=-1)
    q, k, v = (
        part.reshape(-1, heads, size).transpose(0, 1)
        for part, size in zip(parts, (attn.head_dim, attn.head_dim, attn.head_dim + 1), strict=True)
    )
    return q, k, v


class TextGraph(nn.Module):
    """A model's text tower as a module: tokens (n, l) and their ends (n,) to features (n, d) of any length."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        self._causal = CausalTower.of(model)

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Features of texts; `ends` matter to causal towers only."""
        features: Tensor = (
            self._model.encode_text(tokens) if self._causal is None else self._causal.encode(tokens, ends)
        )
        return features


class PackedTextGraph(nn.Module):
    """A causal text tower as a module: texts as `texts.packed` makes them to features (n, d) of any length."""

    def __init__(self, tower: CausalTower, start_token: int | None) -> None:
        """`start_token` is built in if it is named: texts are then given without it."""
        super().__init__()
        self._parts = tower.parts  # a module's weights are those of its members
        self._tower = tower
        self._start = () if start_token is None else tower.of_start(start_token)

    def forward(self, tokens: Tensor, positions: Tensor, texts: Tensor, ends: Tensor) -> Tensor:
        """Features of texts."""
        return self._tower.encode_packed(tokens, positions, texts, ends, self._start)


class ImageGraph(nn.Module):
    """A model's image tower as a module: pixels (n, h, w, 3), bytes, to features (n, d) of any length."""

    def __init__(self, model: Any, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._model = model
        self._dtype = dtype
        std = torch.tensor(preprocessing.std)
        self._scale = 1 / (255 * std)
        self._shift = torch.tensor(preprocessing.mean) / std

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of pictures. Normalizes in float32, whatever the model computes in."""
        normalized = pixels.float() * self._scale.to(pixels.device) - self._shift.to(pixels.device)
        features: Tensor = self._model.encode_image(normalized.permute(0, 3, 1, 2).to(self._dtype))
        return features


def text_tower(model: nn.Module) -> TextTower:
    """What has to be known of a model's text tower."""
    causal = CausalTower.of(model)
    return TextTower(cut=False) if causal is None else TextTower(cut=True, end_token=causal.end_token)
