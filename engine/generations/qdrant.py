"""Generations on a Qdrant server: a collection each, its record in the collection's metadata, an alias as the pointer.

    sightline-<index>-<id>     a collection: the vectors of one generation, and in its metadata what `record` describes
    sightline-<index>          an alias: stands for the collection of the generation that serves

So a server that searches needs Qdrant and nothing else. Two more fields of the metadata are about serving: `served_at`,
since when a generation serves or last served, decides what a rollback goes back to, and is taken from one that was
rolled back; `left_at`, when another took over. What lies beside the vectors (manifest, thumbnails) stays under
INDEX_PATH, and who builds on several machines shares that folder.

A collection counts from when its record says so, so one whose making or copying was interrupted is no generation; the
next that is begun removes it.
"""

from __future__ import annotations

import asyncio
import builtins
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.errors import BadUserInput, IndexCorrupt, IndexNotFound, IndexNotReady
from engine.generations.lock import beginning_lock, folder_lock
from engine.generations.record import (
    ID,
    NAME,
    Generation,
    Wanted,
    check_name,
    described,
    folder_of,
    new_generation,
    restored,
)
from engine.indexes.qdrant_connection import QdrantConnection
from engine.ports import ModelInfo, VectorIndex
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.indexes.qdrant import QdrantIndex

_PREFIX: Final = "sightline-"
_COLLECTION: Final = re.compile(f"{_PREFIX}({NAME.pattern})-({ID.pattern})")
_STATES: Final = ("building", "ready")
_COPYING: Final = "copying"
_LEFT: Final = timedelta(minutes=1)  # servers follow within two seconds, and searches end within ten
_STEP: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class _Record:
    """A generation with its times of serving, ISO 8601 in UTC and therefore sorted as text."""

    generation: Generation
    served_at: str | None
    left_at: str | None


