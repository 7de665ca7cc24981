"""From one generation to the next on a real API server, with everything that can come between."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.cluster.calls import STRATEGIC
from tests.e2e.operator.conftest import Operator, Shop, eventually, until, visited
from tests.support.qdrant import QdrantServer

pytestmark = pytest.mark.programs

Start = Callable[..., Operator]

B32 = {"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}
H14 = {"name": "ViT-H-14", "pretrained": "laion2b_s32b_b79k"}
SIGLIP = {"name": "ViT-B-16-SigLIP", "pretrained": "webli"}
SHORT = {"scaleDownDelaySeconds": 1}
RECALL = "recall@10 of 100 texts is 0.812"


def index_jobs(shop: Shop, generation: str) -> list[str]:
    """The uids of the indexing Jobs of a generation."""
    return [job["metadata"]["uid"] for job in shop.jobs("index", generation)]


def settled(shop: Shop) -> tuple[str, str]:
    """How it is said that all is well."""
    return shop.condition("Ready"), shop.condition("Degraded")


WELL = ("True Serving", "False AsExpected")


# ---------------------------------------------------------------- killed


def test_killed_at_each_step_of_a_rollout_the_alias_moves_once_and_to_a_whole_generation(operators: Start, shop: Shop):
    """SIGKILL as soon as a step shows outside; each operator finds what the one before left, and ends the same way."""
    operator = operators()
    first = shop.bring_up(rollout=SHORT)

    def killed_when(seen: Callable[[], bool]) -> None:
        eventually(seen, True, 0.005)
        assert operator.end(signal.SIGKILL) == -signal.SIGKILL
        operator.start()

    shop.apply(model=H14, rollout=SHORT)
    killed_when(lambda: shop.pending() != "")
    second = shop.pending()
    killed_when(lambda: bool(shop.jobs("index", second)))
    jobs = index_jobs(shop, second)
    shop.begin(second, "ViT-H-14")
    shop.end_pods("index")
    killed_when(lambda: bool(shop.jobs("finish", second)))
    assert shop.generations() == [first, second]
    assert shop.served() == [first]  # all this time, while the second was not complete
    shop.finish(second)
    shop.end_pods("finish")
    killed_when(lambda: len(shop.children("deployments")) == 2)
    killed_when(lambda: shop.model_served() == "ViT-H-14")
    killed_when(lambda: shop.served() == [first, second])
    killed_when(lambda: shop.status("activeCollection") == f"sightline-shop-{second}")
    killed_when(lambda: len(shop.children("deployments")) == 1)
    eventually(lambda: settled(shop), WELL)
    assert shop.condition("Promoted") == "True Serving"
    assert shop.served() == [first, second]
    assert shop.model_served() == "ViT-H-14"
    assert shop.status("previousCollection") == f"sightline-shop-{first}"
    assert index_jobs(shop, second) == jobs
    assert shop.generations() == [first, second]


def test_killed_right_before_its_next_writes_a_rollout_comes_to_the_same_end(operators: Start, shop: Shop):
    """Each operator changes one to three things, as a seed has it, and dies before the next, while workers get on."""
    lives = random.Random(20261121)
    first_life = operators()
    first = shop.bring_up(rollout=SHORT)
    first_life.end(signal.SIGKILL)
    shop.apply(model=H14, rollout=SHORT)

    def done() -> bool:
        return shop.served() != [first] and len(shop.children("deployments")) == 1

    world, deaths = work(shop, "ViT-H-14"), 0
    while not done():
        assert deaths < 40
        operator = operators(DIES_BEFORE_WRITE=str(lives.randint(2, 4)))
        eventually(lambda operator=operator: next(world) or operator.ended() or done(), True)
        deaths += operator.ended()
    assert deaths >= 4
    if not operator.ended():
        operator.end(signal.SIGKILL)
    operators()
    eventually(lambda: settled(shop), WELL)
    second = shop.generations()[-1]
    assert shop.served() == [first, second]
    assert shop.generations() == [first, second]
    assert len(shop.jobs("index")) == 2
    assert len(shop.children("deployments")) == 1


def work(shop: Shop, model: str) -> Iterator[None]:
    """What workers do, step by step; a step while there is nothing to be done is none."""
    while not (shop.pending() and shop.jobs("index", shop.pending())):
        yield
    id_ = shop.pending()
    shop.begin(id_, model)
    shop.end_pods("index")
    while not shop.jobs("finish", id_):
        yield
    shop.finish(id_)
    shop.end_pods("finish")
    while True:
        yield


# ---------------------------------------------------------------- what served, and dies


def test_qdrant_dead_in_mid_upgrade_is_told_as_unknown_and_the_upgrade_goes_on_when_it_is_back(
    operators: Start, shop: Shop, qdrant: QdrantServer
):
    """Nothing is guessed: replicas and Jobs stay as they are."""
    operator = operators()
    first = shop.bring_up()
    (replicas,) = shop.children("deployments")
    second = shop.begin_rollout(model=H14)
    qdrant.kill()
    until(operator, shop, lambda: shop.condition("Ready"), "Unknown QdrantUnavailable")
    assert shop.condition("Degraded") == "True QdrantUnavailable"
    assert shop.condition("ServingAvailable") == "True Available"
    assert shop.child("deployments")["metadata"]["uid"] == replicas["metadata"]["uid"]
    assert len(index_jobs(shop, second)) == 1
    qdrant.start()
    shop.build(second, "ViT-H-14")
    until(operator, shop, shop.served, [first, second])
    until(operator, shop, lambda: settled(shop), WELL)


def test_old_replicas_dead_in_mid_upgrade_are_told_as_not_ready_until_the_new_ones_serve(operators: Start, shop: Shop):
    """Ready=False NoReplicas, while their pods are there and answer nothing; then the new ones take over at once."""
    operator = operators()
    first = shop.bring_up()
    second = shop.begin_rollout(model=H14)
    dead = {"conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]}
    for pod in shop.children("pods"):
        if pod["metadata"]["labels"].get("app.kubernetes.io/component") == "serving":
            shop.patch("pods", pod["metadata"]["name"], {"status": dead}, STRATEGIC, "status")
    eventually(lambda: shop.condition("Ready"), "False NoReplicas")
    assert shop.status("pendingCollection") == f"sightline-shop-{second}"
    assert shop.served() == [first]
    shop.build(second, "ViT-H-14")
    until(operator, shop, shop.served, [first, second])
    until(operator, shop, lambda: settled(shop), WELL)
    assert shop.model_served() == "ViT-H-14"


# ---------------------------------------------------------------- changing one's mind


def test_good_bad_good_serves_the_first_generation_all_along_and_indexes_nothing_again(operators: Start, shop: Shop):
    """The bad one is complete, and verification holds it back: it never serves."""
    operator = operators()
    first = shop.bring_up()
    second = shop.begin_rollout(model=H14)
    shop.begin(second, "ViT-H-14")
    shop.finish(second, held=RECALL)
    until(operator, shop, lambda: shop.condition("Promoted"), "False VerificationFailed")
    assert shop.condition("Ready") == "True Serving"
    jobs = len(shop.children("jobs"))
    shop.apply(model=B32)
    until(operator, shop, lambda: shop.condition("Promoted"), "True Serving")
    eventually(lambda: settled(shop), WELL)
    assert shop.served() == [first]
    assert len(shop.children("jobs")) <= jobs
    assert shop.pending() == ""


def test_bad_then_another_bad_spec_then_a_good_one(operators: Start, shop: Shop):
    """From nothing: each is tried, the first that is fit serves, and nothing is left of the others."""
    operator = operators()
    bad = shop.begin_rollout(model=SIGLIP)
    shop.end_pods("index", exit_code=65)
    until(operator, shop, lambda: shop.condition("Indexed"), "False ShardsFailed")
    assert shop.status("job")["failedIndexes"] == "0"
    shop.apply(model=H14)
    until(operator, shop, lambda: shop.pending() not in {"", bad} and len(shop.jobs("index", shop.pending())), 1)
    worse = shop.pending()
    shop.begin(worse, "ViT-H-14")
    shop.finish(worse, held=RECALL)
    until(operator, shop, lambda: shop.condition("Promoted"), "False VerificationFailed")
    assert shop.condition("Ready").startswith("False")
    shop.apply(model=B32)
    until(operator, shop, lambda: shop.pending() not in {"", worse} and len(shop.jobs("index", shop.pending())), 1)
    good = shop.pending()
    shop.build(good)
    until(operator, shop, lambda: settled(shop), WELL)
    assert shop.served() == [good]
    until(operator, shop, shop.generations, [good])
    until(operator, shop, lambda: len(shop.children("jobs")), 1)


def test_aborted_by_naming_what_serves_a_rollout_leaves_nothing(operators: Start, shop: Shop):
    """rollout.generation: Jobs first, then the vectors that they had written."""
    operator = operators()
    first = shop.bring_up()
    second = shop.begin_rollout(model=H14)
    shop.begin(second, "ViT-H-14")
    shop.apply(model=H14, rollout={"generation": first})
    until(operator, shop, lambda: shop.condition("Promoted"), "True Pinned")
    until(operator, shop, lambda: shop.jobs("index", second), [])
    until(operator, shop, shop.generations, [first])
    assert settled(shop) == WELL
    assert shop.served() == [first]
    assert shop.pending() == ""


def test_a_failed_rollout_goes_on_with_the_same_generation_when_retried(operators: Start, shop: Shop):
    """The annotation gets a new value: another Job, whose shards find what the first one left."""
    operator = operators()
    first = shop.bring_up()
    second = shop.begin_rollout(model=H14)
    shop.begin(second, "ViT-H-14")
    failed = index_jobs(shop, second)
    shop.end_pods("index", exit_code=65)
    until(operator, shop, lambda: shop.condition("Indexed"), "False ShardsFailed")
    assert shop.condition("Ready") == "True Serving"
    list(visited(operator, shop, 3))
    assert index_jobs(shop, second) == failed  # nothing is tried again by itself
    shop.annotate(retry="1")
    until(operator, shop, lambda: len(index_jobs(shop, second)) == 1 and index_jobs(shop, second) != failed, True)
    shop.end_pods("index")
    eventually(lambda: len(shop.jobs("finish", second)), 1)
    shop.finish(second)
    shop.end_pods("finish")
    until(operator, shop, shop.served, [first, second])
    until(operator, shop, lambda: settled(shop), WELL)


def test_without_auto_promote_a_person_promotes_and_rolls_back_by_one_field(operators: Start, shop: Shop):
    """With autoPromote false nothing moves until rollout.generation names it, and back when it names the other."""
    operator = operators()
    first = shop.bring_up()
    second = shop.begin_rollout(model=H14, rollout={"autoPromote": False})
    shop.build(second, "ViT-H-14")
    until(operator, shop, lambda: shop.condition("Promoted"), "False AwaitingPromotion")
    list(visited(operator, shop, 3))
    assert shop.served() == [first]
    assert len(shop.children("deployments")) == 1
    for wanted, history in ((second, [first, second]), (first, [first, second, first])):
        shop.apply(model=H14, rollout={"autoPromote": False, "generation": wanted})
        until(operator, shop, shop.served, history)
        until(operator, shop, lambda: shop.condition("Promoted"), "True Pinned")
        until(operator, shop, lambda: settled(shop), WELL)
    assert shop.model_served() == "ViT-B-32"
    assert shop.generations() == [first, second]


def test_another_model_is_promoted_when_its_replicas_are_warm(operators: Start, shop: Shop):
    """Two sets of replicas for a while, then one, and the Service leads to it."""
    operator = operators()
    first = shop.bring_up(rollout=SHORT)
    second = shop.begin_rollout(model=H14, rollout=SHORT)
    shop.build(second, "ViT-H-14")
    until(operator, shop, lambda: len(shop.children("deployments")), 2)
    until(operator, shop, shop.served, [first, second])
    assert shop.model_served() == "ViT-H-14"
    until(operator, shop, lambda: len(shop.children("deployments")), 1)
    assert shop.model_served() == "ViT-H-14"
    until(operator, shop, lambda: shop.condition("Promoted"), "True Serving")


# ---------------------------------------------------------------- in mid-job


def test_a_spec_changed_in_mid_job_gets_another_job_and_no_field_is_refused(operators: Start, shop: Shop):
    """Resources keep the generation, shards and model begin another; parallelism changes in place. Never an error."""
    operator = operators()
    shop.apply(indexing={"shards": 2})
    eventually(lambda: len(shop.children("jobs")), 1)
    begun, (first,) = shop.pending(), shop.children("jobs")
    shop.apply(indexing={"shards": 2, "parallelism": 2})
    eventually(lambda: shop.child("jobs")["spec"]["parallelism"], 2)
    assert shop.child("jobs")["metadata"]["uid"] == first["metadata"]["uid"]
    seen = {first["metadata"]["uid"]}
    same = {"shards": 2, "resources": {"limits": {"memory": "4Gi"}}}
    for spec, keeps in (({"indexing": same}, True), ({"indexing": {"shards": 3}}, False), ({"model": H14}, False)):
        shop.apply(**spec)
        eventually(lambda: [one["metadata"]["uid"] in seen for one in shop.children("jobs")], [False])
        assert (shop.pending() == begun) is keeps
        begun, (job,) = shop.pending(), shop.children("jobs")
        assert job["metadata"]["labels"]["sightline.dev/generation"] == begun
        seen.add(job["metadata"]["uid"])
    assert operator.visits("failed") == 0
    assert shop.condition("Degraded") == "False AsExpected"
    shop.build(begun, "ViT-H-14")
    until(operator, shop, lambda: settled(shop), WELL)
    assert shop.served() == [begun]
