"""From a built generation to the serving one: verified first, held back when it is not fit, the same on every store."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import BadUserInput, IndexUnavailable, NotPromoted
from engine.generations import generations_of
from engine.ports import VectorIndex
from indexing import verification, verification_command, workshop
from indexing.simulate import simulate_vectors
from indexing.verification_command import tune_generation, verify_generation
from tests.indexing.conftest import NAME, Place, Steps
from tests.support.encoders import WordEncoder
from tests.support.pictures import paint
from tests.support.qdrant import QdrantServer


async def test_an_index_follows_its_source(place: Place):
    """New pictures come, others go, and only what is new is decoded; before and after are two generations."""
    first = await place.run()
    assert (first.indexed, first.total, first.changed, first.recall) == (6, 6, True, 1.0)
    paint(place.source / "new.png", "pink")
    (place.source / "001.png").unlink()
    second = await place.run()
    assert (second.indexed, second.deleted, second.total) == (1, 1, 6)
    assert place.steps.seen == ["new.png"]
    id_, points = await place.serving()
    assert (id_, "new.png" in points, "001.png" in points) == (second.generation, True, False)
    assert second.manifest is not None
    assert second.manifest.is_file()
    third = await place.run()
    assert (third.changed, third.generation, place.steps.seen) == (False, second.generation, [])
    assert [found.id for found in await place.list()] == [first.generation, second.generation]
    async with generations_of(place.settings, NAME) as store:
        assert (await store.rollback()).id == first.generation
    assert "001.png" in (await place.serving())[1]


async def test_an_interrupted_run_goes_on_where_it_was(place: Place):
    """What was written is not written again, and the serving generation is untouched meanwhile."""
    first = await place.run()
    for number in range(8):
        paint(place.source / f"more-{number}.png", "green")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await place.run(Steps("optimizing", stop))
    assert (await place.serving())[0] == first.generation
    report = await place.run()
    assert (report.resumed, report.total, place.steps.seen) == (True, 14, [])
    assert len((await place.serving())[1]) == 14


async def test_a_generation_that_is_not_fit_does_not_serve(place: Place):
    """The error says what it lacks; it stays, complete, and no later run promotes it by itself."""
    first = await place.run()
    paint(place.source / "new.png")
    canaries = place.canary(query="blue", expect=["lost.png"])
    with pytest.raises(NotPromoted, match=r"'blue' does not find lost\.png.*What served before goes on"):
        await place.run(index_canaries=canaries)
    held = (await place.list())[-1]
    assert (held.state, held.points, held.id != first.generation) == ("ready", 7, True)
    assert "lost.png" in (held.held or "")
    assert (await place.serving())[0] == first.generation
    again = await place.run()
    assert (again.changed, again.generation not in {held.id, first.generation}, again.total) == (True, True, 7)
    async with generations_of(place.settings, NAME) as store:
        assert (await store.rollback()).id == first.generation


async def test_a_graph_that_finds_too_little_does_not_serve(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Measured on the built index, before anybody searches it."""

    def half(*_: Any) -> float:
        return 0.5

    monkeypatch.setattr(verification, "recall", half)
    with pytest.raises(NotPromoted, match=r"recall@10 of \d+ texts is 0\.500, less than INDEX_MIN_RECALL"):
        await place.run()
    async with generations_of(place.settings, NAME) as store:
        assert await store.current_id() is None
        [held] = await store.list()
        assert (await store.promote(held.id)).id == held.id
    assert len((await place.serving())[1]) == 6


async def test_a_result_can_wait_for_a_person(place: Place):
    """With `--no-promote` it is verified and complete; the next run does not promote it, a person can."""
    first = await place.run()
    paint(place.source / "new.png")
    report = await place.run(promote=False)
    assert (report.held, report.changed, report.recall) == (True, False, 1.0)
    assert (await place.serving())[0] == first.generation
    (place.source / "new.png").unlink()
    await place.run()
    assert (await place.serving())[0] == first.generation
    async with generations_of(place.settings, NAME) as store:
        await store.promote(report.generation)
    assert "new.png" in (await place.serving())[1]