class QdrantGenerations:
    """The generations of one index at the server of QDRANT_URL. Use it from one event loop at a time."""

    def __init__(self, settings: Settings, index: str, *, patience_s: float = 0.0) -> None:
        """Connects at the first call, and waits `patience_s` seconds for a server that is away, its indexes too.

        Raises `BadUserInput` when `index` is no name of an index.
        """
        self._settings = settings
        self._patience_s = patience_s
        self._index = check_name(index)
        self._alias = f"{_PREFIX}{index}"
        self._connection = _connection(settings, patience_s)

    @property
    def index(self) -> str:
        """The index's name."""
        return self._index

    @property
    def folder(self) -> Path:
        """The folder of the index's thumbnails and manifests; there only where somebody builds."""
        return self._settings.index_path / self._index

    def lock(self, *, shared: bool = False) -> AbstractContextManager[None]:
        """See `folder_lock`: machines that share no folder are not kept from each other by this."""
        return folder_lock(self.folder, self._index, shared=shared)

    def beginning(self) -> AbstractContextManager[None]:
        """See `beginning_lock`: the same is true of it."""
        return beginning_lock(self.folder, self._index)

    # ---------------------------------------------------------------- building

    async def begin(self, model: ModelInfo, base: Generation | None = None, id: str | None = None) -> Generation:
        """A new generation in state building, with a copy of the vectors of `base` if it has the same model.

        The copy is made by the page, in bounded memory, while the base may serve.
        """
        await self._sweep()
        generation = new_generation(self._settings.index_path, self._index, model, id)
        collection = self._collection(generation.id)
        index = await _index().create(collection, model.dimension, self._settings, patience_s=self._patience_s)
        try:
            await self._note(generation.id, {**described(generation, self._settings), "state": _COPYING})
            if base is not None and base.model.fingerprint == model.fingerprint:
                await index.copy(self._collection(base.id))
                await self._check_count(generation, base.points)
            generation.path.mkdir(parents=True, exist_ok=True)
            await self._note(generation.id, {"state": generation.state})
        finally:
            await index.close()
        return generation

    async def building(self) -> Generation | None:
        """The newest generation that an interrupted run left unfinished."""
        return next((found for found in reversed(await self.list()) if found.state == "building"), None)

    async def finish(self, generation: Generation, points: int, held: str | None = None) -> Generation:
        """Marks a generation ready, with its number of images."""
        ready = replace(generation, state="ready", points=points, held=held)
        await self._note(generation.id, described(ready, self._settings))
        return ready

    async def discard(self, generation: Generation) -> None:
        """Deletes a generation. Raises `BadUserInput` for the one that serves."""
        if generation.id == await self._serving():
            raise BadUserInput(f"Generation {generation.id} serves index {self._index!r}. Promote another one first.")
        await asyncio.to_thread(shutil.rmtree, generation.path, ignore_errors=True)
        await self._connection.drop(self._collection(generation.id))  # last: the folder is found by its record

    # ---------------------------------------------------------------- looking

    async def list(self) -> builtins.list[Generation]:
        """All generations, oldest first."""
        return [record.generation for record in await self._records()]

    async def get(self, id: str) -> Generation:
        """One generation. Raises `IndexNotFound` when there is none of that id."""
        if ID.fullmatch(id) and (record := await self._record(id)):
            return record.generation
        raise IndexNotFound(
            f"Index {self._index!r} has no generation {id!r}. `sightline generations list` shows those there are."
        )

    async def current_id(self) -> str | None:
        """The id of the generation whose collection the alias stands for. Raises `IndexCorrupt` for another one."""
        target = await self._connection.alias_target(self._alias)
        if target is None:
            return None
        id_ = target.removeprefix(f"{self._alias}-")
        if not ID.fullmatch(id_):
            raise IndexCorrupt(
                f"At Qdrant the alias {self._alias!r} stands for {target!r}, which is no generation of index "
                f"{self._index!r}. Promote one with `sightline generations promote`."
            )
        return id_

    async def current(self) -> Generation | None:
        """The generation that serves. Raises `IndexCorrupt` when the alias stands for what is none."""
        id_ = await self.current_id()
        if id_ is None:
            return None
        try:
            return await self.get(id_)
        except IndexNotFound as error:
            raise self._corrupt(id_, "it serves, but has no record of a generation") from error

    async def verify(self, generation: Generation) -> None:
        """Raises `IndexCorrupt` when the server counts other points than there were when it was finished."""
        await self._check_count(generation, generation.points)

    # ---------------------------------------------------------------- the pointer

    async def promote(self, id: str) -> Generation:
        """Makes a generation the serving one, in one atomic step. Raises `IndexNotReady` while it is being built."""
        generation = await self.get(id)
        if generation.state != "ready":
            raise IndexNotReady(
                f"Generation {id} of index {self._index!r} is not complete. Run `sightline index` again to finish it."
            )
        records, before = await self._records(), await self._serving()
        now = _later_than(records)
        if any(record.generation.id == before and not record.served_at for record in records):
            await self._note(str(before), {"served_at": now.isoformat(timespec="microseconds")})  # a promotion was cut
            now += _STEP
        await self._connection.switch_alias(self._alias, self._collection(id))
        told = now.isoformat(timespec="microseconds")
        await self._note(id, {"served_at": told, "left_at": None})
        if before not in {None, id}:
            await self._left(str(before), {"left_at": told})
        return generation

    async def rollback(self) -> Generation:
        """Makes the generation serve that served before. Raises `IndexNotReady` when none is left."""
        records, before = await self._records(), await self._serving()
        since = next((record.served_at for record in records if record.generation.id == before), None)
        earlier = [
            record
            for record in records
            if record.generation.id != before and record.served_at and (since is None or record.served_at < since)
        ]
        if not earlier:
            raise IndexNotReady(
                f"Index {self._index!r} has no earlier generation to go back to. Promote one by its id."
            )
        latest = max(earlier, key=lambda record: str(record.served_at)).generation
        await self._connection.switch_alias(self._alias, self._collection(latest.id))
        await self._note(latest.id, {"left_at": None})
        if before is not None:
            left = datetime.now(UTC).isoformat(timespec="microseconds")
            await self._left(before, {"served_at": None, "left_at": left})
        return latest

    async def prune(self, keep: int, spare: str = "") -> builtins.list[Generation]:
        """Deletes all ready generations but `keep`: see `Generations`.

        One that served until a minute ago stays until the next time: servers that have not followed yet still search
        it, and its collection is not theirs to keep.
        """
        serving = await self._serving()
        ready = [record for record in reversed(await self._records()) if record.generation.state == "ready"]
        ready.sort(key=lambda one: (one.generation.id != serving, bool(one.generation.held and not one.served_at)))
        recently = (datetime.now(UTC) - _LEFT).isoformat(timespec="microseconds")
        gone = [
            record.generation
            for record in ready[max(keep, 1) :]
            if not (record.left_at or "") > recently and record.generation.id != spare
        ]
        for generation in gone:
            await self.discard(generation)
        return gone

    # ---------------------------------------------------------------- indexes

    async def create_index(self, generation: Generation) -> VectorIndex:
        """The collection of a generation in state building, to write to."""
        return await self.open_index(generation)

    async def create_part(self, generation: Generation, shard: int) -> VectorIndex:  # noqa: ARG002 - the protocol's
        """The collection: builders may all write to it."""
        return await self.create_index(generation)

    async def gather(self, generation: Generation, index: VectorIndex, wanted: Wanted) -> None:
        """There are no parts."""

    async def open_index(self, generation: Generation) -> VectorIndex:
        """The collection of a ready generation, by its own name: a search is not led elsewhere by the alias."""
        collection = self._collection(generation.id)
        return await _index().open(collection, self._settings, patience_s=self._patience_s)

    async def close(self) -> None:
        """Closes the connection; harmless when done twice."""
        await self._connection.close()

    # ---------------------------------------------------------------- records

    def _collection(self, id_: str) -> str:
        return f"{self._alias}-{id_}"

    async def _serving(self) -> str | None:
        """As `current_id`, but None for an alias that somebody moved elsewhere: it must be possible to move it back."""
        target = await self._connection.alias_target(self._alias)
        id_ = (target or "").removeprefix(f"{self._alias}-")
        return id_ if ID.fullmatch(id_) else None

    async def _ids(self) -> builtins.list[str]:
        """The ids of all collections of this index, also of those that are no generations, oldest first."""
        prefix = f"{self._alias}-"
        names = await self._connection.collections(prefix)
        return [id_ for name in names if ID.fullmatch(id_ := name.removeprefix(prefix))]

    async def _records(self) -> builtins.list[_Record]:
        found = await asyncio.gather(*(self._record(id_) for id_ in await self._ids()))
        return [record for record in found if record]

    async def _record(self, id_: str) -> _Record | None:
        try:
            stored = await self._connection.metadata(self._collection(id_))
        except IndexNotFound:
            return None  # deleted since it was listed
        if stored.get("state") not in _STATES:
            return None
        try:
            path = folder_of(self._settings.index_path, self._index, id_)
            generation = restored(stored, self._index, id_, path)
        except (KeyError, TypeError) as error:
            raise self._corrupt(id_, f"its record is damaged ({error!r})") from error
        return _Record(generation, stored.get("served_at"), stored.get("left_at"))

    async def _note(self, id_: str, fields: Mapping[str, Any]) -> None:
        await self._connection.set_metadata(self._collection(id_), fields)

    async def _left(self, id_: str, fields: Mapping[str, Any]) -> None:
        """Notes something about a generation that another took over from, if it is still there."""
        if await self._connection.exists(self._collection(id_)):
            await self._note(id_, fields)

    async def _sweep(self) -> None:
        """Removes collections whose making was interrupted."""
        for id_ in await self._ids():
            stored = await self._connection.metadata(self._collection(id_))
            if stored.get("state") in {None, _COPYING}:
                await self._connection.drop(self._collection(id_))

    async def _check_count(self, generation: Generation, wanted: int) -> None:
        found = await self._connection.count(self._collection(generation.id))
        if found != wanted:
            raise self._corrupt(generation.id, f"it should hold {wanted} vectors, but holds {found}")

    def _corrupt(self, id_: str, reason: str) -> IndexCorrupt:
        return IndexCorrupt(
            f"Generation {id_} of index {self._index!r} at Qdrant can't be used: {reason}. Go back with `sightline "
            "generations rollback`, or build the index again with `sightline index`."
        )


async def collected_names(settings: Settings) -> list[str]:
    """The names of the indexes that have a collection at the server, sorted."""
    connection = _connection(settings, 0.0)
    try:
        names = await connection.collections(_PREFIX)
    finally:
        await connection.close()
    return sorted({found[1] for name in names if (found := _COLLECTION.fullmatch(name))})


def _connection(settings: Settings, patience_s: float) -> QdrantConnection:
    """One line is enough for what is asked here."""
    return QdrantConnection(settings.model_copy(update={"qdrant_pool": 1}), patience_s=patience_s)


def _later_than(records: list[_Record]) -> datetime:
    """Now, or right after the latest promotion if that was made by a clock that runs ahead."""
    served = [datetime.fromisoformat(record.served_at) for record in records if record.served_at]
    return max([datetime.now(UTC), *(moment + _STEP for moment in served)])


def _index() -> type[QdrantIndex]:
    """What reads and writes a collection's vectors. The operator never does, and has no NumPy."""
    from engine.indexes.qdrant import QdrantIndex  # noqa: PLC0415 - brings NumPy

    return QdrantIndex
