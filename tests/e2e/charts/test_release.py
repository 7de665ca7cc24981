"""The chart on a real API server: what it admits, what an upgrade changes, what stays when the release goes.

There is no node, so no image is needed: pods are admitted and wait. The operator runs here, with the rights that the
chart gives it and nothing more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from imageindex_operator.api import KINDS
from imageindex_operator.names import MANAGER
from imageindex_operator.reconcile import CHILDREN

from tests.e2e.cluster.cluster import ROOT, Cluster
from tests.support.qdrant import QdrantServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.programs

CHART = ROOT / "charts" / "sightline"
NAMESPACE = "search"
PATIENCE_S = 120
VALUES: dict[str, Any] = {"qdrant": {"storage": {"enabled": False}}}
INDEX: dict[str, Any] = {
    "apiVersion": "sightline.dev/v1alpha1",
    "kind": "ImageIndex",
    "metadata": {"name": "pictures", "namespace": NAMESPACE},
    "spec": {
        "source": {"http": {"url": "https://pictures.example.com/list.csv"}},
        "model": {"name": "sightline-small", "pretrained": ""},
    },
}


class Release:
    """One release of the chart in a namespace that admits restricted pods alone."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def helm(self, *words: str, values: dict[str, Any] | None = None) -> str:
        """What Helm says; what it complains of when it fails."""
        where = (f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={NAMESPACE}")
        done = subprocess.run(
            [self.cluster.programs["helm"], *words, *where],
            input=json.dumps(values or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, **values: Any) -> str:
        """Installs or upgrades; the notes."""
        return self.helm("upgrade", "--install", "sightline", str(CHART), "--values", "-", values=VALUES | values)

    def secret(self) -> dict[str, str]:
        """The stores' Secret."""
        found = self.cluster.get("secret", "sightline-stores", f"--namespace={NAMESPACE}")
        return dict(found["data"])

    def generations(self) -> dict[str, int]:
        """How often the spec of each workload has changed."""
        found = self.cluster.get("deployments,statefulsets", f"--namespace={NAMESPACE}")["items"]
        return {body["metadata"]["name"]: body["metadata"]["generation"] for body in found}

    def parts(self) -> set[str]:
        """The components that have pods."""
        found = self.cluster.get("pods", f"--namespace={NAMESPACE}")["items"]
        return {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in found}

    def may(self, verb: str, kind: tuple[str, str], namespace: str, *, user: str = "", name: str = "") -> bool:
        """Whether somebody, or else the operator, may do that, as the API server says."""
        group, plural = kind
        where = {"namespace": namespace, **({"name": name} if name else {})}
        who = {"user": user or f"system:serviceaccount:{NAMESPACE}:sightline-operator"}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**who, "resourceAttributes": {"verb": verb, "group": group, "resource": plural, **where}},
        }
        told = self.cluster.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(review))
        return bool(json.loads(told)["status"]["allowed"])


def group_of(kind: str) -> tuple[str, str]:
    api_version, plural = KINDS[kind].api_version, KINDS[kind].plural
    return (api_version.partition("/")[0] if "/" in api_version else "", plural)


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    """The release with hardly a value set, as anybody begins."""
    with Cluster(containers=False, purpose="chart") as cluster:
        cluster.kubectl("create", "namespace", NAMESPACE)
        cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        made = Release(cluster)
        notes = made.install()
        assert "port-forward service/sightline-api" in notes
        yield made


def test_the_pods_of_all_parts_are_admitted(release: Release):
    """Under the restricted standard, which the namespace enforces."""
    eventually(lambda: sorted(release.parts()), ["api", "operator", "postgresql", "qdrant", "redis"])


def test_an_upgrade_keeps_passwords_and_stores(release: Release):
    """Only what changed is made anew."""
    secret, before = release.secret(), release.generations()
    release.install(logLevel="debug")
    assert release.secret() == secret
    changed = {name for name, generation in release.generations().items() if generation != before[name]}
    assert changed == {"sightline-api", "sightline-operator"}


