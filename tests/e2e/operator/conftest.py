"""A real Kubernetes API, a stand-in for Qdrant and the operator as a process."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml
from imageindex_operator.api import KINDS
from imageindex_operator.names import GENERATION, OWNER, PURPOSE

from engine.generations import Generation
from engine.generations.qdrant import QdrantGenerations
from engine.generations.record import WAITS
from engine.ports import ModelInfo
from tests.e2e.cluster.calls import MERGE
from tests.e2e.cluster.cluster import ROOT, Cluster
from tests.operator.world import CRD, minimal
from tests.support.qdrant import QdrantServer
from tests.support.waiting import eventually

T = TypeVar("T")

PATIENCE_S = 120
TOLERATION = {"key": "sightline.dev/simulated", "operator": "Exists"}
PLURALS = {kind.plural: kind for kind in KINDS.values()}


@pytest.fixture(scope="session")
def plane() -> Iterator[Cluster]:
    """A control plane with simulated nodes, and the CRD."""
    with Cluster(containers=False, purpose="operator") as cluster:
        cluster.add_simulated_nodes(2, gpus=1)
        cluster.apply(yaml.safe_load(CRD.read_text()))
        eventually(lambda: established(cluster, "imageindexes.sightline.dev"), True)
        yield cluster


def established(cluster: Cluster, crd: str) -> bool:
    """Whether the API server takes what it defines. `kubectl wait` fails where there are no conditions yet."""
    status = cluster.get("crd", crd).get("status", {})
    return any((one["type"], one["status"]) == ("Established", "True") for one in status.get("conditions") or [])


@pytest.fixture
def namespace(plane: Cluster) -> Iterator[str]:
    """An empty namespace with the Secret that pods read. Its ImageIndexes are gone in the end, whoever held them."""
    name = f"web-{secrets.token_hex(3)}"
    plane.calls.post("/api/v1/namespaces", {"metadata": {"name": name}})
    plane.calls.post(f"/api/v1/namespaces/{name}/secrets", {"metadata": {"name": "sightline-stores"}})
    yield name
    path = KINDS["ImageIndex"].path(name)
    plane.calls.delete(path)
    for left in (plane.calls.get(path) or {"items": []})["items"]:
        with suppress(httpx.HTTPStatusError):  # it may just have gone
            plane.calls.patch(f"{path}/{left['metadata']['name']}", {"metadata": {"finalizers": None}})
    plane.calls.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def qdrant(tmp_path: Path) -> Iterator[QdrantServer]:
    """A server that is up."""
    server = QdrantServer(tmp_path / "qdrant")
    server.start()
    yield server
    server.stop()


class Operator:
    """`sightline operator run` against that API, with its probes on a port of this machine.

    `settings` are more variables of its environment, those of `program` among them.
    """

    def __init__(self, cluster: Cluster, qdrant: QdrantServer, namespace: str, identity: str, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "operator")]),
            "KUBECONFIG": str(cluster.kubeconfig),
            "QDRANT_URL": f"http://127.0.0.1:{qdrant.port}",
            "OPERATOR_IDENTITY": identity,
            "OPERATOR_NAMESPACE": namespace,
            "OPERATOR_NAMESPACES": namespace,
            "OPERATOR_IMAGE": "localhost/sightline:test",
            "OPERATOR_PORT": str(self.port),
            "OPERATOR_RESYNC_S": "20",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once."""
        command = [sys.executable, "-m", "tests.e2e.operator.program", "operator", "run"]
        self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment)

    def end(self, how: int = signal.SIGTERM) -> int:
        """Ends it; its exit status."""
        assert self._process
        self._process.send_signal(how)
        return self._process.wait(PATIENCE_S)

    def ended(self) -> bool:
        """Whether it is no more."""
        return self._process is None or self._process.poll() is not None

    def probe(self, path: str) -> str:
        """What a probe answers, or "" while nothing does."""
        try:
            with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
                connection.request("GET", path)
                return connection.getresponse().read().decode()
        except (OSError, HTTPException):
            return ""

    def counted(self, name: str, label: str = "") -> int:
        """The sum of all its counters whose name begins like this and whose labels have `label` among them."""
        lines = [line for line in self.probe("/metrics").splitlines() if line.startswith(name) and label in line]
        return sum(int(float(line.rpartition(" ")[2])) for line in lines)

    def visits(self, result: str = "done") -> int:
        """How many visits it has made that ended so."""
        return self.counted("sightline_operator_reconciliations_total{", f'result="{result}"')


