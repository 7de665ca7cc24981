"""Decoded pictures to embeddings, so many at once as suits the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from engine.ports import Encoder, Vectors
from indexing.decode import Decoded

_ON_CPU: Final = 32
_ON_ACCELERATOR: Final = 256


def chunk_size(encoder: Encoder) -> int:
    """How many pictures to encode at once.

    A processor gains nothing above 32, and an interrupt is felt soon; an accelerator idles below some hundreds.
    """
    return _ON_CPU if encoder.device == "cpu" else _ON_ACCELERATOR


def encode(encoder: Encoder, pictures: Sequence[Decoded]) -> Vectors:
    """Embeddings of at most `chunk_size` pictures, (n, d). Blocking."""
    return encoder.encode_images(np.stack([picture.pixels for picture in pictures]))
