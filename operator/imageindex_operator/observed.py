"""What one look at the world found: the children, Qdrant, the ledger. Facts only; `plan` says what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import orjson

from engine.generations import Generation
from imageindex_operator.names import GENERATION, MANAGER, PURPOSE, SERVING

Body = Mapping[str, Any]
Key = tuple[str, str]
"""Kind and name of a child; all are in the namespace of their ImageIndex."""


@dataclass(frozen=True, slots=True)
class Job:
    """A Job of a rollout. Indexes are written as Kubernetes does; `message` says why it failed, or what it left."""

    name: str
    purpose: str
    generation: str
    state: Literal["running", "complete", "failed"]
    completed: str = ""
    failed: str = ""
    message: str = ""
    deleting: bool = False

    @classmethod
    def of(cls, body: Body) -> Job:
        """The Job in an answer of the API server."""
        meta, status = body["metadata"], body.get("status") or {}
        labels = meta.get("labels") or {}
        ended = {one["type"]: one for one in status.get("conditions") or [] if one.get("status") == "True"}
        failed = ended.get("Failed") or ended.get("FailureTarget")
        return cls(
            name=meta["name"],
            purpose=labels.get(PURPOSE, ""),
            generation=labels.get(GENERATION, ""),
            state="failed" if failed else "complete" if "Complete" in ended else "running",
            completed=status.get("completedIndexes") or "",
            failed=status.get("failedIndexes") or "",
            message=f"{failed.get('reason', '')}: {failed.get('message', '')}" if failed else "",
            deleting="deletionTimestamp" in meta,
        )


@dataclass(frozen=True, slots=True)
class Deployment:
    """A revision of the serving pods.

    `settled` means that the controller has seen the latest spec and all pods are of it; `stuck` says why it does not
    get on; `owns_replicas` that the operator itself set their number, `unavailable_since` when the last one went.
    """

    name: str
    revision: str
    replicas: int
    available: int
    settled: bool
    stuck: str = ""
    owns_replicas: bool = False
    unavailable_since: datetime | None = None

    @classmethod
    def of(cls, body: Body) -> Deployment:
        """The Deployment in an answer of the API server."""
        meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        seen = status.get("observedGeneration", 0) >= meta.get("generation", 1)
        conditions = {one["type"]: one for one in status.get("conditions") or []}
        progress = conditions.get("Progressing", {})
        stuck = progress.get("message", "") if progress.get("status") == "False" else ""
        available = conditions.get("Available", {})
        since = available.get("lastTransitionTime") if available.get("status") == "False" else None
        replicas = spec.get("replicas", 1)
        return cls(
            name=meta["name"],
            revision=(meta.get("labels") or {}).get(SERVING, ""),
            replicas=replicas,
            available=status.get("availableReplicas", 0),
            settled=seen and status.get("updatedReplicas", 0) >= replicas,
            stuck=stuck,
            owns_replicas=any(
                one.get("manager") == MANAGER and "f:replicas" in (one.get("fieldsV1") or {}).get("f:spec", {})
                for one in meta.get("managedFields") or []
            ),
            unavailable_since=datetime.fromisoformat(since) if since else None,
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """The index at Qdrant: all generations, oldest first, and the one that the alias stands for."""

    current: str | None
    generations: tuple[Generation, ...]

    def get(self, id_: str | None) -> Generation | None:
        """The generation of that id, if there is one."""
        return next((one for one in self.generations if one.id == id_), None)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the ledger has of a generation: images seen in the source, and those that are indexed."""

    seen: int
    indexed: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the replicas answered since the last promotion: searches, and those that failed by our own fault."""

    searches: int
    failed: int


@dataclass(frozen=True, slots=True)
class Observed:
    """One look. `stored` is None when Qdrant did not answer, and `away` says why.

    `missing` names what the spec refers to and is not there, `owner` the ImageIndex that owns the alias instead of
    this one. `leaving` says that the namespace is being deleted. `children` are the bodies as they are, `last_words`
    the termination messages of ended Jobs' pods: what a tuning Job measured, or the last lines of one that failed.
    """

    now: datetime
    stored: Stored | None
    away: str = ""
    children: Mapping[Key, Body] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    owner: str | None = None
    leaving: bool = False
    progress: Progress | None = None
    traffic: Traffic | None = None
    last_words: Mapping[str, str] = field(default_factory=dict)

    def jobs(self) -> list[Job]:
        """The Jobs of rollouts; those of a schedule only keep time."""
        found = (Job.of(body) for body in self._of("Job"))
        return [job for job in found if job.purpose]

    def deployments(self) -> list[Deployment]:
        """The revisions of the serving pods."""
        return [Deployment.of(body) for body in self._of("Deployment")]

    def serving_revision(self, service: str) -> str | None:
        """The revision that the Service of that name leads to; None when there is no such Service."""
        body = self.children.get(("Service", service))
        revision = ((body or {}).get("spec") or {}).get("selector", {}).get(SERVING)
        return str(revision) if revision else None

    def last_schedule(self) -> str | None:
        """When the schedule last fired, RFC 3339."""
        times = [(body.get("status") or {}).get("lastScheduleTime") for body in self._of("CronJob")]
        return max((time for time in times if time), default=None)

    def _of(self, kind: str) -> Iterable[Body]:
        return [body for (found, _), body in sorted(self.children.items()) if found == kind]


def tuned_by(message: str) -> tuple[int, float] | None:
    """`ef` and the recall that it has, as a tuning Job wrote them; None for anything else."""
    try:
        told = orjson.loads(message)
        return int(told["ef"]), float(told["recall"])
    except (ValueError, KeyError, TypeError):
        return None
