"""Visits that the API server refuses something: what is remembered, what is said, and that saying it is no storm."""

from __future__ import annotations

from typing import Any

import pytest
from imageindex_operator.names import KIND

from engine.errors import ClusterRefused
from tests.operator.world import World, image_index


@pytest.fixture
def world() -> World:
    return World()


async def refused(world: World) -> str:
    """A visit that fails; with which words."""
    with pytest.raises(ClusterRefused) as refusal:
        await world.visit()
    return str(refusal.value)


def statuses(world: World) -> int:
    """How often the status was written."""
    return sum(write[:2] == ("apply", KIND) for write in world.cluster.writes)


async def test_a_refused_job_does_not_cost_the_generation_its_id(world: World):
    """Or each visit would begin another one, and leave what was made of the first behind."""
    world.cluster.refused.add("Job")
    await refused(world)
    begun = world.index.status.pending_collection
    assert begun
    for _ in range(5):
        world.pass_time(2)
        await refused(world)
    assert world.index.status.pending_collection == begun
    assert world.told().count("RolloutBegun") == 1
    world.cluster.refused.clear()
    await world.settle()
    assert world.qdrant.flips == [begun.removeprefix("sightline-shop-")]


async def test_what_is_refused_again_and_again_is_written_once(world: World):
    """Two writes a visit, each of which asks for the next visit, would be a storm."""
    await world.settle()
    world.cluster.refused.add("Deployment")
    world.set_spec(serving={"replicas": 2})
    told = await refused(world)
    await refused(world)  # what was planned beside it is written with the second
    before = statuses(world)
    for _ in range(5):
        assert await refused(world) == told
        world.pass_time(10)
    assert statuses(world) == before
    assert world.condition("Degraded") == ("True", "Forbidden")
    world.cluster.refused.clear()
    await world.settle()
    assert world.condition("Degraded") == ("False", "AsExpected")


async def test_who_may_not_look_knows_nothing(world: World):
    """Everything that a look would have found is Unknown, in the words of the refusal."""
    await world.settle()
    world.cluster.forbidden.add("Deployment")
    told = await refused(world)
    for type_ in ("Ready", "Indexed", "Promoted", "ServingAvailable"):
        assert world.condition(type_) == ("Unknown", "Forbidden")
    assert {one.message for one in world.index.status.conditions if one.reason == "Forbidden"} == {told}
    before = statuses(world)
    await refused(world)
    assert statuses(world) == before
    world.cluster.forbidden.clear()
    await world.settle()
    assert world.condition("Ready") == ("True", "Serving")


async def test_a_status_that_may_not_be_written_is_told_as_an_event(world: World):
    """There is no other place for it; and nothing is done, because the status comes first."""
    world.cluster.refused.add(KIND)
    told = await refused(world)
    (note,) = (note for note in world.notes if note.warning)
    assert note.reason == "StatusNotWritten"
    assert told in note.message
    assert world.cluster.names("Job") == []
    world.cluster.refused.clear()
    await world.settle()
    assert world.condition("Ready") == ("True", "Serving")


@pytest.mark.parametrize("selectable", [{"metadata.name", "spec.collection.alias"}, {"metadata.name"}, set[str]()])
async def test_who_owns_an_alias_is_asked_afresh_before_a_promotion(world: World, selectable: set[str]):
    """By fields, where the CRD lets it be asked so, so that a thousand others are not read each time."""
    cluster, asked = world.cluster, list[dict[str, str] | None]()
    cluster.selectable = selectable
    for number in range(3):
        cluster.put(image_index(f"other-{number}"))
    plain = cluster.list

    async def listed(kind: str, *where: Any, **how: Any) -> list[dict[str, Any]]:
        found = await plain(kind, *where, **how)
        if kind == KIND:
            asked.append(how.get("fields"))
            assert len(found) == (1 if how.get("fields") == {"metadata.name": "shop"} else 0 if "fields" in how else 4)
        return found

    cluster.list = listed  # type: ignore[method-assign, assignment]
    await world.settle()
    assert world.condition("Promoted") == ("True", "Serving")
    assert (None in asked) == (len(selectable) < 2)


async def test_an_older_claim_that_no_watch_told_of_stops_a_promotion(world: World):
    """Of another name and another namespace."""
    world.cluster.put(image_index("old", namespace="elsewhere", collection={"alias": "shop"}) | {})
    old = world.cluster.objects[KIND, "elsewhere", "old"]
    old["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    for _ in range(20):
        try:
            await world.visit()
        except ClusterRefused as error:
            assert "elsewhere/old" in str(error)  # noqa: PT017 - only the visit that would promote is refused
            break
        world.controllers()
        world.pass_time(1)
    assert world.condition("Degraded") == ("True", "NotOurs")
    assert world.qdrant.flips == []
