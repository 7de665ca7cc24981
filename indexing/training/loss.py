"""What the model is taught: every text nearer to the pictures it fits than to the others, and what each of them shows.

Contrast is softmax cross entropy (Radford et al. 2021) with one change: a picture that a text fits is never its
negative, whichever text it was drawn for. Near misses are negatives by construction.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from indexing.scenes.scene import held_out
from indexing.scenes.truth import ANY
from indexing.scenes.vocabulary import COLORS, KINDS


def contrast(pictures: Tensor, texts: Tensor, scale: Tensor, truth: Tensor) -> Tensor:
    """The contrastive loss of unit embeddings (b, d) and (m, d), given which texts fit which pictures, (m, b)."""
    logits = scale * texts @ pictures.T
    negatives = logits.masked_fill(truth, -1e4)
    from_text = F.softplus(negatives.logsumexp(1, keepdim=True) - logits)
    from_picture = F.softplus(negatives.logsumexp(0, keepdim=True) - logits)
    positives = truth.float()
    each_text = positives.sum(1)
    by_text = (from_text * positives).sum(1) / each_text.clamp(min=1)
    each_picture = positives.sum(0)
    by_picture = (from_picture * positives).sum(0) / each_picture.clamp(min=1)
    return by_text[each_text > 0].mean() + by_picture[each_picture > 0].mean()


def likeness(pictures: Tensor, alike: Tensor) -> Tensor:
    """How badly unit embeddings (b, d) bring together pictures that share their main kind of thing, by `alike` (b, b).

    Supervised contrast (Khosla et al. 2020) among the pictures of a batch, for "more like this": without it a place and
    an hour in common weigh as much as the thing itself. Pairs that only one side calls alike are nobody's negatives.
    """
    logits = 12 * pictures @ pictures.T
    same = torch.eye(len(pictures), dtype=torch.bool, device=pictures.device)
    negatives = logits.masked_fill(alike | alike.T | same, -1e4)
    positives = (alike & ~same).float()
    each = positives.sum(1)
    by_picture = (F.softplus(negatives.logsumexp(1, keepdim=True) - logits) * positives).sum(1) / each.clamp(min=1)
    return by_picture.sum() / (each > 0).sum().clamp(min=1)


@cache
def _trained_pairs(device: torch.device) -> Tensor:
    pairs = [[not held_out(kind, color) for color in COLORS] for kind in KINDS]
    return torch.tensor(pairs, device=device)


def contents(read: dict[str, Tensor], things: Tensor, place: Tensor, sides_known: Tensor) -> Tensor:
    """How badly the heads read what is there.

    `things` is (n, 2, 3): kind, colour and count of two things, negative where none or not said. `place` is (n, 3),
    -1 where not said. `sides_known` (n,) tells whether the first is known to be the left one.
    """
    rows = torch.arange(len(things), device=things.device)
    kinds, colors = torch.zeros_like(read["kind"]), torch.zeros_like(read["color"])
    pairs = torch.zeros_like(read["binding"])
    losses = []
    for slot in (0, 1):
        kind, color, count = things[:, slot].unbind(1)
        has_kind, has_color = kind >= 0, color >= 0
        kinds[rows[has_kind], kind[has_kind]] = 1
        colors[rows[has_color], color[has_color]] = 1
        both = has_kind & has_color
        pairs[rows[both], kind[both], color[both]] = 1
        counted = has_kind & (count > 0)
        if counted.any():
            losses.append(F.cross_entropy(read["count"][rows[counted], kind[counted]], count[counted] - 1))
        if sides_known.any():
            seen = torch.where(kind >= 0, kind, len(KINDS))[sides_known]
            losses.append(0.5 * F.cross_entropy(read["side"][sides_known, slot], seen))
    asked = _trained_pairs(things.device).expand_as(pairs)
    losses.append(F.binary_cross_entropy_with_logits(read["kind"], kinds) * 20)
    losses.append(F.binary_cross_entropy_with_logits(read["color"], colors) * 4)
    losses.append(F.binary_cross_entropy_with_logits(read["binding"][asked], pairs[asked]) * 100)
    for number, name in enumerate(("background", "time", "weather")):
        said = place[:, number] != ANY
        if said.any():
            losses.append(0.5 * F.cross_entropy(read[name][said], place[said, number]))
    return torch.stack(losses).sum()
