from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")  # noqa: S108 - a place for the disk's work, not for secrets
ENOUGH = 2 * 2**30


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is enough, because an index is flushed to its disk again and again."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH
    with tempfile.TemporaryDirectory(prefix="sightline-tests-", dir=MEMORY if roomy else None) as folder:
        yield Path(folder)
