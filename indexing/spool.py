"""A list that may be longer than memory."""

from __future__ import annotations

import pickle
import tempfile
import weakref
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_TOGETHER: Final = 256
_IN_MEMORY: Final = 16 << 20  # bytes; a picture to be decoded takes 300 to 500


class Spool(Generic[T]):
    """Holds what is appended, in that order, and beyond 16 MB in a file without a name that is gone with the process.

    It may be read any number of times, also several times at once.
    """

    def __init__(self) -> None:
        """Empty."""
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - as long as this is there
        weakref.finalize(self, self._file.close)
        self._tail: list[T] = []
        self._length = 0

    def append(self, item: T) -> None:
        """Adds one, which can be pickled."""
        self._tail.append(item)
        self._length += 1
        if len(self._tail) == _TOGETHER:
            self._file.seek(0, 2)
            pickle.dump(self._tail, self._file, pickle.HIGHEST_PROTOCOL)
            self._tail = []

    def __len__(self) -> int:
        """How many there are."""
        return self._length

    def __iter__(self) -> Iterator[T]:
        """All of them."""
        for part in self.parts():
            yield from part

    def parts(self) -> Iterator[list[T]]:
        """All of them, some hundred at a time."""
        position = 0
        for _ in range(self._length // _TOGETHER):
            self._file.seek(position)
            part: list[T] = pickle.load(self._file)  # noqa: S301 - of this process
            position = self._file.tell()
            yield part
        if self._tail:
            yield list(self._tail)
