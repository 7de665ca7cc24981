"""Children that are deleted or edited by hand are put back; what others own is left to them."""

from __future__ import annotations

from typing import Any

import pytest
from imageindex_operator.drift import agrees, quantity
from imageindex_operator.names import KIND

from engine.errors import ClusterRefused
from tests.operator.world import World

EDITS = {
    "Service": {"spec": {"ports": [{"name": "http", "port": 81, "targetPort": "http"}]}},
    "Deployment": {"spec": {"replicas": 7}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 5}},
    "CronJob": {"spec": {"schedule": "1 1 1 1 1"}},
    "HorizontalPodAutoscaler": {"spec": {"maxReplicas": 99}},
}


async def full_world() -> World:
    world = World(
        indexing={"schedule": "0 3 * * *"},
        rollout={"verification": {"canaryQueries": [{"query": "a red car", "expect": ["a.jpg"]}]}},
        serving={"autoscaling": {"class": "hpa", "max": 5}},
    )
    await world.settle()
    world.pass_time(600)
    await world.settle()
    return world


@pytest.mark.parametrize("kind", EDITS)
async def test_a_deleted_child_is_made_again_and_the_alias_stays(kind: str):
    """Each kind."""
    world = await full_world()
    (name,) = world.cluster.names(kind)
    before = world.cluster.objects.pop((kind, "web", name))
    await world.settle()
    assert world.cluster.objects[kind, "web", name]["spec"] == before["spec"]
    assert len(world.qdrant.flips) == 1


@pytest.mark.parametrize("kind", EDITS)
async def test_a_child_edited_by_hand_is_put_back(kind: str):
    """Each kind, the fields that are ours."""
    world = await full_world()
    if kind == "Deployment":
        world.set_spec(serving={"replicas": 2})
        await world.settle()
    (name,) = world.cluster.names(kind)
    before = world.cluster.objects[kind, "web", name]["spec"]
    world.cluster.edit(kind, name, EDITS[kind])
    await world.settle()
    assert world.cluster.objects[kind, "web", name]["spec"] == before


async def test_a_running_job_edited_by_hand_is_put_back():
    """Its parallelism can be changed; so it is."""
    world = World(indexing={"shards": 4, "parallelism": 2})
    await world.visit()
    (job,) = world.cluster.names("Job")
    world.cluster.edit("Job", job, {"spec": {"parallelism": 4}})
    await world.visit()
    assert world.cluster.objects["Job", "web", job]["spec"]["parallelism"] == 2


async def test_an_edit_that_can_not_be_merged_with_ours_is_replaced(monkeypatch: pytest.MonkeyPatch):
    """As when a port of the same name was put beside ours, which server-side apply would keep."""
    world = await full_world()
    before = world.cluster.objects["Service", "web", "shop"]["spec"]
    plain = world.cluster.apply

    async def apply(manifest: Any, *more: Any, **named: Any) -> Any:
        live = world.cluster.objects.get((manifest["kind"], "web", manifest["metadata"]["name"]))
        if manifest["kind"] == "Service" and live and live["spec"]["ports"][0]["port"] == 81:
            raise ClusterRefused("spec.ports[1].name: Duplicate value", 422)
        return await plain(manifest, *more, **named)

    monkeypatch.setattr(world.cluster, "apply", apply)
    world.cluster.edit("Service", "shop", EDITS["Service"])
    await world.settle()
    assert world.cluster.objects["Service", "web", "shop"]["spec"] == before


async def test_a_field_beside_ours_that_contradicts_it_is_taken_away(monkeypatch: pytest.MonkeyPatch):
    """As minAvailable, where a budget may have only that or our maxUnavailable; not what a controller counts."""
    world = await full_world()
    before = world.cluster.objects["PodDisruptionBudget", "web", "shop-serving"]["spec"]
    plain = world.cluster.apply

    async def apply(manifest: Any, *more: Any, **named: Any) -> Any:
        live = world.cluster.objects.get((manifest["kind"], "web", manifest["metadata"]["name"]))
        if live and manifest["kind"] == "PodDisruptionBudget" and "minAvailable" in live["spec"]:
            raise ClusterRefused("minAvailable and maxUnavailable cannot be both set", 422)
        return await plain(manifest, *more, **named)

    monkeypatch.setattr(world.cluster, "apply", apply)
    managed = [
        {"manager": "kubectl-edit", "fieldsV1": {"f:spec": {"f:minAvailable": {}}}},
        {"manager": "controller", "subresource": "status", "fieldsV1": {"f:spec": {"f:selector": {}}}},
    ]
    edited = {"spec": {"maxUnavailable": None, "minAvailable": 1}, "metadata": {"managedFields": managed}}
    world.cluster.edit("PodDisruptionBudget", "shop-serving", edited)
    await world.settle()
    assert world.cluster.objects["PodDisruptionBudget", "web", "shop-serving"]["spec"] == before


