"""Nodes that fail, are emptied or are not for everybody: replicas find their way to others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.operator.conftest import TOLERATION, Operator, Shop, eventually

pytestmark = pytest.mark.programs

FLEET = {"fleet": "cards"}
TAINT = "team=vision:NoSchedule"
AT_ONCE = [
    {"key": f"node.kubernetes.io/{trouble}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
    for trouble in ("unreachable", "not-ready")
]


def serving(*tolerations: dict[str, Any]) -> dict[str, Any]:
    """A replica with a GPU, on nodes of the fleet alone, that waits for no node that is lost."""
    spec = {"nodeSelector": FLEET, "tolerations": [TOLERATION, *AT_ONCE, *tolerations]}
    return {"gpu": 1, "podTemplate": {"spec": spec}}


def node_of_ready_pod(shop: Shop) -> str | None:
    """Where the replica runs that is ready."""
    for pod in shop.children("pods"):
        conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
        if conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
            return str(pod["spec"]["nodeName"])
    return None


def test_replicas_go_where_their_tolerations_let_them_and_leave_nodes_that_fail(
    operators: Callable[..., Operator], shop: Shop, plane: Cluster
):
    """A toleration is missing, then added; a node goes silent, one is drained, one tainted. The alias never moves."""
    one, two = plane.add_simulated_nodes(2, gpus=1, name="cards", labels=FLEET)
    for node in (one, two):
        plane.kubectl("taint", "node", node, TAINT)
    operators()
    shop.apply(serving=serving())
    eventually(lambda: len(shop.pending()), 27)
    first = shop.pending()
    shop.build(first)
    shop.kubectl("annotate", "imageindex/shop", "test/look=1", "--overwrite")
    eventually(lambda: shop.condition("Promoted"), "True Serving")
    assert shop.condition("Ready").startswith("False")
    assert node_of_ready_pod(shop) is None

    shop.apply(serving=serving({"key": "team", "operator": "Equal", "value": "vision", "effect": "NoSchedule"}))
    eventually(lambda: shop.condition("Ready"), "True Serving")
    home = node_of_ready_pod(shop)
    other = two if home == one else one

    plane.fail_node(str(home))
    eventually(lambda: node_of_ready_pod(shop), other)
    plane.recover_node(str(home))

    plane.kubectl("drain", other, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
    eventually(lambda: node_of_ready_pod(shop), home)
    plane.kubectl("uncordon", other)

    plane.kubectl("taint", "node", str(home), "broken=yes:NoExecute")
    eventually(lambda: node_of_ready_pod(shop), other)
    eventually(lambda: shop.condition("Ready"), "True Serving")
    assert shop.serves() == first
