"""Generations: complete builds of an index, side by side, and one pointer that says which of them serves.

Building never touches what serves, and promoting is one atomic switch of the pointer. `folder` keeps them on disk, with
Qdrant Edge; `qdrant` as collections of a Qdrant server, with an alias. Both are held to one contract suite.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from engine.generations.folder import FolderGenerations, GenerationStore, copy_tree
from engine.generations.record import Generation, State, Wanted, check_id, check_name
from engine.ports import ModelInfo, VectorIndex
from engine.settings import Settings

__all__ = [
    "Generation",
    "GenerationStore",
    "Generations",
    "State",
    "Wanted",
    "check_id",
    "check_name",
    "copy_tree",
    "generations_of",
    "index_names",
    "open_generations",
]


class Generations(Protocol):
    """The generations of one index. Where they are on a server, everything raises `IndexUnavailable` if it is away."""

    @property
    def index(self) -> str:
        """The index's name."""
        ...

    @property
    def folder(self) -> Path:
        """The folder of the index's thumbnails and manifests."""
        ...

    def lock(self, *, shared: bool = False) -> AbstractContextManager[None]:
        """Held while building, by one process of all that see `folder`, or by several that share it.

        Raises `IndexBusy` when it is taken.
        """
        ...

    def beginning(self) -> AbstractContextManager[None]:
        """Held by the one of several builders that begins a generation. Raises `IndexBusy` when it is taken."""
        ...

    async def begin(self, model: ModelInfo, base: Generation | None = None, id: str | None = None) -> Generation:
        """A new generation in state building, with the vectors of `base` if that was built with the same model.

        Its id is made up if none is given; one that is given must be new.
        """
        ...

    async def building(self) -> Generation | None:
        """The newest generation that an interrupted run left unfinished."""
        ...

    async def finish(self, generation: Generation, points: int, held: str | None = None) -> Generation:
        """Marks a generation ready, with its number of images. Close its index first."""
        ...

    async def discard(self, generation: Generation) -> None:
        """Deletes a generation. Raises `BadUserInput` for the one that serves."""
        ...

    async def list(self) -> builtins.list[Generation]:
        """All generations, oldest first."""
        ...

    async def get(self, id: str) -> Generation:
        """One generation. Raises `IndexNotFound` when there is none of that id."""
        ...

    async def current_id(self) -> str | None:
        """The id that the pointer names: one cheap look, for who looks every second."""
        ...

    async def current(self) -> Generation | None:
        """The generation that serves."""
        ...

    async def promote(self, id: str) -> Generation:
        """Makes a generation the serving one, in one atomic step. Raises `IndexNotReady` while it is being built."""
        ...

    async def rollback(self) -> Generation:
        """Makes the generation serve that served before. Raises `IndexNotReady` when none is left."""
        ...

    async def prune(self, keep: int, spare: str = "") -> builtins.list[Generation]:
        """Deletes all ready generations but `keep`, and returns them.

        The serving one counts first and always stays, then the newest, and last those that were held back and never
        served: they are no place to roll back to. The one of the id `spare` stays whatever it counts.
        """
        ...

    async def verify(self, generation: Generation) -> None:
        """Raises `IndexCorrupt` when less is stored than was when the generation was finished."""
        ...

    async def create_index(self, generation: Generation) -> VectorIndex:
        """The index of a generation in state building, to write to: empty, or as begun, or as an earlier run left it.

        Made for a process that builds, whose event loop may have to wait for it.
        """
        ...

    async def create_part(self, generation: Generation, shard: int) -> VectorIndex:
        """Where one of several builders of a generation writes, who does the part of the source with this number.

        It may hold more than was written through it, but what was written through it is all there, after a crash too.
        """
        ...

    async def gather(self, generation: Generation, index: VectorIndex, wanted: Wanted) -> None:
        """Brings what builders wrote to their parts into the index of the generation, as far as it is `wanted`.

        Once there, the parts are deleted. Harmless when it was done before, or was interrupted.
        """
        ...

    async def open_index(self, generation: Generation) -> VectorIndex:
        """The index of a ready generation, to search: made for a server, whose event loop it leaves alone."""
        ...

    async def close(self) -> None:
        """Lets go of connections; harmless when done twice. Indexes that were opened stay open."""
        ...


def open_generations(settings: Settings, index: str, *, patience_s: float = 0.0) -> Generations:
    """The generations of an index where the settings say: on the server of QDRANT_URL, else under INDEX_PATH.

    Connects to nothing yet. With `patience_s` a server that is away is waited for so many seconds, by everything done
    with them or their indexes: what builds has a minute (`engine.patience`), what serves none. Raises `BadUserInput`
    when `index` is no name of an index.
    """
    if settings.qdrant_url:
        from engine.generations.qdrant import QdrantGenerations  # noqa: PLC0415 - loads gRPC

        return QdrantGenerations(settings, index, patience_s=patience_s)
    return FolderGenerations(settings, index)


@asynccontextmanager
async def generations_of(settings: Settings, index: str, *, patience_s: float = 0.0) -> AsyncIterator[Generations]:
    """The same, closed in the end."""
    generations = open_generations(settings, index, patience_s=patience_s)
    try:
        yield generations
    finally:
        await generations.close()


async def index_names(settings: Settings) -> list[str]:
    """The names of all indexes there, sorted, also of those whose first generation is being built."""
    if settings.qdrant_url:
        from engine.generations.qdrant import collected_names  # noqa: PLC0415 - loads gRPC

        return await collected_names(settings)
    return GenerationStore.indexes(settings.index_path)
