"""One visit in the making: the status that will be written, and what is to be done after that."""

from __future__ import annotations

from datetime import datetime, timedelta

from imageindex_operator.actions import Action, Note
from imageindex_operator.conditions import Conditions, moment_of, timestamp
from imageindex_operator.config import Config
from imageindex_operator.names import collection, generation_of
from imageindex_operator.observed import Job, Observed
from imageindex_operator.resource import ImageIndex, JobStatus, Rejection, Revision, Status, Tuning

_MOST_REVISIONS = 12


class Draft:
    """The fields of the status by the nouns of the plan: generations by their ids, times as times."""

    def __init__(self, resource: ImageIndex, seen: Observed, config: Config) -> None:
        self.resource = resource
        self.seen = seen
        self.config = config
        status = resource.status
        self.active = generation_of(resource.index, status.active_collection)
        self.pending = generation_of(resource.index, status.pending_collection)
        self.previous = generation_of(resource.index, status.previous_collection)
        self.spec_hash = status.spec_hash
        self.revisions = status.revisions
        self.rejection = status.rejection
        self.tuning = status.tuning
        self.abandoned = status.abandoned
        self.job = status.job
        self.promoted_at = moment_of(status.last_promotion_time)
        self.handed_over_at = moment_of(status.last_handover_time)
        self.scheduled_at = status.last_schedule_time
        self.images_seen, self.points = status.images_seen, status.points_indexed
        self.replicas, self.ready_replicas = status.replicas, status.ready_replicas
        self.selector = status.selector
        self.conditions = Conditions(status.conditions, resource.generation, seen.now)
        self.actions: list[Action] = []
        self.notes: list[Note] = []
        self.requeue_s: float | None = None
        self.target: str | None = None
        """The generation that should serve, once `rollout` has said."""
        self.blocked: tuple[str, str] | None = None
        """Reason and message of what stands in the way of the spec and is no rejection."""

    # ---------------------------------------------------------------- questions

    @property
    def now(self) -> datetime:
        """When the visit takes place."""
        return self.seen.now

    @property
    def wanted_hash(self) -> str:
        """What a generation should be built from."""
        return self.resource.spec_hash

    @property
    def pin(self) -> str | None:
        """The generation that somebody wants to serve, whatever else is said."""
        return self.resource.spec.rollout.generation

    @property
    def stopped(self) -> Rejection | None:
        """Why the rollout of this very spec does not go on."""
        rejection = self.rejection
        return rejection if rejection and rejection.spec_hash == self.wanted_hash else None

    def is_ready(self, generation: str | None) -> bool:
        """Whether that generation is there and complete."""
        found = self.seen.stored.get(generation) if self.seen.stored else None
        return found is not None and found.state == "ready"

    def jobs(self, generation: str) -> list[Job]:
        """The Jobs of a generation, also those that are being deleted."""
        return [job for job in self.seen.jobs() if job.generation == generation]

    def revision(self, generation: str) -> Revision:
        """How a generation is served: as recorded, or as this spec builds it, or as Qdrant describes it."""
        found = next((one for one in self.revisions if one.generation == generation), None)
        if found is not None:
            return found
        model, tuning = self.resource.spec.model, self.tuning
        if generation == self.pending:
            tuned = tuning if tuning and tuning.generation == generation else None
            return Revision(
                generation=generation,
                spec_hash=self.spec_hash or "",
                model=model.name,
                pretrained=model.pretrained,
                ef=tuned.ef if tuned else None,
                recall=tuned.recall if tuned else None,
            )
        stored = self.seen.stored.get(generation) if self.seen.stored else None
        built = (stored.model.name, stored.model.pretrained) if stored else (model.name, model.pretrained)
        return Revision(generation=generation, spec_hash="", model=built[0], pretrained=built[1])

    # ---------------------------------------------------------------- changes

    def note(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Tells people something."""
        self.notes.append(Note(reason, message, warning))

    def again_in(self, seconds: float) -> None:
        """Asks for another visit, the soonest of all that were asked for."""
        self.requeue_s = seconds if self.requeue_s is None else min(self.requeue_s, seconds)

    def again_at(self, moment: datetime) -> None:
        """The same at a time, which may be past."""
        self.again_in(max((moment - self.now).total_seconds(), 0.0))

    def reject(self, reason: str, message: str, generation: str | None = None) -> None:
        """Stops the rollout of this spec until it or the retry annotation changes."""
        self.rejection = Rejection(
            spec_hash=self.wanted_hash,
            reason=reason,
            message=message,
            generation=generation,
            retry=self.resource.retry,
        )
        self.note(reason, message, warning=True)

    def record_revision(self, revision: Revision) -> None:
        """Remembers how a generation is served, the newest first."""
        others = tuple(one for one in self.revisions if one.generation != revision.generation)
        self.revisions = (revision, *others)[:_MOST_REVISIONS]

    def show(self, job: Job) -> None:
        """Shows the state of an indexing Job."""
        restarts = self.job.restarts if self.job else 0
        self.job = JobStatus(
            name=job.name, completed_indexes=job.completed, failed_indexes=job.failed, restarts=restarts
        )

    def words(self, job: Job) -> str:
        """Why a Job failed, for people: its own reason and the last words of its pod."""
        said = " ".join(self.seen.last_words.get(job.name, "").split())
        return f"{job.message} {said}".strip()

    def tuned(self, generation: str, ef: int, recall: float) -> None:
        """Remembers what was measured."""
        self.tuning = Tuning(generation=generation, ef=ef, recall=recall)

    def within(self, since: datetime | None, seconds: float) -> bool:
        """Whether so many seconds have not passed yet; asks for a visit when they will have."""
        if since is None or self.now >= since + timedelta(seconds=seconds):
            return False
        self.again_at(since + timedelta(seconds=seconds))
        return True

    def status(self) -> Status:
        """The status to write."""
        index = self.resource.index

        def named(generation: str | None) -> str | None:
            return collection(index, generation) if generation else None

        def told(moment: datetime | None) -> str | None:
            return timestamp(moment) if moment else None

        return Status(
            observed_generation=self.resource.generation,
            active_collection=named(self.active),
            pending_collection=named(self.pending),
            previous_collection=named(self.previous),
            spec_hash=self.spec_hash,
            job=self.job,
            images_seen=self.images_seen,
            points_indexed=self.points,
            replicas=self.replicas,
            ready_replicas=self.ready_replicas,
            selector=self.selector,
            last_promotion_time=told(self.promoted_at),
            last_handover_time=told(self.handed_over_at),
            last_schedule_time=self.scheduled_at,
            revisions=self.revisions,
            rejection=self.rejection,
            tuning=self.tuning,
            abandoned=self.abandoned,
            conditions=self.conditions.all(),
        )
