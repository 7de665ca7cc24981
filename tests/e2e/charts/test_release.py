"""The chart on a real API server: what it admits, what an upgrade changes, what stays when the release goes.

Nodes are simulated, so no image is needed: pods are admitted, placed and said to run, and nothing runs in them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from imageindex_operator.api import KINDS
from imageindex_operator.reconcile import CHILDREN

from tests.e2e.cluster.cluster import Cluster

pytestmark = pytest.mark.programs

CHART = Path(__file__).parents[3] / "charts" / "sightline"
NAMESPACE = "search"
PLACED: dict[str, Any] = {"tolerations": [{"operator": "Exists"}]}
VALUES: dict[str, Any] = {
    "operator": PLACED,
    "api": PLACED,
    "redis": PLACED,
    "qdrant": {**PLACED, "storage": {"enabled": False}},
    "postgresql": {**PLACED, "storage": {"enabled": False}},
    "data": {"enabled": False},
}
INDEX = """
apiVersion: sightline.dev/v1alpha1
kind: ImageIndex
metadata: {name: pictures, namespace: search}
spec:
  source: {http: {url: "https://pictures.example.com/list.csv"}}
  model: {name: sightline-small, pretrained: ""}
"""


class Release:
    """One release of the chart in a namespace that admits restricted pods alone."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def helm(self, *words: str, values: dict[str, Any] | None = None) -> str:
        """What Helm says; what it complains of when it fails."""
        done = subprocess.run(
            [
                self.cluster.programs["helm"],
                *words,
                f"--kubeconfig={self.cluster.kubeconfig}",
                "--namespace",
                NAMESPACE,
            ],
            input=json.dumps(values or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, **values: Any) -> str:
        """Installs or upgrades, until every pod is ready."""
        words = ("upgrade", "--install", "sightline", str(CHART), "--values", "-", "--wait", "--timeout", "4m")
        return self.helm(*words, values=VALUES | values)

    def uninstall(self) -> None:
        """Takes the release down."""
        self.helm("uninstall", "sightline", "--wait")

    def secret(self) -> dict[str, str]:
        """The stores' Secret."""
        found = self.cluster.get("secret", "sightline-stores", f"--namespace={NAMESPACE}")
        return dict(found["data"])

    def pods(self) -> dict[str, str]:
        """The uid of each pod that lives, by component; of several, of one."""
        found = self.cluster.get("pods", f"--namespace={NAMESPACE}")["items"]
        living = [pod["metadata"] for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return {pod["labels"]["app.kubernetes.io/component"]: pod["uid"] for pod in living}

    def may(self, verb: str, resource: str, *words: str) -> bool:
        """Whether the operator may do that, as the API server says."""
        who = f"--as=system:serviceaccount:{NAMESPACE}:sightline-operator"
        question = ("create", "--filename=-", "--output=json", who)
        group, _, plural = resource.rpartition("/")
        attributes = {"verb": verb, "group": group, "resource": plural, "namespace": words[0] if words else NAMESPACE}
        if len(words) > 1:
            attributes["name"] = words[1]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        return bool(json.loads(self.cluster.kubectl(*question, stdin=json.dumps(review)))["status"]["allowed"])


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    """The release as it is with no values of one's own, but on simulated nodes and without volumes."""
    with Cluster(containers=False, purpose="chart") as cluster:
        cluster.add_simulated_nodes(2)
        cluster.kubectl("create", "namespace", NAMESPACE)
        cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        made = Release(cluster)
        made.install()
        yield made


def test_all_parts_are_admitted_and_become_ready(release: Release):
    """Under the restricted standard, which the namespace enforces."""
    assert set(release.pods()) == {"operator", "api", "qdrant", "redis", "postgresql"}


def test_an_upgrade_keeps_passwords_and_stores(release: Release):
    """Only what changed is made anew."""
    secret, before = release.secret(), release.pods()
    release.install(logLevel="debug")
    assert release.secret() == secret
    after = release.pods()
    same = {part for part in before if before[part] == after[part]}
    assert same == {"qdrant", "redis", "postgresql"}


def test_what_people_own_outlives_the_release(release: Release):
    """ImageIndexes, their definition and the passwords; the same release finds them again."""
    release.cluster.apply(yaml.safe_load(INDEX))
    secret = release.secret()
    release.uninstall()
    assert release.secret() == secret
    kept = release.cluster.get("imageindex", "pictures", f"--namespace={NAMESPACE}")
    assert "deletionTimestamp" not in kept["metadata"]
    release.install()
    assert release.secret() == secret


def test_the_operator_may_do_its_work_and_not_more(release: Release):
    """As the API server sees it, in its own and in any other namespace."""
    for kind in CHILDREN:
        group = KINDS[kind].api_version.partition("/")[0] if "/" in KINDS[kind].api_version else ""
        for verb in ("get", "list", "watch", "create", "patch", "delete"):
            assert release.may(verb, f"{group}/{KINDS[kind].plural}", "default"), (verb, kind)
    assert release.may("get", "/secrets", "default", "sightline-stores")
    assert not release.may("get", "/secrets", "default", "others")
    assert not release.may("list", "/secrets", "default")
    assert release.may("update", "coordination.k8s.io/leases", NAMESPACE, "sightline-operator")
    assert not release.may("update", "coordination.k8s.io/leases", "default", "sightline-operator")
    assert not release.may("create", "/pods", "default")
    assert not release.may("create", "rbac.authorization.k8s.io/roles", "default")


def test_whoever_may_edit_a_namespace_may_edit_its_imageindexes(release: Release):
    """The chart's ClusterRoles are part of Kubernetes' own."""
    for role, verb, allowed in (("edit", "create", True), ("view", "list", True), ("view", "create", False)):
        user = f"{role}-person"
        words = ("create", "rolebinding", f"{user}-{verb}", f"--clusterrole={role}", f"--user={user}")
        release.cluster.kubectl(*words, f"--namespace={NAMESPACE}")
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user,
                "resourceAttributes": {
                    "verb": verb,
                    "group": "sightline.dev",
                    "resource": "imageindexes",
                    "namespace": NAMESPACE,
                },
            },
        }
        told = release.cluster.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(review))
        assert json.loads(told)["status"].get("allowed", False) is allowed, (role, verb)
