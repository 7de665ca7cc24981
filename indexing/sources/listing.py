"""Everything that a remote source has, sorted by key, on disk instead of in memory.

An SQLite database without a name: SQLite removes the file as it makes it, so that it is gone with the process however
that ends, and nobody else can read it. It may hold addresses with their secrets, which nothing else on disk does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

_CACHE_KB: Final = 32 * 1024
_SCHEMA: Final = f"""
PRAGMA cache_size = -{_CACHE_KB};
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE entries (
    key TEXT PRIMARY KEY, path TEXT, address TEXT, offset INTEGER, size INTEGER, mtime_ns INTEGER, version TEXT,
    remote INTEGER
) WITHOUT ROWID;
CREATE TABLE words (
    owner TEXT, kind TEXT, address TEXT, offset INTEGER, size INTEGER, version TEXT, data BLOB,
    PRIMARY KEY (owner, kind)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that could be a picture, and its bytes: `size` of them at `offset` of what lies at `address`."""

    key: str
    path: str
    address: str
    offset: int
    size: int
    mtime_ns: int
    version: str
    remote: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """Words, or a part of them: `data` if they are known, else bytes to fetch.

    `owner` is what they belong to, as the source finds them again; `kind` tells parts of one owner apart.
    """

    owner: str
    kind: str
    address: str = ""
    offset: int = 0
    size: int = 0
    version: str = ""
    data: bytes | None = None


class Listing:
    """The entries and words of one source; it may be used by one thread after the other."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Drops it all."""
        self._database.close()

    def add(self, entries: Iterable[Entry]) -> None:
        """Adds entries; one with a key that is there takes its place, as the later one in a tar does."""
        rows = ((e.key, e.path, e.address, e.offset, e.size, e.mtime_ns, e.version, e.remote) for e in entries)
        self._database.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def add_words(self, parts: Iterable[Part]) -> None:
        """Adds words; a part with the owner and kind of one that is there takes its place."""
        rows = ((p.owner, p.kind, p.address, p.offset, p.size, p.version, p.data) for p in parts)
        self._database.executemany("INSERT OR REPLACE INTO words VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def entries(self) -> Iterator[Entry]:
        """All entries, sorted by key by code points: SQLite compares the bytes of UTF-8, which sort alike."""
        yield from map(_entry, self._database.execute("SELECT * FROM entries ORDER BY key"))

    def entry(self, key: str) -> Entry | None:
        """The entry of this key."""
        found = self._database.execute("SELECT * FROM entries WHERE key = ?", (key,)).fetchone()
        return _entry(found) if found else None

    def words(self, owner: str) -> list[Part]:
        """An owner's words, by kind."""
        rows = self._database.execute("SELECT * FROM words WHERE owner = ? ORDER BY kind", (owner,))
        return [Part(*row) for row in rows]

    def has_words(self) -> bool:
        """Whether any picture has words."""
        return self._database.execute("SELECT 1 FROM words LIMIT 1").fetchone() is not None

    def is_empty(self) -> bool:
        """Whether nothing could be a picture."""
        return self._database.execute("SELECT 1 FROM entries LIMIT 1").fetchone() is None


def _entry(row: tuple[Any, ...]) -> Entry:
    key, path, address, offset, size, mtime_ns, version, remote = row
    return Entry(key, path, address, offset, size, mtime_ns, version, bool(remote))
