"""What every store of generations does: each behaviour is one function, whose name is the sentence.

Each takes a maker of stores. Stores of one name are views of the same generations, as two processes have them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from engine.conformance.expectation import expect, expect_equal, refused
from engine.errors import BadUserInput, IndexBusy, IndexCorrupt, IndexNotFound, IndexNotReady
from engine.generations import Generation, Generations
from engine.ports import ModelInfo, Point, VectorQuery

Make = Callable[[str], Generations]
"""The generations of the index of this name, of which there are none yet; whoever gives it removes them."""

MODEL: Final = ModelInfo("words", "", 8, 8, 77, "fingerprint-1")
"""The model that the generations are said to be from."""

POINTS: Final = tuple(
    Point(str(uuid.UUID(int=number)), row, {"n": number, "metadata": {"tags": ["a", number / 4, None, True]}})
    for number, row in enumerate(np.random.default_rng(0).standard_normal((40, MODEL.dimension)).astype(np.float32), 1)
)


async def built(store: Generations, points: Sequence[Point] = (), base: Generation | None = None) -> Generation:
    """A ready generation with these points, those of the base included."""
    generation = await store.begin(MODEL, base)
    index = await store.create_index(generation)
    try:
        await index.upsert(points)
        count = await index.count()
    finally:
        await index.close()
    return await store.finish(generation, count)


async def a_generation_is_building_until_it_is_finished(make: Make) -> None:
    """Every process sees both states, with model and number of points; an interrupted run finds its own again."""
    store, other = make("pictures"), make("pictures")
    generation = await store.begin(MODEL)
    expect_equal((generation.state, generation.points, generation.index), ("building", 0, store.index), "a new one")
    expect_equal(await other.building(), generation, "the one being built")
    expect(generation.path.is_dir(), "there is no folder for its manifest")
    finished = await store.finish(generation, points=12)
    expect_equal(finished, replace(generation, state="ready", points=12), "the finished one")
    expect_equal(await other.get(generation.id), finished, "the finished one, seen from elsewhere")
    expect_equal(await other.building(), None, "the one being built, after it was finished")
    held = await store.finish(generation, points=12, held="its recall is low")
    expect_equal((await other.get(generation.id)).held, held.held, "why it is held back")


async def generations_are_listed_oldest_first(make: Make) -> None:
    """In all states, and those of no other index, whatever its name begins with."""
    store, similar = make("art"), make("art-nouveau")
    expect_equal(await store.list(), [], "the generations before there are any")
    generations = [await built(store), await built(store), await store.begin(MODEL)]
    foreign = await similar.begin(MODEL)
    expect_equal(await store.list(), generations, "the generations")
    expect_equal(await similar.list(), [foreign], "the other index's generations")


async def promoting_makes_a_generation_serve(make: Make) -> None:
    """Before the first nothing serves; every process sees each switch."""
    store, other = make("pictures"), make("pictures")
    expect_equal((await store.current(), await store.current_id()), (None, None), "what serves at first")
    for generation in [await built(store), await built(store)]:
        for _ in range(2):
            expect_equal(await store.promote(generation.id), generation, "the promoted one")
            expect_equal(await other.current(), generation, "what serves")
            expect_equal(await other.current_id(), generation.id, "the id of what serves")


async def an_unfinished_generation_can_not_be_promoted(make: Make) -> None:
    """What serves goes on serving."""
    store = make("pictures")
    serving, building = await built(store), await store.begin(MODEL)
    await store.promote(serving.id)
    with refused(IndexNotReady, "sightline index", "promoting what is being built"):
        await store.promote(building.id)
    expect_equal(await store.current(), serving, "what serves")


async def rollback_goes_back_step_by_step(make: Make) -> None:
    """To what served before, over those that are deleted; at the beginning it says that there is nothing left."""
    store = make("pictures")
    first, second, third, fourth = [await built(store) for _ in range(4)]
    for generation in (first, second, third, fourth, fourth):
        await store.promote(generation.id)
    await store.discard(third)
    expect_equal([await store.rollback(), await store.current()], [second, second], "one step back")
    expect_equal(await store.rollback(), first, "two steps back")
    with refused(IndexNotReady, "no earlier generation", "going back from the first"):
        await store.rollback()
    expect_equal(await store.current(), first, "what serves in the end")


async def a_rollback_forgets_what_it_left(make: Make) -> None:
    """Who goes back and promotes another comes back to where they stood, not to what was bad."""
    store = make("pictures")
    good, bad, better = [await built(store) for _ in range(3)]
    for generation in (good, bad):
        await store.promote(generation.id)
    await store.rollback()
    await store.promote(better.id)
    expect_equal(await store.rollback(), good, "what serves after the rollback")


async def prune_keeps_the_newest_and_always_the_serving_one(make: Make) -> None:
    """The serving one counts; unfinished ones are left to their builder."""
    store = make("pictures")
    serving, *others = [await built(store) for _ in range(4)]
    building = await store.begin(MODEL)
    await store.promote(serving.id)
    expect_equal(await store.prune(keep=2), [others[1], others[0]], "what was deleted")
    expect_equal(await store.list(), [serving, others[2], building], "what is left")
    await store.prune(keep=0)
    expect_equal(await store.list(), [serving, building], "what is left when nothing is to be kept")


async def prune_takes_those_first_that_were_held_back(make: Make) -> None:
    """What served before is where a rollback goes to, so it outlasts what never served; a person may have it serve."""
    store = make("pictures")
    first, second, third = [await built(store) for _ in range(3)]
    held = await store.finish(await store.begin(MODEL), 0, held="its recall is low")
    for generation in (first, second):
        await store.promote(generation.id)
    expect_equal(await store.prune(keep=3), [held], "what was deleted")
    held = await store.finish(await store.begin(MODEL), 0, held="its recall is low")
    expect_equal(await store.prune(keep=3, spare=held.id), [], "what was deleted but what is to be spared")
    expect_equal(await store.promote(held.id), held, "the promoted one")
    await store.promote(third.id)
    expect_equal(await store.rollback(), held, "one step back")
    expect_equal(await store.list(), [first, second, third, held], "what is left")


async def the_serving_generation_can_not_be_discarded(make: Make) -> None:
    """Another must serve first. Its folder goes with a discarded one."""
    store = make("pictures")
    serving, other = await built(store), await built(store)
    await store.promote(serving.id)
    with refused(BadUserInput, "serves", "discarding what serves"):
        await store.discard(serving)
    await store.discard(other)
    expect_equal(await store.list(), [serving], "what is left")
    expect(not other.path.exists(), "its folder is left")


async def beginning_with_a_base_copies_its_points(make: Make) -> None:
    """With vectors and payloads, while the base is being searched; what changes in the copy does not in the base."""
    store = make("pictures")
    base = await built(store, POINTS[:30])
    served = await store.open_index(base)
    generation = await store.begin(MODEL, base)
    expect_equal(generation.state, "building", "the copy's state")
    copy = await store.create_index(generation)
    try:
        await copy.upsert(POINTS[30:])
        await copy.delete([POINTS[0].id])
        expect_equal(await served.ids(), [point.id for point in POINTS[:30]], "the base's points")
        expect_equal(await copy.ids(), [point.id for point in POINTS[1:]], "the copy's points")
        asked = [VectorQuery(np.asarray(point.vector), limit=1) for point in POINTS[1:30]]
        hits = [hits[0] for hits in await copy.search(asked)]
        expect_equal([hit.id for hit in hits], [point.id for point in POINTS[1:30]], "the nearest in the copy")
        expect_equal([hit.payload for hit in hits], [point.payload for point in POINTS[1:30]], "their payloads")
        expect(all(hit.score > 1 - 1e-5 for hit in hits), "vectors changed on the way")
    finally:
        await copy.close()
        await served.close()
    await store.verify(await store.finish(generation, 39))


async def the_points_of_another_model_are_not_copied(make: Make) -> None:
    """They could not be compared."""
    store = make("pictures")
    base = await built(store, POINTS[:3])
    index = await store.create_index(await store.begin(replace(MODEL, fingerprint="fingerprint-2", dimension=4), base))
    try:
        expect_equal(((await index.info()).points, (await index.info()).dimension), (0, 4), "points and dimension")
    finally:
        await index.close()


async def an_unfinished_generation_is_continued(make: Make) -> None:
    """What was written before is there when its index is opened again."""
    store = make("pictures")
    await store.begin(MODEL)
    for part in (POINTS[:3], POINTS[3:5]):
        found = await store.building()
        expect(found is not None, "the unfinished one is not found")
        index = await store.create_index(found or await store.begin(MODEL))
        await index.upsert(part)
        there = await index.ids()
        await index.close()
    expect_equal(there, [point.id for point in POINTS[:5]], "its points in the end")


async def unknown_generations_are_not_found(make: Make) -> None:
    """Nonsense and paths are just as unknown; an index that is not there has none."""
    store = make("pictures")
    await built(store)
    for id_ in ("", "..", "../../etc", "20240101-000000-000000-abcd"):
        with refused(IndexNotFound, "no generation", f"looking for {id_!r}"):
            await store.get(id_)
        with refused(IndexNotFound, "no generation", f"promoting {id_!r}"):
            await store.promote(id_)
    expect_equal(await make("absent").current(), None, "what serves where nothing is")
    with refused(IndexNotReady, "no earlier generation", "a rollback where nothing is"):
        await make("absent").rollback()


async def lost_points_are_noticed(make: Make) -> None:
    """A generation that holds less than it was finished with is not served, nor copied."""
    store = make("pictures")
    generation = await built(store, POINTS[:5])
    await store.verify(generation)
    index = await store.create_index(generation)
    await index.delete([POINTS[0].id])
    await index.close()
    try:
        await store.verify(generation)
        served = await store.open_index(generation)
    except IndexCorrupt:
        return
    expect_equal((await served.info()).points, 4, "points that it tells of")
    await served.close()


async def one_process_builds_at_a_time(make: Make) -> None:
    """A second one is refused until the first is done; those that share it are let in together, and nobody else."""
    store, other = make("pictures"), make("pictures")
    with store.lock():
        for shared in (False, True):
            with refused(IndexBusy, "is building", "a second lock"), other.lock(shared=shared):
                pass
    third = make("pictures")
    with other.lock(shared=True), store.lock(shared=True), refused(IndexBusy, "are building", "sole use"), third.lock():
        pass
    with other.lock():
        pass
    with store.beginning(), store.lock(shared=True), refused(IndexBusy, "beginning", "a second"), other.beginning():
        pass


async def builders_fill_a_generation_together(make: Make) -> None:
    """Each in a part of its own, one of them twice; gathered, every wanted point is there once, as it was last."""
    store, base = make("pictures"), await built(make("pictures"), POINTS[:4])
    generation = await store.begin(MODEL, base, "20300101-000000-000000-abcd")
    expect_equal((await store.get(generation.id)).state, "building", "the state of the one that was begun by its id")
    changed = replace(POINTS[1], vector=POINTS[20].vector)
    for shard, points in ((0, [changed, *POINTS[4:8]]), (1, POINTS[8:12]), (1, POINTS[8:14])):
        part = await store.create_part(generation, shard)
        await part.upsert(points)
        await part.close()
    one, two = await store.create_part(generation, 2), await make("pictures").create_part(generation, 2)
    await asyncio.gather(one.upsert(POINTS[14:16]), two.upsert(POINTS[14:16]))
    await one.close()
    await two.close()
    for _again in range(2):
        index = await store.create_index(generation)
        try:
            await store.gather(generation, index, _all)
            expect_equal(await index.ids(), [point.id for point in POINTS[:16]], "the points of all builders")
            [found] = await index.search([VectorQuery(changed.vector, 1, exact=True)])  # type: ignore[arg-type]
            expect_equal(found[0].id, changed.id, "what is nearest to the vector that was changed")
        finally:
            await index.close()
    finished = await store.finish(generation, 16)
    await store.verify(finished)


async def _all(points: Sequence[Point]) -> Sequence[Point]:
    return points


GENERATIONS: Final[tuple[Callable[[Make], Awaitable[None]], ...]] = (
    a_generation_is_building_until_it_is_finished,
    generations_are_listed_oldest_first,
    promoting_makes_a_generation_serve,
    an_unfinished_generation_can_not_be_promoted,
    rollback_goes_back_step_by_step,
    a_rollback_forgets_what_it_left,
    prune_keeps_the_newest_and_always_the_serving_one,
    prune_takes_those_first_that_were_held_back,
    the_serving_generation_can_not_be_discarded,
    beginning_with_a_base_copies_its_points,
    the_points_of_another_model_are_not_copied,
    an_unfinished_generation_is_continued,
    unknown_generations_are_not_found,
    lost_points_are_noticed,
    one_process_builds_at_a_time,
    builders_fill_a_generation_together,
)
"""All of them; each wants a maker of its own."""
