"""The operator as a process on a real API server: watches, server-side apply, Lease, drift, quiet, deletion."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.e2e.operator.conftest import Operator, Shop, eventually
from tests.support.qdrant import QdrantServer

pytestmark = pytest.mark.programs

Start = Callable[..., Operator]
H14 = {"name": "ViT-H-14", "pretrained": "laion2b_s32b_b79k"}


def bring_up(shop: Shop, **spec: object) -> str:
    """From an applied resource to one that serves; its generation."""
    shop.apply(**spec)
    eventually(lambda: len(shop.pending()), 27)
    eventually(lambda: len(shop.children("jobs")), 1)
    first = shop.pending()
    shop.build(first)
    shop.kubectl("annotate", "imageindex/shop", "test/look=1", "--overwrite")
    eventually(lambda: shop.condition("Ready"), "True Serving")
    assert shop.serves() == first
    return first


def versions(shop: Shop) -> dict[str, str]:
    """The version of the resource and of everything that belongs to it."""
    bodies = [shop.get()]
    for kind in ("jobs", "deployments", "services", "poddisruptionbudgets"):
        bodies += shop.children(kind)
    return {f"{body['kind']}/{body['metadata']['name']}": body["metadata"]["resourceVersion"] for body in bodies}


def wait_for_visits(operator: Operator, count: int) -> None:
    """Waits until the resync, or a reason, has brought so many more."""
    wanted = operator.visits() + count
    eventually(lambda: operator.visits() >= wanted, True)


def test_from_apply_to_serving_and_then_quiet(operators: Start, shop: Shop):
    """Applied, built, promoted, served by ready pods; afterwards visits write nothing at all."""
    operator = operators()
    bring_up(shop)
    wait_for_visits(operator, 1)  # kubelets and controllers have their last word meanwhile
    before = versions(shop)
    wait_for_visits(operator, 2)
    assert versions(shop) == before
    assert operator.probe("/livez") == "alive"
    assert operator.probe("/readyz") == "leading"
    assert "sightline_operator_reconcile_duration_seconds_count" in operator.probe("/metrics")
    events = [one["reason"] for one in shop.children("events") if one["involvedObject"]["kind"] == "ImageIndex"]
    assert {"RolloutBegun", "Promoted"} <= set(events)
    assert operator.end() == 0


def test_children_that_are_deleted_or_edited_come_back_and_the_alias_stays(operators: Start, shop: Shop):
    """With the operator there, and while it was away."""
    operator = operators()
    first = bring_up(shop)
    edits = {
        "service/shop": '{"spec":{"ports":[{"name":"http","port":81}]}}',
        "pdb/shop-serving": '{"spec":{"maxUnavailable":7}}',
    }
    for what, patch in edits.items():
        shop.kubectl("patch", what, "--type=merge", f"--patch={patch}")
    eventually(lambda: [port["port"] for port in shop.children("services")[0]["spec"]["ports"]], [80])
    eventually(lambda: shop.children("poddisruptionbudgets")[0]["spec"]["maxUnavailable"], 1)
    shop.kubectl("delete", "deployment", "--all")
    eventually(lambda: len(shop.children("deployments")), 1)
    assert operator.end(signal.SIGKILL) == -signal.SIGKILL
    shop.kubectl("delete", "service,poddisruptionbudget", "--all")
    operators("two")
    eventually(lambda: len(shop.children("services") + shop.children("poddisruptionbudgets")), 2)
    assert shop.serves() == first


def test_another_model_is_promoted_when_its_replicas_are_warm(operators: Start, shop: Shop):
    """Two sets of replicas for a while, then one, and the Service leads to it."""
    operators()
    bring_up(shop, rollout={"scaleDownDelaySeconds": 3})
    shop.apply(model=H14, rollout={"scaleDownDelaySeconds": 3})
    eventually(lambda: len(shop.pending()), 27)
    second = shop.pending()
    shop.build(second, "ViT-H-14")
    shop.kubectl("annotate", "imageindex/shop", "test/look=2", "--overwrite")
    eventually(shop.serves, second)
    eventually(lambda: len(shop.children("deployments")), 1)
    (left,) = shop.children("deployments")
    assert shop.children("services")[0]["spec"]["selector"].items() <= left["metadata"]["labels"].items()
    eventually(lambda: shop.condition("Promoted"), "True Serving")


def test_replicas_of_an_autoscaler_stay_when_it_takes_over(operators: Start, shop: Shop):
    """Server-side apply would set them to 1 when nobody applies them any more."""
    operators()
    bring_up(shop, serving={"replicas": 3})
    shop.apply(serving={"autoscaling": {"class": "hpa", "min": 2, "max": 5}})
    eventually(lambda: len(shop.children("horizontalpodautoscalers")), 1)
    (deployment,) = shop.children("deployments")
    assert deployment["spec"]["replicas"] == 3
    shop.kubectl("scale", f"deployment/{deployment['metadata']['name']}", "--replicas=4")
    shop.apply(serving={"autoscaling": {"class": "hpa", "min": 2, "max": 6}})
    eventually(lambda: shop.children("horizontalpodautoscalers")[0]["spec"]["maxReplicas"], 6)
    assert shop.children("deployments")[0]["spec"]["replicas"] == 4


def test_another_operator_takes_over_when_the_leader_is_killed(operators: Start, shop: Shop):
    """Two run, one works; it is killed, and the other goes on with the same rollout."""
    one = operators("one")
    eventually(lambda: one.probe("/readyz"), "leading")
    two = operators("two")
    eventually(lambda: two.probe("/readyz"), "waiting for the lease")
    shop.apply()
    eventually(lambda: len(shop.children("jobs")), 1)
    pending = shop.pending()
    one.end(signal.SIGKILL)
    eventually(lambda: two.probe("/readyz"), "leading")
    shop.build(pending)
    eventually(shop.serves, pending)
    assert len(shop.children("jobs")) == 1


def test_a_namespace_is_deleted_while_qdrant_is_down(operators: Start, shop: Shop, qdrant: QdrantServer):
    """With the way out that is documented; Delete alone would wait for its deadline."""
    operators()
    bring_up(shop, deletionPolicy="Delete")
    eventually(lambda: shop.get()["metadata"].get("finalizers"), ["sightline.dev/cleanup"])
    qdrant.stop()
    shop.kubectl("delete", "imageindex", "shop", "--wait=false")
    shop.kubectl("annotate", "imageindex/shop", "sightline.dev/abandon-data=true")
    eventually(lambda: len(shop.children("imageindexes")), 0)
