"""Pictures to embeddings, with the slow half of preprocessing moved into the decoding workers.

A model sees a picture only after it was made small, and workers can do that, in parallel and without knowing the model.
But only if the result is the same to the bit: so the way is found by trying, and where none is exact, whole pictures
travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from engine.ports import Encoder, Vectors
from indexing.decode import Decoded, Fit

CHUNK: Final = 32
"""Pictures encoded at once: fast on CPU and GPU, small enough that an interrupt is felt soon."""

_SHAPES: Final = ("crop", "squash", "inside")
_FILTERS: Final = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.BOX)
_TRIALS: Final = ((3.1, 2.0), (1.5, 2.77), (5.3, 1.0), (0.6, 0.83))


def find_fit(encoder: Encoder) -> Fit | None:
    """The way to make pictures smaller after which `encoder.preprocess` gives the same pixels; None if there is none.

    It is tried on noise of four shapes, smaller and larger than the model's picture, wide and tall.
    """
    side = encoder.model.image_size
    noise = np.random.default_rng(0)
    pictures = [
        Image.fromarray(noise.integers(0, 256, (round(high * side), round(wide * side), 3), dtype=np.uint8))
        for wide, high in _TRIALS
    ]
    wanted = [encoder.preprocess(picture) for picture in pictures]
    for shape in _SHAPES:
        for resample in _FILTERS:
            fit = Fit(shape, int(resample), side)
            if all(
                np.array_equal(encoder.preprocess(fit.apply(picture)), pixels)
                for picture, pixels in zip(pictures, wanted, strict=True)
            ):
                return fit
    return None


def encode(encoder: Encoder, pictures: Sequence[Decoded]) -> Vectors:
    """Embeddings of at most `CHUNK` pictures, (n, d). Blocking."""
    pixels = [encoder.preprocess(Image.frombytes("RGB", picture.pixels_size, picture.pixels)) for picture in pictures]
    return encoder.encode_images(np.stack(pixels))
