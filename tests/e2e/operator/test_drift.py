"""Children that are deleted or edited on a real API server, with the operator there and while it is away."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from imageindex_operator.api import KINDS
from imageindex_operator.reconcile import CHILDREN

from tests.e2e.cluster.calls import MERGE, STRATEGIC
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.operator.conftest import Operator, Shop, established, eventually, visited

pytestmark = pytest.mark.programs

Start = Callable[..., Operator]

SERVING = {
    "indexing": {"schedule": "0 3 29 2 *"},
    "serving": {"autoscaling": {"class": "hpa", "min": 1, "max": 5}},
}
"""A spec that brings forth every kind of child that is there while a generation serves."""

ROLLOUT = {
    "source": {"s3": {"url": "s3://pictures/2027"}},
    "indexing": {"shards": 2, "parallelism": 1},
    "rollout": {"verification": {"canaryQueries": [{"query": "a red car", "expect": ["car.jpg"]}]}},
}
"""One that brings forth those that are there while a generation is being built."""

EDITS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "cronjobs": [({"spec": {"schedule": "1 1 1 1 1", "suspend": True}}, MERGE)],
    "deployments": [
        ({"spec": {"template": {"spec": {"containers": [{"name": "sightline", "image": "other"}]}}}}, STRATEGIC),
        ({"spec": {"template": {"spec": {"containers": [{"name": "sightline", "command": ["sleep"]}]}}}}, STRATEGIC),
    ],
    "services": [
        ({"spec": {"ports": [{"name": "http", "port": 81}]}}, MERGE),
        ({"spec": {"selector": {"sightline.dev/serving": "nothing"}}}, MERGE),
        ({"metadata": {"labels": {"sightline.dev/imageindex": None}}}, MERGE),
        ({"spec": {"type": "ExternalName", "externalName": "example.com"}}, MERGE),
    ],
    "poddisruptionbudgets": [
        ({"spec": {"maxUnavailable": 7}}, MERGE),
        ({"spec": {"maxUnavailable": None, "minAvailable": 1}}, MERGE),
    ],
    "horizontalpodautoscalers": [({"spec": {"maxReplicas": 99}}, MERGE)],
    "jobs": [({"spec": {"parallelism": 2}}, MERGE), ({"spec": {"suspend": True}}, MERGE)],
    "configmaps": [({"metadata": {"labels": {"app.kubernetes.io/component": "other"}}}, MERGE)],
    "scaledobjects": [({"spec": {"maxReplicaCount": 99}}, MERGE)],
}
"""What somebody changes by hand. A ConfigMap of canaries is immutable: its data can't be changed."""

GIVEN = {"services": {"clusterIP", "clusterIPs", "externalName"}, "jobs": {"selector", "template"}}
"""What is not ours: addresses, what somebody put beside our fields, and labels that the cluster makes up anew."""


def known(shop: Shop, kind: str) -> dict[str, dict[str, Any]]:
    """The children of a kind by name: what they say that is theirs."""
    wanted = {}
    for body in shop.children(kind):
        if "sightline.dev/imageindex" not in body["metadata"].get("labels", {}):
            continue
        said = body.get("spec", body.get("data", {}))
        ours = {name: part for name, part in said.items() if name not in GIVEN.get(kind, ())}
        wanted[body["metadata"]["name"]] = {"labels": body["metadata"]["labels"], **ours}
    return wanted


def edit(shop: Shop, kind: str) -> None:
    """Makes each edit to the newest child of a kind, and waits until what was edited is as it was."""
    for patch, how in EDITS[kind]:
        before = known(shop, kind)
        live = max(shop.children(kind), key=lambda body: body["metadata"]["creationTimestamp"])
        name = live["metadata"]["name"]
        edited = shop.patch(kind, name, patch, how)
        assert edited["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"], "the edit changed nothing"
        shop.ring()
        eventually(lambda kind=kind: known(shop, kind), before)


def delete(shop: Shop, kind: str, name: str = "") -> None:
    """Deletes the only child of a kind, or that of a name, and waits until another is there that says the same."""
    there = known(shop, kind)
    assert name or len(there) == 1
    name = name or next(iter(there))
    before, old = there[name], uid(shop, kind, name)
    shop.delete(kind, name)
    shop.ring()
    eventually(lambda: uid(shop, kind, name) not in {"", old}, True)
    assert known(shop, kind)[name] == before


def uid(shop: Shop, kind: str, name: str) -> str:
    """Which one it is; "" while there is none."""
    return next((one["metadata"]["uid"] for one in shop.children(kind) if one["metadata"]["name"] == name), "")


