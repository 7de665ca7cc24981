"""Workers that fill one generation together, and what completes it, the same on every store."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import BadUserInput, IndexBusy, IndexNotFound, IndexNotReady, NotPromoted, SourceError
from engine.generations import generations_of
from engine.generations.record import new_id
from engine.settings import Settings
from indexing.ledger import Ledger
from indexing.sharding import WHOLE, Shard
from tests.indexing.conftest import NAME, Place, Steps
from tests.support.encoders import WordEncoder
from tests.support.pictures import Contents, contents, paint

SHARDS = [Shard(index, 3) for index in range(3)]


class Stopped(Exception):
    """Ends a worker on its way."""


def stop() -> None:
    """Ends it."""
    raise Stopped


def tables(settings: Settings) -> Any:
    """All that the ledger knows of files and runs, with when it was written."""
    ledger = Ledger.open(settings, NAME)
    try:
        builds = ledger.builds()
        return builds, [list(ledger.rows(build.generation, whole=True)) for build in builds], ledger.runs()
    finally:
        ledger.close()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything that lies in a folder, with its size and when it was written."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in found
        if not path.name.startswith(("ledger", "lock", "beginning"))
    }


def same(one: Contents, other: Contents) -> bool:
    """Whether two indexes hold the same, whatever their generations are called."""
    points, others = one.points, other.points
    return (
        {key: (point.id, point.payload) for key, point in points.items()}
        == {key: (point.id, point.payload) for key, point in others.items()}
        and all(np.allclose(point.vector, others[key].vector, atol=1e-6) for key, point in points.items())
        and one.manifest == other.manifest
    )


@pytest.fixture
def odd(place: Place) -> Iterator[Place]:
    """The same place with files that are no pictures, and with one whose words can't be read."""
    (place.source / "broken.png").write_text("no picture")
    (place.source / "empty.jpg").touch()
    paint(place.source / "odd.png", "pink")
    (place.source / "odd.png.json").write_text("no words")
    return place


async def filled(place: Place) -> str:
    """A generation with every picture, not yet complete."""
    generation = new_id()
    await place.work(WHOLE, generation)
    return generation


async def together(place: Place, generation: str, shards: list[Shard] = SHARDS) -> None:
    """All workers at once, and the end."""
    await asyncio.gather(*(place.work(shard, generation) for shard in shards))
    await place.finish(generation)


async def test_workers_together_make_what_one_run_alone_makes(odd: Place, tmp_path: Path):
    """The same points, thumbnails and manifest, warnings included; two workers at one shard make nothing twice."""
    await together(odd, new_id(), [*SHARDS, SHARDS[1], SHARDS[1]])
    found = await contents(odd.settings, NAME)
    alone = Place(Settings(_env_file=None, index_path=tmp_path / "alone", index_workers=1), odd.source)
    await alone.run()
    assert same(found, await contents(alone.settings, NAME))
    assert len(found.points) == 7
    assert set(found.reasons()) == {"broken.png", "empty.jpg"}
    assert [warning["key"] for warning in json.loads(found.manifest)["warnings"]] == ["odd.png"]
    thumbnails = {point.payload["thumbnail"] for point in found.points.values()}
    folder = odd.settings.index_path / NAME
    assert {str(path.relative_to(folder)) for path in folder.glob("thumbnails/*/*")} == thumbnails
    assert not list(folder.glob("generations/*/parts"))


async def test_workers_follow_a_source_that_changed(place: Place):
    """They start from what serves: only what is new or changed is decoded, what is gone goes, whoever's it is."""
    await place.run()
    before = await contents(place.settings, NAME)
    for number in range(6):
        paint(place.source / f"new{number}.png", "yellow")
    paint(place.source / "001.png", "purple", (50, 50))
    (place.source / "002.png").unlink()
    (place.source / "004.png").write_text("a picture no more")
    generation, seen = new_id(), []
    for shard in SHARDS:
        report = await place.work(shard, generation)
        seen += place.steps.seen
        assert report.shard == shard
        assert (await contents(place.settings, NAME)).manifest == before.manifest
    assert sorted(seen) == ["001.png", "004.png", *(f"new{number}.png" for number in range(6))]
    report = await place.finish(generation)
    assert (report.generation, report.changed, report.total) == (generation, True, 10)
    after = await contents(place.settings, NAME)
    assert after.generation == generation
    assert set(after.points) == set(before.points) - {"002.png", "004.png"} | {f"new{n}.png" for n in range(6)}
    assert after.points["001.png"].payload["width"] == 50
    assert set(after.reasons()) == {"004.png"}


