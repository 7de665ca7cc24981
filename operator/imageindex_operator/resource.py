"""An `ImageIndex` as the API server gives it: spec and status, typed. `crd.yaml` says the same to Kubernetes.

Defaults and bounds stand in both; a test holds them together. Nothing is refused here: what the schema lets through
is read, and what it can't see (a missing Secret, an alias that another one owns) becomes a condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from imageindex_operator.names import API_VERSION, KIND, REINDEX, RETRY, digest


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


# ---------------------------------------------------------------- spec


class S3Source(_Part):
    """Pictures of a bucket, `s3://bucket/prefix`; the Secret's keys are variables such as AWS_ACCESS_KEY_ID."""

    url: str
    endpoint: str | None = None
    secret_name: str | None = None


class VolumeSource(_Part):
    """A folder of a PersistentVolumeClaim, mounted read-only."""

    claim_name: str
    path: str = ""


class HttpSource(_Part):
    """A list of addresses (.csv, .parquet) or tar shards; the Secret's keys are variables of the workers."""

    url: str
    secret_name: str | None = None


class Source(_Part):
    """Where the pictures are: exactly one of these."""

    s3: S3Source | None = None
    pvc: VolumeSource | None = None
    http: HttpSource | None = None

    @property
    def secret_name(self) -> str | None:
        """The Secret that the workers need for it."""
        found = self.s3 or self.http
        return found.secret_name if found else None


class Model(_Part):
    """CLIP_MODEL and CLIP_PRETRAINED; `dimension` is checked against the model that was loaded."""

    name: str
    pretrained: str
    dimension: int | None = None


class Collection(_Part):
    """How the index lies in Qdrant; `alias` is the index's name, the resource's own when not given."""

    alias: str | None = None
    shard_number: int = 1
    replication_factor: int = 1


class Indexing(_Part):
    """The Indexed Job. Times are in seconds; `schedule` is a cron expression in UTC."""

    shards: int = 1
    parallelism: int = 1
    batch_size: int = 256
    resources: dict[str, Any] = Field(default_factory=dict)
    backoff_limit_per_index: int = 3
    max_failed_indexes: int | None = None
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int = 86400
    schedule: str | None = None


class Canary(_Part):
    """A search and the pictures, by object key, that must be among its first hits."""

    query: str
    expect: tuple[str, ...]
    within: int = 10


class Verification(_Part):
    """What a generation must show before it serves; `min_recall` also has the search's `ef` tuned to it."""

    min_point_ratio: float = 0.999
    canary_queries: tuple[Canary, ...] = ()
    min_recall: float | None = None


class Rollout(_Part):
    """How generations follow each other; `generation` pins the one that serves."""

    auto_promote: bool = True
    scale_down_delay_seconds: int = 30
    revision_history_limit: int = 1
    generation: str | None = None
    verification: Verification = Verification()


class Autoscaling(_Part):
    """Who sets the replicas. `target_in_flight` is searches at once on one replica, refused ones too."""

    class_: Literal["none", "hpa", "keda", "external"] = Field("none", alias="class")
    min: int = 1
    max: int | None = None
    target_in_flight: int = 4
    target_p95_ms: int | None = Field(None, alias="targetP95Ms")


class Serving(_Part):
    """The replicas that answer; `replicas` is None where an autoscaler decides, and 1 is meant elsewhere."""

    replicas: int | None = None
    gpu: int = 0
    resources: dict[str, Any] = Field(default_factory=dict)
    pod_template: dict[str, Any] = Field(default_factory=dict)
    tolerations_policy: Literal["append", "replace"] = "append"
    autoscaling: Autoscaling = Autoscaling()

    @property
    def wanted_replicas(self) -> int | None:
        """How many replicas to ask for; None leaves the number to whoever scales."""
        if self.autoscaling.class_ == "none":
            return 1 if self.replicas is None else self.replicas
        return self.replicas if self.autoscaling.class_ == "external" else None


class Spec(_Part):
    """What somebody wants."""

    source: Source
    model: Model
    collection: Collection = Collection()
    indexing: Indexing = Indexing()
    rollout: Rollout = Rollout()
    serving: Serving = Serving()
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    snapshot_before_delete: bool = True
    suspend: bool = False


