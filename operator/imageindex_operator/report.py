"""What people read: the conditions, from what a visit found and decided."""

from __future__ import annotations

from typing import Final

from imageindex_operator.conditions import Truth
from imageindex_operator.draft import Draft

_BUILDING: Final = frozenset({"ShardsFailed", "FinishFailed", "DimensionMismatch"})
"""Rejections of what is built; all others are of its promotion."""


def report(draft: Draft) -> None:
    """Sets every condition of a visit that looked at everything."""
    draft.conditions.set("ReconciliationPaused", "False", "Active", "The operator looks after this index.")
    if draft.resource.spec.suspend:
        draft.conditions.set("Suspended", "True", "Suspended", "Nothing runs: spec.suspend is true. The data stays.")
    else:
        draft.conditions.set("Suspended", "False", "Running", "spec.suspend is false.")
    for type_, told in (
        ("Indexed", _indexed(draft)),
        ("Promoted", _promoted(draft)),
        ("ServingAvailable", _available(draft)),
        ("Degraded", _degraded(draft)),
    ):
        draft.conditions.set(type_, *told)
    draft.conditions.set("Ready", *_ready(draft))


def paused(draft: Draft) -> None:
    """Sets the one condition of a visit that leaves everything alone."""
    message = "The annotation sightline.dev/paused is true: nothing is changed. Remove it to go on."
    draft.conditions.set("ReconciliationPaused", "True", "Paused", message)


Told = tuple[Truth, str, str]


def _indexed(draft: Draft) -> Told:  # noqa: PLR0911 - one for each answer
    if draft.seen.stored is None:
        return "Unknown", "QdrantUnavailable", draft.seen.away
    rejection = draft.stopped
    if rejection and rejection.reason in _BUILDING:
        return "False", rejection.reason, rejection.message
    if draft.pending and draft.is_ready(draft.pending):
        return "True", "Complete", f"Generation {draft.pending} is complete."
    if draft.pending and draft.blocked:
        return "False", *draft.blocked
    if draft.pending:
        done = f"; shards {draft.job.completed_indexes} are done" if draft.job and draft.job.completed_indexes else ""
        seen = f"; {draft.points} of {draft.images_seen} images" if draft.images_seen else ""
        return "False", "Indexing", f"Generation {draft.pending} is being built{done}{seen}."
    if draft.active:
        return "True", "Complete", f"Generation {draft.active} is complete."
    return "False", "NotBegun", "No generation is there yet."


def _promoted(draft: Draft) -> Told:  # noqa: PLR0911 - one for each answer
    rejection = draft.stopped
    if draft.seen.stored is None:
        return "Unknown", "QdrantUnavailable", draft.seen.away
    if rejection:
        return "False", rejection.reason, rejection.message
    if draft.pin and draft.pin == draft.active:
        return "True", "Pinned", f"rollout.generation names {draft.pin}, and it serves."
    if draft.pending is None and draft.active and draft.active == draft.target:
        return "True", "Serving", f"Generation {draft.active} serves."
    if draft.pending and draft.target == draft.pending:
        return "False", "Prewarming", f"Generation {draft.pending} is fit to serve; replicas get ready for it."
    if draft.pending and draft.is_ready(draft.pending) and not draft.resource.spec.rollout.auto_promote:
        message = (
            f"Generation {draft.pending} is fit to serve. Set rollout.generation to {draft.pending} to promote it."
        )
        return "False", "AwaitingPromotion", message
    if draft.pending:
        return "False", "NotComplete", f"Generation {draft.pending} is not complete and verified yet."
    return "False", "NothingToPromote", "No generation is there yet."


def _available(draft: Draft) -> Told:
    ready, wanted = draft.ready_replicas or 0, draft.replicas or 0
    if ready:
        return "True", "Available", f"{ready} of {wanted} replicas answer."
    if draft.resource.spec.suspend:
        return "False", "Suspended", "No replicas run while spec.suspend is true."
    if draft.target is None:
        return "False", "NothingToServe", "Replicas are started when the first generation serves."
    return "False", "NoReplicas", f"None of {wanted} replicas is available."


def _degraded(draft: Draft) -> Told:
    rejection = draft.stopped
    if draft.seen.stored is None:
        return "True", "QdrantUnavailable", draft.seen.away
    if draft.blocked:
        return "True", *draft.blocked
    if rejection:
        return "True", rejection.reason, rejection.message
    return "False", "AsExpected", "Nothing stands in the way of the spec."


def _ready(draft: Draft) -> Told:
    available = draft.conditions.get("ServingAvailable")
    if draft.resource.spec.suspend:
        return "False", "Suspended", "spec.suspend is true."
    if draft.active is None:
        indexed = draft.conditions.get("Indexed")
        reason, message = (indexed.reason, indexed.message) if indexed else ("NotBegun", "")
        return "False", reason if reason != "Complete" else "NotPromoted", message
    if available is None or available.status != "True":
        return "False", "NoReplicas", available.message if available else "No replicas are there."
    if draft.seen.stored is None:
        return "Unknown", "QdrantUnavailable", draft.seen.away
    return "True", "Serving", f"Generation {draft.active} serves. {available.message}"
