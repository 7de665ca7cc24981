"""Generations: complete builds of an index, side by side on disk, and one pointer that says which of them serves.

    <root>/<index>/current                        the serving generation's id; below it, those that served before
    <root>/<index>/lock                           held by the process that builds
    <root>/<index>/generations/<id>/generation.json · shard/ · manifest.json

Building never touches what serves. Everything appears under its name complete or not at all: it is written beside,
flushed to the disk, and renamed.
"""

from __future__ import annotations

import builtins
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from engine.errors import BadUserInput, IndexCorrupt, IndexNotFound, IndexNotReady, IndexUnavailable
from engine.ports import ModelInfo
from engine.settings import settings

State = Literal["building", "ready"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ID: Final = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}")
_CHUNK: Final = 1 << 20
_HISTORY: Final = 20  # earlier generations that the pointer file remembers; far more than are ever kept


@dataclass(frozen=True, slots=True)
class Generation:
    """One build. `path` is its folder; `points` is how many images it holds, 0 until it is ready."""

    id: str
    index: str
    path: Path
    state: State
    model: ModelInfo
    created_at: str
    points: int

    @property
    def shard(self) -> Path:
        """The folder of the vector index's files."""
        return self.path / "shard"


class GenerationStore:
    """The generations of one index. Blocking: file operations only, no vector index is opened here."""

    def __init__(self, root: Path, index: str) -> None:
        """`root` is INDEX_PATH; raises `BadUserInput` when `index` is no name of an index."""
        if not _NAME.fullmatch(index):
            raise BadUserInput(
                f"index: {index!r} is no name of an index. Use at most 63 lower-case letters, digits, _ and -, the "
                "first of them a letter or digit."
            )
        self.index = index
        self.folder = root / index
        self._generations = self.folder / "generations"
        self._pointer = self.folder / "current"

    @staticmethod
    def indexes(root: Path) -> list[str]:
        """The names of all indexes under `root`, sorted."""
        if not root.is_dir():
            return []
        return sorted(
            entry.name for entry in root.iterdir() if _NAME.fullmatch(entry.name) and (entry / "generations").is_dir()
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while building, so that one process at a time builds this index.

        Raises `IndexUnavailable` that names the other process. The lock of a process that dies is free at once.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise IndexUnavailable(
                    f"Process {file.read().strip() or 'unknown'} is building index {self.index!r} right now. Wait "
                    "until it is done, or stop it, and run this again: it goes on where that one stopped."
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def begin(self, model: ModelInfo, base: Generation | None = None) -> Generation:
        """A new generation in state building.

        When `base` was built with the same model its index files are copied, also while a server has them open: only
        changes need writing then. With any other base, and without one, `shard` does not exist yet.
        """
        self._sweep()
        now = datetime.now(UTC)
        id_ = f"{now:%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"
        generation = Generation(id_, self.index, self._generations / id_, "building", model, now.isoformat(), 0)
        temporary = self._generations / f".new-{id_}"
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

    def finish(self, generation: Generation, points: int) -> Generation:
        """Marks a generation ready, with its number of images. Close its index first: its files are recorded here."""
        ready = replace(generation, state="ready", points=points)
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
        return [self.get(name) for name in names if _ID.fullmatch(name)]

    def get(self, id: str) -> Generation:
        """One generation. Raises `IndexNotFound` when there is none of that id."""
        path = self._generations / id
        if not _ID.fullmatch(id) or not path.is_dir():
            raise IndexNotFound(
                f"Index {self.index!r} has no generation {id!r}. `sightline generations list` shows those there are."
            )
        stored = self._described(path)
        try:
            return Generation(
                id=id,
                index=self.index,
                path=path,
                state=stored["state"],
                model=ModelInfo(**stored["model"]),
                created_at=stored["created_at"],
                points=stored["points"],
            )
        except (KeyError, TypeError) as error:
            raise self._corrupt(path / "generation.json", error) from error

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

    def prune(self, keep: int) -> builtins.list[Generation]:
        """Deletes all ready generations but the newest `keep`; the serving one counts first and always stays."""
        serving = self._pointed()[:1]
        ready = [generation for generation in reversed(self.list()) if generation.state == "ready"]
        ready.sort(key=lambda generation: generation.id not in serving)
        for generation in (gone := ready[max(keep, 1) :]):
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
        current = settings()
        description = {
            "id": generation.id,
            "state": generation.state,
            "model": asdict(generation.model),
            "created_at": generation.created_at,
            "points": generation.points,
            "hnsw": {
                "m": current.search_hnsw_m,
                "ef_construct": current.search_ef_construct,
                "quantile": current.search_quantile,
            },
            "files": files,
        }
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
