"""One visit: look at everything, decide, write the status, then act. Called for every reason alike.

Nothing is remembered between visits. What was meant is in the status before it is done, so a visit that is cut short
anywhere is made good by the next one, of this operator or another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from engine.errors import ClusterRefused, ClusterUnavailable, SightlineError
from imageindex_operator import gauges
from imageindex_operator.actions import Action, Apply, Delete, Discard, Erase, Hold, Note, Promote, Prune, Seed
from imageindex_operator.aliases import Aliases
from imageindex_operator.api import KINDS, Api
from imageindex_operator.conditions import Conditions, moment_of
from imageindex_operator.config import Config
from imageindex_operator.drift import agrees
from imageindex_operator.events import Recorder
from imageindex_operator.names import API_VERSION, FINALIZER, KIND, MANAGER, OWNER, REPLICAS_MANAGER, generation_of
from imageindex_operator.observed import Body, Job, Key, Observed, Stored
from imageindex_operator.plan import Plan, decide
from imageindex_operator.resource import ImageIndex, Status
from imageindex_operator.rollout import WATCH_S
from imageindex_operator.stores import Stores
from imageindex_operator.traffic import TrafficWatch
from observability import metrics

log = structlog.get_logger(__name__)

CHILDREN: Final = (
    "Job",
    "CronJob",
    "Deployment",
    "Service",
    "ConfigMap",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
)
"""Kinds that are always looked at; KEDA's ScaledObject only where the resource or an earlier one asked for it."""

_CHANGED_S: Final = 0.2
_TUNED: Final = ("tune", "complete")
_BAD_REQUEST: Final = 400
_FORBIDDEN: Final = 403
_CONFLICT: Final = 409
_INVALID: Final = 422

_FAULTS: Final = {0: "Failed", _FORBIDDEN: "Forbidden", _CONFLICT: "NotOurs"}
_REFUSED: Final = "Refused"
"""Reasons of a visit that failed, by the API server's status; 0 is another's fault."""

_LOOKED_AT: Final = ("Ready", "Indexed", "Promoted", "ServingAvailable")
_NAMES_ALIAS: Final = ("metadata.name", "spec.collection.alias")


