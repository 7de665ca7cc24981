"""The operator's hands outside Kubernetes: generations on (a stand-in for) Qdrant, progress in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from imageindex_operator.observed import Progress
from imageindex_operator.stores import EngineStores
from pydantic import SecretStr
from structlog.testing import capture_logs

from engine.errors import IndexCorrupt, IndexUnavailable
from engine.generations import Generation
from engine.generations.qdrant import QdrantGenerations
from engine.indexes.qdrant import QdrantIndex
from engine.indexes.qdrant_connection import QdrantConnection
from engine.ports import ModelInfo, Point
from engine.settings import Settings
from indexing.ledger import Ledger, Row
from tests.support.postgres import Postgres
from tests.support.qdrant import QdrantServer

MODEL = ModelInfo("m", "x", 8, 224, 77, "f")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    server = QdrantServer(tmp_path / "qdrant")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(server: QdrantServer, tmp_path: Path) -> Settings:
    return server.settings(index_path=tmp_path)


async def built(settings: Settings, count: int, index: str = "shop") -> list[Generation]:
    """So many complete generations."""
    store = QdrantGenerations(settings, index)
    found = [await store.finish(await store.begin(MODEL), 0) for _ in range(count)]
    await store.close()
    return found


async def test_it_sees_what_is_there_and_what_serves(settings: Settings):
    """All generations, oldest first."""
    stores = EngineStores(settings)
    assert (await stores.look("shop")).generations == ()
    first, second = await built(settings, 2)
    await stores.promote("shop", first.id)
    seen = await stores.look("shop")
    assert seen.current == first.id
    assert [one.id for one in seen.generations] == [first.id, second.id]


async def test_a_generation_that_is_not_whole_any_more_is_not_promoted(settings: Settings):
    """Replicas would refuse it, and the alias would name what nobody serves."""
    stores = EngineStores(settings)
    first, second = await built(settings, 2)
    await stores.promote("shop", first.id)
    index = await QdrantIndex.open(f"sightline-shop-{second.id}", settings)
    await index.upsert([Point(str(uuid.uuid4()), np.ones(8, np.float32), {})])
    await index.close()
    with pytest.raises(IndexCorrupt, match="should hold 0 vectors, but holds 1"):
        await stores.promote("shop", second.id)
    assert (await stores.look("shop")).current == first.id


async def test_what_is_discarded_twice_is_gone_once(settings: Settings):
    """A crash in between is no error."""
    stores = EngineStores(settings)
    first, second = await built(settings, 2)
    await stores.promote("shop", first.id)
    await stores.discard("shop", second.id)
    await stores.discard("shop", second.id)
    assert [one.id for one in (await stores.look("shop")).generations] == [first.id]
    assert await stores.prune("shop", 1) == []


async def test_an_index_is_erased_with_its_alias_and_others_stay(settings: Settings):
    """Also when it was half erased before; with a snapshot of what served."""
    stores = EngineStores(settings)
    first, _ = await built(settings, 2)
    (other,) = await built(settings, 1, "shop2")
    await stores.promote("shop", first.id)
    await stores.promote("shop2", other.id)
    assert await stores.erase("shop", snapshot=True)
    assert await stores.erase("shop", snapshot=True) is None
    assert (await stores.look("shop")).generations == ()
    assert (await stores.look("shop2")).current == other.id
    connection = QdrantConnection(settings)
    assert await connection.alias_target("sightline-shop") is None
    await connection.close()


async def test_a_server_that_is_away_is_said_so(settings: Settings, server: QdrantServer):
    """And nothing is guessed."""
    server.stop()
    with pytest.raises(IndexUnavailable):
        await EngineStores(settings).look("shop")


async def test_without_a_ledger_there_is_no_progress(settings: Settings):
    """It is only shown to people."""
    assert await EngineStores(settings).progress("shop", "20261121-120000-000000-00ab") is None


@pytest.mark.programs
async def test_progress_is_what_the_ledger_has_and_a_ledger_that_is_away_has_none(settings: Settings):
    """The same table that indexing writes."""
    with Postgres() as database:
        url = SecretStr(database.url(database.create()))
        named = settings.model_copy(update={"index_database_url": url})
        id_ = "20261121-120000-000000-00ab"

        def fill() -> None:
            ledger = Ledger.open(named, "shop")
            rows = [Row(f"{n}.jpg", 1, 1, "s", str(n), "indexed" if n < 3 else "skipped") for n in range(5)]
            ledger.record(id_, rows)
            ledger.close()

        stores = EngineStores(named)
        with capture_logs() as told:
            assert await stores.progress("shop", id_) is None, "no worker has made its tables yet"
        assert told == []
        await asyncio.to_thread(fill)
        assert await stores.progress("shop", id_) == Progress(seen=5, indexed=3)
        assert await stores.progress("other", id_) == Progress(seen=0, indexed=0)
    assert await stores.progress("shop", id_) is None
