"""The indexes that this process serves: opened at first use, swapped when another generation is promoted.

Each index is in a process of its own, because Qdrant Edge keeps the event loop waiting while it searches. Nobody is
interrupted by a swap: a search keeps the generation it began with, and the old one is closed when its last
user has left.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from engine.errors import IndexCorrupt, IndexNotFound, IndexNotReady, SightlineError
from engine.generations import Generation, GenerationStore
from engine.indexes.process import ProcessIndex
from engine.ports import VectorIndex
from engine.settings import Settings

_REFRESH_S: Final = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Serving:
    """A generation and its open index."""

    generation: Generation
    index: VectorIndex


@dataclass(slots=True, eq=False)
class _Slot:
    """What is open: `users` searches are on it; `retired` means that another generation serves."""

    serving: Serving
    users: int = 0
    retired: bool = False


class IndexRegistry:
    """Open indexes by name. One event loop uses it; it is the only reader of these files on the machine."""

    def __init__(self, settings: Settings) -> None:
        """Opens nothing yet."""
        self._settings = settings
        self._slots: dict[str, _Slot] = {}
        self._retired: list[_Slot] = []
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._refused: dict[str, str] = {}

    @asynccontextmanager
    async def acquire(self, name: str | None = None) -> AsyncIterator[Serving]:
        """The serving generation of an index, the default one without a name, for as long as the context lasts.

        Raises `IndexNotFound` with the names there are, `IndexNotReady` when no generation serves yet, `IndexCorrupt`
        and `IndexUnavailable` when its files can't be opened.
        """
        name = name or self._settings.index_name
        slot = self._slots.get(name) or await self._first(name)
        slot.users += 1
        try:
            yield slot.serving
        finally:
            slot.users -= 1
            await self._close_unused(slot)

    def names(self) -> list[str]:
        """The names of all indexes, sorted."""
        return GenerationStore.indexes(self._settings.index_path)

    async def refresh(self) -> None:
        """Looks at the pointers of open indexes and swaps those that name another generation.

        A generation that can't be opened is logged once, and the one before it goes on serving.
        """
        for name, slot in list(self._slots.items()):
            try:
                current = await asyncio.to_thread(self._store(name).current)
            except SightlineError as error:
                self._refuse(name, "pointer", error)
                continue
            if current is None or current.id == slot.serving.generation.id:
                continue
            try:
                async with self._locks[name]:
                    await self._swap(name, slot, current)
            except SightlineError as error:
                self._refuse(name, current.id, error)

    async def watch(self) -> None:
        """Refreshes every second, until it is cancelled."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            await self.refresh()

    async def close(self) -> None:
        """Closes every index, also those in use."""
        slots = [*self._slots.values(), *self._retired]
        self._slots.clear()
        self._retired.clear()
        for slot in slots:
            await slot.serving.index.close()

    def _store(self, name: str) -> GenerationStore:
        return GenerationStore(self._settings.index_path, name)

    async def _first(self, name: str) -> _Slot:
        """Opens an index that nobody has asked for yet; of several at once, one opens it and the others wait."""
        store = self._store(name)
        known = self.names()
        if name not in known:
            there = f"There are: {', '.join(known)}." if known else "There is none yet: run `sightline index SOURCE`."
            raise IndexNotFound(f"There is no index {name!r}. {there}")
        async with self._locks[name]:
            if name not in self._slots:
                current = await asyncio.to_thread(store.current)
                if current is None:
                    raise IndexNotReady(
                        f"Index {name!r} has no complete generation yet. Run `sightline index SOURCE --index {name}`."
                    )
                self._slots[name] = _Slot(await self._open(store, current))
            return self._slots[name]

    async def _swap(self, name: str, old: _Slot, current: Generation) -> None:
        if self._slots.get(name) is not old:
            return
        new = next((slot for slot in self._retired if slot.serving.generation == current), None)
        if new is None:
            new = _Slot(await self._open(self._store(name), current))
        else:  # a rollback to one that is still in use: its files can't be opened twice
            self._retired.remove(new)
            new.retired = False
        self._slots[name] = new
        self._refused.pop(name, None)
        old.retired = True
        self._retired.append(old)
        log.info("generation swapped", index=name, generation=current.id, before=old.serving.generation.id)
        await self._close_unused(old)

    async def _open(self, store: GenerationStore, generation: Generation) -> Serving:
        await asyncio.to_thread(store.verify, generation)
        index = await ProcessIndex.open(generation.shard, self._settings)
        info = await index.info()
        if (info.points, info.dimension) != (generation.points, generation.model.dimension):
            await index.close()
            raise IndexCorrupt(
                f"Generation {generation.id} of index {generation.index!r} should hold {generation.points} vectors of "
                f"{generation.model.dimension} dimensions, but holds {info.points} of {info.dimension}. Go back with "
                "`sightline generations rollback`, or build the index again with `sightline index`."
            )
        return Serving(generation, index)

    async def _close_unused(self, slot: _Slot) -> None:
        if slot.retired and slot.users == 0 and slot in self._retired:
            self._retired.remove(slot)
            await slot.serving.index.close()

    def _refuse(self, name: str, what: str, error: SightlineError) -> None:
        if self._refused.get(name) != what:
            self._refused[name] = what
            log.error("generation not opened, the one before it goes on serving", index=name, reason=str(error))
