"""What Prometheus is told of an ImageIndex, while it is made, serves, gets on, fails and is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from imageindex_operator import gauges
from imageindex_operator.conditions import TYPES, moment_of
from imageindex_operator.names import KIND
from imageindex_operator.observed import Progress
from prometheus_client import REGISTRY

from tests.operator.world import World

WHERE = {"namespace": "web", "imageindex": "shop"}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    gauges.forget("web", "shop")
    yield
    gauges.forget("web", "shop")


def told(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"sightline_{name}", {**WHERE, **labels})


def series() -> list[tuple[str, str]]:
    """Name and type of everything that is told of that ImageIndex."""
    return [
        (sample.name, sample.labels.get("type", ""))
        for family in REGISTRY.collect()
        for sample in family.samples
        if WHERE.items() <= sample.labels.items() and not sample.name.endswith("_created")
    ]


async def test_every_condition_is_told_in_the_one_status_that_it_has():
    """Of a status that has passed nothing is left, so that nobody adds the two up."""
    world = World()
    await world.visit()
    assert told("imageindex_condition", type="Ready", status="False") == 1
    assert told("imageindex_condition", type="Ready", status="True") is None
    await world.settle()
    assert told("imageindex_condition", type="Ready", status="True") == 1
    assert told("imageindex_condition", type="Ready", status="False") is None
    world.qdrant.down = True
    await world.visit()
    assert told("imageindex_condition", type="Promoted", status="Unknown") == 1
    assert sorted(type_ for name, type_ in series() if name == "sightline_imageindex_condition") == sorted(TYPES)


async def test_progress_is_told_by_shards_and_images():
    """From nothing at all, which is told too, to everything."""
    world = World(indexing={"shards": 4, "parallelism": 2})
    await world.visit()
    states = ("open", "done", "failed")
    assert [told("imageindex_shards", state=state) for state in states] == [4, 0, 0]
    assert told("imageindex_images", state="seen") == 0
    await world.visit()
    world.controllers()
    pending = str(world.index.status.pending_collection).removeprefix("sightline-shop-")
    world.qdrant.ledger[pending] = Progress(seen=30, indexed=28)
    await world.visit()
    assert [told("imageindex_shards", state=state) for state in states] == [3, 1, 0]
    assert [told("imageindex_images", state=state) for state in ("seen", "indexed")] == [30, 28]


async def test_shards_that_failed_are_counted():
    world = World(indexing={"shards": 4, "parallelism": 2})
    world.poisoned = {1, 2, 3}
    await world.settle()
    assert world.condition("Indexed")[1] == "ShardsFailed"
    assert told("imageindex_shards", state="failed") == 3


@pytest.mark.parametrize(("indexes", "count"), [("", 0), ("7", 1), ("0,2-4", 4), ("0-3,9,11-12", 7)])
def test_indexes_are_counted_as_kubernetes_writes_them(indexes: str, count: int):
    assert gauges._count(indexes) == count


async def test_replicas_and_the_last_promotion_are_told():
    """Of a promotion only once there was one."""
    world = World(serving={"replicas": 3})
    await world.visit()
    assert told("imageindex_last_promotion_timestamp_seconds") is None
    assert told("imageindex_replicas", state="desired") == 0
    await world.settle()
    promoted = moment_of(world.index.status.last_promotion_time)
    assert promoted is not None
    assert told("imageindex_last_promotion_timestamp_seconds") == promoted.timestamp()
    assert [told("imageindex_replicas", state=state) for state in ("desired", "ready")] == [3, 3]


async def test_the_recall_of_what_serves_is_told_where_one_was_measured():
    world = World()
    await world.settle()
    assert told("index_recall_ratio") is None
    measured = World(rollout={"verification": {"minRecall": 0.95}})
    await measured.settle()
    assert told("index_recall_ratio") == 0.97


async def test_visits_are_counted_by_how_they_ended():
    world = World()
    await world.visit()
    assert told("operator_reconciliations_total", result="done") == 1
    world.cluster.forbidden = {"Job"}
    with pytest.raises(Exception, match="forbidden"):
        await world.visit()
    assert told("operator_reconciliations_total", result="failed") == 1


async def test_of_an_imageindex_that_is_being_deleted_only_the_visits_are_told():
    """It serves no more because somebody wants that: no alert may say so. A visit that fails is still counted."""
    world = World(deletionPolicy="Delete")
    await world.settle()
    assert told("imageindex_condition", type="Ready", status="True") == 1
    world.cluster.edit(KIND, "shop", {"metadata": {"deletionTimestamp": world.now.isoformat()}})
    await world.visit()
    assert {name for name, _ in series()} == {"sightline_operator_reconciliations_total"}


async def test_of_an_imageindex_that_is_gone_nothing_is_told():
    """Not even the visit that found it gone."""
    world = World(rollout={"verification": {"minRecall": 0.95}})
    await world.settle()
    assert series()
    del world.cluster.objects[KIND, "web", "shop"]
    await world.visit()
    assert series() == []
