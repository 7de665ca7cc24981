"""The checks of a Qdrant server: the vector index's, the generations', and what both rest on.

All on collections and aliases under a random name, which are removed in the end.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from engine.conformance.check import Check, sentence
from engine.conformance.expectation import expect, expect_equal, refused
from engine.conformance.generations import GENERATIONS, Make
from engine.conformance.vector_index import DIMENSION, POINTS, READING, ROWS, WRITING
from engine.errors import IndexNotFound, IndexUnavailable, SightlineError
from engine.generations.qdrant import QdrantGenerations
from engine.indexes.qdrant import QdrantIndex
from engine.indexes.qdrant_connection import QdrantConnection
from engine.ports import VectorQuery
from engine.settings import Settings

_OLDEST: Final = (1, 16)  # the first that keeps metadata of collections


class _Place:
    """Collections and aliases under a random name, which are all removed in the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.prefix = f"sightline-check-{secrets.token_hex(8)}"
        self.connection = QdrantConnection(settings)
        self.opened: list[QdrantIndex | QdrantGenerations] = []
        self._folder = TemporaryDirectory(prefix="sightline-check-")

    def name(self) -> str:
        return f"{self.prefix}-{secrets.token_hex(4)}"

    async def make(self, dimension: int) -> QdrantIndex:
        index = await QdrantIndex.create(self.name(), dimension, self.settings)
        self.opened.append(index)
        return index

    def generations(self) -> Make:
        """Indexes of their own for one check, by whatever names it gives them."""
        own = self.name().removeprefix("sightline-")
        settings = self.settings.model_copy(update={"index_path": Path(self._folder.name)})

        def make(index: str) -> QdrantGenerations:
            store = QdrantGenerations(settings, f"{own}-{index}")
            self.opened.append(store)
            return store

        return make

    async def clear(self) -> None:
        for index in self.opened:
            await index.close()
        try:
            for name in await self.connection.collections(self.prefix):
                await self.connection.drop(name)
        except SightlineError as error:
            raise IndexUnavailable(
                f"Collections that begin with {self.prefix!r} may be left at Qdrant: delete them. {error}"
            ) from error
        finally:
            self._folder.cleanup()
            await self.connection.close()


@asynccontextmanager
async def qdrant_checks(settings: Settings) -> AsyncIterator[Sequence[Check]]:
    """The checks of the server that QDRANT_URL names. Raises `IndexUnavailable` when it can't be reached."""
    place = _Place(settings)
    try:
        index = await place.make(DIMENSION)
        await index.upsert(POINTS)

        checks: list[Check] = [("it is version 1.16 or newer", partial(_is_new_enough, place))]
        checks += [(sentence(behaviour), partial(behaviour, index)) for behaviour in READING]
        checks.append(("a collection is built to the end", index.optimize))
        checks += [(f"{sentence(behaviour)}, once built", partial(behaviour, index)) for behaviour in READING]
        checks += [(sentence(behaviour), partial(behaviour, place.make)) for behaviour in WRITING]
        checks += [(sentence(behaviour), partial(behaviour, place)) for behaviour in _SERVER]
        checks += [(sentence(behaviour), partial(behaviour, place.generations())) for behaviour in GENERATIONS]
        yield checks
    finally:
        await place.clear()


async def _is_new_enough(place: _Place) -> None:
    version = await place.connection.version()
    try:
        major, minor, *_ = (int(part) for part in version.split("-")[0].split("."))
    except ValueError:
        major, minor = _OLDEST  # a build without a number: the other checks will tell
    expect((major, minor) >= _OLDEST, f"it is version {version}")


async def an_alias_switches_in_one_step(place: _Place) -> None:
    """It stands for one collection, then for the other, and goes with the collection."""
    first, second, alias = await place.make(DIMENSION), await place.make(DIMENSION), place.name()
    await second.upsert(POINTS[:7])
    for target in (first, second):
        await place.connection.switch_alias(alias, target.collection)
        expect_equal(await place.connection.alias_target(alias), target.collection, "the alias's target")
    named = await QdrantIndex.open(alias, place.settings)
    place.opened.append(named)
    expect_equal(await named.count(), 7, "points under the alias")
    [hits] = await named.search([VectorQuery(ROWS[3], limit=1)])
    expect_equal([hit.id for hit in hits], [POINTS[3].id], "the nearest under the alias")
    with refused(IndexNotFound, "no collection", "a switch to a collection that is not there"):
        await place.connection.switch_alias(alias, place.name())
    expect_equal(await place.connection.alias_target(alias), second.collection, "the target after what was refused")
    await place.connection.drop(second.collection)
    expect_equal(await place.connection.alias_target(alias), None, "the target after its collection was dropped")


async def metadata_of_a_collection_is_kept(place: _Place) -> None:
    """What is stored about a collection is merged with what is there."""
    index = await place.make(DIMENSION)
    expect_equal(await place.connection.metadata(index.collection), {}, "metadata of a new collection")
    await place.connection.set_metadata(index.collection, {"state": "building", "model": {"dimension": 24}})
    await place.connection.set_metadata(index.collection, {"state": "ready"})
    wanted = {"state": "ready", "model": {"dimension": 24}}
    expect_equal(await place.connection.metadata(index.collection), wanted, "metadata")


async def collections_are_listed_and_dropped(place: _Place) -> None:
    """By their prefix; dropping twice is harmless; one that is gone is not found."""
    index = await place.make(DIMENSION)
    expect(index.collection in await place.connection.collections(place.prefix), "a new collection is not listed")
    for _ in range(2):
        await place.connection.drop(index.collection)
    expect(index.collection not in await place.connection.collections(), "a dropped collection is still listed")
    expect(not await place.connection.exists(index.collection), "a dropped collection still exists")
    with refused(IndexNotFound, index.collection, "opening a collection that is gone"):
        await QdrantIndex.open(index.collection, place.settings)


async def a_collection_is_not_created_twice(place: _Place) -> None:
    """The second attempt is refused, and the first one's points stay."""
    index = await place.make(DIMENSION)
    await index.upsert(POINTS[:3])
    with refused(IndexUnavailable, "already exists", "creating a collection that is there"):
        await QdrantIndex.create(index.collection, DIMENSION, place.settings)
    expect_equal(await index.count(), 3, "count after what was refused")


_SERVER: Final[tuple[Callable[[_Place], Awaitable[None]], ...]] = (
    an_alias_switches_in_one_step,
    metadata_of_a_collection_is_kept,
    collections_are_listed_and_dropped,
    a_collection_is_not_created_twice,
)
