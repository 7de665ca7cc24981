"""The indexes that this process serves: opened at first use, swapped when another generation is promoted.

Where they are kept is not known here, only that a pointer names the generation that serves. It is looked at every
second, so a promotion is followed within two. Nobody is interrupted by a swap: a search keeps the generation it began
with, and the old one is closed when its last user has left. A generation of another model than the one that is loaded
is not followed: words could not be searched in it, and in the one before it they can.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from engine.errors import IndexCorrupt, IndexNotFound, IndexNotReady, SightlineError
from engine.generations import Generation, Generations, check_name, index_names, open_generations
from engine.ports import ModelInfo, VectorIndex
from engine.settings import Settings

_REFRESH_S: Final = 1.0
_POINTER: Final = "pointer"

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
    """Open indexes by name. One event loop uses it; where indexes are files, it is their only reader."""

    def __init__(self, settings: Settings) -> None:
        """Opens nothing yet."""
        self._settings = settings
        self._slots: dict[str, _Slot] = {}
        self._retired: list[_Slot] = []
        self._stores: dict[str, Generations] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._refreshing = asyncio.Lock()
        self._refused: dict[str, str] = {}
        self._model: ModelInfo | None = None

    def speak(self, model: ModelInfo) -> None:
        """Says which model searches in words are made with."""
        self._model = model

    @asynccontextmanager
    async def acquire(self, name: str | None = None) -> AsyncIterator[Serving]:
        """The serving generation of an index, the default one without a name, for as long as the context lasts.

        Raises `IndexNotFound` with the names there are, `IndexNotReady` when no generation serves yet, `IndexCorrupt`
        and `IndexUnavailable` when it can't be opened.
        """
        name = name or self._settings.index_name
        while (slot := self._slots.get(name)) is None:
            await self.open(name)
        slot.users += 1  # with no pause since it was looked up, so that it can't have been closed
        try:
            yield slot.serving
        finally:
            slot.users -= 1
            await self._close_unused(slot)

    async def open(self, name: str | None = None) -> None:
        """Opens an index that nobody has asked for yet; of several at once, one opens it, and all hear what came of it.

        Who gives up leaves it to the others. Raises what `acquire` does.
        """
        name = name or self._settings.index_name
        if name in self._slots:
            return
        if name not in self._opening:
            task = self._opening[name] = asyncio.create_task(self._open_first(check_name(name)))
            task.add_done_callback(lambda task: self._opened(name, task))
        await asyncio.shield(self._opening[name])

    async def names(self) -> list[str]:
        """The names of all indexes, sorted. Raises `IndexUnavailable` when they are on a server that is away."""
        return await index_names(self._settings)

    async def refresh(self) -> None:
        """Looks at the pointers of open indexes and swaps those that name another generation.

        A generation that can't be opened is logged once, and the one before it goes on serving.
        """
        async with self._refreshing:
            await asyncio.gather(*(self._follow(name, slot) for name, slot in list(self._slots.items())))

    async def watch(self) -> None:
        """Refreshes every second, until it is cancelled."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            await self.refresh()

    async def close(self) -> None:
        """Closes every index, also those in use."""
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        slots, stores = [*self._slots.values(), *self._retired], list(self._stores.values())
        self._slots.clear()
        self._retired.clear()
        self._stores.clear()
        for slot in slots:
            await slot.serving.index.close()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for store in stores:
            await store.close()

    async def _open_first(self, name: str) -> None:
        known = await self.names()
        if name not in known:
            there = f"There are: {', '.join(known)}." if known else "There is none yet: run `sightline index SOURCE`."
            raise IndexNotFound(f"There is no index {name!r}. {there}")
        if name not in self._stores:
            self._stores[name] = open_generations(self._settings, name)
        store = self._stores[name]
        current = await store.current()
        if current is None:
            raise IndexNotReady(
                f"Index {name!r} has no complete generation yet. Run `sightline index SOURCE --index {name}`."
            )
        self._slots[name] = _Slot(await _open(store, current))

    def _opened(self, name: str, task: asyncio.Task[None]) -> None:
        del self._opening[name]
        if not task.cancelled():
            task.exception()  # heard by those who wait; if none does any more, it is no fault of ours

    async def _follow(self, name: str, slot: _Slot) -> None:
        store = self._stores[name]
        try:
            pointed = await store.current_id()
        except SightlineError as error:
            self._refuse(name, _POINTER, error)
            return
        if self._refused.get(name) == _POINTER:
            del self._refused[name]
            log.info("the pointer to the serving generation can be read again", index=name)
        if pointed is None or pointed == slot.serving.generation.id:
            return
        try:
            current = await store.get(pointed)
            self._check_model(slot.serving.generation, current)
            await self._swap(name, slot, current)
        except SightlineError as error:
            self._refuse(name, pointed, error)

    def _check_model(self, old: Generation, new: Generation) -> None:
        """Raises `IndexNotReady` if the old one can be searched in words and the new one can't."""
        if self._model and old.model.fingerprint == self._model.fingerprint != new.model.fingerprint:
            raise IndexNotReady(
                f"Generation {new.id} was built with {new.model.name}, and this server has {old.model.name} loaded. "
                f"Start it again with CLIP_MODEL={new.model.name}, or another one beside it."
            )

    async def _swap(self, name: str, old: _Slot, current: Generation) -> None:
        new = next((slot for slot in self._retired if slot.serving.generation.id == current.id), None)
        if new is None:
            new = _Slot(await _open(self._stores[name], current))
            if self._slots.get(name) is not old:  # this was closed meanwhile
                await new.serving.index.close()
                return
        else:  # a rollback to one that is still in use: where it is files, they can't be opened twice
            self._retired.remove(new)
            new.retired = False
        self._slots[name] = new
        self._refused.pop(name, None)
        old.retired = True
        self._retired.append(old)
        log.info("generation swapped", index=name, generation=current.id, before=old.serving.generation.id)
        await self._close_unused(old)

    async def _close_unused(self, slot: _Slot) -> None:
        """Closes what was left by its last user; that goes on if who waits for it is cancelled."""
        if slot.retired and slot.users == 0 and slot in self._retired:
            self._retired.remove(slot)
            task = asyncio.create_task(slot.serving.index.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            await asyncio.shield(task)

    def _refuse(self, name: str, what: str, error: SightlineError) -> None:
        if self._refused.get(name) != what:
            self._refused[name] = what
            log.error("generation not opened, the one before it goes on serving", index=name, reason=str(error))


async def _open(store: Generations, generation: Generation) -> Serving:
    index = await store.open_index(generation)
    try:
        info = await index.info()
    except BaseException:
        await index.close()
        raise
    if (info.points, info.dimension) != (generation.points, generation.model.dimension):
        await index.close()
        raise IndexCorrupt(
            f"Generation {generation.id} of index {generation.index!r} should hold {generation.points} vectors of "
            f"{generation.model.dimension} dimensions, but holds {info.points} of {info.dimension}. Go back with "
            "`sightline generations rollback`, or build the index again with `sightline index`."
        )
    return Serving(generation, index)
