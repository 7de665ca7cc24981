"""The small model: a real OpenCLIP one, and the heads that teach it what is in a picture.

The heads read both towers' embeddings with the same weights: words and pictures of the same things come to lie
together sooner than by contrast alone. They are thrown away after training.
"""

from __future__ import annotations

from typing import Any, Final

import open_clip
import torch
from torch import Tensor, nn

from indexing.scenes.vocabulary import BACKGROUNDS, COLORS, KINDS, TIMES, WEATHERS

CONFIG: Final[dict[str, Any]] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 96, "layers": [1, 1, 2, 1], "width": 32, "patch_size": None},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
    "preprocess_cfg": {
        "size": 96,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
"""The model as OpenCLIP configures it. A ResNet: on scenes of this size it learns far faster than a ViT."""


def build(vocabulary: int) -> open_clip.CLIP:
    """A fresh model with a token table of `vocabulary` rows."""
    return open_clip.CLIP(
        embed_dim=CONFIG["embed_dim"],
        vision_cfg=CONFIG["vision_cfg"],
        text_cfg=CONFIG["text_cfg"] | {"vocab_size": vocabulary},
    )


def text_features(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Text embeddings (n, d) before normalization. Rows need only be as long as the longest text, as in the engine."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)
    pooled: Tensor = x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection
    return pooled


class Heads(nn.Module):
    """Linear readings of a unit embedding (n, d): what is there, its colour, number, side and surroundings."""

    RANK: Final = 16

    def __init__(self, dimension: int) -> None:
        super().__init__()
        kinds, colors = len(KINDS), len(COLORS)
        self.kind_and_count = nn.Linear(dimension, kinds * 4)
        self.color = nn.Linear(dimension, colors)
        self.side = nn.Linear(dimension, 2 * (kinds + 1))
        self.binding = nn.Linear(dimension, kinds * self.RANK)
        self.binding_color = nn.Parameter(torch.randn(self.RANK, colors) / self.RANK**0.5)
        self.binding_bias = nn.Parameter(torch.full((kinds, colors), -3.0))
        self.place = nn.Linear(dimension, len(BACKGROUNDS) + len(TIMES) + len(WEATHERS))

    def forward(self, unit: Tensor) -> dict[str, Tensor]:
        """Logits by name. Embeddings are scaled up first: a unit vector's parts are small."""
        x, kinds = unit * 16, len(KINDS)
        counts = self.kind_and_count(x).view(-1, kinds, 4)
        background, time, weather = self.place(x).split([len(BACKGROUNDS), len(TIMES), len(WEATHERS)], dim=1)
        return {
            "kind": counts[:, :, 0],
            "count": counts[:, :, 1:],
            "color": self.color(x),
            "side": self.side(x).view(-1, 2, kinds + 1),
            "binding": self.binding(x).view(-1, kinds, self.RANK) @ self.binding_color + self.binding_bias,
            "background": background,
            "time": time,
            "weather": weather,
        }