class Reconciler:
    """Visits ImageIndexes. `may_write` is asked before every change: only who holds the Lease changes anything."""

    def __init__(
        self,
        api: Api,
        stores: Stores,
        config: Config,
        recorder: Recorder,
        aliases: Aliases,
        *,
        may_write: Callable[[], bool] = lambda: True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._stores = stores
        self._config = config
        self._recorder = recorder
        self._aliases = aliases
        self._may_write = may_write
        self._now = now
        self._traffic = TrafficWatch()

    async def visit(self, key: tuple[str, str]) -> float | None:
        """Brings one ImageIndex nearer to what it says; after how many seconds to come again, or None."""
        began, result = time.monotonic(), "failed"
        try:
            body = await self._api.get(KIND, *key)
            again = None if body is None else await self._visit(body)
            result = "done"
        finally:
            metrics.operator_reconcile_duration.observe(time.monotonic() - began)
            metrics.operator_reconciliations.labels(*key, result).inc()
        if body is None:
            gauges.forget(*key)
        return again

    async def _visit(self, body: Body) -> float | None:
        resource = ImageIndex.parse(body)
        seen, written = None, resource.status
        try:
            seen = await self._observe(resource, body)
            plan = decide(resource, seen, self._config)
            written = await self._write_status(resource, written, _still_at_fault(written, plan.status))
            for note in plan.notes:
                self._recorder.note(resource, note)
            changed = False
            for action in plan.actions:
                changed |= await self._act(resource, body, seen, action)
            await self._write_status(resource, written, plan.status)
        except SightlineError as error:
            await self._tell(resource, written, error, blind=seen is None)
            raise
        return self._again(plan, changed=changed)

    @staticmethod
    def _again(plan: Plan, *, changed: bool) -> float | None:
        """Qdrant tells nobody of a change, so after one there is another look at once."""
        if changed:
            return _CHANGED_S
        return plan.requeue_s

    # ---------------------------------------------------------------- look

    async def _observe(self, resource: ImageIndex, body: Body) -> Observed:
        now = self._now()
        owner = self._aliases.owner(body)
        children = await self._children(resource)
        stored, away = await self._look(resource)  # after the Jobs: what an ended one left must be seen
        status = resource.status
        pending = generation_of(resource.index, status.pending_collection)
        beginning = pending is not None or status.active_collection is None or status.spec_hash != resource.spec_hash
        promoted = moment_of(status.last_promotion_time)
        watch_s = max(resource.spec.rollout.scale_down_delay_seconds, WATCH_S)
        watched = promoted is not None and status.previous_collection and now < promoted + timedelta(seconds=watch_s)
        progress = await self._stores.progress(resource.index, pending) if pending and stored else None
        return Observed(
            now=now,
            stored=stored,
            away=away,
            children=children,
            missing=await self._missing(resource) if beginning else (),
            owner=owner,
            leaving=await self._leaving(resource, children),
            progress=progress,
            traffic=await self._searches(resource) if watched else None,
            last_words=await self._last_words(resource, children, pending) if pending else {},
        )

    async def _children(self, resource: ImageIndex) -> Mapping[Key, Body]:
        keda = resource.spec.serving.autoscaling.class_ == "keda" or bool(self._config.prometheus_url)
        kinds = (*CHILDREN, *(["ScaledObject"] if keda else []))
        labels = {OWNER: resource.name}
        lists = await asyncio.gather(*(self._api.list(kind, resource.namespace, labels) for kind in kinds))
        found = {
            (kind, body["metadata"]["name"]): body
            for kind, bodies in zip(kinds, lists, strict=True)
            for body in bodies
            if _is_ours(resource, body)
        }
        return dict(sorted(found.items()))

    async def _look(self, resource: ImageIndex) -> tuple[Stored | None, str]:
        try:
            return await self._stores.look(resource.index), ""
        except SightlineError as error:
            return None, str(error)

    async def _missing(self, resource: ImageIndex) -> tuple[str, ...]:
        """What pods would wait for in vain. Where it can't be asked, pods will tell."""
        source = resource.spec.source
        wanted = [("Secret", self._config.stores_secret), ("Secret", source.secret_name)]
        wanted += [("PersistentVolumeClaim", source.pvc.claim_name if source.pvc else None)]
        wanted += [("PersistentVolumeClaim", self._config.data_claim)]
        missing = []
        for kind, name in wanted:
            if not name:
                continue
            try:
                if not await self._api.exists(kind, resource.namespace, name):
                    missing.append(f"{kind} {name}")
            except ClusterRefused as error:
                if error.status != _FORBIDDEN:
                    raise
        return tuple(missing)

    async def _leaving(self, resource: ImageIndex, children: Mapping[Key, Body]) -> bool:
        """Whether the namespace is being deleted; asked only while a Job runs, which alone can hold that up."""
        if all(Job.of(body).state != "running" for (kind, _), body in children.items() if kind == "Job"):
            return False
        try:
            namespace = await self._api.get("Namespace", None, resource.namespace)
        except ClusterRefused as error:
            if error.status != _FORBIDDEN:
                raise
            return False
        return namespace is not None and "deletionTimestamp" in namespace["metadata"]

    async def _searches(self, resource: ImageIndex) -> Any:
        labels = {OWNER: resource.name, "app.kubernetes.io/component": "serving"}
        pods = await self._api.list("Pod", resource.namespace, labels)
        return await self._traffic.look(resource.uid, str(resource.status.last_promotion_time), pods)

    async def _last_words(self, resource: ImageIndex, children: Mapping[Key, Body], pending: str) -> Mapping[str, str]:
        """What the Jobs of the pending generation that failed, or that tuned, left as their pods' messages."""
        told: dict[str, str] = {}
        jobs = [Job.of(body) for (kind, _), body in children.items() if kind == "Job"]
        for job in jobs:
            if job.generation != pending or not (job.state == "failed" or (job.purpose, job.state) == _TUNED):
                continue
            pods = await self._api.list("Pod", resource.namespace, {"job-name": job.name})
            messages = [_termination_message(pod) for pod in pods]
            told[job.name] = next((message for message in messages if message), "")
        return told

    # ---------------------------------------------------------------- act

    async def _write_status(self, resource: ImageIndex, before: Status, status: Status) -> Status:
        gauges.show(resource, status)
        if status == before:
            return status
        self._check()
        meta = {"name": resource.name, "namespace": resource.namespace, "uid": resource.uid}
        manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "status": status.as_json()}
        await self._api.apply(manifest, subresource="status")
        metrics.operator_writes.labels(kind=KIND, action="status").inc()
        return status

    async def _act(self, resource: ImageIndex, body: Body, seen: Observed, action: Action) -> bool:
        """Does one thing; whether it changed what no watch tells of."""
        match action:
            case Apply(manifest, anew):
                await self._apply(resource, seen, manifest, anew=anew)
                return False
            case Seed(deployment, replicas):
                await self._seed(resource, deployment, replicas)
                return False
            case Delete(kind, name):
                self._check()
                await self._api.delete(kind, resource.namespace, name)
                metrics.operator_writes.labels(kind=kind, action="delete").inc()
                return False
            case Hold(finalizer):
                await self._hold(resource, finalizer=finalizer)
                return False
            case Promote(generation):
                await self._promote(resource, body, generation)
            case Discard(generation):
                self._check()
                await self._stores.discard(resource.index, generation)
            case Prune(keep):
                self._check()
                gone = await self._stores.prune(resource.index, keep)
                if gone:
                    self._recorder.note(resource, Note("Pruned", f"Generations {', '.join(gone)} are deleted."))
                return bool(gone)
            case Erase(snapshot):
                await self._own(body)
                self._check()
                taken = await self._stores.erase(resource.index, snapshot=snapshot)
                kept = f" Qdrant keeps the snapshot {taken}." if taken else ""
                self._recorder.note(resource, Note("Erased", f"Index {resource.index!r} is deleted.{kept}"))
        return True

    async def _apply(self, resource: ImageIndex, seen: Observed, manifest: Mapping[str, Any], *, anew: bool) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        live = seen.children.get((kind, name))
        if live is None:
            live = await self._api.get(kind, resource.namespace, name)  # its labels may have been taken off
            if live is not None and not _is_ours(resource, live):
                message = f"{kind} {name} is there and belongs to somebody else. Rename or delete it."
                raise ClusterRefused(message, _CONFLICT)
        if live is not None and ("deletionTimestamp" in live["metadata"] or (not anew and agrees(live, manifest))):
            return
        self._check()
        try:
            await self._api.apply(manifest)
        except ClusterRefused as error:
            if live is None or error.status != _INVALID:
                raise
            # Server-side apply keeps what others put beside ours, also where both together make no sense: two ports of
            # one name, minAvailable and maxUnavailable. A merge patch replaces lists and takes fields away.
            spec = {**dict.fromkeys(_added_by_others(live)), **manifest["spec"]}
            await self._api.merge(kind, resource.namespace, name, {"spec": spec})
            await self._api.apply(manifest)
        metrics.operator_writes.labels(kind=kind, action="update" if live else "create").inc()
        if live is not None:
            log.info("updated", kind=kind, name=name, namespace=resource.namespace)

    async def _seed(self, resource: ImageIndex, deployment: str, replicas: int) -> None:
        self._check()
        meta = {"name": deployment, "namespace": resource.namespace}
        manifest = {"apiVersion": KINDS["Deployment"].api_version, "kind": "Deployment", "metadata": meta}
        await self._api.apply({**manifest, "spec": {"replicas": replicas}}, REPLICAS_MANAGER)
        metrics.operator_writes.labels(kind="Deployment", action="scale").inc()

    async def _promote(self, resource: ImageIndex, body: Body, generation: str) -> None:
        await self._own(body)
        self._check()
        try:
            await self._stores.promote(resource.index, generation)
        except SightlineError:
            metrics.operator_promotions.labels(result="failed").inc()
            raise
        metrics.operator_promotions.labels(result="done").inc()

    async def _hold(self, resource: ImageIndex, *, finalizer: bool) -> None:
        self._check()
        fresh = await self._api.get(KIND, resource.namespace, resource.name)
        if fresh is None or fresh["metadata"]["uid"] != resource.uid:
            return
        others = [one for one in fresh["metadata"].get("finalizers") or [] if one != FINALIZER]
        meta = {
            "resourceVersion": fresh["metadata"]["resourceVersion"],
            "finalizers": [*others, *([FINALIZER] if finalizer else [])],
        }
        await self._api.merge(KIND, resource.namespace, resource.name, {"metadata": meta})
        metrics.operator_writes.labels(kind=KIND, action="finalizer").inc()

    async def _own(self, body: Body) -> None:
        """Asks afresh whether the alias is ours, before the two steps that can't be shared."""
        everywhere = Aliases()
        try:
            everywhere.listed(await self._claimants(ImageIndex.parse(body).index))
        except ClusterRefused as error:
            if error.status != _FORBIDDEN:
                raise
            everywhere = self._aliases  # only some namespaces may be seen
        if (owner := everywhere.owner(body)) is not None:
            raise ClusterRefused(f"The alias belongs to ImageIndex {owner}.", _CONFLICT)

    async def _claimants(self, index: str) -> Sequence[Body]:
        """The ImageIndexes of all namespaces that may name this alias, by the fields that do."""
        try:
            named = [await self._api.list(KIND, None, fields={field: index}) for field in _NAMES_ALIAS]
        except ClusterRefused as error:
            if error.status != _BAD_REQUEST:
                raise
            return await self._api.list(KIND, None)  # a CRD of before can't be asked by fields
        return [body for found in named for body in found]

    def _check(self) -> None:
        if not self._may_write():
            raise ClusterUnavailable("The lease is lost: another operator goes on with this.")

    async def _tell(self, resource: ImageIndex, written: Status, error: SightlineError, *, blind: bool) -> None:
        """Says in the status what went wrong, or else in an Event. Who is `blind` does not know how the rest is."""
        if isinstance(error, ClusterUnavailable) or not self._may_write():
            return
        status = error.status if isinstance(error, ClusterRefused) else 0
        reason = _FAULTS.get(status, _REFUSED)
        conditions = Conditions(written.conditions, resource.generation, self._now())
        conditions.set("Degraded", "True", reason, str(error))
        if blind:
            for type_ in _LOOKED_AT:
                conditions.set(type_, "Unknown", reason, str(error))
        told = written.model_copy(update={"conditions": conditions.all()})
        try:
            await self._write_status(resource, written, told)
        except SightlineError as second:
            self._recorder.note(resource, Note("StatusNotWritten", f"Nothing is done: {second}", warning=True))


