"""Qdrant Edge inside this process: for builds, for commands that end soon, and for tests.

Edge holds Python's GIL while it works, so a thread of its own keeps calls in order but frees nobody else for long. What
has to answer meanwhile uses `ProcessIndex`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from engine.errors import IndexUnavailable
from engine.indexes.shard import Shard
from engine.ports import Filter, Hit, IndexInfo, Point, VectorQuery
from engine.settings import Settings

T = TypeVar("T")

_QUERIES_AT_ONCE: Final = 16  # between groups of queries the GIL is free for the event loop


class EdgeIndex:
    """One Edge shard. Make it with `create` or `open`; all methods may be called from any event loop."""

    def __init__(self, shard: Shard, thread: ThreadPoolExecutor) -> None:
        """Takes over an open shard and the thread that it lives in."""
        self._shard = shard
        self._thread = thread

    @classmethod
    def create(cls, path: Path, dimension: int, settings: Settings) -> EdgeIndex:
        """A new, empty index of (dimension,) vectors in the folder `path`, which is made.

        Raises `IndexUnavailable` when the folder already holds an index.
        """
        return cls._start(lambda: Shard.create(path, dimension, settings))

    @classmethod
    def open(cls, path: Path, settings: Settings) -> EdgeIndex:
        """The index in the folder `path`. Settings that changed since it was built apply from the next `optimize`.

        Raises `IndexUnavailable` when another process has it open, `IndexCorrupt` when its files can't be read.
        """
        return cls._start(lambda: Shard.open(path, settings))

    async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """One sorted list of hits per query. HNSW candidates are at least the limit, and rescored in full precision."""
        answers: list[list[Hit]] = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            group = queries[start : start + _QUERIES_AT_ONCE]
            answers += await self._call(partial(self._shard.search, group))
        return answers

    async def count(self, filter: Filter | None = None) -> int:
        """How many points the filter admits, exactly."""
        return await self._call(lambda: self._shard.count(filter))

    async def retrieve(self, ids: Sequence[str], *, vectors: bool = False, payload: bool = True) -> list[Point]:
        """The points of these ids, in that order, unknown ones left out; their payloads are {} when not asked for."""
        return await self._call(lambda: self._shard.retrieve(ids, vectors=vectors, payload=payload))

    async def facet(self, field: str, filter: Filter | None = None, limit: int = 100) -> list[tuple[str, int]]:
        """The values of a field with their numbers of points. Fast for category, a full read for other fields."""
        return await self._call(lambda: self._shard.facet(field, filter, limit))

    async def upsert(self, points: Sequence[Point]) -> None:
        """Writes points and flushes them; within one call the last of equal ids wins.

        Raises `BadUserInput` for a vector of another length, a payload that is not JSON, or an id that is no UUID.
        """
        await self._call(lambda: self._shard.upsert(points))

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes points; unknown ids are ignored."""
        await self._call(lambda: self._shard.delete(ids))

    async def ids(self, after: str = "", limit: int | None = None) -> list[str]:
        """The ids that come after one, sorted, and at most so many; every id when nothing is named."""
        return await self._call(lambda: self._shard.ids(after, limit))

    async def optimize(self) -> None:
        """Builds graph and quantized vectors. Blocks all of this process's Python for as long as it takes."""
        await self._call(self._shard.optimize)

    async def info(self) -> IndexInfo:
        """Size and shape; `disk_bytes` is what the files occupy, less than their length where they are sparse."""
        return await self._call(self._shard.info)

    async def close(self) -> None:
        """Flushes and lets go of the files; harmless when done twice."""
        if self._shard.closed:
            return
        try:
            await self._call(self._shard.close)
        finally:
            self._thread.shutdown(wait=False)

    @classmethod
    def _start(cls, make: Callable[[], Shard]) -> EdgeIndex:
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edge-index")
        try:
            return cls(thread.submit(make).result(), thread)
        except BaseException:
            thread.shutdown(wait=False)
            raise

    async def _call(self, work: Callable[[], T]) -> T:
        """Runs blocking work in the shard's thread."""
        if self._shard.closed:
            raise IndexUnavailable(f"The index at {self._shard.path} is closed. Open it again.")
        return await asyncio.wrap_future(self._thread.submit(work))
