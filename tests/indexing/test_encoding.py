from __future__ import annotations

import numpy as np
import pytest

from indexing.decode import Decoded
from indexing.encoding import chunk_size, encode
from tests.support.encoders import WordEncoder


class Accelerated(WordEncoder):
    """An encoder that says it is elsewhere."""

    @property
    def device(self) -> str:
        """Not the processor."""
        return "cuda"


def test_pictures_are_encoded_in_their_order():
    """Each vector is that of its own picture's pixels."""
    encoder = WordEncoder()
    pixels = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    pictures = [Decoded("", 50, 40, None, each, b"") for each in pixels]
    assert encode(encoder, pictures) == pytest.approx(encoder.encode_images(pixels))


def test_an_accelerator_gets_more_at_once():
    """A processor gains nothing from larger chunks, and is interrupted sooner by smaller ones."""
    assert chunk_size(Accelerated()) > chunk_size(WordEncoder())