def _still_at_fault(before: Status, planned: Status) -> Status:
    """The planned status, but what failed last time counts as failing until it has been done.

    Otherwise each visit would take the fault back and find it again: two writes, and each asks for the next visit.
    """
    fault = next((one for one in before.conditions if one.type == "Degraded"), None)
    if fault is None or fault.reason not in {*_FAULTS.values(), _REFUSED}:
        return planned
    others = (fault if one.type == "Degraded" else one for one in planned.conditions)
    return planned.model_copy(update={"conditions": tuple(others)})


def _is_ours(resource: ImageIndex, body: Body) -> bool:
    owners = body["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == resource.uid for owner in owners)


def _added_by_others(live: Body) -> set[str]:
    """The fields of a spec that somebody set who is neither we nor a controller that writes a subresource."""
    return {
        field.removeprefix("f:")
        for entry in live["metadata"].get("managedFields") or []
        if entry["manager"] not in {MANAGER, REPLICAS_MANAGER} and "subresource" not in entry
        for field in (entry.get("fieldsV1") or {}).get("f:spec", {})
    }


def _termination_message(pod: Body) -> str:
    states = ((one.get("state") or {}) for one in (pod.get("status") or {}).get("containerStatuses") or [])
    return next((str((state.get("terminated") or {}).get("message") or "") for state in states), "")