def test_an_upgrade_without_a_change_changes_nothing(release: Release):
    before = release.generations()
    release.install(logLevel="debug")
    assert release.generations() == before


def test_what_people_own_outlives_the_release(release: Release):
    """ImageIndexes, their definition and the passwords; the same release finds them again."""
    release.cluster.apply(INDEX)
    secret = release.secret()
    release.helm("uninstall", "sightline")
    assert release.secret() == secret
    kept = release.cluster.get("imageindex", "pictures", f"--namespace={NAMESPACE}")
    assert "deletionTimestamp" not in kept["metadata"]
    release.install()
    assert release.secret() == secret
    release.cluster.kubectl("delete", "imageindex", "pictures", f"--namespace={NAMESPACE}")


def test_the_operator_has_the_rights_to_its_work_and_no_others(release: Release):
    """As the API server sees it, in its own and in any other namespace."""
    for kind in CHILDREN:
        for verb in ("get", "list", "watch", "create", "patch", "delete"):
            assert release.may(verb, group_of(kind), "default"), (verb, kind)
    secrets, leases = group_of("Secret"), group_of("Lease")
    assert release.may("get", secrets, "default", name="sightline-stores")
    assert not release.may("get", secrets, "default", name="others")
    assert not release.may("list", secrets, "default")
    assert release.may("update", leases, NAMESPACE, name="sightline-operator")
    assert not release.may("update", leases, "default", name="sightline-operator")
    assert not release.may("create", group_of("Pod"), "default")
    assert not release.may("create", ("rbac.authorization.k8s.io", "roles"), "default")


@pytest.mark.parametrize(("role", "may", "may_not"), [("view", "list", "create"), ("edit", "create", "approve")])
def test_people_may_do_with_imageindexes_what_they_may_do_there(release: Release, role: str, may: str, may_not: str):
    """The chart's ClusterRoles become part of Kubernetes' own."""
    binding = ("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}-person")
    release.cluster.kubectl(*binding, f"--namespace={NAMESPACE}")
    kind, user = group_of("ImageIndex"), f"{role}-person"
    eventually(lambda: release.may(may, kind, NAMESPACE, user=user), True)
    assert not release.may(may_not, kind, NAMESPACE, user=user)


@pytest.mark.parametrize("namespaces", [[], [NAMESPACE]], ids=["everywhere", "namespaced"])
def test_the_operator_works_with_the_rights_of_the_chart(release: Release, tmp_path: Path, namespaces: list[str]):
    """As its own account: it leads, sees an ImageIndex, begins a Job, says so, and was refused nothing."""
    cluster, told = release.cluster, tmp_path / "log"
    release.install(operator={"watchNamespaces": namespaces})
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "sightline-operator", f"--namespace={NAMESPACE}").strip()
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    qdrant = QdrantServer(tmp_path / "qdrant")
    qdrant.start()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "operator")]),
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "QDRANT_URL": f"http://127.0.0.1:{qdrant.port}",
        "OPERATOR_NAMESPACE": NAMESPACE,
        "OPERATOR_NAMESPACES": ",".join(namespaces),
        "OPERATOR_PORT": "0",
    }
    with told.open("wb") as log:
        command = [sys.executable, "-m", "sightline", "operator", "run"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    where = f"--namespace={NAMESPACE}"

    def seen() -> dict[str, bool]:
        jobs = cluster.get("jobs", where)["items"]
        fields = cluster.get("imageindex", "pictures", where).get("status", {})
        events = cluster.get("events", where)["items"]
        return {
            "job": any(job["metadata"]["labels"].get("sightline.dev/imageindex") == "pictures" for job in jobs),
            "status": bool(fields.get("conditions")),
            "event": any(event["source"].get("component") == MANAGER for event in events),
        }

    try:
        cluster.apply(INDEX)
        eventually(seen, {"job": True, "status": True, "event": True})
        cluster.kubectl("delete", "imageindex", "pictures", where, f"--timeout={PATIENCE_S}s")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        qdrant.stop()
    refused = [line for line in told.read_text().splitlines() if "403" in line or "can't be had" in line]
    assert refused == []
