"""A real Kubernetes API, a stand-in for Qdrant and the operator as a process."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from engine.generations import Generation
from engine.generations.qdrant import QdrantGenerations
from engine.generations.record import described, folder_of
from engine.indexes.qdrant import QdrantIndex
from engine.indexes.qdrant_connection import QdrantConnection
from engine.ports import ModelInfo
from engine.settings import Settings
from tests.e2e.cluster.cluster import ROOT, Cluster
from tests.operator.world import CRD, minimal
from tests.support.qdrant import QdrantServer

PATIENCE_S = 120
TOLERATION = {"key": "sightline.dev/simulated", "operator": "Exists"}


@pytest.fixture(scope="session")
def plane() -> Iterator[Cluster]:
    """A control plane with simulated nodes, and the CRD."""
    with Cluster(containers=False, purpose="operator") as cluster:
        cluster.add_simulated_nodes(2, gpus=1)
        cluster.apply(yaml.safe_load(CRD.read_text()))
        eventually(lambda: established(cluster), True)
        yield cluster


def established(cluster: Cluster) -> bool:
    """Whether the API server takes ImageIndexes. `kubectl wait` would fail where there are no conditions yet."""
    status = cluster.get("crd", "imageindexes.sightline.dev").get("status", {})
    return any((one["type"], one["status"]) == ("Established", "True") for one in status.get("conditions") or [])


@pytest.fixture
def namespace(plane: Cluster) -> Iterator[str]:
    """An empty namespace with the Secret that pods read. Its ImageIndex is gone in the end, whoever looked after it."""
    name = f"web-{secrets.token_hex(3)}"
    plane.kubectl("create", "namespace", name)
    plane.kubectl("create", "secret", "generic", "sightline-stores", f"--namespace={name}")
    yield name
    if plane.get("imageindexes", f"--namespace={name}")["items"]:
        nothing = '{"metadata":{"finalizers":null}}'
        plane.kubectl("patch", "imageindex/shop", f"--namespace={name}", "--type=merge", f"--patch={nothing}")
    plane.kubectl("delete", "imageindexes", "--all", f"--namespace={name}")
    plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def qdrant(tmp_path: Path) -> Iterator[QdrantServer]:
    """A server that is up."""
    server = QdrantServer(tmp_path / "qdrant")
    server.start()
    yield server
    server.stop()


class Operator:
    """`sightline operator run` against that API, with its probes on a port of this machine."""

    def __init__(self, cluster: Cluster, qdrant: QdrantServer, namespace: str, identity: str) -> None:
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
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once."""
        command = [sys.executable, "-m", "sightline", "operator", "run"]
        self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment)

    def end(self, how: int = signal.SIGTERM) -> int:
        """Ends it; its exit status."""
        assert self._process
        self._process.send_signal(how)
        return self._process.wait(PATIENCE_S)

    def probe(self, path: str) -> str:
        """What a probe answers, or "" while nothing does."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}").text
        except httpx.TransportError:
            return ""

    def visits(self) -> int:
        """How many visits it has made."""
        name = 'sightline_operator_reconcile_duration_seconds_count{result="done"} '
        lines = self.probe("/metrics").splitlines()
        return sum(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))


@pytest.fixture
def operators(plane: Cluster, qdrant: QdrantServer, namespace: str) -> Iterator[Callable[..., Operator]]:
    """Starts operators; those that still run are ended."""
    started: list[Operator] = []

    def start(identity: str = "one") -> Operator:
        operator = Operator(plane, qdrant, namespace, identity)
        operator.start()
        started.append(operator)
        return operator

    yield start
    for operator in started:
        if operator._process and operator._process.poll() is None:
            operator.end(signal.SIGKILL)


class Shop:
    """One ImageIndex, as a person sees it."""

    def __init__(self, cluster: Cluster, qdrant: QdrantServer, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._settings = Settings(_env_file=None, qdrant_url=f"http://127.0.0.1:{qdrant.port}")

    def apply(self, **spec: Any) -> None:
        """Kubectl apply; replicas tolerate simulated nodes."""
        tolerant = {"podTemplate": {"spec": {"tolerations": [TOLERATION]}}}
        spec["serving"] = {**tolerant, **spec.get("serving", {})}
        meta = {"name": "shop", "namespace": self.namespace}
        body = {"apiVersion": "sightline.dev/v1alpha1", "kind": "ImageIndex", "metadata": meta}
        self.cluster.apply({**body, "spec": minimal(**spec)})

    def kubectl(self, *words: str) -> None:
        """Kubectl in its namespace."""
        self.cluster.kubectl(*words, f"--namespace={self.namespace}")

    def get(self) -> dict[str, Any]:
        """As it is now."""
        return self.cluster.get("imageindex", "shop", f"--namespace={self.namespace}")

    def condition(self, type_: str) -> str:
        """Status and reason."""
        conditions = self.get().get("status", {}).get("conditions", [])
        return next((f"{one['status']} {one['reason']}" for one in conditions if one["type"] == type_), "")

    def children(self, kind: str) -> list[dict[str, Any]]:
        """Those of a kind."""
        found: list[dict[str, Any]] = self.cluster.get(kind, f"--namespace={self.namespace}")["items"]
        return found

    def pending(self) -> str:
        """The generation that is being built."""
        return str(self.get().get("status", {}).get("pendingCollection", ""))[-27:]

    def build(self, id_: str, model: str = "ViT-B-32") -> None:
        """What indexing and finishing leave at Qdrant."""

        async def store() -> None:
            collection = f"sightline-shop-{id_}"
            index = await QdrantIndex.create(collection, 8, self._settings)
            await index.close()
            info = ModelInfo(model, "x", 8, 224, 77, model)
            path = folder_of(self._settings.index_path, "shop", id_)
            generation = Generation(id_, "shop", path, "ready", info, "", 0)
            connection = QdrantConnection(self._settings)
            await connection.set_metadata(collection, described(generation, self._settings))
            await connection.close()

        asyncio.run(store())

    def serves(self) -> str | None:
        """The generation that the alias stands for."""

        async def ask() -> str | None:
            store = QdrantGenerations(self._settings, "shop")
            try:
                return await store.current_id()
            finally:
                await store.close()

        return asyncio.run(ask())


@pytest.fixture
def shop(plane: Cluster, qdrant: QdrantServer, namespace: str) -> Shop:
    """An ImageIndex that is not applied yet."""
    return Shop(plane, qdrant, namespace)


def eventually(ask: Callable[[], Any], wanted: object) -> None:
    """Asks until the answer is as wanted; fails with the last one."""
    end = time.monotonic() + PATIENCE_S
    while (found := ask()) != wanted:
        assert time.monotonic() < end, json.dumps(found, default=str)
        time.sleep(0.2)
