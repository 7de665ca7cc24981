"""Which of several workers a file belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from engine.errors import BadUserInput


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a source, numbered from 0. A file's key alone decides in which it is, on every machine.

    Raises `BadUserInput` when there is no such part.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        """Checks both numbers."""
        if not 0 <= self.index < self.count:
            raise BadUserInput(
                f"There is no shard {self.index} of {self.count}. Shards are numbered from 0: --shard-index is at most "
                f"{max(self.count, 1) - 1} with --shard-count {max(self.count, 1)}."
            )

    def owns(self, key: str) -> bool:
        """Whether a file is in this part."""
        return owner(key, self.count) == self.index

    def __str__(self) -> str:
        """For people."""
        return f"shard {self.index} of {self.count}"


def owner(key: str, count: int) -> int:
    """The number of the part that a file is in, of so many."""
    if count == 1:
        return 0
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


WHOLE: Final = Shard(0, 1)
"""All of a source."""
