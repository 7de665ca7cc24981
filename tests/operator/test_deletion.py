"""What becomes of the data, and that a resource never hangs on its finalizer."""

from __future__ import annotations

from imageindex_operator.names import FINALIZER, KIND

from tests.operator.world import World


def delete(world: World) -> None:
    """Kubectl delete: gone at once without a finalizer, else marked."""
    key = (KIND, "web", "shop")
    if not world.body["metadata"].get("finalizers"):
        del world.cluster.objects[key]
    else:
        world.cluster.edit(KIND, "shop", {"metadata": {"deletionTimestamp": world.now.isoformat()}})


def is_gone(world: World) -> bool:
    return (KIND, "web", "shop") not in world.cluster.objects


async def test_retained_data_needs_no_finalizer(serving: World):
    """Nothing has to be done, so nothing can hang."""
    assert "finalizers" not in serving.body["metadata"]
    delete(serving)
    assert await serving.visit() is None
    assert serving.qdrant.current


async def delete_wanted() -> World:
    world = World(deletionPolicy="Delete")
    await world.settle()
    assert world.body["metadata"]["finalizers"] == [FINALIZER]
    return world


async def test_deleted_data_is_snapshotted_then_erased_then_let_go():
    """Workers and replicas first."""
    world = await delete_wanted()
    delete(world)
    for _ in range(5):
        await world.visit()
    assert is_gone(world)
    assert world.qdrant.generations == {}
    assert world.qdrant.snapshots == ["shop.snapshot"]
    assert world.cluster.names("Deployment") == []


async def test_without_a_snapshot_if_none_is_wanted():
    """snapshotBeforeDelete: false."""
    world = World(deletionPolicy="Delete", snapshotBeforeDelete=False)
    await world.settle()
    delete(world)
    for _ in range(5):
        await world.visit()
    assert is_gone(world)
    assert world.qdrant.snapshots == []


async def test_with_qdrant_down_it_is_let_go_at_the_deadline_and_says_what_is_left():
    """A namespace that is being deleted must not hang for ever."""
    world = await delete_wanted()
    world.qdrant.down = True
    delete(world)
    await world.visit()
    assert not is_gone(world)
    world.pass_time(601)
    await world.visit()
    assert is_gone(world)
    assert world.told()[-1] == "DataLeftBehind"
    assert "sightline-shop-*" in world.notes[-1].message


async def test_an_annotation_lets_go_at_once():
    """The documented way out."""
    world = await delete_wanted()
    world.qdrant.down = True
    delete(world)
    world.annotate(abandon_data="true")
    await world.visit()
    assert is_gone(world)


async def test_another_policy_while_it_is_being_deleted_lets_go_too():
    """The spec of a resource that is being deleted can still be edited."""
    world = await delete_wanted()
    world.qdrant.down = True
    delete(world)
    world.set_spec(deletionPolicy="Retain")
    await world.visit()
    assert is_gone(world)


async def test_in_a_namespace_that_is_being_deleted_jobs_are_ended_and_nothing_is_begun():
    """Kubernetes waits for the pods of a Job, and the Job for others in their places, which it may not make."""
    world = World()
    await world.visit()
    (job,) = world.cluster.names("Job")
    world.cluster.objects[("Namespace", None, "web")] = {"metadata": {"deletionTimestamp": world.now.isoformat()}}
    world.cluster.writes.clear()
    await world.visit()
    assert world.cluster.writes == [("apply", KIND, "shop"), ("delete", "Job", job)]
    assert world.condition("Ready") == ("False", "Deleting")


async def test_whether_the_namespace_is_being_deleted_is_asked_only_while_a_job_runs(serving: World):
    """A quiet index costs no request for it, and an operator that may not ask goes on as if it were not."""
    serving.cluster.forbidden = {"Namespace"}
    asked = []
    plain = serving.cluster.get

    async def get(kind: str, *where: str) -> dict[str, object] | None:
        asked.append(kind)
        return await plain(kind, *where)

    serving.cluster.get = get  # type: ignore[method-assign]
    await serving.visit()
    assert "Namespace" not in asked
    serving.set_spec(source={"s3": {"url": "s3://pictures/2027"}})
    await serving.settle()
    assert "Namespace" in asked
    assert serving.condition("Ready") == ("True", "Serving")


async def test_the_finalizer_follows_the_policy(serving: World):
    """There exactly while it is needed, beside those of others."""
    serving.cluster.edit(KIND, "shop", {"metadata": {"finalizers": ["example.com/theirs"]}})
    serving.set_spec(deletionPolicy="Delete")
    await serving.settle()
    assert serving.body["metadata"]["finalizers"] == ["example.com/theirs", FINALIZER]
    serving.set_spec(deletionPolicy="Retain")
    await serving.settle()
    assert serving.body["metadata"]["finalizers"] == ["example.com/theirs"]


async def test_a_resource_that_does_not_own_its_alias_erases_nothing():
    """The data is another one's."""
    world = await delete_wanted()
    older = {**world.body, "metadata": {**world.body["metadata"], "name": "old", "uid": "uid-old"}}
    older["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    older["spec"] = {**older["spec"], "collection": {"alias": "shop"}}
    world.aliases.told(older)
    delete(world)
    await world.visit()
    assert is_gone(world)
    assert world.qdrant.current
