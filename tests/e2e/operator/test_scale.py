"""Many ImageIndexes: how long they take together, what each costs the API server, and that quiet costs it nothing.

The figures are printed and written to build/figures/operator-COUNT.json; `operator/README.md` reports them.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from imageindex_operator.api import KINDS
from imageindex_operator.conditions import TYPES
from imageindex_operator.names import KIND, MANAGER
from imageindex_operator.reconcile import CHILDREN

from engine.generations import Generation
from engine.generations.qdrant import QdrantGenerations
from engine.generations.record import described, folder_of
from engine.indexes import qdrant as qdrant_index
from engine.indexes.qdrant_connection import QdrantConnection
from engine.ports import ModelInfo
from engine.settings import Settings
from tests.e2e.cluster.cluster import ROOT, Cluster
from tests.e2e.operator.conftest import TOLERATION, Operator
from tests.operator.world import minimal
from tests.support.qdrant import QdrantServer

pytestmark = pytest.mark.programs

FIGURES = ROOT / "build" / "figures"
PODS_A_NODE = 110
CALM_S = 75
"""Seconds; longer than a promotion is watched, which is a reason to look at something again."""
MEMORY_LIMIT = 512 << 20
"""Bytes: the limit that the chart gives the operator."""
MOST_WRITES = 16
"""Writes for one ImageIndex on its way from nothing to serving, Events included."""
AT_ONCE = 16


class Fleet:
    """So many ImageIndexes in one namespace; the first is called `shop`, as the fixture that clears up expects."""

    def __init__(self, cluster: Cluster, qdrant: QdrantServer, namespace: str, count: int) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.names = ["shop", *(f"shop-{number:04}" for number in range(1, count))]
        self._settings = Settings(_env_file=None, qdrant_url=f"http://127.0.0.1:{qdrant.port}")

    def create(self) -> None:
        """All at once, on nodes that have room for their replicas."""
        needed = -(-len(self.names) // PODS_A_NODE)
        self.cluster.add_simulated_nodes(needed, name=self.namespace)
        spec = minimal(serving={"podTemplate": {"spec": {"tolerations": [TOLERATION]}}})
        about = {"apiVersion": "sightline.dev/v1alpha1", "kind": KIND}
        bodies = [
            {**about, "metadata": {"name": name, "namespace": self.namespace}, "spec": spec} for name in self.names
        ]
        everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": bodies})
        self.cluster.kubectl("create", "--filename=-", "--validate=false", stdin=everything)

    def bodies(self, kind: str = "ImageIndex") -> list[dict[str, Any]]:
        """All objects of a kind there."""
        path = KINDS[kind].path(self.namespace)
        found: list[dict[str, Any]] = json.loads(self.cluster.kubectl("get", "--raw", path))["items"]
        return found

    def begun(self) -> int:
        """How many have all their conditions and a generation that is being built."""
        return sum(
            len(status.get("conditions", [])) == len(TYPES) and "pendingCollection" in status
            for status in (body.get("status", {}) for body in self.bodies())
        )

    def ready(self) -> int:
        """How many serve."""
        return sum(_condition(body, "Ready") == "True" for body in self.bodies())

    def build(self) -> None:
        """What indexing and finishing leave at Qdrant, for the pending generation of each."""
        pending = {
            body["metadata"]["name"]: body["status"]["pendingCollection"].removeprefix(
                f"sightline-{body['metadata']['name']}-"
            )
            for body in self.bodies()
        }
        asyncio.run(self._store(pending))

    async def _store(self, pending: dict[str, str]) -> None:
        connection, gate = QdrantConnection(self._settings), asyncio.Semaphore(AT_ONCE)
        info = ModelInfo("ViT-B-32", "x", 8, 224, 77, "ViT-B-32")

        async def store(name: str, id_: str) -> None:
            async with gate:
                collection = f"sightline-{name}-{id_}"
                empty = qdrant_index._collection(collection, info.dimension, self._settings)
                await connection.write("Collections/Create", empty, again=False)
                path = folder_of(self._settings.index_path, name, id_)
                generation = Generation(id_, name, path, "ready", info, "", 0)
                await connection.set_metadata(collection, described(generation, self._settings))

        await asyncio.gather(*(store(*each) for each in pending.items()))
        await connection.close()

    def serving(self) -> dict[str, str | None]:
        """What each alias stands for."""

        async def ask() -> dict[str, str | None]:
            found = {}
            for name in self.names:
                store = QdrantGenerations(self._settings, name)
                found[name] = await store.current_id()
                await store.close()
            return found

        return asyncio.run(ask())

    def versions(self) -> dict[str, str]:
        """The version of every object that is theirs or that they are."""
        return {
            f"{kind}/{body['metadata']['name']}": body["metadata"]["resourceVersion"]
            for kind in (KIND, *CHILDREN)
            for body in self.bodies(kind)
            if "kube-root-ca" not in body["metadata"]["name"]
        }

    def events(self) -> int:
        """How often the operator posted or counted an Event."""
        return sum(body["count"] for body in self.bodies("Event") if body["source"].get("component") == MANAGER)


class Requests:
    """What the API server counts of the requests that only the operator makes."""

    _LINE = re.compile(r"apiserver_request_total\{(?P<labels>.*)\} (?P<count>\S+)")
    _LABEL = re.compile(r'(\w+)="([^"]*)"')

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._before = self._counts()

    def since(self) -> Counter[str]:
        """Requests since the last call, or the beginning: `apply jobs`, `list pods`, `get imageindexes` and so on."""
        now = self._counts()
        passed, self._before = now - self._before, now
        return passed

    def _counts(self) -> Counter[str]:
        told: Counter[str] = Counter()
        for line in self._fleet.cluster.kubectl("get", "--raw", "/metrics").splitlines():
            if found := self._LINE.match(line):
                labels = dict(self._LABEL.findall(found["labels"]))
                verb, what = labels["verb"], labels["resource"]
                told[f"{verb.lower()} {what}"] += int(float(found["count"]))
        own = {KINDS[kind].plural for kind in CHILDREN}
        reads = {"get imageindexes", "get secrets", *(f"list {plural}" for plural in own)}
        wanted = {name: count for name, count in told.items() if name.startswith("apply ") or name in reads}
        return Counter({**wanted, "post events": self._fleet.events()})


def _writes(requests: Counter[str]) -> int:
    return sum(count for name, count in requests.items() if name.startswith(("apply", "post")))


def _reads(requests: Counter[str]) -> int:
    return sum(count for name, count in requests.items() if name.startswith(("get", "list")))


class Measured(Operator):
    """The operator with the resync that it is shipped with, and what its process takes."""

    def __init__(self, cluster: Cluster, qdrant: QdrantServer, namespace: str, identity: str) -> None:
        super().__init__(cluster, qdrant, namespace, identity)
        del self._environment["OPERATOR_RESYNC_S"]

    @property
    def memory(self) -> int:
        """The most memory that it has had, bytes."""
        return int(re.findall(r"VmHWM:\s+(\d+) kB", self._proc("status"))[0]) << 10

    @property
    def cpu_s(self) -> float:
        """The processor time that it has had, seconds."""
        user, system = self._proc("stat").rpartition(") ")[2].split()[11:13]
        return (int(user) + int(system)) / 100

    def _proc(self, name: str) -> str:
        assert self._process
        return Path(f"/proc/{self._process.pid}/{name}").read_text()


def _condition(body: dict[str, Any], type_: str) -> str:
    conditions = body.get("status", {}).get("conditions", [])
    return next((str(one["status"]) for one in conditions if one["type"] == type_), "")


def until(ask: Callable[[], int], wanted: int, patience_s: float) -> float:
    """Seconds until as many as wanted; fails after `patience_s`. Looks seldom where a look is much to read."""
    began = time.monotonic()
    while (found := ask()) != wanted:
        assert time.monotonic() < began + patience_s, f"{found} of {wanted} after {patience_s:.0f} s"
        time.sleep(wanted / 200)
    return time.monotonic() - began


def rolled_out(fleet: Fleet, operator: Measured, patience_s: float) -> dict[str, float]:
    """From resources that nobody has looked at yet to serving ones; what that took, and what it cost."""
    count = len(fleet.names)
    fleet.create()
    requests, figures = Requests(fleet), {"imageindexes": float(count)}
    operator.start()
    figures["seconds to conditions and Jobs"] = until(fleet.begun, count, patience_s)
    until(lambda: len(fleet.bodies("Job")), count, patience_s)
    begun = requests.since()
    fleet.build()
    figures["seconds from built to serving"] = until(fleet.ready, count, patience_s)
    served = requests.since()
    figures["writes for each"] = _writes(begun + served) / count
    figures["reads for each"] = _reads(begun + served) / count
    figures["visits for each"] = operator.visits() / count
    figures["processor seconds"] = operator.cpu_s
    figures["memory, MB"] = operator.memory / 1e6
    for name, number in sorted((begun + served).items()):
        figures[f"{name}, for each"] = number / count
    return figures


def hold_to_promises(fleet: Fleet, operator: Measured, figures: dict[str, float]) -> None:
    """One Job and one Deployment each, every alias at the generation that the status names, and no waste."""
    count = len(fleet.names)
    assert {kind: len(fleet.bodies(kind)) for kind in ("Job", "Deployment", "Service", "PodDisruptionBudget")} == {
        "Job": count,
        "Deployment": count,
        "Service": count,
        "PodDisruptionBudget": count,
    }
    active = {body["metadata"]["name"]: body["status"]["activeCollection"] for body in fleet.bodies()}
    assert {name: f"sightline-{name}-{id_}" for name, id_ in fleet.serving().items()} == active
    assert figures["writes for each"] <= MOST_WRITES
    assert operator.memory < MEMORY_LIMIT
    assert operator.probe("/livez") == "alive"


def report(figures: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    """Prints a table, and writes the same to a file."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    rounded = {name: round(value, 2) for name, value in figures.items()}
    file = FIGURES / f"operator-{figures['imageindexes']:.0f}.json"
    file.write_text(json.dumps(rounded, indent=1) + "\n")
    with capsys.disabled():
        rows = "\n".join(f"  {name:<40}{value:>10,.2f}" for name, value in figures.items())
        print(f"\n{rows}\n  written to {file.relative_to(ROOT)}")  # noqa: T201 - figures are for people


