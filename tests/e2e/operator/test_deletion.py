"""Namespaces and resources that are deleted on a real API server, and what becomes of the data."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.operator.conftest import Operator, Shop, eventually
from tests.support.qdrant import QdrantServer

pytestmark = pytest.mark.programs

Start = Callable[..., Operator]
ELSEWHERE = {"OPERATOR_NAMESPACE": "default"}
"""The operator's Lease is not in the namespace that is deleted."""


def delete_namespace(plane: Cluster, name: str) -> None:
    """Returns at once."""
    plane.calls.delete(f"/api/v1/namespaces/{name}")


def is_gone(plane: Cluster, name: str) -> bool:
    return plane.calls.get(f"/api/v1/namespaces/{name}") is None


def test_a_namespace_deleted_with_qdrant_down_is_gone_and_retain_keeps_the_data(
    operators: Start, shop: Shop, plane: Cluster, qdrant: QdrantServer
):
    """In mid-upgrade: the policy asks for no finalizer, and the Job is not left to wait for pods that can't come."""
    operator = operators("one", **ELSEWHERE)
    first = shop.bring_up(deletionPolicy="Retain")
    shop.begin_rollout(source={"s3": {"url": "s3://pictures/2027"}})
    qdrant.stop()
    delete_namespace(plane, shop.namespace)
    eventually(lambda: is_gone(plane, shop.namespace), True)
    qdrant.start()
    assert shop.generations() == [first]
    assert shop.served() == [first]
    assert operator.probe("/livez") == "alive"


def test_a_namespace_deleted_with_qdrant_down_is_gone_at_the_deadline_and_says_what_is_left(
    operators: Start, shop: Shop, plane: Cluster, qdrant: QdrantServer
):
    """Policy Delete can't be kept then, and a namespace must not hang for it. The deadline is seconds here."""
    operator = operators("one", DELETION_S="5", **ELSEWHERE)
    first = shop.bring_up(deletionPolicy="Delete")
    eventually(lambda: shop.get()["metadata"].get("finalizers"), ["sightline.dev/cleanup"])
    qdrant.stop()
    delete_namespace(plane, shop.namespace)
    eventually(lambda: is_gone(plane, shop.namespace), True)
    qdrant.start()
    assert shop.generations() == [first]
    assert operator.probe("/livez") == "alive"


def test_a_namespace_deleted_with_qdrant_back_in_time_takes_its_data_with_it(
    operators: Start, shop: Shop, plane: Cluster, qdrant: QdrantServer
):
    """Policy Delete: a snapshot first, then alias and generations, then the namespace."""
    operators("one", **ELSEWHERE)
    first = shop.bring_up(deletionPolicy="Delete")
    eventually(lambda: shop.get()["metadata"].get("finalizers"), ["sightline.dev/cleanup"])
    qdrant.stop()
    delete_namespace(plane, shop.namespace)
    eventually(lambda: shop.condition("Ready"), "False Deleting")
    qdrant.start()
    eventually(lambda: is_gone(plane, shop.namespace), True)
    assert shop.generations() == []
    assert shop.served() == [first, None]
    assert len(list((qdrant.data / "snapshots" / f"sightline-shop-{first}").glob("*.snapshot"))) == 1


def test_an_annotation_lets_go_of_a_resource_whose_data_can_not_be_deleted(
    operators: Start, shop: Shop, qdrant: QdrantServer
):
    """The documented way out; Delete alone would wait for its deadline."""
    operators()
    shop.bring_up(deletionPolicy="Delete")
    eventually(lambda: shop.get()["metadata"].get("finalizers"), ["sightline.dev/cleanup"])
    qdrant.stop()
    shop.delete("imageindexes", "shop")
    assert len(shop.children("imageindexes")) == 1
    shop.annotate(abandon_data="true")
    eventually(lambda: shop.children("imageindexes"), [])
