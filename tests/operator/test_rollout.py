"""The state machine of a rollout, row by row, on a cluster and a Qdrant in memory."""

from __future__ import annotations

import pytest
from imageindex_operator.names import KIND
from imageindex_operator.observed import Progress, Traffic

from tests.operator.world import BEGAN, World

H14 = {"name": "ViT-H-14", "pretrained": "laion2b_s32b_b79k"}
B32 = {"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}
SIGLIP = {"name": "ViT-B-16-SigLIP", "pretrained": "webli"}


async def visits(world: World, count: int) -> None:
    for _ in range(count):
        await world.visit()
        world.controllers()
        world.pass_time(1)


# ---------------------------------------------------------------- the way there


async def test_an_applied_resource_is_indexed_finished_promoted_and_served():
    """One apply, and in the end it answers; the Jobs come one after the other."""
    world = World()
    await world.settle()
    assert [name.rsplit("-", 1)[0] for name in world.cluster.names("Job")] == ["shop-finish", "shop-index"]
    assert world.qdrant.flips == [world.qdrant.current]
    assert world.condition("Ready") == ("True", "Serving")
    assert world.told() == ["RolloutBegun", "Promoted"]
    assert world.index.status.pending_collection is None
    assert world.index.status.points_indexed == 100


async def test_all_conditions_are_there_after_the_first_visit():
    """Also those that nothing is known of yet."""
    world = World()
    await world.visit()
    found = [one["type"] for one in world.body["status"]["conditions"]]
    assert found == [
        "Ready",
        "Indexed",
        "Promoted",
        "ServingAvailable",
        "Suspended",
        "ReconciliationPaused",
        "Degraded",
    ]


async def test_the_generations_id_is_in_the_status_before_its_job_is_there():
    """Otherwise a crash in between would begin a second one."""
    world = World()
    await world.visit()
    writes = [(kind, name.split("-")[-2] if "-" in name else name) for _, kind, name in world.cluster.writes]
    assert writes == [(KIND, "shop"), ("Job", "index")]
    assert world.index.status.pending_collection == "sightline-shop-" + world.index.status.pending_collection[-27:]


async def test_a_quiet_world_is_left_alone(serving: World):
    """No write at all, visit after visit, and no wish to come back."""
    for _ in range(20):
        serving.pass_time(60)
        assert await serving.visit() is None
    assert serving.cluster.writes == []


async def test_another_model_is_served_by_warm_replicas_before_the_alias_moves(serving: World):
    """New replicas beside the old, traffic to them, then the alias, and the old ones go after the delay."""
    old = serving.qdrant.current
    (blue,) = serving.cluster.names("Deployment")
    serving.set_spec(model=H14)
    while serving.qdrant.current == old:
        revision = serving.cluster.objects["Service", "web", "shop"]["spec"]["selector"]["sightline.dev/serving"]
        await visits(serving, 1)
    assert not blue.endswith(revision)
    assert blue in serving.cluster.names("Deployment")
    assert serving.told() == ["RolloutBegun", "HandedOver"]
    await serving.settle()
    serving.pass_time(31)
    await serving.settle()
    assert blue not in serving.cluster.names("Deployment")
    assert len(serving.cluster.names("Deployment")) == 1
    assert serving.index.status.previous_collection == f"sightline-shop-{old}"


async def test_new_data_with_the_same_model_needs_no_new_replicas(serving: World):
    """Replicas follow the alias by themselves."""
    before = serving.cluster.names("Deployment")
    serving.set_spec(source={"s3": {"url": "s3://pictures/2027"}})
    await serving.settle()
    assert len(serving.qdrant.flips) == 2
    assert serving.cluster.names("Deployment") == before


# ---------------------------------------------------------------- what is not promoted


async def test_a_held_generation_is_never_promoted(serving: World):
    """What verification found is told, and what serves goes on."""
    old = serving.qdrant.current
    serving.held["ViT-H-14"] = "recall@10 of 100 texts is 0.812"
    serving.set_spec(model=H14)
    await serving.settle()
    assert serving.qdrant.current == old
    assert serving.condition("Promoted") == ("False", "VerificationFailed")
    assert serving.condition("Degraded") == ("True", "VerificationFailed")
    assert serving.condition("Ready") == ("True", "Serving")
    assert "0.812" in serving.notes[-1].message


async def test_a_failed_shard_stops_the_rollout_and_is_named():
    """The others finish; nothing is promoted; nothing is tried again by itself."""
    world = World(indexing={"shards": 4})
    world.poisoned = {2}
    await world.settle()
    assert world.qdrant.flips == []
    assert world.index.status.job
    assert world.index.status.job.failed_indexes == "2"
    assert world.condition("Indexed") == ("False", "ShardsFailed")
    assert "shards 2 failed" in world.notes[-1].message
    jobs = world.cluster.names("Job")
    world.pass_time(3600)
    await world.settle()
    assert world.cluster.names("Job") == jobs


async def test_the_retry_annotation_goes_on_with_the_same_generation():
    """Shards that are done stay done: another Job, not another generation."""
    world = World(indexing={"shards": 4})
    world.poisoned = {2}
    await world.settle()
    (begun,) = world.qdrant.generations
    world.poisoned = set()
    world.annotate(retry="1")
    await world.settle()
    assert world.qdrant.flips == [begun]
    assert world.condition("Degraded") == ("False", "AsExpected")


async def test_retrying_what_verification_held_back_builds_another_generation(serving: World):
    """The same one would be held again."""
    serving.held["ViT-H-14"] = "a canary is silent"
    serving.set_spec(model=H14)
    await serving.settle()
    held = serving.index.status.pending_collection
    serving.held.clear()
    serving.annotate(retry="1")
    await serving.settle()
    assert serving.condition("Promoted") == ("True", "Serving")
    assert f"sightline-shop-{serving.qdrant.current}" != held
    assert held[-27:] not in serving.qdrant.generations


async def test_shards_are_looked_at_again_when_finishing_finds_some_missing():
    """Their Job is made anew; those that are whole are done at once."""
    world = World()
    world.unfinished = ["BackoffLimitExceeded"] * 2
    await world.settle()
    assert world.told() == ["RolloutBegun", "IndexingAgain", "IndexingAgain", "Promoted"]
    assert len(world.qdrant.generations) == 1


@pytest.mark.parametrize("reasons", [["PodFailurePolicy"], ["BackoffLimitExceeded"] * 4])
async def test_finishing_that_goes_on_failing_or_can_not_work_stops_the_rollout(reasons: list[str]):
    """After three more attempts, or at once where the data is at fault."""
    world = World()
    world.unfinished = list(reasons)
    await world.settle()
    assert world.qdrant.flips == []
    assert world.unfinished == []
    assert world.condition("Indexed") == ("False", "FinishFailed")


async def test_too_many_skipped_images_stop_the_promotion():
    """minPointRatio, from what the ledger has seen."""
    world = World()
    await visits(world, 1)
    world.qdrant.ledger[world.index.status.pending_collection[-27:]] = Progress(seen=1000, indexed=100)
    await world.settle()
    assert world.qdrant.flips == []
    assert world.condition("Promoted") == ("False", "TooManySkipped")
    assert world.index.status.images_seen == 1000


async def test_a_dimension_that_the_model_does_not_have_stops_the_job():
    """CEL can't see it; the first worker can."""
    world = World(model={**B32, "dimension": 1024})
    await world.settle()
    assert world.condition("Indexed") == ("False", "DimensionMismatch")
    assert world.cluster.names("Job") == []
    assert "1024" in world.notes[-1].message


async def test_a_missing_secret_is_named_and_nothing_is_begun_without_it():
    """It goes on by itself when the Secret is there."""
    world = World(source={"s3": {"url": "s3://pictures/2026", "secretName": "s3-keys"}})
    world.cluster.missing = {("Secret", "s3-keys")}
    await world.settle()
    assert world.condition("Degraded") == ("True", "ReferenceMissing")
    assert world.cluster.names("Job") == []
    assert await world.visit() == 15
    world.cluster.missing = set()
    await world.settle()
    assert world.condition("Ready") == ("True", "Serving")


async def test_an_alias_of_another_resource_is_left_to_it():
    """The oldest owns it; the younger one says so and touches nothing."""
    world = World(name="shop")
    other = {**world.body, "metadata": {**world.body["metadata"], "name": "old", "uid": "uid-old"}}
    other["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    other["spec"] = {**other["spec"], "collection": {"alias": "shop"}}
    world.aliases.told(other)
    await world.settle()
    assert world.condition("Ready") == ("False", "AliasTaken")
    assert "web/old" in {one.type: one for one in world.index.status.conditions}["Ready"].message
    assert world.cluster.names("Job") == []
    assert world.aliases.told(other, gone=True) == []
    await world.settle()
    assert world.condition("Ready") == ("True", "Serving")


async def test_replicas_that_do_not_come_up_stop_the_promotion(serving: World):
    """The generation is fine, but nothing could search it: the old ones go on, the new ones go."""
    old = serving.qdrant.current
    before = serving.cluster.names("Deployment")
    serving.broken = {"ViT-H-14"}
    serving.set_spec(model=H14)
    await serving.settle()
    serving.pass_time(60)
    await serving.settle()
    assert serving.qdrant.current == old
    assert serving.condition("Promoted") == ("False", "ServingFailed")
    assert serving.condition("Ready") == ("True", "Serving")
    assert serving.cluster.names("Deployment") == before


# ---------------------------------------------------------------- changing one's mind


async def test_a_spec_changed_in_mid_job_gives_up_the_old_generation_and_begins_another(serving: World):
    """Workers first, then their vectors; another Job by another name."""
    serving.set_spec(model=H14)
    await visits(serving, 2)
    given_up = serving.index.status.pending_collection[-27:]
    assert given_up in serving.qdrant.generations
    serving.set_spec(model=SIGLIP)
    await serving.settle()
    serving.pass_time(30)
    await serving.settle()
    assert given_up not in serving.qdrant.generations
    assert given_up not in serving.qdrant.flips
    assert serving.qdrant.generations[serving.qdrant.current].model.name == "ViT-B-16-SigLIP"
    assert serving.index.status.abandoned == ()


async def test_another_shape_of_the_job_goes_on_with_the_same_generation(serving: World):
    """Resources are no reason to begin again."""
    serving.set_spec(model=H14)
    await visits(serving, 2)
    begun = serving.index.status.pending_collection
    job = serving.index.status.job.name
    serving.set_spec(indexing={"resources": {"limits": {"memory": "4Gi"}}})
    await visits(serving, 3)
    assert serving.index.status.pending_collection == begun
    assert job not in serving.cluster.names("Job")
    await serving.settle()
    assert f"sightline-shop-{serving.qdrant.current}" == begun


async def test_good_bad_good_goes_back_without_indexing_again(serving: World):
    """The old spec's generation is still there, so its model serves within a visit or two."""
    good = serving.qdrant.current
    serving.set_spec(model=H14)
    await serving.settle()
    jobs = serving.cluster.names("Job")
    serving.set_spec(model=B32)
    await serving.settle()
    assert serving.qdrant.current == good
    assert serving.cluster.names("Job") == jobs
    assert "GoingBack" in serving.told()


async def test_bad_then_worse_then_good(serving: World):
    """Each spec is tried; the first that is fit serves."""
    serving.held = {"ViT-H-14": "bad", "ViT-B-16-SigLIP": "worse"}
    for model in (H14, SIGLIP):
        serving.set_spec(model=model)
        await serving.settle()
        assert serving.condition("Degraded")[0] == "True"
    serving.set_spec(model=B32)
    await serving.settle()
    assert serving.condition("Degraded") == ("False", "AsExpected")
    assert len(serving.qdrant.flips) == 1


async def test_one_field_goes_back_and_stays_there(serving: World):
    """rollout.generation pins what serves, whatever the model says."""
    old = serving.qdrant.current
    serving.set_spec(model=H14)
    await serving.settle()
    serving.set_spec(rollout={"generation": old})
    await serving.settle()
    assert serving.qdrant.current == old
    assert serving.condition("Promoted") == ("True", "Pinned")
    serving.pass_time(3600)
    await serving.settle()
    assert len(serving.qdrant.flips) == 3


async def test_a_pinned_generation_that_is_not_there_is_told_with_those_that_are(serving: World):
    """And nothing moves."""
    serving.set_spec(rollout={"generation": "20200101-000000-000000-abcd"})
    await serving.settle()
    assert serving.condition("Degraded") == ("True", "GenerationNotFound")
    assert serving.qdrant.current in {one.type: one for one in serving.index.status.conditions}["Degraded"].message
    assert len(serving.qdrant.flips) == 1


async def test_without_auto_promote_a_person_names_the_generation(serving: World):
    """It is built and verified, and waits."""
    serving.set_spec(model=H14, rollout={"autoPromote": False})
    await serving.settle()
    assert serving.condition("Promoted") == ("False", "AwaitingPromotion")
    waiting = serving.index.status.pending_collection[-27:]
    serving.set_spec(rollout={"autoPromote": False, "generation": waiting})
    await serving.settle()
    assert serving.qdrant.current == waiting


async def test_pinning_what_serves_aborts_a_rollout(serving: World):
    """Its Jobs go, then its vectors."""
    old = serving.qdrant.current
    serving.set_spec(model=H14)
    await visits(serving, 2)
    serving.set_spec(rollout={"generation": old})
    await serving.settle()
    serving.pass_time(30)
    await serving.settle()
    assert list(serving.qdrant.generations) == [old]
    assert serving.index.status.pending_collection is None


async def test_an_alias_that_a_person_moved_stays_where_it_is(serving: World):
    """The operator does not fight; it says so, and waits for a new spec or a word."""
    old = serving.qdrant.current
    serving.set_spec(model=H14)
    await serving.settle()
    new, serving.qdrant.current = serving.qdrant.current, old
    await serving.settle()
    serving.pass_time(600)
    await serving.settle()
    assert serving.qdrant.current == old
    assert serving.condition("Promoted") == ("False", "MovedByHand")
    serving.annotate(retry="yes")
    await serving.settle()
    assert serving.qdrant.current == new


async def test_an_alias_that_was_deleted_is_put_back(serving: World):
    """Drift, also outside of Kubernetes."""
    old, serving.qdrant.current = serving.qdrant.current, None
    await serving.settle()
    assert serving.qdrant.current == old


# ---------------------------------------------------------------- going back by itself


async def test_searches_that_fail_after_a_promotion_bring_the_old_generation_back(
    serving: World, monkeypatch: pytest.MonkeyPatch
):
    """More than one in twenty, of at least twenty."""
    old = serving.qdrant.current
    serving.set_spec(model=H14)
    await serving.settle()
    bad = serving.qdrant.current

    async def look(*_: object) -> Traffic:
        return Traffic(searches=100, failed=30)

    monkeypatch.setattr(serving.reconciler._traffic, "look", look)
    await serving.settle()
    assert (old, bad) == (serving.qdrant.current, serving.qdrant.flips[1])
    assert serving.condition("Promoted") == ("False", "RolledBack")
    assert any("30 of 100 searches failed" in note.message for note in serving.notes)
    serving.pass_time(3600)
    await serving.settle()
    assert serving.qdrant.flips == [old, bad, old]


@pytest.mark.parametrize("traffic", [Traffic(19, 19), Traffic(1000, 50), None])
async def test_few_searches_or_few_failures_are_no_reason_to_go_back(
    serving: World, monkeypatch: pytest.MonkeyPatch, traffic: Traffic | None
):
    """A promotion is judged by enough searches, or not at all."""
    serving.set_spec(model=H14)
    await serving.settle()

    async def look(*_: object) -> Traffic | None:
        return traffic

    monkeypatch.setattr(serving.reconciler._traffic, "look", look)
    await serving.settle()
    assert len(serving.qdrant.flips) == 2


async def test_replicas_that_die_after_a_promotion_bring_the_old_generation_back(serving: World):
    """Half a minute without one is enough."""
    old = serving.qdrant.current
    serving.set_spec(source={"s3": {"url": "s3://pictures/2027"}})
    await serving.settle()
    serving.broken = {"ViT-B-32"}
    await serving.settle()
    assert serving.qdrant.flips[-1] == old
    assert serving.condition("Ready") == ("False", "NoReplicas")
    serving.broken = set()
    await serving.settle()
    assert serving.condition("Ready") == ("True", "Serving")
    assert serving.condition("Promoted") == ("False", "RolledBack")


async def lose(world: World, *, alias: bool = True) -> str:
    """Somebody deletes what serves at Qdrant; its id."""
    lost = str(world.qdrant.current)
    del world.qdrant.generations[lost]
    if alias:
        world.qdrant.current = None
    await world.settle()
    return lost


@pytest.mark.parametrize("alias", [True, False])
async def test_a_generation_that_is_lost_after_its_promotion_is_followed_by_the_one_before(
    serving: World, *, alias: bool
):
    """At once, also where something else has taken its name; nothing is built until somebody asks for it."""
    old = serving.qdrant.current
    serving.set_spec(source={"s3": {"url": "s3://pictures/2027"}})
    await serving.settle()
    jobs = len(serving.cluster.names("Job"))
    lost = await lose(serving, alias=alias)
    assert serving.qdrant.flips == [old, lost, old]
    assert serving.index.status.active_collection == f"sightline-shop-{old}"
    assert serving.condition("Ready") == ("True", "Serving")
    assert serving.condition("Promoted") == ("False", "RolledBack")
    assert serving.condition("Degraded") == ("True", "RolledBack")
    assert {"GenerationGone", "RolledBack"} <= set(serving.told())
    assert len(serving.cluster.names("Job")) == jobs
    serving.annotate(retry="1")
    await serving.settle()
    assert serving.qdrant.current not in {old, lost}
    assert serving.condition("Promoted") == ("True", "Serving")


async def test_after_a_lost_generation_the_old_spec_is_served_without_a_job(serving: World):
    """Its generation is there."""
    old, spec = serving.qdrant.current, serving.body["spec"]
    serving.set_spec(source={"s3": {"url": "s3://pictures/2027"}})
    await serving.settle()
    await lose(serving)
    serving.set_spec(source=spec["source"])
    await serving.settle()
    assert serving.qdrant.current == old
    assert serving.condition("Promoted") == ("True", "Serving")
    assert serving.condition("Degraded") == ("False", "AsExpected")


async def test_a_generation_that_is_lost_much_later_is_built_anew_while_the_one_before_serves(serving: World):
    """It was good, so the same is good again."""
    old = serving.qdrant.current
    serving.set_spec(source={"s3": {"url": "s3://pictures/2027"}})
    await serving.settle()
    serving.pass_time(600)
    await serving.settle()
    lost = await lose(serving)
    first, second, third, fourth = serving.qdrant.flips
    assert (first, second, third) == (old, lost, old)
    assert fourth not in {old, lost}
    assert serving.condition("Promoted") == ("True", "Serving")


async def test_the_only_generation_that_is_lost_is_built_anew(serving: World):
    """There is nothing to go back to."""
    lost = await lose(serving)
    assert serving.qdrant.current not in {None, lost}
    assert serving.condition("Ready") == ("True", "Serving")


# ---------------------------------------------------------------- tuning, schedule, history


async def test_with_a_wanted_recall_ef_is_measured_and_set():
    """The cheapest that holds it, for the replicas and in the status."""
    world = World(rollout={"verification": {"minRecall": 0.95}})
    await world.settle()
    assert [name.rsplit("-", 1)[0] for name in world.cluster.names("Job")] == ["shop-finish", "shop-index", "shop-tune"]
    (deployment,) = world.cluster.names("Deployment")
    pod = world.cluster.objects["Deployment", "web", deployment]["spec"]["template"]["spec"]
    assert {"name": "SEARCH_EF", "value": "64"} in pod["containers"][0]["env"]
    assert world.body["status"]["tuning"] == {
        "generation": world.qdrant.current,
        "ef": 64,
        "recall": 0.97,
    }


@pytest.mark.parametrize(
    ("told", "reason"),
    [("has recall@10 0.81, less than 0.95", "RecallTooLow"), ("Killed", "TuningFailed")],
)
async def test_a_recall_that_no_ef_holds_stops_the_promotion(told: str, reason: str):
    """And so does a measurement that says nothing; its last words are told."""
    world = World(rollout={"verification": {"minRecall": 0.95}})
    world.tuned = told
    await world.settle()
    assert world.qdrant.flips == []
    assert told in world.notes[-1].message
    assert world.condition("Promoted") == ("False", reason)


async def test_a_schedule_builds_a_generation_when_it_fires(serving: World):
    """The CronJob only keeps time; each tick is one rollout, also after a failed one."""
    serving.set_spec(indexing={"schedule": "0 3 * * *"})
    await serving.settle()
    assert len(serving.qdrant.flips) == 1
    assert serving.cluster.objects["CronJob", "web", "shop-schedule"]["spec"]["jobTemplate"]["spec"]["suspend"]
    serving.poisoned = {0}
    serving.cluster.edit("CronJob", "shop-schedule", {"status": {"lastScheduleTime": "2026-11-22T03:00:00Z"}})
    await serving.settle()
    assert serving.condition("Degraded") == ("True", "ShardsFailed")
    serving.poisoned = set()
    serving.cluster.edit("CronJob", "shop-schedule", {"status": {"lastScheduleTime": "2026-11-23T03:00:00Z"}})
    await serving.settle()
    assert len(serving.qdrant.flips) == 2
    assert serving.condition("Degraded") == ("False", "AsExpected")
    serving.set_spec(indexing={})
    await serving.settle()
    assert serving.cluster.names("CronJob") == []


async def test_searches_that_a_generation_must_answer_are_mounted_and_go_when_they_change():
    """A ConfigMap named by its contents, immutable, so that a running check never sees other ones."""

    def rollout(query: str) -> dict[str, object]:
        return {"verification": {"canaryQueries": [{"query": query, "expect": ["a.jpg"]}]}}

    world = World(rollout=rollout("a red car"))
    await world.settle()
    (first,) = world.cluster.names("ConfigMap")
    world.set_spec(rollout=rollout("a blue car"), source={"s3": {"url": "s3://pictures/2027"}})
    await world.settle()
    (second,) = world.cluster.names("ConfigMap")
    assert second != first
    assert world.cluster.objects["ConfigMap", "web", second]["immutable"] is True
    world.set_spec(rollout={})
    await world.settle()
    assert world.cluster.names("ConfigMap") == []


async def test_history_is_kept_as_long_as_asked(serving: World):
    """One earlier generation by default, and none is deleted while a promotion is young."""
    for year in (2027, 2028, 2029):
        serving.set_spec(source={"s3": {"url": f"s3://pictures/{year}"}})
        await serving.settle()
        serving.pass_time(600)
        await serving.settle()
    assert len(serving.qdrant.flips) == 4
    assert sorted(serving.qdrant.generations) == serving.qdrant.flips[-2:]


async def test_reindex_asks_for_a_new_generation_of_the_same_spec(serving: World):
    """An annotation, for when the source has changed and nobody wants to wait."""
    serving.annotate(reindex="2026-11-21")
    await serving.settle()
    assert len(serving.qdrant.flips) == 2


# ---------------------------------------------------------------- suspend, pause, absence


async def test_suspended_nothing_runs_and_the_data_stays(serving: World):
    """No replicas, no Jobs; resumed, it serves as before without indexing again."""
    serving.set_spec(suspend=True)
    await serving.settle()
    assert serving.condition("Suspended") == ("True", "Suspended")
    assert serving.condition("Ready") == ("False", "Suspended")
    (deployment,) = serving.cluster.names("Deployment")
    assert serving.cluster.objects["Deployment", "web", deployment]["spec"]["replicas"] == 0
    serving.set_spec(suspend=False)
    await serving.settle()
    assert serving.condition("Ready") == ("True", "Serving")
    assert len(serving.qdrant.flips) == 1


async def test_suspending_holds_a_running_job_and_resuming_lets_it_go_on():
    """Its pods go; the generation stays."""
    world = World()
    await visits(world, 1)
    world.set_spec(suspend=True)
    await world.settle()
    (job,) = world.cluster.names("Job")
    assert world.cluster.objects["Job", "web", job]["spec"]["suspend"] is True
    world.set_spec(suspend=False)
    await world.settle()
    assert world.condition("Ready") == ("True", "Serving")


async def test_paused_nothing_is_changed_whatever_is_edited(serving: World):
    """Resumed, everything is applied."""
    serving.annotate(paused="true")
    await serving.settle()
    serving.cluster.writes.clear()
    serving.set_spec(model=H14)
    serving.cluster.objects.pop(("Service", "web", "shop"))
    await serving.settle()
    assert serving.condition("ReconciliationPaused") == ("True", "Paused")
    assert {kind for _, kind, _ in serving.cluster.writes} <= {KIND}
    serving.annotate(paused="false")
    await serving.settle()
    assert serving.qdrant.generations[serving.qdrant.current].model.name == "ViT-H-14"
    assert serving.cluster.names("Service") == ["shop"]


async def test_without_qdrant_nothing_is_guessed_and_replicas_are_kept(serving: World):
    """Unknown, not False; children are still put back; it goes on when Qdrant is there."""
    serving.qdrant.down = True
    serving.set_spec(model=H14)
    await serving.settle()
    assert serving.condition("Indexed") == ("Unknown", "QdrantUnavailable")
    assert serving.condition("Degraded") == ("True", "QdrantUnavailable")
    assert serving.condition("Ready") == ("Unknown", "QdrantUnavailable")
    deployment = serving.cluster.names("Deployment")
    serving.cluster.objects.pop(("Deployment", "web", deployment[0]))
    await serving.settle()
    assert serving.cluster.names("Deployment") == deployment
    serving.qdrant.down = False
    await serving.settle()
    assert serving.condition("Ready") == ("True", "Serving")
    assert len(serving.qdrant.flips) == 2


async def test_a_transition_time_moves_only_with_its_status(serving: World):
    """Another reason or message is no transition."""
    before = {one.type: one.last_transition_time for one in serving.index.status.conditions}
    serving.set_spec(source={"s3": {"url": "s3://pictures/2027"}})
    await visits(serving, 1)
    after = {one.type: one.last_transition_time for one in serving.index.status.conditions}
    moved = {type_ for type_ in after if after[type_] != before[type_]}
    assert moved == {"Indexed", "Promoted"}
    assert before["Ready"] >= f"{BEGAN:%Y-%m-%d}"
