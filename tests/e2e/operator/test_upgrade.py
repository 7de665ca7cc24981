"""From a release before to this one, with live objects: nothing is indexed again and no replica is replaced."""

from __future__ import annotations

import copy
import json
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from imageindex_operator.api import KINDS
from imageindex_operator.names import GENERATION, KIND, OWNER
from imageindex_operator.reconcile import CHILDREN

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.operator.conftest import Operator, Shop, eventually
from tests.e2e.operator.released import Placed, Release, releases
from tests.e2e.operator.steps import look, served
from tests.operator.world import CRD
from tests.support.qdrant import QdrantServer

pytestmark = pytest.mark.programs

RELEASES = releases()
OLDER = "The definition of ImageIndex is older than this operator"
LASTING = ("activeCollection", "pendingCollection", "previousCollection", "specHash", "revisions", "lastPromotionTime")
"""What the status remembers, and no look at the world could find out."""


class Live:
    """An ImageIndex of a release that runs, and what has become of it since."""

    def __init__(self, shop: Shop, release: Release) -> None:
        self.shop = shop
        self.release = release
        self._status = shop.get()["status"]
        self._children = self._found()

    def harm(self) -> list[str]:
        """What is gone, new or changed, of the children and of what the status remembers."""
        now, status = self._found(), self.shop.get()["status"]
        names = sorted({*self._children, *now})
        harm = [name for name in names if self._children.get(name) != now.get(name)]
        harm += [field for field in LASTING if self._status.get(field) != status.get(field)]
        serves = self.shop.serves()
        return harm if serves == list(self.release.generations)[-1] else [*harm, f"the alias, which is at {serves}"]

    def building(self) -> list[dict[str, Any]]:
        """The Jobs of the generation that was being built."""
        jobs = self.shop.children("jobs")
        return [job for job in jobs if job["metadata"]["labels"][GENERATION] == self.release.pending]

    def _found(self) -> dict[str, Any]:
        """Children by kind and name: who they are, what they are labelled and what they are to be."""
        return {
            f"{kind} {body['metadata']['name']}": (
                body["metadata"]["uid"],
                body["metadata"].get("labels"),
                body["metadata"].get("ownerReferences"),
                body["spec"],
            )
            for kind in CHILDREN
            if kind != "ConfigMap"
            for body in self.shop.children(KINDS[kind].plural)
            if any(one["kind"] == KIND for one in body["metadata"].get("ownerReferences", []))
        }


def established(plane: Cluster, definition: dict[str, Any]) -> None:
    """Puts a definition there, whole: what it does not have goes."""
    plane.kubectl("replace", "--filename=-", stdin=yaml.safe_dump(definition))
    plane.kubectl("wait", "--for=condition=Established", "crd/imageindexes.sightline.dev")


def present() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(CRD.read_text())
    return found


