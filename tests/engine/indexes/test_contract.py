"""The same calls on every index, answered alike: the checks are the product's, `sightline check` runs them too."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from engine.conformance.vector_index import DIMENSION, POINTS, READING, WRITING, Make
from engine.indexes import qdrant
from engine.indexes.edge import EdgeIndex
from engine.indexes.exact import ExactIndex
from engine.indexes.process import ProcessIndex
from engine.indexes.qdrant import QdrantIndex
from engine.ports import VectorIndex
from engine.settings import Settings
from tests.support.qdrant import QdrantServer

SETTINGS = Settings(_env_file=None)


@pytest.fixture(params=["exact", "edge", "process", "qdrant"], scope="module")
def engine(request: pytest.FixtureRequest) -> str:
    """The engine under test."""
    name: str = request.param
    return name


async def new_index(engine: str, folder: Path, dimension: int, server: QdrantServer) -> VectorIndex:
    """An empty index."""
    match engine:
        case "exact":
            return ExactIndex(dimension)
        case "edge":
            return EdgeIndex.create(folder, dimension, SETTINGS)
        case "process":
            return await ProcessIndex.create(folder, dimension, SETTINGS)
        case _:
            return await QdrantIndex.create(f"contract-{uuid.uuid4()}", dimension, server.settings())


@pytest.fixture(scope="module", autouse=True)
def graphs_over_little() -> Iterator[None]:
    """Has the server build graphs over what these tests write, which it would otherwise just compare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qdrant, "_GRAPH_FROM_KB", 1)
        yield


@pytest.fixture(scope="module", params=["fresh", "optimized"])
def filled(
    request: pytest.FixtureRequest, engine: str, tmp_path_factory: pytest.TempPathFactory, qdrant_server: QdrantServer
) -> Iterator[VectorIndex]:
    """An index that holds `POINTS`, before and after the graph is built; for checks that only read."""
    folder = tmp_path_factory.mktemp("filled") / "shard"

    async def fill() -> VectorIndex:
        index = await new_index(engine, folder, DIMENSION, qdrant_server)
        await index.upsert(POINTS)
        if request.param == "optimized":
            await index.optimize()
        return index

    index = asyncio.run(fill())
    yield index
    asyncio.run(index.close())


@pytest.fixture
async def make(engine: str, tmp_path: Path, qdrant_server: QdrantServer) -> AsyncIterator[Make]:
    """Makes empty indexes of one engine, and closes them."""
    made: list[VectorIndex] = []

    async def make(dimension: int) -> VectorIndex:
        made.append(await new_index(engine, tmp_path / str(len(made)), dimension, qdrant_server))
        return made[-1]

    yield make
    for index in made:
        await index.close()


@pytest.mark.parametrize("behaviour", READING, ids=lambda behaviour: behaviour.__name__)
async def test_reading(filled: VectorIndex, behaviour: Callable[[VectorIndex], Awaitable[None]]):
    """What every index does with points that are there, before and after its graph is built."""
    await behaviour(filled)


@pytest.mark.parametrize("behaviour", WRITING, ids=lambda behaviour: behaviour.__name__)
async def test_writing(make: Make, behaviour: Callable[[Make], Awaitable[None]]):
    """What every index does with what is written."""
    await behaviour(make)
