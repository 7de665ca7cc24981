"""Builders wait for a Qdrant server that is away, and go on where they were."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.errors import IndexUnavailable
from engine.generations import generations_of
from engine.generations.record import new_id
from engine.settings import Settings
from indexing import simulate, workshop
from indexing.command import run_finish, run_index
from indexing.sharding import WHOLE
from tests.indexing.conftest import NAME, Place, Steps
from tests.support.encoders import WordEncoder
from tests.support.pictures import contents, paint, paint_many
from tests.support.qdrant import QdrantServer
from tests.support.waiting import until

SHORT_S = 0.6


@pytest.fixture
def place(tmp_path: Path, server: QdrantServer) -> Place:
    """Six pictures, no index yet, and a server to disturb."""
    settings = server.settings(index_path=tmp_path / "data", index_workers=1, index_batch_size=2)
    paint_many(tmp_path / "source", 6)
    return Place(settings, tmp_path / "source")


@contextmanager
def restarting(server: QdrantServer) -> Iterator[Callable[[Awaitable[Any]], Awaitable[Any]]]:
    """A way to wait for work while the server is started again as soon as somebody waits for it."""
    with capture_logs() as told:

        async def waiting() -> bool:
            return any("waited for" in line["event"] for line in told)

        async def revive() -> None:
            await until(waiting)
            await asyncio.to_thread(server.start)

        async def done(work: Awaitable[Any]) -> Any:
            answer, _ = await asyncio.gather(work, revive())
            return answer

        yield done


@pytest.mark.parametrize("stage", ["beginning", "upserting", "optimizing", "promoting"])
async def test_a_run_goes_on_when_the_server_is_back(place: Place, server: QdrantServer, tmp_path: Path, stage: str):
    """Killed at any step and started again, it has all points in the end, and nothing was begun anew."""
    alone = Place(Settings(_env_file=None, index_path=tmp_path / "alone", index_workers=1), place.source)
    await alone.run()
    with restarting(server) as done:
        report = await done(place.run(Steps(stage, server.kill)))
    assert (report.changed, report.resumed, report.indexed) == (True, False, 6)
    found, wanted = await contents(place.settings, NAME), await contents(alone.settings, NAME)
    assert found.manifest == wanted.manifest
    assert {key: point.payload for key, point in found.points.items()} == {
        key: point.payload for key, point in wanted.points.items()
    }
    assert [generation.id for generation in await place.list()] == [found.generation]


async def test_an_update_by_workers_goes_on_when_the_server_is_back(place: Place, server: QdrantServer):
    """The worker, which begins with a copy of what serves, and who completes it."""
    await place.run()
    paint(place.source / "new.png")
    (place.source / "001.png").unlink()
    generation = new_id()
    with restarting(server) as done:
        await done(place.work(WHOLE, generation, Steps("beginning", server.kill)))
    with restarting(server) as done:
        await done(place.finish(generation, Steps("checking", server.kill)))
    found = await contents(place.settings, NAME)
    assert found.generation == generation
    assert "new.png" in found.points
    assert len(found.points) == 6


def test_a_server_that_stays_away_ends_a_run_with_75(
    place: Place, server: QdrantServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """After its patience, with what to do."""
    monkeypatch.setattr(workshop, "PATIENCE_S", SHORT_S)
    server.kill()
    assert run_index(str(place.source), settings=place.settings, encoder_factory=WordEncoder) == 75
    told = " ".join(capsys.readouterr().err.split())
    assert "does not answer" in told
    assert "Check that it runs" in told
    assert "waited for 0.6 s in vain" in told
    assert run_finish(new_id(), settings=place.settings, encoder_factory=WordEncoder) == 75


async def test_a_simulation_that_waited_in_vain_does_not_wait_to_tidy_up(
    server: QdrantServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It ends as soon as its patience does, and the next one puts away what it left."""
    settings = server.settings(index_path=tmp_path / "data")
    monkeypatch.setattr(simulate, "PATIENCE_S", SHORT_S)

    def kill(stage: str, *_: int) -> None:
        if stage == "optimizing":
            server.kill()

    with capture_logs() as told, pytest.raises(IndexUnavailable, match="does not answer"):
        await simulate.simulate_vectors(20, 8, 1, NAME, settings, kill)
    assert len([line for line in told if "waited for" in line["event"]]) == 1
    server.start()
    serving = await simulate.simulate_vectors(20, 8, 1, NAME, settings)
    async with generations_of(settings, NAME) as store:
        assert await store.list() == [serving]
