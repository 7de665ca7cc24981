"""The decision: from a resource and one look at the world to what is to be done and what is to be said.

Pure: no clock, no network, no memory. Twice with the same arguments gives the same answer, and a look at a world in
which everything was done gives nothing to do. All of the operator's judgement is here and in `rollout` and `replicas`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from imageindex_operator import replicas, report, rollout
from imageindex_operator.actions import Action, Delete, Erase, Hold, Note
from imageindex_operator.config import Config
from imageindex_operator.draft import Draft
from imageindex_operator.names import ABANDON, FINALIZER, PAUSED
from imageindex_operator.observed import Observed
from imageindex_operator.resource import ImageIndex, Status

DELETION_S: Final = 600
"""Seconds that deleting the data may take before the resource is let go without it: a namespace must not hang."""

_AWAY_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Write `status`, then do `actions` in order, tell `notes`, and look again after `requeue_s` seconds if given."""

    status: Status
    actions: tuple[Action, ...]
    notes: tuple[Note, ...]
    requeue_s: float | None


def decide(resource: ImageIndex, seen: Observed, config: Config) -> Plan:
    """What is next for one ImageIndex."""
    draft = Draft(resource, seen, config)
    if resource.deleting_since is not None:
        _delete(draft)
    elif seen.leaving:
        _leave(draft)
    elif resource.annotations.get(PAUSED) == "true":
        report.paused(draft)
    elif seen.owner is not None:
        _wait_for_owner(draft)
    else:
        _reconcile(draft)
    return Plan(draft.status(), tuple(draft.actions), tuple(draft.notes), draft.requeue_s)


def _reconcile(draft: Draft) -> None:
    wanted = draft.resource.spec.deletion_policy == "Delete"
    if wanted != (FINALIZER in draft.resource.finalizers):
        draft.actions.append(Hold(finalizer=wanted))
    if draft.seen.missing:
        names = ", ".join(draft.seen.missing)
        message = f"Not there in namespace {draft.resource.namespace}: {names}. Nothing new is begun without it."
        draft.blocked = ("ReferenceMissing", message)
        draft.again_in(_AWAY_S)
    stored = draft.seen.stored
    if stored is None:
        draft.target = draft.active
        draft.again_in(_AWAY_S)
        replicas.plan(draft)
    else:
        rollout.settle(draft, stored)
        rollout.plan(draft, stored)
        warm = replicas.plan(draft)
        rollout.promote(draft, stored, warm=warm)
        rollout.tidy(draft, stored)
    report.report(draft)


def _wait_for_owner(draft: Draft) -> None:
    message = (
        f"Index {draft.resource.index!r} belongs to ImageIndex {draft.seen.owner}, which is older. Delete that one, or "
        "create this one with another collection.alias."
    )
    for type_ in ("Ready", "Indexed", "Promoted", "ServingAvailable"):
        draft.conditions.set(type_, "False", "AliasTaken", message)
    draft.conditions.set("Degraded", "True", "AliasTaken", message)
    draft.conditions.set("Suspended", "False", "Running", "spec.suspend is looked at when the alias is free.")
    draft.conditions.set("ReconciliationPaused", "False", "Active", "The operator looks after this index.")
    draft.again_in(60)


def _leave(draft: Draft) -> None:
    """Ends the Jobs of a namespace that is being deleted, and begins nothing there.

    Kubernetes deletes a namespace's pods before anything else, and a Job with `backoffLimitPerIndex` keeps its failed
    pods until others take their places, which a namespace that is being deleted refuses: both would wait for ever.
    """
    message = f"Namespace {draft.resource.namespace} is being deleted."
    draft.conditions.set("Ready", "False", "Deleting", message)
    draft.conditions.set("Degraded", "True", "Deleting", message)
    draft.actions += [Delete("Job", job.name) for job in draft.seen.jobs() if not job.deleting]
    draft.again_in(5)


def _delete(draft: Draft) -> None:
    """Children go by themselves, with their owner. Data goes only when asked, and never holds the resource for long."""
    resource, seen = draft.resource, draft.seen
    if FINALIZER not in resource.finalizers:
        return
    if resource.spec.deletion_policy == "Retain" or resource.annotations.get(ABANDON) == "true" or seen.owner:
        draft.actions.append(Hold(finalizer=False))
        return
    assert resource.deleting_since is not None  # noqa: S101 - asked by the caller
    if seen.now >= resource.deleting_since + timedelta(seconds=DELETION_S):
        message = (
            f"Letting go after {DELETION_S} s: the collections sightline-{resource.index}-* are still in Qdrant "
            f"({seen.away or 'something is still writing to them'}). Delete them by hand."
        )
        draft.note("DataLeftBehind", message, warning=True)
        draft.actions.append(Hold(finalizer=False))
        return
    draft.conditions.set("Ready", "False", "Deleting", "The data is being deleted.")
    draft.again_in(5)
    workers = [job for job in seen.jobs() if job.state == "running" or job.deleting]
    draft.actions += [Delete("Job", job.name) for job in workers if not job.deleting]
    draft.actions += [Delete("Deployment", one.name) for one in seen.deployments()]
    if workers or seen.stored is None:
        return
    if seen.stored.generations or seen.stored.current:
        draft.actions.append(Erase(snapshot=resource.spec.snapshot_before_delete))
    else:
        draft.actions.append(Hold(finalizer=False))
