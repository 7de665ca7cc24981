"""Small real indexes for the tests of serving and searching."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.generations import Generation, Generations, GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.ports import Encoder, Point
from engine.settings import Settings
from tests.support.qdrant import QdrantServer

Build = Callable[..., Generation]


def id_of(number: int) -> str:
    """The id of the picture with this number."""
    return str(uuid.UUID(int=number))


def build(
    root: Path, captions: Sequence[str], encoder: Encoder, *, index: str = "default", promote: bool = True
) -> Generation:
    """A finished generation with one picture per caption, whose vector is nearly that of the caption."""
    noise = np.random.default_rng(len(captions)).standard_normal((len(captions), encoder.model.dimension))
    vectors = encoder.encode_texts(captions) + 0.03 * noise.astype(np.float32)

    def payload(number: int) -> dict[str, Any]:
        return {"category": captions[number].split()[-1], "width": number, "metadata": {"caption": captions[number]}}

    async def write() -> None:
        shard = EdgeIndex.create(generation.shard, encoder.model.dimension, Settings(_env_file=None))
        await shard.upsert([Point(id_of(n), vector, payload(n)) for n, vector in enumerate(vectors)])
        await shard.optimize()
        await shard.close()

    store = GenerationStore(root, index)
    generation = store.begin(encoder.model)
    asyncio.run(write())
    generation = store.finish(generation, len(captions))
    if promote:
        store.promote(generation.id)
    return generation


async def built(store: Generations, captions: Sequence[str], encoder: Encoder, **payload: Any) -> Generation:
    """A ready generation, on whatever store, with one picture per caption; `payload` is in each."""
    generation = await store.begin(encoder.model)
    index = await store.create_index(generation)
    vectors = encoder.encode_texts(captions)
    await index.upsert(
        [Point(id_of(n), vector, {"caption": captions[n], **payload}) for n, vector in enumerate(vectors)]
    )
    await index.optimize()
    await index.close()
    return await store.finish(generation, len(captions))


@pytest.fixture(scope="session", name="build")
def build_fixture() -> Build:
    """Builds a generation; call it from tests and fixtures that are not async."""
    return build


@pytest.fixture(scope="module")
def qdrant_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """The stand-in, undisturbed; it takes 30 MB a collection, so it goes with its module."""
    data = tmp_path_factory.mktemp("qdrant")
    with QdrantServer(data) as server:
        yield server
    shutil.rmtree(data)
