"""The first pass, taken before anybody waits for it."""

from __future__ import annotations

from PIL import Image

from engine.ports import Encoder

_TEXTS = (
    "a boat",
    "a photo of a red car at night",
    "two dogs that play on the beach while the sun goes down",
    "sunset",
)


def warm_up(encoder: Encoder) -> None:
    """Encodes texts, alone and together, and one picture, so that kernels are chosen and memory is there."""
    for text in _TEXTS:
        encoder.encode_texts([text])
    encoder.encode_texts(_TEXTS)
    encoder.encode_images(encoder.preprocess(Image.new("RGB", (640, 480), "red"))[None])
