"""Generations on disk, each with its Edge shard, and a pointer file.

    <root>/<index>/current                        the serving generation's id; below it, those that served before
    <root>/<index>/lock                           held by the process that builds
    <root>/<index>/generations/<id>/generation.json · shard/ · manifest.json

Everything appears under its name complete or not at all: it is written beside, flushed to the disk, and renamed.
"""

from __future__ import annotations

import asyncio
import builtins
import itertools
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
import structlog

from engine.errors import BadUserInput, IndexCorrupt, IndexNotFound, IndexNotReady, IndexUnavailable
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
from engine.indexes.pages import pages_of_ids
from engine.ports import ModelInfo, VectorIndex
from engine.settings import Settings, settings

T = TypeVar("T")

log = structlog.get_logger()

_CHUNK: Final = 1 << 20
_HISTORY: Final = 20  # earlier generations that the pointer file remembers; far more than are ever kept


class GenerationStore:
    """The generations of one index. Blocking: file operations only, no vector index is opened here."""

    def __init__(self, root: Path, index: str) -> None:
        """`root` is INDEX_PATH; raises `BadUserInput` when `index` is no name of an index."""
        self._root = root
        self.index = check_name(index)
        self.folder = root / index
        self._generations = self.folder / "generations"
        self._pointer = self.folder / "current"

    @staticmethod
    def indexes(root: Path) -> list[str]:
        """The names of all indexes under `root`, sorted."""
        if not root.is_dir():
            return []
        return sorted(
            entry.name for entry in root.iterdir() if NAME.fullmatch(entry.name) and (entry / "generations").is_dir()
        )

    def lock(self, *, shared: bool = False) -> AbstractContextManager[None]:
        """Held while building: see `folder_lock`."""
        return folder_lock(self.folder, self.index, shared=shared)

    def begin(self, model: ModelInfo, base: Generation | None = None, id: str | None = None) -> Generation:
        """A new generation in state building.

        When `base` was built with the same model its index files are copied, also while a server has them open: only
        changes need writing then. With any other base, and without one, `shard` does not exist yet.
        """
        self._sweep()
        generation = new_generation(self._root, self.index, model, id)
        temporary = self._generations / f".new-{generation.id}"
        temporary.mkdir(parents=True)
        if base is not None and base.model.fingerprint == model.fingerprint:
            self.verify(base)
            copy_tree(base.shard, temporary / "shard")
        self._describe(temporary, generation, {})
        temporary.rename(generation.path)
        _sync_folder(self._generations)
        return generation

    def building(self) -> Generation | None:
        """The newest generation that an interrupted run left unfinished."""
        return next((generation for generation in reversed(self.list()) if generation.state == "building"), None)

    def finish(self, generation: Generation, points: int, held: str | None = None) -> Generation:
        """Marks a generation ready, with its number of images. Close its index first: its files are recorded here."""
        ready = replace(generation, state="ready", points=points, held=held)
        self._describe(generation.path, ready, _sizes(generation.shard))
        return ready

    def discard(self, generation: Generation) -> None:
        """Deletes a generation. Raises `BadUserInput` for the one that serves."""
        serving = self._pointed()
        if serving and generation.id == serving[0]:
            raise BadUserInput(f"Generation {generation.id} serves index {self.index!r}. Promote another one first.")
        trash = self._generations / f".old-{generation.id}"
        generation.path.rename(trash)
        shutil.rmtree(trash)

    def list(self) -> builtins.list[Generation]:
        """All generations, oldest first."""
        if not self._generations.is_dir():
            return []
        names = sorted(entry.name for entry in self._generations.iterdir())
        return [self.get(name) for name in names if ID.fullmatch(name)]

    def get(self, id: str) -> Generation:
        """One generation. Raises `IndexNotFound` when there is none of that id."""
        path = folder_of(self._root, self.index, id)
        if not ID.fullmatch(id) or not path.is_dir():
            raise IndexNotFound(
                f"Index {self.index!r} has no generation {id!r}. `sightline generations list` shows those there are."
            )
        stored = self._described(path)
        try:
            return restored(stored, self.index, id, path)
        except (KeyError, TypeError) as error:
            raise self._corrupt(path / "generation.json", error) from error

    def current_id(self) -> str | None:
        """The id that the pointer names."""
        return next(iter(self._pointed()), None)

    def current(self) -> Generation | None:
        """The generation that serves. Raises `IndexCorrupt` when the pointer names one that is not there."""
        serving = self._pointed()
        if not serving:
            return None
        try:
            return self.get(serving[0])
        except IndexNotFound as error:
            raise self._corrupt(self._pointer, f"it names {serving[0]!r}, which is not there") from error

    def promote(self, id: str) -> Generation:
        """Makes a generation the serving one, in one atomic step. Raises `IndexNotReady` while it is being built."""
        generation = self.get(id)
        if generation.state != "ready":
            raise IndexNotReady(
                f"Generation {id} of index {self.index!r} is not complete. Run `sightline index` again to finish it."
            )
        served = [earlier for earlier in self._pointed() if earlier != id]
        self._point([id, *served[:_HISTORY]])
        return generation

    def rollback(self) -> Generation:
        """Makes the generation serve that served before. Raises `IndexNotReady` when none is left."""
        for position, earlier in enumerate(served := self._pointed()[1:]):
            if (self._generations / earlier).is_dir():
                generation = self.get(earlier)
                self._point(served[position:])
                return generation
        raise IndexNotReady(f"Index {self.index!r} has no earlier generation to go back to. Promote one by its id.")

    def prune(self, keep: int, spare: str = "") -> builtins.list[Generation]:
        """Deletes all ready generations but `keep`: see `Generations`."""
        served = self._pointed()
        ready = [generation for generation in reversed(self.list()) if generation.state == "ready"]
        ready.sort(key=lambda one: (one.id not in served[:1], one.held is not None and one.id not in served))
        gone = [generation for generation in ready[max(keep, 1) :] if generation.id != spare]
        for generation in gone:
            self.discard(generation)
        return gone

    def verify(self, generation: Generation) -> None:
        """Raises `IndexCorrupt` when a file of a ready generation is shorter than it was when finished.

        A memory-mapped file that was cut short would end the whole process at the first access. Missing files are
        found when the index is opened.
        """
        for name, size in self._described(generation.path).get("files", {}).items():
            file = generation.shard / name
            if file.is_file() and file.stat().st_size < size:
                raise self._corrupt(file, f"it should have {size} bytes")

    def _describe(self, folder: Path, generation: Generation, files: dict[str, int]) -> None:
        description = {**described(generation, settings()), "files": files}
        _write(folder / "generation.json", orjson.dumps(description, option=orjson.OPT_INDENT_2))

    def _described(self, folder: Path) -> dict[str, Any]:
        file = folder / "generation.json"
        try:
            stored: dict[str, Any] = orjson.loads(file.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise self._corrupt(file, error) from error
        return stored

    def _pointed(self) -> builtins.list[str]:
        """The serving generation's id, then those that served before, latest first."""
        try:
            return self._pointer.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return []

    def _point(self, ids: builtins.list[str]) -> None:
        _write(self._pointer, "".join(f"{id_}\n" for id_ in ids).encode("ascii"))

    def _sweep(self) -> None:
        """Removes what a killed process left half copied or half deleted."""
        for pattern in (".new-*", ".old-*"):
            for folder in self._generations.glob(pattern):
                shutil.rmtree(folder)

    def _corrupt(self, file: Path, reason: object) -> IndexCorrupt:
        return IndexCorrupt(
            f"{file} of index {self.index!r} can't be used: {reason}. Go back with `sightline generations rollback`, "
            "or build the index again with `sightline index`."
        )


class FolderGenerations:
    """The same for an event loop, with the indexes in it: a file operation that was begun ends before it is left."""

    def __init__(self, settings: Settings, index: str) -> None:
        """Raises `BadUserInput` when `index` is no name of an index."""
        self._settings = settings
        self._store = GenerationStore(settings.index_path, index)

    @property
    def index(self) -> str:
        """The index's name."""
        return self._store.index

    @property
    def folder(self) -> Path:
        """The folder of everything that belongs to the index."""
        return self._store.folder

    def lock(self, *, shared: bool = False) -> AbstractContextManager[None]:
        """See `folder_lock`."""
        return self._store.lock(shared=shared)

    def beginning(self) -> AbstractContextManager[None]:
        """See `beginning_lock`."""
        return beginning_lock(self.folder, self.index)

    async def begin(self, model: ModelInfo, base: Generation | None = None, id: str | None = None) -> Generation:
        """A new generation in state building, with a copy of the index files of `base` if it has the same model."""
        return await _ended(partial(self._store.begin, model, base, id))

    async def building(self) -> Generation | None:
        """The newest generation that an interrupted run left unfinished."""
        return await _ended(self._store.building)

    async def finish(self, generation: Generation, points: int, held: str | None = None) -> Generation:
        """Marks a generation ready, with its number of images. Close its index first."""
        return await _ended(partial(self._store.finish, generation, points, held))

    async def discard(self, generation: Generation) -> None:
        """Deletes a generation. Raises `BadUserInput` for the one that serves."""
        await _ended(partial(self._store.discard, generation))

    async def list(self) -> builtins.list[Generation]:
        """All generations, oldest first."""
        return await _ended(self._store.list)

    async def get(self, id: str) -> Generation:
        """One generation. Raises `IndexNotFound` when there is none of that id."""
        return await _ended(partial(self._store.get, id))

    async def current_id(self) -> str | None:
        """The id that the pointer file names."""
        return await _ended(self._store.current_id)

    async def current(self) -> Generation | None:
        """The generation that serves. Raises `IndexCorrupt` when the pointer names one that is not there."""
        return await _ended(self._store.current)

    async def promote(self, id: str) -> Generation:
        """Makes a generation the serving one, in one atomic step. Raises `IndexNotReady` while it is being built."""
        return await _ended(partial(self._store.promote, id))

    async def rollback(self) -> Generation:
        """Makes the generation serve that served before. Raises `IndexNotReady` when none is left."""
        return await _ended(self._store.rollback)

    async def prune(self, keep: int, spare: str = "") -> builtins.list[Generation]:
        """Deletes all ready generations but `keep`; a server that still has one open keeps its files."""
        return await _ended(partial(self._store.prune, keep, spare))

    async def verify(self, generation: Generation) -> None:
        """Raises `IndexCorrupt` when a file is shorter than it was when the generation was finished."""
        await _ended(partial(self._store.verify, generation))

    async def create_index(self, generation: Generation) -> VectorIndex:
        """The shard of a generation in state building, in this process."""
        for draft in generation.path.glob(f".{generation.shard.name}.*"):  # of a process that was killed
            await _ended(partial(shutil.rmtree, draft, ignore_errors=True))
        return await self._edge(generation.shard, generation.model.dimension)

    async def create_part(self, generation: Generation, shard: int) -> VectorIndex:
        """A shard of the builder's own, which one that died may have begun: only one process can have a shard open."""
        for number in itertools.count():
            try:
                return await self._edge(_parts(generation) / f"{shard}-{number}", generation.model.dimension)
            except (IndexUnavailable, IndexCorrupt):  # another builder's, or damaged, which `gather` finds out too
                continue
        raise AssertionError  # there is always another number

    async def gather(self, generation: Generation, index: VectorIndex, wanted: Wanted) -> None:
        """Copies points from the builders' shards, page by page; what a damaged one had is missing then."""
        from engine.indexes.edge import EdgeIndex  # noqa: PLC0415 - Edge is loaded only where something is written

        for folder in await _ended(lambda: sorted(_parts(generation).glob("[0-9]*"))):
            try:
                part = EdgeIndex.open(folder, self._settings)
            except IndexCorrupt as error:
                log.warning("what a worker wrote can't be read", folder=str(folder), reason=str(error))
                continue
            try:
                async for ids in pages_of_ids(part):
                    await index.upsert(await wanted(await part.retrieve(ids, vectors=True)))
            finally:
                await part.close()
        await _ended(partial(shutil.rmtree, _parts(generation), ignore_errors=True))

    async def open_index(self, generation: Generation) -> VectorIndex:
        """The shard of a ready generation, in a process of its own; its files' lengths are checked first."""
        await self.verify(generation)
        from engine.indexes.process import ProcessIndex  # noqa: PLC0415 - brings NumPy, which the operator has not

        return await ProcessIndex.open(generation.shard, self._settings)

    async def close(self) -> None:
        """Holds nothing."""

    async def _edge(self, folder: Path, dimension: int) -> VectorIndex:
        """The shard in a folder. A new one appears there complete: one that was killed half-made can't be opened."""
        from engine.indexes.edge import EdgeIndex  # noqa: PLC0415 - Edge is loaded only where something is written

        if not await _ended(folder.exists):
            draft = folder.with_name(f".{folder.name}.{os.getpid()}")
            await EdgeIndex.create(draft, dimension, self._settings).close()
            await _ended(partial(_settle, draft, folder))
        return EdgeIndex.open(folder, self._settings)


async def _ended(work: Callable[[], T]) -> T:
    """What blocking work returns. Who is cancelled meanwhile leaves when it has ended: a lock may be behind it."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _parts(generation: Generation) -> Path:
    """The folder of the shards that a generation's builders write, each its own."""
    return generation.path / "parts"


def _settle(draft: Path, folder: Path) -> None:
    """Gives a complete folder its name, unless another builder was quicker."""
    try:
        draft.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(draft)
    _sync_folder(folder.parent)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a folder, flushed to the disk, and keeps the holes in its files: Edge reserves 64 MB a log."""
    target.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            copy_tree(entry, target / entry.name)
        else:
            _copy_sparse(entry, target / entry.name)
    _sync_folder(target)


def _copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        size = os.fstat(read.fileno()).st_size
        write.truncate(size)
        position = 0
        while position < size:
            try:
                position = os.lseek(read.fileno(), position, os.SEEK_DATA)
            except OSError:  # nothing but a hole from here to the end
                break
            end = os.lseek(read.fileno(), position, os.SEEK_HOLE)
            while position < end:
                data = os.pread(read.fileno(), min(_CHUNK, end - position), position)
                position += os.pwrite(write.fileno(), data, position)
        os.fsync(write.fileno())


def _sizes(shard: Path) -> dict[str, int]:
    """The length in bytes of every file of the index's segments; not of journals, which may shrink."""
    return {
        str(file.relative_to(shard)): file.stat().st_size
        for file in sorted((shard / "segments").rglob("*"))
        if file.is_file() and "journal" not in file.name
    }


def _write(file: Path, content: bytes) -> None:
    """Replaces a file atomically and durably."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