def without(definition: dict[str, Any], *path: str) -> dict[str, Any]:
    """A definition whose schema lacks a field."""
    lacking = copy.deepcopy(definition)
    part = lacking["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in path[:-1]:
        part = part["properties"][name]
    del part["properties"][path[-1]]
    return lacking


def writes(operator: Operator) -> dict[str, float]:
    """What the operator has written, by kind."""
    found = re.findall(
        r'^sightline_operator_writes_total\{.*kind="(\w+)".*\} (\S+)$', operator.probe("/metrics"), re.MULTILINE
    )
    return {kind: float(count) for kind, count in found}


def visited(operator: Operator, shop: Shop, times: int = 3) -> None:
    """Has the operator look again, so often."""
    eventually(lambda: operator.probe("/readyz"), "leading")
    for _ in range(times):
        before = operator.visits()
        look(shop)
        eventually(lambda before=before: operator.visits() > before, True)


@pytest.fixture
def definition(plane: Cluster) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Puts definitions there; the present one in the end."""
    yield lambda wanted: established(plane, wanted)
    established(plane, present())


@pytest.fixture(params=RELEASES, ids=lambda release: release.version)
def live(
    request: pytest.FixtureRequest,
    definition: Callable[[dict[str, Any]], None],
    shop: Shop,
    qdrant: QdrantServer,
) -> Live:
    """What a release left, under its own definition."""
    release: Release = request.param
    definition(release.crd)
    release.restore(shop, qdrant)
    return Live(shop, release)


@pytest.fixture
def operator(plane: Cluster, qdrant: QdrantServer, namespace: str) -> Iterator[Placed]:
    """The present operator, not started yet."""
    placed = Placed(plane, qdrant, namespace, "one")
    yield placed
    if placed._process and placed._process.poll() is None:
        placed.end(signal.SIGKILL)


def test_an_upgrade_leaves_what_serves_and_what_is_being_built(
    live: Live, definition: Callable[[dict[str, Any]], None], operator: Placed
):
    """First the definition, then the operator, as the chart does it; then the rollout goes on to its end."""
    definition(present())
    operator.start()
    visited(operator, live.shop)
    assert live.harm() == []
    assert {**writes(operator), KIND: 0.0} == {KIND: 0.0}
    assert live.shop.condition("Ready") == "True Serving"
    assert served(live.shop, "ViT-H-14") == live.release.pending


def test_an_operator_that_is_newer_than_the_definition_does_no_harm_and_says_so(
    live: Live, definition: Callable[[dict[str, Any]], None], operator: Placed
):
    """What it can't write down it does not begin. With the definition it goes on at once, and new fields work."""
    older = without(without(live.release.crd, "spec", "rollout", "generation"), "status", "readyReplicas")
    older["spec"]["versions"][0].pop("selectableFields", None)
    definition(older)
    operator.start()
    eventually(lambda: live.shop.condition("Degraded"), "True Refused")
    assert OLDER in next(
        one["message"] for one in live.shop.get()["status"]["conditions"] if one["reason"] == "Refused"
    )
    assert live.harm() == []
    definition(present())
    first = next(iter(live.release.generations))
    pinned = {"spec": {"rollout": {"generation": first}}}
    live.shop.kubectl("patch", "imageindex/shop", "--type=merge", f"--patch={json.dumps(pinned)}")
    eventually(live.shop.serves, first)
    eventually(lambda: live.shop.condition("Promoted"), "True Pinned")


def test_a_definition_without_an_optional_field_is_upgraded_with_its_operator(
    live: Live, definition: Callable[[dict[str, Any]], None], operator: Placed
):
    """As from a release before the field: objects keep what they had, and the field is there to be used."""
    definition(without(live.release.crd, "spec", "indexing", "activeDeadlineSeconds"))
    definition(present())
    operator.start()
    visited(operator, live.shop)
    assert live.harm() == []
    changed = {"spec": {"indexing": {"activeDeadlineSeconds": 7200}}}
    live.shop.kubectl("patch", "imageindex/shop", "--type=merge", f"--patch={json.dumps(changed)}")
    eventually(lambda: [job["spec"].get("activeDeadlineSeconds") for job in live.building()], [7200])
    assert live.shop.pending() == live.release.pending


@pytest.mark.parametrize(
    "change",
    [
        f"import imageindex_operator.names as names; names.OWNER = {OWNER + '-name'!r}",
        "import imageindex_operator.names as names; d = names.digest; names.digest = lambda v, n=10: d([v, 2], n)",
        "import imageindex_operator.names as names; names.MANAGER = 'sightline'",
    ],
    ids=["another label", "another hash", "another manager"],
)
def test_an_upgrade_that_does_harm_is_noticed(
    live: Live, definition: Callable[[dict[str, Any]], None], operator: Placed, change: str
):
    """Changes that look harmless in the source, and that every test of a fresh cluster passes."""
    definition(present())
    operator.change = change
    operator.start()
    eventually(lambda: live.harm() != [], True)
