"""From a spec to the generation that should serve: begin, index, finish, verify, tune, promote, go back, tidy up.

Where a rollout is follows from what is there: no generation or one in state building is indexed or finished, a ready
one is judged, and the alias says which one serves. So a crash between any two steps costs nothing but the time to
look again. The status is written before anything is done, so a generation's id is known before the first worker.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from engine.generations import Generation
from engine.generations.record import WAITS
from imageindex_operator.actions import Apply, Delete, Discard, Promote, Prune
from imageindex_operator.builders import canaries, finish_job, index_job, schedule, tune_job
from imageindex_operator.builders.pods import Manifest
from imageindex_operator.draft import Draft
from imageindex_operator.names import new_generation_id
from imageindex_operator.observed import Job, Stored, tuned_by

WATCH_S: Final = 60
"""Seconds that a promotion is watched at least, so that enough searches have been made to judge it by."""

MIN_SEARCHES: Final = 20
MOST_FAILED: Final = 0.05
"""The share of searches that may fail in that time, of at least so many, before the operator goes back."""

POISONED: Final = "PodFailurePolicy"
"""The reason of a Job that an exit code of `jobs.EXIT_DATA` ended."""

_MOST_RESTARTS: Final = 3
_LOOK_S: Final = 10.0
_PROGRESS_S: Final = 15.0
_LASTING: Final = frozenset({"MovedByHand", "RolledBack"})  # a schedule does not overrule these
_MOST_ABANDONED: Final = 100


def settle(draft: Draft, stored: Stored) -> None:
    """Brings what is recorded in line with where the alias is."""
    current = stored.current
    if current is None or current == draft.active:
        if draft.active and stored.get(draft.active) is None and not _going_back(draft):
            _lose(draft, stored)
        return
    going_back = _going_back(draft)
    if current in {draft.pending, draft.pin}:
        revision = draft.revision(current)
        draft.previous, draft.active = draft.active, current
        draft.pending = None if draft.pending == current else draft.pending
        draft.record_revision(revision)
        draft.promoted_at = draft.now
        draft.note("Promoted", f"Generation {current} serves.")
    elif going_back and current == draft.previous:
        left, draft.active, draft.previous = draft.active, current, None
        draft.promoted_at = draft.now
        draft.note("RolledBack", f"Generation {current} serves again instead of {left}.", warning=True)
    else:
        moved = draft.active is not None
        draft.previous, draft.active = draft.active, current
        known = draft.revision(current)
        if moved and known.spec_hash != draft.wanted_hash:
            draft.reject(
                "MovedByHand",
                f"Somebody moved the alias to generation {current}. It stays there until the spec changes, or "
                f"the annotation sightline.dev/retry gets a new value.",
            )


def _lose(draft: Draft, stored: Stored) -> None:
    """What served is gone from Qdrant, often with the alias: the generation before serves again if it is there.

    Soon after its promotion that is a failure of its rollout; later the same is built anew meanwhile.
    """
    gone, before = draft.active, draft.previous if draft.is_ready(draft.previous) else None
    if stored.current and (draft.pin or before is None):
        return  # something is there, and nothing better
    draft.note("GenerationGone", f"Generation {gone} is gone from Qdrant.", warning=True)
    if before and not draft.pin and (stored.current or _on_trial(draft)):
        draft.reject("RolledBack", f"Going back from generation {gone}: it is gone from Qdrant.", gone)
    if stored.current is None:
        draft.active, draft.previous = before, None
        if before:
            draft.promoted_at = draft.now
            draft.note("RolledBack", f"Generation {before} serves again instead of {gone}.", warning=True)


def plan(draft: Draft, stored: Stored) -> None:
    """What is next for the generations; sets `draft.target`."""
    _reconsider(draft)
    _watch(draft)
    if draft.pin:
        _pinned(draft, stored)
    else:
        _begin(draft)
    promotable = _advance(draft, stored) if draft.pending else False
    draft.target = _target(draft, promotable=promotable)
    _keep_time(draft)
    _sweep(draft, stored)


def promote(draft: Draft, stored: Stored, *, warm: bool) -> None:
    """Moves the alias to the target, once replicas are warm for it; at once where nothing serves."""
    target = draft.target
    if target is None or target == stored.current or not draft.is_ready(target):
        return
    if stored.current is None or warm:
        draft.actions.append(Promote(target))


def tidy(draft: Draft, stored: Stored) -> None:
    """Deletes what is more than the history should keep, once a promotion has proved itself."""
    if draft.within(draft.promoted_at, draft.resource.spec.rollout.scale_down_delay_seconds):
        return
    ready = [one for one in stored.generations if one.state == "ready"]
    keep = 1 + draft.resource.spec.rollout.revision_history_limit
    # What never served would go first, and a pending generation never did.
    if len(ready) > keep and draft.pending is None and stored.current == draft.target:
        draft.actions.append(Prune(keep))
        draft.again_in(60)


# ---------------------------------------------------------------- which rollout


def _reconsider(draft: Draft) -> None:
    """A rejection holds for one spec and one value of the retry annotation."""
    rejection = draft.rejection
    if rejection is None or (rejection.spec_hash == draft.wanted_hash and rejection.retry == draft.resource.retry):
        return
    same_spec = rejection.spec_hash == draft.wanted_hash
    draft.rejection = None
    if same_spec and draft.is_ready(draft.pending):  # it was judged; only another one can be better
        _abandon(draft)


def _watch(draft: Draft) -> None:
    """Goes back by itself when a promotion made things worse."""
    if draft.stopped or draft.pin or not draft.is_ready(draft.previous) or not _on_trial(draft):
        return
    draft.again_in(_LOOK_S)
    traffic = draft.seen.traffic
    if traffic and traffic.searches >= MIN_SEARCHES and traffic.failed > MOST_FAILED * traffic.searches:
        why = f"{traffic.failed} of {traffic.searches} searches failed"
    elif gone := _replicas_gone(draft):
        why = gone
    else:
        return
    draft.reject("RolledBack", f"Going back from generation {draft.active}: {why} after its promotion.", draft.active)


def _on_trial(draft: Draft) -> bool:
    """Whether the last promotion is still watched."""
    return draft.within(draft.promoted_at, max(draft.resource.spec.rollout.scale_down_delay_seconds, WATCH_S))


def _going_back(draft: Draft) -> bool:
    return draft.rejection is not None and draft.rejection.generation == draft.active


def _replicas_gone(draft: Draft) -> str | None:
    """Says so when no replica has been available for a while."""
    revision = draft.seen.serving_revision(draft.resource.name)
    serving = next((one for one in draft.seen.deployments() if one.revision == revision), None)
    since = serving.unavailable_since if serving and serving.replicas else None
    if since is None or draft.now < since + timedelta(seconds=3 * _LOOK_S):
        return None
    return "no replica was available"


def _pinned(draft: Draft, stored: Stored) -> None:
    """One generation was named: it serves, and what is being built is given up."""
    if draft.pending and draft.pending != draft.pin:
        _abandon(draft)
    found = stored.get(draft.pin)
    if draft.pin == draft.active:
        return
    if found is None:
        if draft.pending == draft.pin:
            return
        there = ", ".join(one.id for one in stored.generations) or "none"
        message = f"rollout.generation names {draft.pin}, which is not there. There are: {there}."
        draft.blocked = ("GenerationNotFound", message)
    elif found.state == "ready":
        draft.pending = draft.pin
    elif draft.pending != draft.pin:
        draft.blocked = ("GenerationNotReady", f"rollout.generation names {draft.pin}, which is not complete.")


def _begin(draft: Draft) -> None:
    """Begins a rollout when the spec, the schedule or an empty index asks for one."""
    if draft.pending and draft.spec_hash != draft.wanted_hash:
        draft.note("SpecChanged", f"Giving up generation {draft.pending}: the spec has changed.")
        _abandon(draft)
    tick = draft.seen.last_schedule()
    fired = tick is not None and tick > (draft.scheduled_at or draft.resource.created_at)
    active = draft.revision(draft.active) if draft.active else None
    changed = active is None or active.spec_hash != draft.wanted_hash
    if draft.stopped and fired and draft.stopped.reason not in _LASTING:
        draft.rejection = None  # what failed yesterday is no reason not to try today
        _abandon(draft)
    if draft.pending or draft.stopped or draft.resource.spec.suspend or not (changed or fired):
        return
    draft.scheduled_at = tick or draft.scheduled_at
    draft.spec_hash = draft.wanted_hash
    earlier = next((one for one in draft.revisions if one.spec_hash == draft.wanted_hash), None)
    if changed and earlier and draft.is_ready(earlier.generation):
        draft.pending = earlier.generation
        draft.note("GoingBack", f"Generation {earlier.generation} was built from this spec and is still there.")
        return
    draft.pending = new_generation_id(draft.now, draft.resource.uid)
    draft.job, draft.images_seen = None, None
    asked = "the schedule" if fired and not changed else "the spec"
    draft.note("RolloutBegun", f"Building generation {draft.pending}, as {asked} asks.")


def _abandon(draft: Draft) -> None:
    """Gives up the pending generation; `_sweep` clears up behind it."""
    if draft.pending and not any(one.generation == draft.pending for one in draft.revisions):
        draft.abandoned = (*draft.abandoned, draft.pending)[-_MOST_ABANDONED:]
    draft.pending = None


def _target(draft: Draft, *, promotable: bool) -> str | None:
    """The generation that should serve."""
    rejection = draft.stopped
    if draft.pin and draft.is_ready(draft.pin):
        return draft.pin
    if rejection and rejection.generation and rejection.generation == draft.active and draft.is_ready(draft.previous):
        return draft.previous
    if promotable:
        return draft.pending
    return draft.active


# ---------------------------------------------------------------- one rollout


def _advance(draft: Draft, stored: Stored) -> bool:
    """The next step of the pending generation; whether it may be promoted."""
    pending = str(draft.pending)
    jobs = draft.jobs(pending)
    if draft.stopped and draft.pin != pending:
        draft.actions += [Delete("Job", job.name) for job in jobs if job.state == "running" and not job.deleting]
        return False
    found = stored.get(pending)
    wanted = draft.resource.spec.model.dimension
    if found and wanted and found.model.dimension != wanted and draft.pin != pending:
        message = f"model.dimension is {wanted}, but vectors of {found.model.name} have {found.model.dimension}."
        draft.reject("DimensionMismatch", message, pending)
        return _advance(draft, stored)
    progress = draft.seen.progress
    if progress:
        draft.images_seen, draft.points = progress.seen, progress.indexed
    if found is None or found.state == "building":
        _build(draft, pending, jobs)
        return False
    draft.points = found.points
    return _judge(draft, found, jobs)


def _build(draft: Draft, pending: str, jobs: list[Job]) -> None:
    """Indexes, then finishes. A Job of another shape is replaced: the generation goes on where it was."""
    if draft.blocked:
        return
    built = _run(draft, index_job(draft.resource, pending, draft.config), jobs)
    if built is not None:
        draft.show(built)
    if built is None or built.state == "running":
        draft.again_in(_PROGRESS_S)
        return
    if built.state == "failed":
        shards = f"shards {built.failed} failed" if built.failed else "the indexing Job failed"
        draft.reject("ShardsFailed", f"Job {built.name}: {shards}. The others are kept. {draft.words(built)}")
        return
    if (searches := canaries(draft.resource)) is not None:
        draft.actions.append(Apply(searches))
    finished = _run(draft, finish_job(draft.resource, pending, draft.config), jobs)
    if finished is not None and finished.state == "failed":
        _restart(draft, finished, jobs)
    elif finished is not None and finished.state == "complete":
        draft.again_in(2)  # Qdrant will show it as ready in a moment


def _restart(draft: Draft, finished: Job, jobs: list[Job]) -> None:
    """Has the shards looked at again, a few times, when finishing found some that are not all there."""
    restarts = draft.job.restarts if draft.job else 0
    if POISONED in finished.message or restarts >= _MOST_RESTARTS or draft.job is None:
        draft.reject("FinishFailed", f"Job {finished.name} failed. {draft.words(finished)}")
        return
    draft.job = draft.job.model_copy(update={"restarts": restarts + 1})
    draft.note("IndexingAgain", f"Job {finished.name} failed. {draft.words(finished)}", warning=True)
    draft.actions += [Delete("Job", job.name) for job in jobs if not job.deleting]


def _run(draft: Draft, manifest: Manifest, jobs: list[Job]) -> Job | None:
    """Sees to it that a Job runs or has run; its state, or None while it is not there yet."""
    name, purpose = manifest["metadata"]["name"], manifest["metadata"]["labels"]["app.kubernetes.io/component"]
    others = [job for job in jobs if job.purpose == purpose and job.name != name]
    draft.actions += [Delete("Job", job.name) for job in others if not job.deleting]
    found = next((job for job in jobs if job.name == name), None)
    if found is None and others:
        return None  # two Jobs at once would do the same work twice
    if found is None or found.state == "running":
        draft.actions.append(Apply(manifest))
    return found


def _judge(draft: Draft, found: Generation, jobs: list[Job]) -> bool:
    """Whether a complete generation may serve."""
    rollout, pending = draft.resource.spec.rollout, found.id
    if draft.pin == pending or any(one.generation == pending for one in draft.revisions):
        return True  # somebody wants it, or it has served
    if found.held and found.held != WAITS:
        draft.reject("VerificationFailed", f"Generation {pending} is not fit to serve: {found.held}.")
        return False
    progress, ratio = draft.seen.progress, rollout.verification.min_point_ratio
    if progress and progress.seen and found.points < ratio * progress.seen:
        share = f"{found.points} of {progress.seen} images are indexed, less than minPointRatio ({ratio:g})"
        draft.reject("TooManySkipped", f"Generation {pending}: {share}. The manifest lists the others, with reasons.")
        return False
    if rollout.verification.min_recall is not None and not _tuned(draft, pending, jobs):
        return False
    return rollout.auto_promote


def _tuned(draft: Draft, pending: str, jobs: list[Job]) -> bool:
    """Whether `ef` has been measured for a generation, and holds the recall that is wanted."""
    if draft.tuning and draft.tuning.generation == pending:
        return True
    job = _run(draft, tune_job(draft.resource, pending, draft.config), jobs)
    if job is None or job.state == "running":
        return False
    told = tuned_by(draft.seen.last_words.get(job.name, ""))
    if job.state == "complete" and told is not None:
        draft.tuned(pending, *told)
        return True
    reason = "RecallTooLow" if POISONED in job.message else "TuningFailed"
    draft.reject(reason, f"Job {job.name} found no ef. {draft.words(job)}")
    return False


# ---------------------------------------------------------------- around it


def _keep_time(draft: Draft) -> None:
    """The CronJob of a schedule, there exactly while there is one, and no searches that nobody asks any more."""
    clock = schedule(draft.resource, draft.config)
    if clock is not None:
        draft.actions.append(Apply(clock))
    elif ("CronJob", name := f"{draft.resource.name}-schedule") in draft.seen.children:
        draft.actions.append(Delete("CronJob", name))
    searches = canaries(draft.resource)
    used = searches["metadata"]["name"] if searches else None
    if draft.pending is None:
        there = [name for kind, name in draft.seen.children if kind == "ConfigMap" and name != used]
        draft.actions += [Delete("ConfigMap", name) for name in there]


def _sweep(draft: Draft, stored: Stored) -> None:
    """Clears up behind rollouts that were given up: first their Jobs, then, when no worker is left, their vectors."""
    left = []
    for id_ in draft.abandoned:
        jobs = draft.jobs(id_)
        if id_ in {stored.current, draft.active, draft.pending} or (stored.get(id_) is None and not jobs):
            continue
        left.append(id_)
        draft.actions += [Delete("Job", job.name) for job in jobs if not job.deleting]
        if jobs:
            draft.again_in(_LOOK_S)
        else:
            draft.actions.append(Discard(id_))
    draft.abandoned = tuple(left)