# ---------------------------------------------------------------- status


class Condition(_Part):
    """One condition, as Kubernetes' conventions have it; times are RFC 3339."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: str
    observed_generation: int | None = None


class JobStatus(_Part):
    """The indexing Job. Indexes are written as Kubernetes does, `0,2-4`; `restarts` is how often it was begun anew."""

    name: str
    completed_indexes: str = ""
    failed_indexes: str = ""
    restarts: int = 0


class Revision(_Part):
    """A generation that serves or served: of which spec, with which model, searched with which `ef`."""

    generation: str
    spec_hash: str
    model: str
    pretrained: str
    ef: int | None = None
    recall: float | None = None


class Rejection(_Part):
    """Why the rollout of a spec stopped; it stays stopped until the spec or the retry annotation changes."""

    spec_hash: str
    reason: str
    message: str
    generation: str | None = None
    retry: str = ""


class Tuning(_Part):
    """The cheapest `ef` that holds the wanted recall in a generation, and the recall that it has."""

    generation: str
    ef: int
    recall: float


class Status(_Part):
    """What the operator found and where it is; written whole, by server-side apply.

    `spec_hash` is of the spec that the pending generation is built from, or else the active one.
    """

    observed_generation: int | None = None
    active_collection: str | None = None
    pending_collection: str | None = None
    previous_collection: str | None = None
    spec_hash: str | None = None
    job: JobStatus | None = None
    images_seen: int | None = None
    points_indexed: int | None = None
    replicas: int | None = None
    ready_replicas: int | None = None
    selector: str | None = None
    last_promotion_time: str | None = None
    last_handover_time: str | None = None
    last_schedule_time: str | None = None
    revisions: tuple[Revision, ...] = ()
    rejection: Rejection | None = None
    tuning: Tuning | None = None
    abandoned: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The status as it is applied: fields that say nothing are left out, so that they go."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# ---------------------------------------------------------------- the whole


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """One resource. `generation` counts its specs; annotations and finalizers are as they are now."""

    name: str
    namespace: str
    uid: str
    generation: int
    created_at: str
    deleting_since: datetime | None
    annotations: Mapping[str, str]
    finalizers: tuple[str, ...]
    spec: Spec
    status: Status

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> ImageIndex:
        """The resource in an answer of the API server. Raises pydantic's `ValidationError` for what is none."""
        meta = body["metadata"]
        deleted = meta.get("deletionTimestamp")
        return cls(
            name=meta["name"],
            namespace=meta["namespace"],
            uid=meta["uid"],
            generation=meta.get("generation", 1),
            created_at=meta.get("creationTimestamp", ""),
            deleting_since=datetime.fromisoformat(deleted) if deleted else None,
            annotations=meta.get("annotations") or {},
            finalizers=tuple(meta.get("finalizers") or ()),
            spec=Spec.model_validate(body["spec"]),
            status=Status.model_validate(body.get("status") or {}),
        )

    @property
    def index(self) -> str:
        """The index's name in Sightline, and the end of its alias in Qdrant."""
        return self.spec.collection.alias or self.name

    @property
    def spec_hash(self) -> str:
        """What a generation is built from, in ten digits: another one means another generation."""
        spec = self.spec
        return digest(
            {
                "source": spec.source.model_dump(mode="json", by_alias=True, exclude_none=True),
                "model": [spec.model.name, spec.model.pretrained],
                "layout": [spec.collection.shard_number, spec.collection.replication_factor, spec.indexing.shards],
                "reindex": self.annotations.get(REINDEX, ""),
            }
        )

    @property
    def retry(self) -> str:
        """The value of the retry annotation: a new one lets a stopped rollout go on."""
        return self.annotations.get(RETRY, "")

    @property
    def reference(self) -> dict[str, Any]:
        """Its entry in a child's `ownerReferences`."""
        return {"apiVersion": API_VERSION, "kind": KIND, "name": self.name, "uid": self.uid, "controller": True}
