"""A small Kubernetes and a small Qdrant in memory, with controllers that move on when told to, and crashes on demand.

Not a mock: it keeps objects, versions and field managers as the API server does for the few verbs that the operator
uses, so that a reconcile runs unchanged and what it wrote can be looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from imageindex_operator.actions import Note
from imageindex_operator.aliases import Aliases
from imageindex_operator.config import Config
from imageindex_operator.names import API_VERSION, GENERATION, KIND, MANAGER, PURPOSE
from imageindex_operator.observed import Progress, Stored
from imageindex_operator.reconcile import Reconciler
from imageindex_operator.resource import ImageIndex

from engine.errors import ClusterRefused, IndexNotFound, IndexNotReady, IndexUnavailable
from engine.generations import Generation
from engine.generations.record import WAITS
from engine.ports import ModelInfo

CRD = Path(__file__).parents[2] / "operator/imageindex_operator/crd.yaml"
CONFIG = Config(image="localhost/sightline:test", qdrant_url="http://qdrant:6334")
BEGAN = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
Body = dict[str, Any]


class Crashed(BaseException):
    """The operator was killed."""


def schema() -> Body:
    """The schema of an ImageIndex in the CRD."""
    crd = yaml.safe_load(CRD.read_text())
    found: Body = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def defaulted(value: Any, shape: Mapping[str, Any]) -> Any:
    """A value with the defaults of a schema, as the API server fills them in."""
    if isinstance(value, dict):
        filled = dict(value)
        for name, part in shape.get("properties", {}).items():
            if name not in filled and "default" in part:
                filled[name] = copy.deepcopy(part["default"])
            if name in filled:
                filled[name] = defaulted(filled[name], part)
        return filled
    if isinstance(value, list) and "items" in shape:
        return [defaulted(item, shape["items"]) for item in value]
    return value


def minimal(**spec: Any) -> Body:
    """The spec of a small ImageIndex, with parts replaced."""
    return {
        "source": {"s3": {"url": "s3://pictures/2026"}},
        "model": {"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"},
        **spec,
    }


def image_index(name: str = "shop", namespace: str = "web", **spec: Any) -> Body:
    """An ImageIndex as the API server would store it at its creation."""
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-21T11:59:00Z",
        },
        "spec": minimal(**spec),
    }
    filled: Body = defaulted(body, schema())
    return filled


class Cluster:
    """The API server: the verbs of `api.Api`, in memory."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str | None, str], Body] = {}
        self.applied: dict[tuple[str, str, str, str], Body] = {}
        self.writes: list[tuple[str, str, str]] = []
        self.version = 1
        self.missing: set[tuple[str, str]] = set()
        self.forbidden: set[str] = set()
        self.refused: set[str] = set()
        self.selectable = {"metadata.name", "spec.collection.alias"}
        self.crash_at: int | None = None
        self.steps = 0

    # ------------------------------------------------------------ verbs

    async def get(self, kind: str, namespace: str | None, name: str) -> Body | None:
        self._allow(kind)
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def exists(self, kind: str, namespace: str, name: str) -> bool:  # noqa: ARG002
        return (kind, name) not in self.missing

    async def list(
        self,
        kind: str,
        namespace: str | None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Body]:
        self._allow(kind)
        if unknown := set(fields or {}) - self.selectable:
            raise ClusterRefused(f"field label not supported: {unknown}", 400)
        return [
            copy.deepcopy(body)
            for (found, place, _), body in sorted(self.objects.items())
            if found == kind
            and namespace in {None, place}
            and (labels or {}).items() <= (body["metadata"].get("labels") or {}).items()
            and all(_field(body, path) == value for path, value in (fields or {}).items())
        ]

    async def apply(self, manifest: Mapping[str, Any], manager: str = MANAGER, subresource: str = "") -> Body:
        kind, meta = manifest["kind"], manifest["metadata"]
        key = (kind, meta["namespace"], meta["name"])
        self._allow(kind)
        self._write("apply", kind, meta["name"])
        if kind == KIND and subresource == "status":
            body = self.objects[key]
            self._store(key, {**body, "status": copy.deepcopy(manifest["status"])})
            return self.objects[key]
        live = self.objects.get(key)
        if live is None and manager != MANAGER:
            raise ClusterRefused("spec.template: Required value", 422)
        before = self.applied.get((*key, manager), {})
        kept = [held for (*place, who), held in self.applied.items() if tuple(place) == key and who != manager]
        body = _without(copy.deepcopy(live) if live else {"metadata": {}}, before, [manifest, *kept])
        body = _merged(body, manifest)
        self.applied[*key, manager] = copy.deepcopy(dict(manifest))
        if live is None:
            body["metadata"] |= {"uid": f"uid-{kind}-{meta['name']}-{self.version}", "creationTimestamp": "-"}
        if kind == "Deployment":
            body["spec"].setdefault("replicas", 1)
            owners = [who for (*place, who) in self.applied if tuple(place) == key]
            body["metadata"]["managedFields"] = [
                {"manager": who, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
                for who in owners
                if "replicas" in self.applied[*key, who].get("spec", {})
            ]
        changed = live is None or body.get("spec") != live.get("spec")
        body["metadata"]["generation"] = (live or body)["metadata"].get("generation", 0) + int(changed)
        self._store(key, body)
        return body

    async def create(self, manifest: Mapping[str, Any]) -> Body:
        meta = manifest["metadata"]
        key = (manifest["kind"], meta["namespace"], meta["name"])
        self._write("create", *key[::2])
        if key in self.objects:
            raise ClusterRefused("already exists", 409)
        self._store(key, copy.deepcopy(dict(manifest)))
        return copy.deepcopy(self.objects[key])

    async def replace(self, manifest: Mapping[str, Any]) -> Body:
        meta = manifest["metadata"]
        key = (manifest["kind"], meta["namespace"], meta["name"])
        self._write("replace", *key[::2])
        if self.objects[key]["metadata"]["resourceVersion"] != meta.get("resourceVersion"):
            raise ClusterRefused("the object has been modified", 409)
        self._store(key, copy.deepcopy(dict(manifest)))
        return self.objects[key]

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Body:
        key = (kind, namespace, name)
        self._write("merge", kind, name)
        if key not in self.objects:
            raise ClusterRefused("not found", 404)
        wanted = dict(patch.get("metadata", {})).get("resourceVersion")
        if wanted and wanted != self.objects[key]["metadata"]["resourceVersion"]:
            raise ClusterRefused("the object has been modified", 409)
        body = _merged(self.objects[key], patch)
        if body["metadata"].get("deletionTimestamp") and not body["metadata"].get("finalizers"):
            del self.objects[key]
            return body
        self._store(key, body)
        return body

    async def delete(self, kind: str, namespace: str, name: str, *, foreground: bool = True) -> None:  # noqa: ARG002
        self._allow(kind)
        self._write("delete", kind, name)
        self.objects.pop((kind, namespace, name), None)
        for key in [key for key in self.applied if key[:3] == (kind, namespace, name)]:
            del self.applied[key]

    # ------------------------------------------------------------ people

    def put(self, body: Body) -> None:
        """An object as somebody else makes it."""
        meta = body["metadata"]
        self._store((body["kind"], meta["namespace"], meta["name"]), copy.deepcopy(body))

    def edit(self, kind: str, name: str, change: Mapping[str, Any], namespace: str = "web") -> None:
        """Somebody edits an object by hand."""
        key = (kind, namespace, name)
        body = _merged(self.objects[key], change)
        if body.get("spec") != self.objects[key].get("spec"):
            body["metadata"]["generation"] = body["metadata"].get("generation", 1) + 1
        self._store(key, body)

    def names(self, kind: str) -> list[str]:
        """The names of all objects of a kind."""
        return sorted(name for found, _, name in self.objects if found == kind)

    def _allow(self, kind: str) -> None:
        if kind in self.forbidden:
            raise ClusterRefused(f"{kind} is forbidden", 403)

    def _write(self, verb: str, kind: str, name: str) -> None:
        if kind in self.refused:
            raise ClusterRefused(f"{kind} may not be written", 403)
        self.step()
        self.writes.append((verb, kind, name))

    def step(self) -> None:
        """Counts what changes the world; the operator may be killed right before."""
        self.steps += 1
        if self.steps == self.crash_at:
            raise Crashed

    def _store(self, key: tuple[str, str, str], body: Body) -> None:
        self.version += 1
        body["metadata"] = {**body["metadata"], "resourceVersion": str(self.version)}
        self.objects[key] = body


class Qdrant:
    """The stores of `stores.Stores`, in memory. `held` are reasons that verification finds, by model."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.generations: dict[str, Generation] = {}
        self.current: str | None = None
        self.flips: list[str] = []
        self.ledger: dict[str, Progress] = {}
        self.snapshots: list[str] = []
        self.down = False

    async def look(self, index: str) -> Stored:  # noqa: ARG002
        self._up()
        return Stored(self.current, tuple(self.generations[id_] for id_ in sorted(self.generations)))

    async def progress(self, index: str, generation: str) -> Progress | None:  # noqa: ARG002
        return self.ledger.get(generation)

    async def promote(self, index: str, generation: str) -> None:  # noqa: ARG002
        self._up()
        self._cluster.step()
        if generation not in self.generations:
            raise IndexNotFound(generation)
        if self.generations[generation].state != "ready":
            raise IndexNotReady(generation)
        self.current = generation
        self.flips.append(generation)

    async def discard(self, index: str, generation: str) -> None:  # noqa: ARG002
        self._up()
        self._cluster.step()
        assert generation != self.current
        self.generations.pop(generation, None)

    async def prune(self, index: str, keep: int) -> list[str]:  # noqa: ARG002
        self._up()
        ready = [one for one in sorted(self.generations, reverse=True) if self.generations[one].state == "ready"]
        ready.sort(key=lambda one: (one != self.current, one not in self.flips))
        gone = ready[keep:]
        if gone:
            self._cluster.step()
        for id_ in gone:
            del self.generations[id_]
        return gone

    async def erase(self, index: str, *, snapshot: bool) -> str | None:
        self._up()
        self._cluster.step()
        taken = f"{index}.snapshot" if snapshot and self.current else None
        self.snapshots += [taken] if taken else []
        self.generations, self.current = {}, None
        return taken

    def _up(self) -> None:
        if self.down:
            raise IndexUnavailable("Qdrant does not answer.")


class World:
    """A cluster, a Qdrant, one operator, and controllers that `controllers` moves on by one step."""

    def __init__(self, **spec: Any) -> None:
        self.cluster = Cluster()
        self.qdrant = Qdrant(self.cluster)
        self.now = BEGAN
        self.notes: list[Note] = []
        self.config = CONFIG
        self.poisoned: set[int] = set()
        self.held: dict[str, str] = {}
        self.broken: set[str] = set()
        self.dimension = 512
        self.tuned = '{"generation": "x", "ef": 64, "recall": 0.97, "measured": {"64": 0.97}}'
        self.unfinished: list[str] = []
        self.leading = True
        self.aliases = Aliases()
        self.cluster.put(image_index(**spec))
        self.start()

    def start(self) -> None:
        """A new operator process."""
        self.reconciler = Reconciler(
            self.cluster,  # type: ignore[arg-type] - the same verbs
            self.qdrant,
            self.config,
            self,  # type: ignore[arg-type] - takes notes
            self.aliases,
            may_write=lambda: self.leading,
            now=lambda: self.now,
        )

    def note(self, _resource: ImageIndex, note: Note) -> None:
        """The recorder's part."""
        self.notes.append(note)

    # ------------------------------------------------------------ looking

    @property
    def body(self) -> Body:
        """The ImageIndex."""
        return self.cluster.objects[KIND, "web", "shop"]

    @property
    def index(self) -> ImageIndex:
        """The same, parsed."""
        return ImageIndex.parse(self.body)

    def condition(self, type_: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        found = {one.type: one for one in self.index.status.conditions}[type_]
        return found.status, found.reason

    def told(self) -> list[str]:
        """The reasons of all notes."""
        return [note.reason for note in self.notes]

    # ------------------------------------------------------------ moving

    async def visit(self) -> float | None:
        """One visit of the operator."""
        return await self.reconciler.visit(("web", "shop"))

    def set_spec(self, **parts: Any) -> None:
        """Somebody changes parts of the spec."""
        spec = defaulted({**self.body["spec"], **parts}, schema()["properties"]["spec"])
        body = copy.deepcopy(self.body)
        body["spec"] = spec
        body["metadata"]["generation"] += 1
        self.cluster.put(body)

    def annotate(self, **annotations: str) -> None:
        """Somebody sets annotations of our group; _ stands for -."""
        given = {f"sightline.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
        self.cluster.edit(KIND, "shop", {"metadata": {"annotations": given}})

    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    def controllers(self) -> bool:
        """Kubernetes' own controllers and the pods do one step; whether anything moved."""
        moved = False
        for (kind, _, name), body in list(self.cluster.objects.items()):
            if kind == "Job" and PURPOSE in body["metadata"].get("labels", {}):
                moved |= self._work(name, body)
            elif kind == "Deployment":
                moved |= self._roll(body)
        return moved

    async def settle(self, rounds: int = 60) -> int:
        """Visits and controllers in turn until nothing moves; how many visits that took."""
        for count in range(1, rounds + 1):
            before = self.cluster.version, self.cluster.steps
            again = await self.visit()
            moved = self.controllers()
            if again is not None and again < 1:
                continue
            if not moved and before == (self.cluster.version, self.cluster.steps):
                return count
            self.pass_time(1)
        raise AssertionError(f"still moving after {rounds} rounds: {self.cluster.writes[-10:]}")

    def _work(self, name: str, body: Body) -> bool:
        """A Job's pods get on: indexing takes two steps, the rest one."""
        status = body.setdefault("status", {})
        if status.get("conditions") or body["spec"].get("suspend"):
            return False
        purpose, id_ = (body["metadata"]["labels"][label] for label in (PURPOSE, GENERATION))
        spec = self.index.spec
        if purpose == "index" and id_ not in self.qdrant.generations:
            model = ModelInfo(spec.model.name, spec.model.pretrained, self.dimension, 224, 77, spec.model.name)
            self.qdrant.generations[id_] = Generation(id_, "shop", Path("/data"), "building", model, "", 0)
            status["completedIndexes"] = "0"
        elif purpose == "index":
            failed = sorted(self.poisoned)
            status["failedIndexes"] = ",".join(map(str, failed))
            status["completedIndexes"] = f"0-{body['spec']['completions'] - 1}"
            status["conditions"] = [_ended("Failed" if failed else "Complete", "FailedIndexes" if failed else "")]
        elif purpose == "finish" and self.unfinished:
            status["conditions"] = [_ended("Failed", self.unfinished.pop())]
        elif purpose == "finish":
            old = self.qdrant.generations[id_]
            self.qdrant.generations[id_] = Generation(
                id_, "shop", old.path, "ready", old.model, "", 100, self.held.get(old.model.name, WAITS)
            )
            status["conditions"] = [_ended("Complete")]
        else:
            good = self.tuned.startswith("{")
            reason = "PodFailurePolicy" if "recall" in self.tuned else "BackoffLimitExceeded"
            status["conditions"] = [_ended("Complete") if good else _ended("Failed", reason)]
            labels = {"job-name": name, PURPOSE: "tune"}
            state = {"terminated": {"message": self.tuned}}
            pod = {"metadata": {"name": f"{name}-x", "namespace": "web", "labels": labels}, "kind": "Pod"}
            self.cluster.put({**pod, "status": {"containerStatuses": [{"state": state}]}})
        self.cluster.edit("Job", name, {"status": status})
        return True

    def _roll(self, body: Body) -> bool:
        """A Deployment's pods get ready, unless their model is broken."""
        environment = body["spec"]["template"]["spec"]["containers"][0]["env"]
        model = next(one["value"] for one in environment if one["name"] == "CLIP_MODEL")
        replicas, generation = body["spec"]["replicas"], body["metadata"]["generation"]
        broken = model in self.broken
        status = {
            "observedGeneration": generation,
            "updatedReplicas": replicas,
            "availableReplicas": 0 if broken else replicas,
            "conditions": [
                {"type": "Progressing", "status": "False" if broken else "True", "message": "timed out"},
                {"type": "Available", "status": "False" if broken else "True", "lastTransitionTime": "-"},
            ],
        }
        status["conditions"][1]["lastTransitionTime"] = BEGAN.isoformat()
        if body.get("status") == status:
            return False
        self.cluster.edit("Deployment", body["metadata"]["name"], {"status": status})
        return True


def _field(body: Body, path: str) -> Any:
    value: Any = body
    for name in path.split("."):
        value = (value or {}).get(name)
    return value


def _ended(type_: str, reason: str = "") -> Body:
    return {"type": type_, "status": "True", "reason": reason, "message": "it ended"}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Body:
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merged(merged[key], value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _without(body: Body, before: Mapping[str, Any], kept: list[Mapping[str, Any]]) -> Body:
    """The body without the fields of an earlier manifest that nobody holds any more."""
    for key, value in before.items():
        holders = [one[key] for one in kept if key in one]
        if not holders:
            body.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(body.get(key), dict):
            _without(body[key], value, [one for one in holders if isinstance(one, Mapping)])
    return body