@pytest.fixture
def operators(plane: Cluster, qdrant: QdrantServer, namespace: str) -> Iterator[Callable[..., Operator]]:
    """Starts operators; those that still run are ended."""
    started: list[Operator] = []

    def start(identity: str = "one", **more: Any) -> Operator:
        operator = Operator(plane, qdrant, namespace, identity, **more)
        operator.start()
        started.append(operator)
        return operator

    yield start
    for operator in started:
        if not operator.ended():
            operator.end(signal.SIGKILL)


class Shop:
    """One ImageIndex, as a person sees it, with the pods and the Qdrant behind it."""

    def __init__(self, cluster: Cluster, qdrant: QdrantServer, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._qdrant = qdrant
        self._settings = qdrant.settings(index_path=qdrant.data.with_name("data"))

    # ---------------------------------------------------------------- the resource

    def apply(self, **spec: Any) -> None:
        """What kubectl apply --server-side does; replicas tolerate simulated nodes."""
        tolerant = {"podTemplate": {"spec": {"tolerations": [TOLERATION]}}}
        spec["serving"] = {**tolerant, **spec.get("serving", {})}
        meta = {"name": "shop", "namespace": self.namespace}
        body = {"apiVersion": "sightline.dev/v1alpha1", "kind": "ImageIndex", "metadata": meta}
        self.cluster.calls.apply(KINDS["ImageIndex"].path(self.namespace, "shop"), {**body, "spec": minimal(**spec)})

    def kubectl(self, *words: str) -> None:
        """Kubectl in its namespace."""
        self.cluster.kubectl(*words, f"--namespace={self.namespace}")

    def annotate(self, **annotations: str) -> None:
        """Sets annotations of our group; _ stands for -."""
        given = {f"sightline.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
        self.patch("imageindexes", "shop", {"metadata": {"annotations": given}})

    def get(self) -> dict[str, Any]:
        """As it is now."""
        found = self.cluster.calls.get(KINDS["ImageIndex"].path(self.namespace, "shop"))
        assert found, "the ImageIndex is gone"
        return found

    def condition(self, type_: str) -> str:
        """Status and reason."""
        conditions = self.get().get("status", {}).get("conditions", [])
        return next((f"{one['status']} {one['reason']}" for one in conditions if one["type"] == type_), "")

    def status(self, field: str) -> Any:
        """A field of the status."""
        return self.get().get("status", {}).get(field)

    def pending(self) -> str:
        """The generation that is being built."""
        return str(self.status("pendingCollection") or "")[-27:]

    def ring(self) -> None:
        """Has the operator look, and changes nothing that it looks at: a child's label on what is no child."""
        path = KINDS["ConfigMap"].path(self.namespace)
        meta = {"name": "bell", "labels": {OWNER: "shop"}, "annotations": {"test/rung": secrets.token_hex(8)}}
        try:
            self.cluster.calls.patch(f"{path}/bell", {"metadata": meta})
        except httpx.HTTPStatusError:
            self.cluster.calls.post(path, {"metadata": meta})

    # ---------------------------------------------------------------- its children

    def children(self, kind: str) -> list[dict[str, Any]]:
        """Those of a kind, by its plural."""
        found = self.cluster.calls.get(PLURALS[kind].path(self.namespace)) or {"items": []}
        return [{"kind": kind, **one} for one in found["items"] if one["metadata"]["name"] != "bell"]

    def child(self, kind: str) -> dict[str, Any]:
        """The only one of a kind."""
        (found,) = self.children(kind)
        return found

    def patch(
        self, kind: str, name: str, patch: Mapping[str, Any], how: str = MERGE, subresource: str = ""
    ) -> dict[str, Any]:
        """Edits an object by hand; what it is then."""
        return self.cluster.calls.patch(PLURALS[kind].path(self.namespace, name, subresource), patch, how)

    def delete(self, kind: str, name: str) -> None:
        """Deletes an object by hand; harmless when it is gone."""
        self.cluster.calls.delete(PLURALS[kind].path(self.namespace, name))

    def jobs(self, purpose: str, generation: str = "") -> list[dict[str, Any]]:
        """The Jobs of a purpose (index, finish, tune), of one generation or of all."""
        labels = {PURPOSE: purpose, **({GENERATION: generation} if generation else {})}
        return [job for job in self.children("jobs") if labels.items() <= job["metadata"]["labels"].items()]

    def model_served(self) -> str:
        """The model of the replicas that the Service leads to; "" without one."""
        selector = self.child("services")["spec"]["selector"]
        for one in self.children("deployments"):
            if selector.items() <= one["metadata"]["labels"].items():
                variables = one["spec"]["template"]["spec"]["containers"][0]["env"]
                return next(str(each["value"]) for each in variables if each["name"] == "CLIP_MODEL")
        return ""

    def end_pods(self, purpose: str, exit_code: int = 0) -> None:
        """Waits for a Job's pods, which no node takes, and ends them as a container's exit would."""
        done = {"name": "sightline", "image": "", "imageID": "", "ready": False, "restartCount": 0}
        done["state"] = {"terminated": {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed"}}
        status = {"phase": "Failed" if exit_code else "Succeeded", "containerStatuses": [done]}
        eventually(lambda: bool(self._waiting_pods(purpose)), True)
        for name in self._waiting_pods(purpose):
            self.patch("pods", name, {"status": status}, subresource="status")

    def _waiting_pods(self, purpose: str) -> list[str]:
        pods = [one for one in self.children("pods") if one["metadata"].get("labels", {}).get(PURPOSE) == purpose]
        return [
            one["metadata"]["name"]
            for one in pods
            if one["status"]["phase"] == "Pending" and "deletionTimestamp" not in one["metadata"]
        ]

    # ---------------------------------------------------------------- its data

    def begin(self, id_: str, model: str = "ViT-B-32") -> None:
        """What the first worker of an indexing Job leaves at Qdrant: a generation that is not complete."""
        info = ModelInfo(model, "x", 8, 224, 77, model)
        self._with_store(lambda store: store.begin(info, id=id_))

    def finish(self, id_: str, held: str = WAITS) -> None:
        """What the finishing Job leaves: a complete generation, to be promoted by the operator or held for a reason."""

        async def complete(store: QdrantGenerations) -> Generation:
            return await store.finish(await store.get(id_), 0, held)

        self._with_store(complete)

    def build(self, id_: str, model: str = "ViT-B-32") -> None:
        """What indexing and finishing leave at Qdrant."""
        self.begin(id_, model)
        self.finish(id_)

    def bring_up(self, **spec: Any) -> str:
        """From nothing to one generation that serves, an operator provided; its id."""
        self.apply(**spec)
        eventually(lambda: len(self.children("jobs")), 1)
        first = self.pending()
        self.build(first)
        self.end_pods("index")
        eventually(lambda: all(map(complete, self.jobs("index", first))), True)
        self.ring()
        eventually(lambda: self.condition("Ready"), "True Serving")
        eventually(lambda: self.condition("Promoted"), "True Serving")
        assert self.served() == [first]
        return first

    def begin_rollout(self, **spec: Any) -> str:
        """Applies a spec that asks for another generation, up to its indexing Job; its id."""
        self.apply(**spec)
        eventually(lambda: bool(self.pending() and self.jobs("index", self.pending())), True)
        return self.pending()

    def serves(self) -> str | None:
        """The generation that the alias stands for."""
        return self._with_store(lambda store: store.current_id())

    def served(self) -> list[str | None]:
        """Every generation that the alias ever stood for, in order; None for a time when it stood for nothing."""
        found: list[str | None] = []
        for aliases in self._qdrant.aliases():
            id_ = aliases.get("sightline-shop", "")[-27:] or None
            if id_ != (found[-1] if found else None):
                found.append(id_)
        return found

    def generations(self) -> list[str]:
        """The ids of all that are at Qdrant, oldest first."""
        return [one.id for one in self._with_store(lambda store: store.list())]

    def _with_store(self, ask: Callable[[QdrantGenerations], Awaitable[T]]) -> T:
        async def answer() -> T:
            store = QdrantGenerations(self._settings, "shop")
            try:
                return await ask(store)
            finally:
                await store.close()

        return asyncio.run(answer())


@pytest.fixture
def shop(plane: Cluster, qdrant: QdrantServer, namespace: str) -> Shop:
    """An ImageIndex that is not applied yet."""
    return Shop(plane, qdrant, namespace)


def complete(job: Mapping[str, Any]) -> bool:
    """Whether Kubernetes has said its last word about a Job that did its work."""
    conditions = job.get("status", {}).get("conditions") or []
    return any((one["type"], one["status"]) == ("Complete", "True") for one in conditions)


def visited(operator: Operator, shop: Shop, times: int) -> Iterator[int]:
    """Has the operator look so often, one visit after the other; yields after each."""
    for number in range(times):
        before = operator.visits()
        shop.ring()
        eventually(lambda before=before: operator.visits() > before, True, 0.02)
        yield number


def until(operator: Operator, shop: Shop, ask: Callable[[], Any], wanted: object) -> None:
    """Has the operator look until the answer is as wanted: Qdrant tells nobody of a change."""
    for _ in visited(operator, shop, 100):
        if (found := ask()) == wanted:
            return
    pytest.fail(f"after 100 visits it is {found}")