async def test_a_label_taken_off_a_child_comes_back():
    """Children are found by it, and by their owner where it is gone."""
    world = await full_world()
    world.cluster.edit("Service", "shop", {"metadata": {"labels": {"sightline.dev/imageindex": None}}})
    await world.settle()
    assert world.cluster.objects["Service", "web", "shop"]["metadata"]["labels"]["sightline.dev/imageindex"] == "shop"


async def test_a_child_of_somebody_else_is_not_taken():
    """A Service of that name was there before: the status says so, and it stays as it is."""
    world = World()
    theirs = {"kind": "Service", "metadata": {"name": "shop", "namespace": "web"}, "spec": {"ports": []}}
    world.cluster.put(theirs)
    with pytest.raises(ClusterRefused, match="belongs to somebody else"):
        await world.settle()
    assert world.condition("Degraded") == ("True", "NotOurs")
    assert world.cluster.objects["Service", "web", "shop"]["spec"] == {"ports": []}


async def test_a_right_that_was_taken_away_is_told_and_given_back_all_goes_on(serving: World):
    """RBAC: a condition says so."""
    serving.cluster.forbidden = {"Deployment"}
    with pytest.raises(ClusterRefused):
        await serving.visit()
    assert serving.condition("Degraded") == ("True", "Forbidden")
    serving.cluster.forbidden = set()
    await serving.settle()
    assert serving.condition("Degraded") == ("False", "AsExpected")


# ---------------------------------------------------------------- replicas and who counts them


async def test_an_autoscalers_replicas_are_never_reverted():
    """Fifty visits, and a new revision begins with as many."""
    world = await full_world()
    (name,) = world.cluster.names("Deployment")
    world.cluster.edit("Deployment", name, {"spec": {"replicas": 4}})
    for _ in range(50):
        await world.visit()
        world.controllers()
    assert world.cluster.objects["Deployment", "web", name]["spec"]["replicas"] == 4
    world.set_spec(serving={**world.body["spec"]["serving"], "resources": {"limits": {"memory": "8Gi"}}})
    await world.settle()
    fresh = [one for one in world.cluster.names("Deployment") if one != name]
    assert world.cluster.objects["Deployment", "web", fresh[0]]["spec"]["replicas"] == 4


async def test_an_autoscaler_takes_over_where_the_replicas_were():
    """Not from 1, which is what a field becomes that nobody applies any more."""
    world = World(serving={"replicas": 3})
    await world.settle()
    (name,) = world.cluster.names("Deployment")
    world.set_spec(serving={"autoscaling": {"class": "hpa", "min": 1, "max": 5}})
    await world.settle()
    assert world.cluster.objects["Deployment", "web", name]["spec"]["replicas"] == 3
    world.set_spec(serving={"replicas": 2})
    await world.settle()
    assert world.cluster.objects["Deployment", "web", name]["spec"]["replicas"] == 2
    assert world.cluster.names("HorizontalPodAutoscaler") == []


# ---------------------------------------------------------------- comparing


@pytest.mark.parametrize(
    ("live", "wanted", "same"),
    [
        ({"a": 1, "added": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": ""}, True),
        ({}, {"a": {}}, True),
        ({}, {"a": "x"}, False),
        ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "1000m"}}, True),
        ({"limits": {"memory": "1Gi"}}, {"limits": {"memory": "1024Mi"}}, True),
        ({"value": "1"}, {"value": "1000m"}, False),
        ({"target": {"type": "Value", "value": "10k"}}, {"target": {"type": "Value", "value": "10000"}}, True),
        ({"target": {"averageValue": "4"}}, {"target": {"averageValue": "4000m"}}, True),
        ({"target": {"averageValue": "4"}}, {"target": {"averageValue": "5"}}, False),
        ([{"name": "b"}, {"name": "a", "x": 1}], [{"name": "a"}], True),
        ([{"name": "b"}], [{"name": "a"}], False),
        (["a"], ["a", "b"], False),
        (["a", "b"], ["a"], False),
        (None, [], True),
    ],
)
def test_only_what_was_asked_for_is_compared(live: object, wanted: object, same: object):
    """Additions are none of our business; other spellings are no difference."""
    assert agrees(live, wanted) is same


def test_quantities_are_numbers():
    """As Kubernetes reads them."""
    assert quantity("1500m") == quantity("1.5")
    assert quantity("1k") == quantity("1000")
    assert quantity("2Gi") == 2 * 1024**3
    assert quantity("50%") == "50%"


def test_the_kind_of_the_resource_is_no_child():
    """What the operator looks after is never among what it deletes."""
    from imageindex_operator.reconcile import CHILDREN  # noqa: PLC0415

    assert KIND not in CHILDREN
