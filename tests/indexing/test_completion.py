"""What completing a generation compares, and that it needs no more memory for many pictures than for few."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.generations import generations_of
from engine.generations.record import new_id
from engine.indexes import pages
from engine.indexes.exact import ExactIndex
from engine.ports import ModelInfo, Point
from engine.settings import Settings
from indexing import ledger as ledgers
from indexing.completion import Completion
from indexing.ledger import Row
from indexing.report import Report
from indexing.sharding import owner
from indexing.workshop import Workshop, workshop
from tests.indexing.conftest import NAME
from tests.support.encoders import WordEncoder
from tests.support.progress import Silent

MODEL = ModelInfo("words", "", 2, 8, 77, "fingerprint-1")
VECTOR = np.array([1, 0], dtype=np.float32)
PAGE = 50
FILES = 1000
SHARDS = 3


class Counting(ExactIndex):
    """Notes how many points are asked for or given at once."""

    def __init__(self) -> None:
        super().__init__(2)
        self.most = 0

    def _noted(self, found: list[Any]) -> list[Any]:
        self.most = max(self.most, len(found))
        return found

    async def retrieve(self, ids: Sequence[str], *, vectors: bool = False, payload: bool = True) -> list[Point]:
        self._noted(list(ids))
        return self._noted(await super().retrieve(ids, vectors=vectors, payload=payload))

    async def ids(self, after: str = "", limit: int | None = None) -> list[str]:
        return self._noted(await super().ids(after, limit))

    async def delete(self, ids: Sequence[str]) -> None:
        self._noted(list(ids))
        await super().delete(ids)


def key(number: int) -> str:
    """The key of a picture."""
    return f"{number:05}.png"


def id_of(number: int) -> str:
    """Its id, in another order than keys have."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, key(number)))


def row(number: int) -> Row:
    """What the ledger says of it."""
    return Row(key(number), 1, 1, "stamp", id_of(number), "indexed", f"content {number}")


def point(number: int) -> Point:
    """What the index has of it."""
    return Point(id_of(number), VECTOR, {"objectKey": key(number), "contentHash": f"content {number}"})


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of 50 is to 1,000 pictures what one of 1,000 is to many."""
    monkeypatch.setattr(ledgers, "_PAGE", PAGE)
    monkeypatch.setattr(pages, "PAGE", PAGE)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Workshop]:
    """A workshop whose ledger counts how many rows it reads at once."""
    settings = Settings(_env_file=None, index_path=tmp_path / "data")
    async with workshop(settings, NAME, Silent(), WordEncoder) as shop:
        yield shop


async def completing(shop: Workshop) -> Completion:
    """A generation of `FILES` pictures, done in three shards, according to the ledger."""
    generation = await shop.store.begin(MODEL, None, new_id())
    shop.ledger.record(generation.id, [row(number) for number in range(FILES)])
    for shard in range(SHARDS):
        run = shop.ledger.start_run("/in", generation=generation.id, shard_index=shard, shard_count=SHARDS)
        shop.ledger.end_run(run, "done", generation=generation.id)
    return Completion(shop, Report(NAME, "/in", generation=generation.id), generation)


async def test_many_pictures_are_compared_page_by_page(shop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """Nothing is held or asked for that grows with the index: not of what is there, missing, or there too much."""
    completion, vectors = await completing(shop), Counting()
    await vectors.upsert([point(number) for number in range(200, FILES + 300)])
    read: list[int] = []

    def fetched(connection: Any, query: Any) -> Any:
        found = connection.execute(query).all()
        read.append(len(found))
        return found

    monkeypatch.setattr(ledgers, "_fetch", fetched)
    lost = await completion.missing(vectors)
    assert lost.total() == 200
    assert await vectors.count() == FILES - 200
    assert vectors.most == max(read) == PAGE


async def test_what_is_missing_is_to_be_done_again_by_its_shards(shop: Workshop):
    """Their rows go, and they are no longer done; others are."""
    completion, vectors = await completing(shop), ExactIndex(2)
    gone = [number for number in range(FILES) if owner(key(number), SHARDS) == 1][:3]
    await vectors.upsert([point(number) for number in range(FILES) if number not in gone])
    assert await completion.missing(vectors) == {1: 3}
    [build] = [run.generation for run in shop.ledger.runs() if run.outcome == "lost"]
    assert build
    assert shop.ledger.shards(build) == (SHARDS, {1})
    assert shop.ledger.counts(build)["indexed"] == FILES - 3
    assert not await completion.missing(vectors)


async def test_shards_are_opened_before_their_rows_go(shop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """Killed between the two, pictures are done once more; the other way round they would be left out."""
    completion, vectors = await completing(shop), ExactIndex(2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shop.ledger, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        await completion.missing(vectors)
    [generation] = {str(run.generation) for run in shop.ledger.runs()}
    assert shop.ledger.shards(generation)[1]


async def test_strangers_and_pictures_that_are_none_any_more_go(shop: Workshop):
    """Whatever else lies in the index: without a key, under another id than its key's, or skipped by now."""
    completion, vectors = await completing(shop), ExactIndex(2)
    [generation] = await shop.store.list()
    shop.ledger.record(generation.id, [Row(key(7), 1, 1, "stamp", id_of(7), "skipped", reason="truncated")])
    strangers = [Point(str(uuid.uuid4()), VECTOR, payload) for payload in ({}, {"objectKey": 5}, {"objectKey": key(9)})]
    await vectors.upsert([*(point(number) for number in range(FILES)), *strangers])
    assert not await completion.missing(vectors)
    assert await vectors.ids() == sorted(id_of(number) for number in range(FILES) if number != 7)


async def test_parts_are_gathered_page_by_page(shop: Workshop):
    """What workers wrote beside, as far as the ledger names it with that content."""
    completion = await completing(shop)
    [generation] = await shop.store.list()
    async with generations_of(shop.settings, NAME) as store:
        part = await store.create_part(generation, 0)
        stale = Point(id_of(5), VECTOR, {"objectKey": key(5), "contentHash": "older"})
        await part.upsert([stale, *(point(number) for number in range(6, FILES + 20))])
        await part.close()
    vectors = Counting()
    await vectors.upsert([point(number) for number in range(5)])
    lost = await completion.missing(vectors)
    assert lost == {owner(key(5), SHARDS): 1}
    assert await vectors.count() == FILES - 1
    assert vectors.most == PAGE