@pytest.fixture(scope="session")
def keda(plane: Cluster) -> Iterator[None]:
    """The kind ScaledObject, as far as the API server needs to know it; nobody acts on it."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything}}}
    names = {"kind": "ScaledObject", "plural": "scaledobjects", "singular": "scaledobject"}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": schema}
    spec = {"group": "keda.sh", "scope": "Namespaced", "names": names, "versions": [version]}
    about = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    crd = {**about, "metadata": {"name": "scaledobjects.keda.sh"}, "spec": spec}
    plane.apply(crd)
    eventually(lambda: established(plane, "scaledobjects.keda.sh"), True)
    yield
    plane.kubectl("delete", "crd", "scaledobjects.keda.sh")


def test_no_kind_of_child_is_forgotten_here():
    """Whoever adds a kind says what an edit by hand of it is."""
    assert set(EDITS) == {KINDS[kind].plural for kind in (*CHILDREN, "ScaledObject")}


def test_a_child_deleted_while_the_operator_is_away_is_there_again_when_it_is_back(operators: Start, shop: Shop):
    """Ended in order, so that it had nothing under way; the alias is never touched."""
    operator = operators()
    first = shop.bring_up()
    assert operator.end() == 0
    before = {kind: known(shop, kind) for kind in ("services", "deployments", "poddisruptionbudgets")}
    for kind, found in before.items():
        for name in found:
            shop.delete(kind, name)
    eventually(lambda: [shop.children(kind) for kind in before], [[], [], []])
    operator.start()
    eventually(lambda: {kind: known(shop, kind) for kind in before}, before)
    eventually(lambda: shop.condition("Ready"), "True Serving")
    assert shop.served() == [first]


def test_a_child_killed_together_with_the_operator_is_there_again_when_it_is_back(operators: Start, shop: Shop):
    """Killed while it hears of the deletion, so in the middle of whatever it does about it."""
    operator = operators()
    first = shop.bring_up()
    before = {kind: known(shop, kind) for kind in ("services", "deployments", "poddisruptionbudgets")}
    for kind, found in before.items():
        for name in found:
            shop.delete(kind, name)
    assert operator.end(signal.SIGKILL) == -signal.SIGKILL
    operator.start()
    eventually(lambda: {kind: known(shop, kind) for kind in before}, before)
    eventually(lambda: shop.condition("Ready"), "True Serving")
    assert shop.served() == [first]


@pytest.mark.usefixtures("keda")
def test_each_kind_of_child_that_is_deleted_or_edited_by_hand_is_put_back(operators: Start, shop: Shop):
    """Those that are there while it serves. The alias stays, and nothing is indexed again."""
    operator = operators("one", OPERATOR_PROMETHEUS_URL="http://prometheus:9090")
    first = shop.bring_up(**SERVING)
    for kind in ("cronjobs", "deployments", "services", "poddisruptionbudgets", "horizontalpodautoscalers"):
        edit(shop, kind)
        delete(shop, kind)
    shop.apply(**{**SERVING, "serving": {"autoscaling": {"class": "keda", "min": 1, "max": 5}}})
    eventually(lambda: len(shop.children("scaledobjects")), 1)
    eventually(lambda: shop.children("horizontalpodautoscalers"), [])
    edit(shop, "scaledobjects")
    delete(shop, "scaledobjects")
    shop.apply(**{**SERVING, "serving": {}})
    eventually(lambda: shop.children("scaledobjects"), [])
    eventually(lambda: shop.condition("Ready"), "True Serving")
    assert shop.served() == [first]
    assert len(shop.children("jobs")) == 1
    assert operator.visits("failed") == 0


def test_each_kind_of_child_of_a_rollout_that_is_deleted_or_edited_by_hand_is_put_back(operators: Start, shop: Shop):
    """Jobs and what they read, while they run: the rollout goes on with the same generation."""
    operator = operators()
    first = shop.bring_up()
    second = shop.begin_rollout(**ROLLOUT)
    edit(shop, "jobs")
    delete(shop, "jobs", shop.jobs("index", second)[0]["metadata"]["name"])
    shop.begin(second)
    for _ in range(2):  # shards, one after the other
        shop.end_pods("index")
    eventually(lambda: len(shop.jobs("finish", second)), 1)
    edit(shop, "configmaps")
    delete(shop, "configmaps")
    delete(shop, "jobs", shop.jobs("finish", second)[0]["metadata"]["name"])
    assert shop.pending() == second
    shop.finish(second)
    list(visited(operator, shop, 1))
    eventually(shop.served, [first, second])


def test_an_autoscalers_replicas_are_not_reverted_in_fifty_visits_and_without_its_spec_it_goes(
    operators: Start, shop: Shop
):
    """Kubernetes' own autoscaler sets them; the Deployment's spec is not written to once."""
    operator = operators()
    shop.bring_up(serving={"autoscaling": {"class": "hpa", "min": 3, "max": 5}})
    eventually(lambda: shop.child("deployments")["spec"]["replicas"], 3)  # it looks every 15 s
    before = shop.child("deployments")["metadata"]["generation"]
    for _ in visited(operator, shop, 25):
        assert shop.child("deployments")["spec"]["replicas"] == 3
    name = shop.child("deployments")["metadata"]["name"]
    shop.patch("deployments", name, {"spec": {"replicas": 4}}, subresource="scale")
    for _ in visited(operator, shop, 25):
        assert shop.child("deployments")["spec"]["replicas"] == 4
    assert shop.child("deployments")["metadata"]["generation"] == before + 1
    shop.apply(serving={"replicas": 2})
    eventually(lambda: shop.children("horizontalpodautoscalers"), [])
    eventually(lambda: shop.child("deployments")["spec"]["replicas"], 2)


def test_replicas_stay_as_many_when_an_autoscaler_takes_over(operators: Start, shop: Shop):
    """Server-side apply would set them to 1 when nobody applies them any more."""
    operator = operators()
    shop.bring_up(serving={"replicas": 3})
    shop.apply(serving={"autoscaling": {"class": "hpa", "min": 2, "max": 5}})
    eventually(lambda: len(shop.children("horizontalpodautoscalers")), 1)
    for _ in visited(operator, shop, 3):
        assert shop.child("deployments")["spec"]["replicas"] == 3
