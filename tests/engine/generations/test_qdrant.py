"""What only generations on a server have: records that travel with them, and switches that are cut in the middle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.conformance.generations import MODEL, POINTS, built
from engine.errors import IndexCorrupt, IndexUnavailable
from engine.generations import qdrant
from engine.generations.qdrant import QdrantGenerations, collected_names
from engine.indexes import qdrant as index
from engine.indexes.qdrant_connection import QdrantConnection
from tests.support.qdrant import QdrantServer


@pytest.fixture
async def store(server: QdrantServer, tmp_path: Path) -> AsyncIterator[QdrantGenerations]:
    """The generations of an index on a server of its own."""
    store = QdrantGenerations(server.settings(index_path=tmp_path), "pictures")
    yield store
    await store.close()


@pytest.fixture
async def connection(server: QdrantServer) -> AsyncIterator[QdrantConnection]:
    """A look behind the store."""
    connection = QdrantConnection(server.settings())
    yield connection
    await connection.close()


async def test_a_server_needs_nothing_but_qdrant(store: QdrantGenerations, server: QdrantServer, tmp_path: Path):
    """Everything about a generation is found without the folder in which it was built, and none is made."""
    generation = await built(store, POINTS[:3])
    await store.promote(generation.id)
    elsewhere = QdrantGenerations(server.settings(index_path=tmp_path / "replica"), "pictures")
    found = await elsewhere.current()
    assert found is not None
    assert (found.id, found.model, found.points, found.state) == (generation.id, MODEL, 3, "ready")
    opened = await elsewhere.open_index(found)
    assert await opened.count() == 3
    await opened.close()
    await elsewhere.close()
    assert not (tmp_path / "replica").exists()


async def test_the_record_says_what_it_was_built_with(store: QdrantGenerations, connection: QdrantConnection):
    """In the collection's metadata, for whoever looks at the server."""
    generation = await built(store)
    await store.promote(generation.id)
    stored = await connection.metadata(f"sightline-pictures-{generation.id}")
    assert (stored["index"], stored["id"], stored["state"]) == ("pictures", generation.id, "ready")
    assert stored["hnsw"] == {"m": 16, "ef_construct": 200, "quantile": 0.99}
    assert stored["served_at"] > generation.created_at
    assert await connection.alias_target("sightline-pictures") == f"sightline-pictures-{generation.id}"


async def test_a_base_is_copied_by_the_page(store: QdrantGenerations, monkeypatch: pytest.MonkeyPatch):
    """However many pages it has, and when its messages are small."""
    monkeypatch.setattr(index, "_BATCH_POINTS", 7)
    base = await built(store, POINTS)
    copied = await store.create_index(await store.begin(MODEL, base))
    assert await copied.ids() == [point.id for point in POINTS]
    await copied.close()


@pytest.mark.parametrize("method", ["Points/Scroll", "Points/Upsert", "Collections/Update", "Points/CreateFieldIndex"])
async def test_an_interrupted_copy_is_no_generation_and_goes_with_the_next(
    store: QdrantGenerations, server: QdrantServer, connection: QdrantConnection, method: str
):
    """Wherever it broke off."""
    base = await built(store, POINTS[:5])
    server.plan(fail=2, method=method)
    with pytest.raises(IndexUnavailable):
        await store.begin(MODEL, base)
    server.plan()
    assert await store.list() == [base]
    assert len(await connection.collections("sightline-pictures-")) == 2
    generation = await store.begin(MODEL, base)
    assert await store.list() == [base, generation]
    assert len(await connection.collections("sightline-pictures-")) == 2


async def test_a_base_that_lost_points_is_not_copied(store: QdrantGenerations):
    """Better no new generation than one that lacks pictures."""
    base = await built(store, POINTS[:5])
    opened = await store.create_index(base)
    await opened.delete([POINTS[0].id])
    await opened.close()
    with pytest.raises(IndexCorrupt, match="should hold 5 vectors, but holds 4"):
        await store.begin(MODEL, base)
    with pytest.raises(IndexCorrupt, match="should hold 5 vectors, but holds 4"):
        await store.verify(base)


async def test_a_promotion_that_was_cut_is_remembered_by_the_next(store: QdrantGenerations, server: QdrantServer):
    """The alias was switched but not the record written: what serves then is still where a rollback goes back to."""
    first, second, third = [await built(store) for _ in range(3)]
    await store.promote(first.id)
    server.plan(fail=2, method="Collections/Update")
    with pytest.raises(IndexUnavailable):
        await store.promote(second.id)
    server.plan()
    assert await store.current() == second
    await store.promote(third.id)
    assert [await store.rollback(), await store.rollback()] == [second, first]


async def test_a_cut_promotion_can_be_rolled_back(store: QdrantGenerations, server: QdrantServer):
    """To what served before it."""
    first, second = [await built(store) for _ in range(2)]
    await store.promote(first.id)
    server.plan(fail=2, method="Collections/Update")
    with pytest.raises(IndexUnavailable):
        await store.promote(second.id)
    server.plan()
    assert await store.rollback() == first


async def test_a_clock_that_runs_behind_does_not_change_the_order(
    store: QdrantGenerations, connection: QdrantConnection
):
    """A promotion is later than those before it, whoever made them."""
    first, second = [await built(store) for _ in range(2)]
    await store.promote(first.id)
    await connection.set_metadata(
        f"sightline-pictures-{first.id}", {"served_at": "2999-01-01T00:00:00.000000+00:00", "left_at": None}
    )
    await store.promote(second.id)
    assert await store.rollback() == first


async def test_what_was_just_left_is_pruned_the_next_time(store: QdrantGenerations, monkeypatch: pytest.MonkeyPatch):
    """Servers may still search it: its collection would be gone under them."""
    first, second = [await built(store) for _ in range(2)]
    await store.promote(first.id)
    await store.promote(second.id)
    assert await store.prune(keep=1) == []
    await store.rollback()
    assert await store.prune(keep=1) == []
    monkeypatch.setattr(qdrant, "_LEFT", -qdrant._LEFT)
    assert await store.prune(keep=1) == [second]
    assert await store.list() == [first]


async def test_a_damaged_record_is_reported(store: QdrantGenerations, connection: QdrantConnection):
    """The message names the generation and the way out."""
    generation = await built(store)
    await connection.set_metadata(f"sightline-pictures-{generation.id}", {"model": {"name": "words"}})
    with pytest.raises(IndexCorrupt, match=rf"{generation.id}.*record is damaged.*rollback"):
        await store.get(generation.id)


async def test_a_serving_collection_without_a_record_is_reported(
    store: QdrantGenerations, connection: QdrantConnection
):
    """Somebody wrote over its metadata."""
    generation = await built(store)
    await store.promote(generation.id)
    await connection.set_metadata(f"sightline-pictures-{generation.id}", {"state": None})
    with pytest.raises(IndexCorrupt, match="no record of a generation"):
        await store.current()


async def test_foreign_collections_are_no_indexes(store: QdrantGenerations, server: QdrantServer):
    """Others may use the server too."""
    await built(store)
    for name in ("sightline-", "sightline-x", "photos-20240101-000000-000000-abcd", "sightline-a-2024"):
        await (await index.QdrantIndex.create(name, 4, server.settings())).close()
    assert await collected_names(server.settings()) == ["pictures"]
