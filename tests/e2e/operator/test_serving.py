"""From an applied resource to one that serves, on a real API server; and what keeps still afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.operator.conftest import Operator, Shop, until, visited

pytestmark = pytest.mark.programs

Start = Callable[..., Operator]
KINDS = (
    "imageindexes",
    "jobs",
    "deployments",
    "services",
    "poddisruptionbudgets",
    "cronjobs",
    "horizontalpodautoscalers",
    "pods",
)
EDITED = {"serving": {"replicas": 3}, "source": {"s3": {"url": "s3://pictures/2027"}}}


def versions(shop: Shop) -> dict[str, str]:
    """The version of the resource and of everything that belongs to it."""
    bodies = [body for kind in KINDS for body in shop.children(kind)]
    return {f"{body['kind']}/{body['metadata']['name']}": body["metadata"]["resourceVersion"] for body in bodies}


def test_from_apply_to_serving_and_then_quiet(operators: Start, shop: Shop):
    """Applied, built, promoted, served by ready pods; afterwards visits write nothing at all."""
    operator = operators()
    shop.bring_up(indexing={"schedule": "0 3 29 2 *"})
    list(visited(operator, shop, 3))  # controllers have their last word meanwhile
    before, written = versions(shop), operator.counted("sightline_operator_writes_total")
    list(visited(operator, shop, 10))
    assert versions(shop) == before
    assert operator.counted("sightline_operator_writes_total") == written
    assert operator.probe("/livez") == "alive"
    assert operator.probe("/readyz") == "leading"
    events = [one["reason"] for one in shop.children("events") if one["involvedObject"]["kind"] == "ImageIndex"]
    assert {"RolloutBegun", "Promoted"} <= set(events)
    assert operator.end() == 0


def test_paused_and_edited_nothing_changes_and_resumed_it_is_applied(operators: Start, shop: Shop):
    """Neither the spec nor what somebody changed of the children, until somebody says so."""
    operator = operators()
    first = shop.bring_up()
    shop.annotate(paused="true")
    until(operator, shop, lambda: shop.condition("ReconciliationPaused"), "True Paused")
    shop.patch("services", "shop", {"metadata": {"labels": {"app.kubernetes.io/name": "edited"}}})
    shop.delete("poddisruptionbudgets", "shop-serving")
    shop.apply(**EDITED)
    until(operator, shop, lambda: shop.status("observedGeneration"), shop.get()["metadata"]["generation"])
    before = versions(shop)
    list(visited(operator, shop, 5))
    assert versions(shop) == before
    assert shop.child("services")["metadata"]["labels"]["app.kubernetes.io/name"] == "edited"
    assert shop.child("deployments")["spec"]["replicas"] == 1
    assert shop.children("poddisruptionbudgets") == []
    assert (shop.pending(), len(shop.children("jobs")), shop.served()) == ("", 1, [first])
    shop.annotate(paused="false")
    second = shop.begin_rollout(**EDITED)
    shop.build(second)
    until(operator, shop, shop.served, [first, second])
    until(operator, shop, lambda: shop.condition("Ready"), "True Serving")
    assert shop.child("services")["metadata"]["labels"]["app.kubernetes.io/name"] == "sightline"
    assert shop.child("deployments")["spec"]["replicas"] == 3
    assert len(shop.children("poddisruptionbudgets")) == 1
