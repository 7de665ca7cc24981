"""What a source lists: items and problems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from indexing.sources.sidecars import Sidecar, Words

BAD_SIDECAR: Final = "bad_sidecar"
"""The reason of a `Problem` whose picture is indexed all the same."""

UNKNOWN_SIZE: Final = -1


@dataclass(frozen=True, slots=True)
class Item:
    """One file that could be a picture.

    `key` is its path inside the source, with slashes; `path` is where it lies, an address without secrets if it is
    `remote`; `size` is in bytes, or `UNKNOWN_SIZE`. `version` changes with its content where that is told by something
    else than size and time: by a store's ETag or by the shard it is part of.
    """

    key: str
    path: str
    size: int
    mtime_ns: int
    sidecar: Sidecar | Words | None = None
    version: str = ""
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Something the listing could not use: a folder, a name, a row, or a sidecar (its picture is indexed without it).

    With a key that ends in "/", nothing is known of what lies below: that is not taken for gone.
    """

    key: str
    reason: str
    sentence: str


Listed = Item | Problem


class Source(Protocol):
    """A source of pictures."""

    @property
    def name(self) -> str:
        """What ledger, manifest and reports call it: an absolute path or an address without secrets."""
        ...

    def check(self) -> None:
        """Raises `SourceError` if it can't be read or has nothing that could be a picture."""
        ...

    def scan(self) -> Iterator[Listed]:
        """Everything in it, sorted by key by code points, the same each time after a remote source was checked."""
        ...

    def close(self) -> None:
        """Lets go of connections and files."""
        ...
