"""Who builds waits for a server that is away; who searches has its answer or its error as soon as ever."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from engine.breaker import FAILURES
from engine.errors import IndexNotFound, IndexUnavailable
from engine.indexes.qdrant import QdrantIndex
from engine.indexes.qdrant_connection import QdrantConnection
from engine.ports import Point, VectorQuery
from tests.support.qdrant import QdrantServer
from tests.support.waiting import until

LONG_S = 3600.0
"""Patience that no test sees the end of."""

SHORT_S = 0.6

ROWS = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
POINTS = [Point(str(uuid.UUID(int=i + 1)), row, {}) for i, row in enumerate(ROWS)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A server of its own for a test that disturbs it."""
    with QdrantServer(tmp_path / "qdrant") as server:
        yield server


class Waits:
    """How often it was told that a server is waited for."""

    def __init__(self, told: list[Any]) -> None:
        self._told = told

    @property
    def told(self) -> list[Any]:
        """The lines of the log that say so."""
        return [line for line in self._told if "waited for" in line["event"]]

    async def any(self) -> bool:
        """Whether one does."""
        return bool(self.told)


@contextmanager
def waits() -> Iterator[Waits]:
    """Listens to the log."""
    with capture_logs() as told:
        yield Waits(told)


async def test_what_is_asked_while_the_server_is_away_is_done_when_it_is_back(server: QdrantServer):
    """Whatever a build asks; the log says once what is waited for, and for how long."""
    settings = server.settings()
    index = await QdrantIndex.create("pictures", 16, settings, patience_s=LONG_S)
    await index.upsert(POINTS)
    server.kill()
    with waits() as log:
        asked = asyncio.gather(
            index.count(),
            index.upsert(POINTS[:5]),
            index.delete([POINTS[19].id]),
            index.optimize(),
            index.search([VectorQuery(ROWS[3], limit=1)]),
            index.connection.set_metadata("pictures", {"state": "ready"}),
            index.connection.switch_alias("current", "pictures"),
        )
        await until(log.any)
        await asyncio.to_thread(server.start)
        await asked
    [line] = log.told
    assert (line["log_level"], line["address"], line["at_most_s"]) == ("warning", index.connection.address, LONG_S)
    assert await index.count() == 19
    assert await index.connection.alias_target("current") == "pictures"
    assert await index.connection.metadata("pictures") == {"state": "ready"}
    await index.close()


async def test_patience_ends(server: QdrantServer):
    """With what was wrong and how long it was waited for, whatever was asked."""
    index = await QdrantIndex.create("pictures", 16, server.settings(), patience_s=SHORT_S)
    server.kill()
    for call in (index.count(), index.upsert(POINTS), index.connection.switch_alias("current", "pictures")):
        with pytest.raises(IndexUnavailable, match=r"does not answer.* It was waited for 0\.6 s in vain"):
            await call
    with pytest.raises(IndexUnavailable, match="in vain"):
        await QdrantIndex.create("others", 16, server.settings(), patience_s=SHORT_S)
    await index.close()


async def test_a_server_that_hangs_is_waited_for_too(server: QdrantServer):
    """However often it has hung: who builds has no breaker."""
    index = await QdrantIndex.create("pictures", 16, server.settings(qdrant_timeout_s=0.5), patience_s=LONG_S)
    server.pause()
    with waits() as log:
        asked = asyncio.gather(*(index.count() for _ in range(2 * FAILURES)))
        await until(log.any)
        server.resume()
        assert await asked == [0] * (2 * FAILURES)
    await index.close()


async def test_a_search_fails_as_soon_as_ever_while_a_build_waits(server: QdrantServer):
    """Away or hanging, the connection of who searches has its own deadline."""
    settings = server.settings(qdrant_timeout_s=0.5)
    building = await QdrantIndex.create("pictures", 16, settings, patience_s=LONG_S)
    searching = await QdrantIndex.open("pictures", settings)
    for disturb, heal, error in (
        (server.pause, server.resume, r"longer than 0\.5 s"),
        (server.kill, server.start, "does not answer"),
    ):
        disturb()
        with waits() as log:
            waiting = asyncio.ensure_future(building.count())
            await until(log.any)
            with pytest.raises(IndexUnavailable, match=error) as refusal:
                await searching.search([VectorQuery(ROWS[0], limit=1)])
            assert "waited" not in str(refusal.value)
            assert not waiting.done()
            await asyncio.to_thread(heal)
            assert await waiting == 0
        assert len(log.told) == 1
    await building.close()
    await searching.close()


async def test_a_collection_whose_making_was_not_answered_is_taken_as_made(server: QdrantServer):
    """One that was there before is refused all the same."""
    server.plan(reset=1, method="Collections/Create")
    index = await QdrantIndex.create("pictures", 16, server.settings(), patience_s=LONG_S)
    await index.upsert(POINTS)
    with pytest.raises(IndexUnavailable, match="already exists"):
        await QdrantIndex.create("pictures", 16, server.settings(), patience_s=LONG_S)
    assert await index.count() == 20
    await index.close()


async def test_a_collection_whose_making_was_refused_is_made_later(server: QdrantServer):
    """When the server takes it."""
    server.plan(fail=1, method="Collections/Create")
    index = await QdrantIndex.create("pictures", 16, server.settings(), patience_s=LONG_S)
    assert await index.count() == 0
    await index.close()


async def test_a_switch_is_judged_anew_before_each_attempt(server: QdrantServer):
    """A collection that is deleted meanwhile is not switched to: the alias would stand for nothing."""
    connection, other = QdrantConnection(server.settings(), patience_s=LONG_S), QdrantConnection(server.settings())
    for name in ("old", "new"):
        await (await QdrantIndex.create(name, 16, server.settings())).close()
    await connection.switch_alias("current", "old")
    server.plan(fail=1_000_000, method="Collections/UpdateAliases")
    with waits() as log:
        switching = asyncio.ensure_future(connection.switch_alias("current", "new"))
        await until(log.any)
        await other.drop("new")
        server.plan()
        with pytest.raises(IndexNotFound, match="no collection 'new'"):
            await switching
    assert await connection.alias_target("current") == "old"
    await connection.close()
    await other.close()


async def test_what_waiting_does_not_mend_is_told_at_once(server: QdrantServer):
    """No such collection, a fault of the server's own, a wrong key."""
    with waits() as log:
        with pytest.raises(IndexNotFound):
            await QdrantIndex.open("nothing", server.settings(), patience_s=LONG_S)
        server.plan(fail=1, code="INTERNAL")
        with pytest.raises(IndexUnavailable, match=r"\(INTERNAL\)"):
            await QdrantIndex.open("nothing", server.settings(), patience_s=LONG_S)
        server.plan(fail=1, code="UNAUTHENTICATED")
        with pytest.raises(IndexUnavailable, match="refuses the API key"):
            await QdrantIndex.open("nothing", server.settings(), patience_s=LONG_S)
    assert not log.told


async def test_who_is_stopped_waits_no_longer(server: QdrantServer):
    """Ctrl-C and SIGTERM cancel the task that waits."""
    index = await QdrantIndex.create("pictures", 16, server.settings(), patience_s=LONG_S)
    server.kill()
    with waits() as log:
        asked = asyncio.ensure_future(index.count())
        await until(log.any)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    await index.close()
