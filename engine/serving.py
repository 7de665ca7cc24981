"""The indexes that this process serves: opened at first use, swapped when another generation is promoted.

Where they are kept is not known here, only that a pointer names the generation that serves. It is looked at every
second, so a promotion is followed within two. Nobody is interrupted by a swap: a search keeps the generation it began
with, and its model, and the old one is closed when its last user has left. A generation of another model serves when
that is loaded and warm; until then, or for good if it can't be loaded, the one before it goes on with its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from engine.encoders.loaded import Claim, LoadedEncoders
from engine.errors import IndexCorrupt, IndexNotFound, IndexNotReady, SightlineError
from engine.generations import Generation, Generations, check_name, index_names, open_generations
from engine.ports import VectorIndex
from engine.settings import Settings

_REFRESH_S: Final = 1.0
_POINTER: Final = "pointer"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Serving:
    """A generation, its open index, and the claim on the encoder of its model."""

    generation: Generation
    index: VectorIndex
    claim: Claim


@dataclass(slots=True, eq=False)
class _Slot:
    """What is open: `users` searches are on it; `retired` means that another generation serves."""

    serving: Serving
    users: int = 0
    retired: bool = False


class IndexRegistry:
    """Open indexes by name. One event loop uses it; where indexes are files, it is their only reader."""

    def __init__(self, settings: Settings, encoders: LoadedEncoders) -> None:
        """Opens nothing yet. What it claims of the encoders it releases; it closes none."""
        self._settings = settings
        self._encoders = encoders
        self._slots: dict[str, _Slot] = {}
        self._retired: list[_Slot] = []
        self._stores: dict[str, Generations] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._refreshing = asyncio.Lock()
        self._coming: dict[str, tuple[str, Claim]] = {}
        self._refused: dict[str, tuple[str, str]] = {}

    @property
    def problems(self) -> list[str]:
        """What keeps a promoted generation, or words, from being served, for each index that is open."""
        problems = []
        for name, slot in sorted(self._slots.items()):
            id_, failure = slot.serving.generation.id, slot.serving.claim.failure
            if name in self._refused:
                problems.append(f"Index {name!r} goes on with generation {id_}: {self._refused[name][1]}")
            if failure is not None:
                problems.append(f"Index {name!r} can't be searched in words: {failure}")
        return problems

    def peek(self, name: str | None = None) -> Serving | None:
        """What `acquire` would give without waiting, for a look; None while the index is not open."""
        slot = self._slots.get(name or self._settings.index_name)
        return slot.serving if slot is not None else None

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

        A generation of a model that is not loaded yet has it loaded, and is looked at again at the next refresh. One
        that can't be opened is logged once, and the one before it goes on serving.
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
        for name in list(self._coming):
            self._unclaim(name)
        for slot in slots:
            await _close(slot.serving)
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
        self._slots[name] = _Slot(await self._open(store, current))

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
        if self._refused.get(name, ("", ""))[0] == _POINTER:
            del self._refused[name]
            log.info("the pointer to the serving generation can be read again", index=name)
        if pointed is None or pointed == slot.serving.generation.id:
            self._unclaim(name)
            self._refused.pop(name, None)
            return
        try:
            current = await store.get(pointed)
            if self._speaks(name, slot.serving, current):
                await self._swap(name, slot, current)
        except SightlineError as error:
            self._refuse(name, pointed, error)

    def _speaks(self, name: str, old: Serving, new: Generation) -> bool:
        """Whether the new generation can be searched in words as the old one can; if not yet, its model is loaded.

        Raises why that failed.
        """
        if not old.claim.loaded:  # nobody has searched this index in words
            return True
        fingerprint, claim = self._coming.get(name, ("", None))
        if claim is None or fingerprint != new.model.fingerprint:
            self._unclaim(name)
            claim = self._encoders.claim(new.model)
            self._coming[name] = new.model.fingerprint, claim
        claim.begin()
        if claim.failure is not None:
            raise claim.failure
        return claim.loaded

    def _unclaim(self, name: str) -> None:
        _, claim = self._coming.pop(name, ("", None))
        if claim is not None:
            claim.release()

    async def _swap(self, name: str, old: _Slot, current: Generation) -> None:
        new = next((slot for slot in self._retired if slot.serving.generation.id == current.id), None)
        if new is None:
            new = _Slot(await self._open(self._stores[name], current))
            if self._slots.get(name) is not old:  # this was closed meanwhile
                await _close(new.serving)
                return
        else:  # a rollback to one that is still in use: where it is files, they can't be opened twice
            self._retired.remove(new)
            new.retired = False
        self._slots[name] = new
        self._refused.pop(name, None)
        self._unclaim(name)
        old.retired = True
        self._retired.append(old)
        before = old.serving.generation
        log.info("generation swapped", index=name, generation=current.id, model=current.model.name, before=before.id)
        await self._close_unused(old)

    async def _close_unused(self, slot: _Slot) -> None:
        """Closes what was left by its last user; that goes on if who waits for it is cancelled."""
        if slot.retired and slot.users == 0 and slot in self._retired:
            self._retired.remove(slot)
            task = asyncio.create_task(_close(slot.serving))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            await asyncio.shield(task)

    def _refuse(self, name: str, what: str, error: SightlineError) -> None:
        known, _ = self._refused.get(name, ("", ""))
        self._refused[name] = what, str(error)
        if known != what:
            log.error("generation not opened, the one before it goes on serving", index=name, reason=str(error))

    async def _open(self, store: Generations, generation: Generation) -> Serving:
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
        return Serving(generation, index, self._encoders.claim(generation.model))


async def _close(serving: Serving) -> None:
    serving.claim.release()
    await serving.index.close()
