"""Disk space: asked for before it is needed, and a full disk told apart from every other error.

Edge writes through memory maps, and a full disk under those ends the process without a word. So some space is never
used up.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Final

_SPARE_BYTES: Final = 256 * 2**20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS: Final = ("no space left on device", "disk is full", "quota exceeded", "file too large")


def require(folder: Path, needed: int) -> None:
    """Raises `OSError` (ENOSPC) unless the folder's disk has `needed` bytes, and the spare ones, free."""
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"{(needed + _SPARE_BYTES) // 2**20} MB are needed, {free // 2**20} MB are free")


def full_reason(error: BaseException) -> str | None:
    """What a full disk, a quota or a size limit said, if one of them is behind the error; None for any other error."""
    cause: BaseException | None = error
    while cause:
        full = isinstance(cause, OSError) and cause.errno in _FULL
        if full or any(words in str(cause).lower() for words in _FULL_WORDS):
            return str(getattr(cause, "strerror", None) or cause)
        cause = cause.__cause__ or cause.__context__
    return None


def used_bytes(folder: Path) -> int:
    """Bytes that the files in a folder really take up, holes left out."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
