"""Rights that the operator loses while it runs: it says which one is missing, and goes on when it has it again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster.cluster import ROOT, Cluster
from tests.e2e.cluster.processes import run
from tests.e2e.operator.conftest import PATIENCE_S, Operator, Shop, eventually
from tests.e2e.operator.steps import begun, look, served
from tests.support.qdrant import QdrantServer

pytestmark = pytest.mark.programs

ACCOUNT = "sightline-operator"


class Rights:
    """What the chart gives the operator in one namespace, right by right."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        rendered = run(
            cluster.programs["helm"],
            "template",
            "sightline",
            str(ROOT / "charts" / "sightline"),
            f"--namespace={namespace}",
            f"--kube-version={json.loads(cluster.kubectl('get', '--raw=/version'))['gitVersion']}",
            f"--set=operator.watchNamespaces={{{namespace}}}",
            "--show-only=templates/operator-rbac.yaml",
        )
        self._objects = list(yaml.safe_load_all(rendered))
        self.give_back()

    def give_back(self) -> None:
        """All of them."""
        self._cluster.apply(*self._objects)

    def take(self, resource: str, verb: str) -> None:
        """One."""
        taken = [self._without(resource, verb, body) for body in self._objects]
        self._cluster.apply(*taken)

    def kubeconfig(self, path: Path) -> Path:
        """For who has these rights and no others."""
        config = yaml.safe_load(self._cluster.kubeconfig.read_text())
        token = self._cluster.kubectl("create", "token", ACCOUNT, f"--namespace={self._namespace}").strip()
        config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
        path.write_text(yaml.safe_dump(config))
        return path

    @staticmethod
    def _without(resource: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        if body["kind"] != "Role":
            return body
        single = [{**rule, "resources": [one]} for rule in body["rules"] for one in rule["resources"]]
        for rule in single:
            if rule["resources"] == [resource]:
                rule["verbs"] = [one for one in rule["verbs"] if one != verb]
        return {**body, "rules": [rule for rule in single if rule["verbs"]]}


class Accounted(Operator):
    """An operator with those rights, whose log can be read."""

    def __init__(self, cluster: Cluster, qdrant: QdrantServer, namespace: str, folder: Path, rights: Rights) -> None:
        super().__init__(cluster, qdrant, namespace, "one")
        self._environment["KUBECONFIG"] = str(rights.kubeconfig(folder / "kubeconfig"))
        self._log = folder / "log"

    def start(self) -> None:
        """Returns at once."""
        command = [sys.executable, "-m", "sightline", "operator", "run"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)

    def resync_never(self) -> None:
        """Before it starts: only watches tell it of anything."""
        self._environment["OPERATOR_RESYNC_S"] = "3600"

    def said(self, words: str) -> bool:
        """Whether the log has these words."""
        return words in self._log.read_text()

    def runs(self) -> bool:
        """Whether it has not ended."""
        assert self._process
        return self._process.poll() is None

    def ended(self) -> int:
        """Waits for its end; its exit status."""
        assert self._process
        return self._process.wait(PATIENCE_S)


@pytest.fixture
def rights(plane: Cluster, namespace: str) -> Rights:
    """As the chart gives them."""
    return Rights(plane, namespace)


@pytest.fixture
def operator(
    plane: Cluster, qdrant: QdrantServer, namespace: str, tmp_path: Path, rights: Rights
) -> Iterator[Accounted]:
    """An operator that has not been started."""
    accounted = Accounted(plane, qdrant, namespace, tmp_path, rights)
    yield accounted
    if accounted._process and accounted.runs():
        accounted.end(signal.SIGKILL)


def message(shop: Shop, type_: str) -> str:
    return next(str(one["message"]) for one in shop.get()["status"]["conditions"] if one["type"] == type_)


def warnings(shop: Shop) -> dict[str, str]:
    """The Events that warn, by their reasons."""
    return {one["reason"]: one["message"] for one in shop.children("events") if one["type"] == "Warning"}


def edit_the_service(shop: Shop) -> None:
    patch = '--patch={"spec":{"ports":[{"name":"http","port":81}]}}'
    shop.kubectl("patch", "service/shop", "--type=merge", patch)


def delete_the_deployment(shop: Shop) -> None:
    shop.kubectl("delete", "deployment", "--all")


LOST: list[tuple[str, str, Callable[[Shop], None]]] = [
    ("services", "patch", edit_the_service),
    ("deployments", "create", delete_the_deployment),
    ("deployments", "list", look),
    ("poddisruptionbudgets", "list", look),
]
"""Rights, and what makes the operator need them."""


def test_a_right_that_is_missing_is_named_in_a_condition_until_it_is_back(
    operator: Accounted, rights: Rights, shop: Shop
):
    """One after the other, of an index that serves; the same process goes on each time."""
    operator.start()
    shop.apply()
    generation = served(shop)
    for resource, verb, need in LOST:
        rights.take(resource, verb)
        need(shop)
        eventually(lambda: shop.condition("Degraded"), "True Forbidden")
        assert f'cannot {verb} resource "{resource}"' in message(shop, "Degraded")
        rights.give_back()
        eventually(lambda: shop.condition("Degraded"), "False AsExpected")
        eventually(lambda: shop.condition("Ready"), "True Serving")
        assert shop.serves() == generation
    assert [port["port"] for port in shop.children("services")[0]["spec"]["ports"]] == [80]
    assert len(shop.children("deployments")) == 1
    assert operator.runs()


def test_who_may_not_look_says_that_nothing_is_known(operator: Accounted, rights: Rights, shop: Shop):
    """Unknown, rather than what was true when it could be seen."""
    operator.start()
    shop.apply()
    served(shop)
    rights.take("jobs", "list")
    look(shop)
    eventually(lambda: shop.condition("Ready"), "Unknown Forbidden")
    assert 'cannot list resource "jobs"' in message(shop, "Ready")
    version = shop.get()["metadata"]["resourceVersion"]
    refusals = "a visit failed"
    eventually(lambda: operator._log.read_text().count(refusals) > 3, True)
    assert shop.get()["metadata"]["resourceVersion"] == version, "the same refusal is written again and again"
    rights.give_back()
    eventually(lambda: shop.condition("Ready"), "True Serving")


def test_a_rollout_waits_for_the_right_to_its_job(operator: Accounted, rights: Rights, shop: Shop):
    """And goes on with the generation that it had begun."""
    rights.take("jobs", "create")
    operator.start()
    shop.apply()
    eventually(lambda: shop.condition("Degraded"), "True Forbidden")
    assert 'cannot create resource "jobs"' in message(shop, "Degraded")
    generation = begun(shop)
    rights.give_back()
    eventually(lambda: len(shop.children("jobs")), 1)
    assert served(shop) == generation
    assert len(shop.children("jobs")) == 1
    assert operator.runs()


def test_without_the_right_to_the_status_an_event_says_so(operator: Accounted, rights: Rights, shop: Shop):
    """Nothing is begun before it is written down, so nothing at all is done."""
    rights.take("imageindexes/status", "patch")
    operator.start()
    shop.apply()
    eventually(lambda: "StatusNotWritten" in warnings(shop), True)
    assert 'cannot patch resource "imageindexes/status"' in warnings(shop)["StatusNotWritten"]
    assert shop.children("jobs") == []
    rights.give_back()
    served(shop)
    assert operator.runs()


@pytest.mark.parametrize("resource", ["imageindexes", "deployments"])
def test_a_watch_that_is_refused_is_taken_up_when_the_right_is_back(
    operator: Accounted, rights: Rights, shop: Shop, resource: str
):
    """Kubernetes asks for the right to watch at the beginning only, so it is missing from the start here."""
    operator.resync_never()
    rights.take(resource, "watch")
    operator.start()
    shop.apply()
    eventually(lambda: operator.said(f'cannot watch resource \\"{resource}\\"') or operator.said("403"), True)
    rights.give_back()
    served(shop)
    (deployment,) = shop.children("deployments")
    shop.kubectl("scale", f"deployment/{deployment['metadata']['name']}", "--replicas=3")
    eventually(lambda: shop.children("deployments")[0]["spec"]["replicas"], 1)
    assert operator.runs()


def test_without_the_right_to_the_lease_it_ends_and_then_waits(operator: Accounted, rights: Rights, shop: Shop):
    """Somebody else may hold it by now, so who can't renew it must not go on."""
    operator.start()
    eventually(lambda: operator.probe("/readyz"), "leading")
    rights.take("leases", "update")
    assert operator.ended() == 75
    assert operator.said("the lease can't be had")
    assert operator.said("leases")
    operator.start()
    eventually(lambda: operator.probe("/readyz"), "waiting for the lease")
    rights.give_back()
    eventually(lambda: operator.probe("/readyz"), "leading")
    shop.apply()
    begun(shop)
