"""The vocabulary and the pictures that tests of training share."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from indexing.training.pool import PICTURE_PX
from indexing.training.words import Words


@pytest.fixture(scope="session")
def words() -> Words:
    """The captions' vocabulary: collecting it takes a second, and it never changes."""
    collected = Words(32)
    assert collected.size > 200
    return collected


@pytest.fixture(scope="session")
def pixels() -> NDArray[np.uint8]:
    """60 pictures whose pixels say which one, which row and which column they are: (60, 102, 102, 3)."""
    told = np.empty((60, PICTURE_PX, PICTURE_PX, 3), np.uint8)
    told[..., 0] = np.arange(60)[:, None, None]
    told[..., 1] = np.arange(PICTURE_PX)[:, None]
    told[..., 2] = np.arange(PICTURE_PX)
    return told