@pytest.fixture
def operator(plane: Cluster, qdrant: QdrantServer, namespace: str) -> Iterator[Measured]:
    """An operator that has not been started."""
    measured = Measured(plane, qdrant, namespace, "one")
    yield measured
    if measured._process and measured._process.poll() is None:
        measured.end()


def test_a_hundred_are_served_at_a_bounded_price(
    plane: Cluster, qdrant: QdrantServer, namespace: str, operator: Measured, capsys: pytest.CaptureFixture[str]
):
    """One Job each, few writes each, in the memory that the chart gives the operator."""
    fleet = Fleet(plane, qdrant, namespace, 100)
    figures = rolled_out(fleet, operator, patience_s=300)
    hold_to_promises(fleet, operator, figures)
    report(figures, capsys)


@pytest.mark.long
def test_a_thousand_are_served_and_ten_quiet_minutes_write_nothing(
    plane: Cluster, qdrant: QdrantServer, namespace: str, operator: Measured, capsys: pytest.CaptureFixture[str]
):
    """At the price that a hundred have; then nobody touches them, and no version of anything changes."""
    count = 1000
    fleet = Fleet(plane, qdrant, namespace, count)
    figures = rolled_out(fleet, operator, patience_s=3600)
    hold_to_promises(fleet, operator, figures)
    time.sleep(CALM_S)
    before, requests, cpu_s = fleet.versions(), Requests(fleet), operator.cpu_s
    time.sleep(600)
    assert fleet.versions() == before
    quiet = requests.since()
    figures["quiet: writes in ten minutes"] = _writes(quiet)
    figures["quiet: reads for each in ten minutes"] = _reads(quiet) / count
    figures["quiet: processor, share of one core"] = (operator.cpu_s - cpu_s) / 600
    figures["quiet: memory, MB"] = operator.memory / 1e6
    assert figures["quiet: writes in ten minutes"] == 0
    report(figures, capsys)
