"""The small model: OpenCLIP's own, read by heads that see both towers alike."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch.nn import functional as F

from indexing.scenes.vocabulary import BACKGROUNDS, COLORS, KINDS, TIMES, WEATHERS
from indexing.training.tower import CONFIG, Heads, build, text_features

VOCABULARY = 50


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    """A fresh model, the same every time, with weights large enough that mistakes would show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build(VOCABULARY).eval().requires_grad_(requires_grad=False)
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return made


def texts(*rows: tuple[int, ...]) -> torch.Tensor:
    """Rows of token numbers with zeros behind the shorter ones."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *(0,) * (longest - len(row))] for row in rows])


TOKENS = texts((48, 3, 7, 49), (48, 1, 0, 2, 9, 30, 4, 49), (48, 49))


def test_cut_text_equals_padded(model: open_clip.CLIP):
    """Texts cut to the longest, each alone, and padded to the full length have the same embedding as OpenCLIP's own."""
    padded = F.pad(TOKENS, (0, CONFIG["text_cfg"]["context_length"] - TOKENS.shape[1]))
    expected = model.encode_text(padded)
    torch.testing.assert_close(text_features(model, TOKENS), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text_features(model, padded), expected, rtol=1e-4, atol=1e-5)
    for tokens, embedding in zip(TOKENS, expected, strict=True):
        alone = tokens[None, : tokens.argmax() + 1]
        torch.testing.assert_close(text_features(model, alone)[0], embedding, rtol=1e-4, atol=1e-5)


def test_order_of_words_matters(model: open_clip.CLIP):
    """The same words in another order are another embedding."""
    first, second = F.normalize(text_features(model, texts((48, 3, 7, 49), (48, 7, 3, 49))), dim=1)
    assert first @ second < 0.9999


def test_both_towers_meet(model: open_clip.CLIP):
    """Pictures and texts become vectors of the configured dimension."""
    side = CONFIG["vision_cfg"]["image_size"]
    assert model.visual(torch.zeros(2, 3, side, side)).shape == (2, CONFIG["embed_dim"])
    assert text_features(model, TOKENS).shape == (3, CONFIG["embed_dim"])


def test_heads_read_every_part():
    """A reading has logits for each kind, colour, number, side, pair, place, time and weather."""
    read = Heads(CONFIG["embed_dim"])(F.normalize(torch.randn(5, CONFIG["embed_dim"]), dim=1))
    kinds, colors = len(KINDS), len(COLORS)
    assert {name: tuple(value.shape) for name, value in read.items()} == {
        "kind": (5, kinds),
        "count": (5, kinds, 3),
        "color": (5, colors),
        "side": (5, 2, kinds + 1),
        "binding": (5, kinds, colors),
        "background": (5, len(BACKGROUNDS)),
        "time": (5, len(TIMES)),
        "weather": (5, len(WEATHERS)),
    }
