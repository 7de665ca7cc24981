from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from engine.ports import Encoder
from tests.support.encoders import PALETTE, WordEncoder


@pytest.mark.parametrize("colour", PALETTE)
def test_colour_word_finds_picture(colour: str):
    """A picture's colour is nearer to its own word than to any other colour's, in the bare and in a longer text."""
    encoder: Encoder = WordEncoder()
    picture = encoder.encode_images(encoder.preprocess(Image.new("RGB", (30, 20), PALETTE[colour]))[None])
    bare = encoder.encode_texts(list(PALETTE)) @ picture[0]
    longer = encoder.encode_texts([f"A {word} car" for word in PALETTE]) @ picture[0]
    assert list(PALETTE)[int(bare.argmax())] == list(PALETTE)[int(longer.argmax())] == colour


def test_pictures_of_one_colour_differ():
    """Pictures with the same mean colour but other pixels have other vectors, all of unit length."""
    encoder = WordEncoder()
    plain, spotted = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "red")
    spotted.paste((255, 120, 0), (0, 0, 4, 4))
    vectors = encoder.encode_images(np.stack([encoder.preprocess(plain), encoder.preprocess(spotted)]))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert vectors[0] @ vectors[1] < 0.999


def test_empty_input():
    """No inputs make no vectors of the right dimension."""
    encoder = WordEncoder(dimension=12)
    assert encoder.encode_texts([]).shape == (0, 12)
    assert encoder.encode_images(np.zeros((0, 3, 8, 8), dtype=np.float32)).shape == (0, 12)