async def test_nothing_is_written_when_all_is_done(place: Place):
    """By a worker of a complete generation, by completing it again, and by one run alone."""
    generation = new_id()
    await together(place, generation)
    ledger, there = tables(place.settings), files(place.settings.index_path)
    for shard in SHARDS:
        report = await place.work(shard, generation)
        assert (report.indexed, place.steps.seen) == (0, [])
    again = await place.finish(generation)
    assert (again.changed, again.held, again.total) == (False, False, 6)
    assert (tables(place.settings), files(place.settings.index_path)) == (ledger, there)
    alone = await place.run()
    assert (alone.changed, alone.generation, alone.unchanged, place.steps.seen) == (False, generation, 6, [])
    assert (tables(place.settings)[:2], files(place.settings.index_path)) == (ledger[:2], there)


async def test_a_generation_is_not_completed_before_every_shard_is_done(place: Place):
    """What is left to do is named; nothing serves till then."""
    generation = new_id()
    with pytest.raises(IndexNotFound, match=generation):
        await place.finish(generation)
    await place.work(SHARDS[1], generation)
    with pytest.raises(IndexNotReady, match=r"Of 3 shards .* not done: 0, 2\. Run `sightline index SOURCE"):
        await place.finish(generation)

    with pytest.raises(Stopped):
        await place.work(SHARDS[0], generation, Steps("recording", stop))
    await place.work(SHARDS[2], generation)
    with pytest.raises(IndexNotReady, match=r"not done: 0\."):
        await place.finish(generation)
    await place.work(SHARDS[0], generation)
    await place.finish(generation)
    assert len((await contents(place.settings, NAME)).points) == 6


async def test_a_worker_goes_on_where_it_was_stopped(place: Place):
    """Alone at its shard, it does nothing twice that was recorded."""
    generation = new_id()

    with pytest.raises(Stopped):
        await place.work(WHOLE, generation, Steps("written", stop))
    first = place.steps.seen
    await place.work(WHOLE, generation)
    assert len(place.steps.seen) == 4
    assert {*first, *place.steps.seen} == {row.key for row in tables(place.settings)[1][0]}
    await place.finish(generation)
    assert len((await contents(place.settings, NAME)).points) == 6


async def test_lost_vectors_are_done_again_by_their_workers(place: Place):
    """Completing finds them missing and names the shards; when these are done again, all is there."""
    generation = new_id()
    for shard in SHARDS:
        await place.work(shard, generation)
    victim = next(shard for shard in SHARDS if shard.owns("001.png"))
    async with generations_of(place.settings, NAME) as store:
        found = await store.get(generation)
        part = await store.create_part(found, victim.index)
        await part.delete([row.id for row in tables(place.settings)[1][0] if row.key == "001.png"])
        await part.close()
    with pytest.raises(IndexNotReady, match=rf"missing vectors \(1 pictures\).*: {victim.index}\. Run"):
        await place.finish(generation)
    with pytest.raises(IndexNotReady, match=rf"not done: {victim.index}\."):
        await place.finish(generation)
    await place.work(victim, generation)
    assert place.steps.seen == ["001.png"]
    await place.finish(generation)
    assert len((await contents(place.settings, NAME)).points) == 6


async def test_what_was_done_in_a_discarded_generation_does_not_count(place: Place):
    """A generation of the same id that is begun anew is done from its first file."""
    generation = new_id()
    for shard in SHARDS:
        await place.work(shard, generation)
    async with generations_of(place.settings, NAME) as store:
        await store.discard(await store.get(generation))
    ledger = Ledger.open(place.settings, NAME)
    ledger.forget([generation])
    ledger.close()
    await place.work(SHARDS[0], generation)
    with pytest.raises(IndexNotReady, match=r"not done: 1, 2\."):
        await place.finish(generation)