async def test_a_mistake_in_the_canaries_is_told_before_the_work(place: Place):
    """Nothing is decoded for it."""
    canaries = place.canary(expect=["a.png"])
    with pytest.raises(BadUserInput, match="INDEX_CANARIES"):
        await place.run(index_canaries=canaries)
    assert (place.steps.seen, await place.list()) == ([], [])


async def test_a_generation_can_be_verified_later(place: Place, monkeypatch: pytest.MonkeyPatch):
    """The newest, or any by its id: against its ledger's rows, with the model of the settings."""
    monkeypatch.setattr("engine.encoders.choice.load_encoder", lambda _settings: WordEncoder())
    first = await place.run()
    paint(place.source / "new.png")
    second = await place.run()
    settings = place.settings.model_copy(update={"index_canaries": place.canary(query="x", expect=["lost.png"])})
    id_, found = await verify_generation(settings, NAME, None)
    assert (id_, found.points, found.expected, found.recall) == (second.generation, 7, 7, 1.0)
    assert [failure for failure in found.failures if "lost.png" in failure] == found.failures != []
    id_, found = await verify_generation(place.settings, NAME, first.generation)
    assert (id_, found.points, found.holds) == (first.generation, 6, True)


async def test_the_least_ef_that_holds_a_recall_is_found(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Recall is measured against comparing every vector; when no value is enough, it says what the best one has."""
    monkeypatch.setattr("engine.encoders.choice.load_encoder", lambda _settings: WordEncoder())
    report = await place.run()
    tuned = await tune_generation(place.settings, NAME, None, 0.9)
    assert (tuned.generation, tuned.ef, tuned.recall) == (report.generation, 16, 1.0)
    by_ef = {16: 0.5, 24: 0.7, 32: 0.8, 48: 0.9, 64: 0.95}
    monkeypatch.setattr(verification_command, "answers", lambda index, _vectors, *, exact: _ef_of(index, exact=exact))
    monkeypatch.setattr(verification_command, "recall", lambda _true, ef: by_ef.get(ef, 0.97))
    tuned = await tune_generation(place.settings, NAME, report.generation, 0.9)
    assert (tuned.ef, tuned.recall) == (48, 0.9)
    assert tuned.measured.items() <= {**by_ef, 128: 0.97, 96: 0.97}.items()
    with pytest.raises(NotPromoted, match=r"recall@10 0\.970 with SEARCH_EF=1024, less than 0\.99"):
        await tune_generation(place.settings, NAME, report.generation, 0.99)


async def _ef_of(index: VectorIndex, *, exact: bool) -> Any:
    """The candidates that an index is searched with, instead of hits."""
    return [] if exact else index._settings.search_ef  # type: ignore[attr-defined]


async def test_simulated_vectors_serve(place: Place):
    """On whichever store the settings name."""
    generation = await simulate_vectors(300, 16, 7, NAME, place.settings)
    async with generations_of(place.settings, NAME) as store:
        assert await store.current() == generation
        opened = await store.open_index(generation)
        assert await opened.count() == 300
        await opened.close()


@pytest.mark.parametrize("place", ["qdrant"], indirect=True)
async def test_a_server_that_stays_away_costs_no_work_that_was_recorded(
    place: Place, server: QdrantServer, monkeypatch: pytest.MonkeyPatch
):
    """The run ends with an error that says so; when the server is back, the next one goes on."""
    monkeypatch.setattr(workshop, "PATIENCE_S", 0.6)
    with pytest.raises(IndexUnavailable, match="does not answer"):
        await place.run(Steps("optimizing", server.kill))
    server.start()
    report = await place.run()
    assert (report.resumed, report.total, place.steps.seen) == (True, 6, [])