async def test_nobody_else_builds_meanwhile(place: Place):
    """While a worker is at it neither one run alone nor the end can begin; while one run is at it no worker can."""
    generation, refused = new_id(), []

    def try_others() -> None:
        """While somebody builds; in a thread with a loop of its own, because this one is busy."""

        async def others() -> None:
            for work in (place.run, partial(place.finish, generation), partial(place.work, WHOLE, new_id())):
                try:
                    await work()
                except IndexBusy as error:
                    refused.append(str(error))

        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, others()).result()

    await place.work(WHOLE, generation, Steps("recording", try_others))
    assert len(refused) == 2
    await place.finish(generation, Steps("optimizing", try_others))
    assert len(refused) == 2 + 3
    paint(place.source / "new.png")
    await place.run(Steps("recording", try_others))
    assert len(refused) == 2 + 3 + 3
    assert all("building index 'pets'" in reason for reason in refused)


async def test_workers_have_to_agree(place: Place, tmp_path: Path):
    """On model and source of a generation, and on ids that sort by age."""
    generation = new_id()
    await place.work(SHARDS[0], generation)
    settings = place.settings
    place.settings = settings.model_copy(update={"clip_model": "other"})
    with pytest.raises(BadUserInput, match="begun with words, and here CLIP_MODEL"):
        await place.work(SHARDS[1], generation, encoder=lambda: WordEncoder(32, "other"))
    place.settings = settings
    other = tmp_path / "other"
    paint(other / "a.png")
    with pytest.raises(BadUserInput, match=f"begun from {place.source}, not from {other}"):
        await place.work(SHARDS[1], generation, source=other)
    old = "20200101-000000-000000-abcd"
    await place.finish(await filled(place))
    with pytest.raises(BadUserInput, match=f"no generation {old} any more.*is newer.*a new id"):
        await place.work(SHARDS[1], old)
    with pytest.raises(BadUserInput, match=r"'mine' is no id of a generation.* such as \d{8}-"):
        await place.work(SHARDS[1], "mine")


async def test_a_result_can_wait_for_a_person(place: Place):
    """Completed without promotion it stays ready, and completing it again says so."""
    generation = new_id()
    for shard in SHARDS:
        await place.work(shard, generation)
    report = await place.finish(generation, promote=False)
    assert (report.held, report.changed, report.recall) == (True, False, 1.0)
    assert (await place.finish(generation, promote=False)).held
    with pytest.raises(NotPromoted, match=f"sightline generations promote {generation}"):
        await place.finish(generation)
    async with generations_of(place.settings, NAME) as store:
        assert await store.current_id() is None


async def test_a_promotion_that_was_cut_off_is_made_up_for(place: Place):
    """Completing again promotes what was complete and should have been promoted."""
    generation = await filled(place)
    with pytest.raises(Stopped):
        await place.finish(generation, Steps("promoting", stop))
    report = await place.finish(generation)
    assert (report.changed, (await place.serving())[0]) == (True, generation)


async def test_completing_again_ends_what_was_left_undone(place: Place):
    """Killed after the promotion, while it tidied up: rows of a deleted generation and a half-written thumbnail go."""
    first, second = await filled(place), new_id()
    await place.finish(first)
    paint(place.source / "new.png")
    await together(place, second)
    async with generations_of(place.settings, NAME) as store:
        await store.discard(await store.get(first))
        draft = store.folder / "thumbnails" / ".drafts" / "half"
    draft.touch()
    await place.finish(second)
    assert [build.generation for build in tables(place.settings)[0]] == [second]
    assert not draft.exists()


async def test_what_nobody_completed_goes_when_a_newer_one_serves(place: Place):
    """Older generations that workers left half filled would stay for ever otherwise."""
    for generation in (new_id(), new_id()):
        await place.work(SHARDS[0], generation)
    newest = new_id()
    await together(place, newest)
    assert [found.id for found in await place.list()] == [newest]
    assert [build.generation for build in tables(place.settings)[0]] == [newest]


async def test_a_generation_without_a_picture_is_refused(place: Place):
    """A shard may have none, a generation not; what serves goes on."""
    await place.run()
    before = await contents(place.settings, NAME)
    for path in place.source.rglob("*.png"):
        os.truncate(path, 20)
    generation = new_id()
    for shard in SHARDS:
        await place.work(shard, generation)
    with pytest.raises(SourceError, match="None of the 6 files"):
        await place.finish(generation)
    assert (await contents(place.settings, NAME)).generation == before.generation
    assert [found.id for found in await place.list()] == [before.generation]
