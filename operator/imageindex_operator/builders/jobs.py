"""The Jobs of a rollout: one pod for each shard, one that finishes, one that tunes; and the clock of a schedule.

A Job's template can't be changed, so a Job is named by the hash of what it was made from: another template is another
Job. `parallelism` and `suspend` can be changed in place and are left out of the hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from imageindex_operator.builders.pods import CONTAINER, Manifest, metadata, pod
from imageindex_operator.config import Config
from imageindex_operator.names import GENERATION, PURPOSE, digest
from imageindex_operator.resource import ImageIndex

EXIT_DATA: Final = 65
"""A worker's exit code for data that is at fault: the same again would come of trying again."""

EXIT_AWAY: Final = 75
"""A worker's exit code for what is away or busy: no fault of the shard, so it does not count."""

_CANARIES: Final = "/etc/sightline/canaries.json"
_RESULT: Final = "/dev/termination-log"


def index_job(resource: ImageIndex, generation: str, config: Config) -> Manifest:
    """The Indexed Job that builds a generation: completion index i does shard i."""
    indexing = resource.spec.indexing
    command = [
        "sightline",
        "index",
        _source(resource),
        "--index",
        resource.index,
        "--shard-index",
        "$(JOB_COMPLETION_INDEX)",
        "--shard-count",
        str(indexing.shards),
        "--generation",
        generation,
    ]
    spec: Manifest = {
        "completionMode": "Indexed",
        "completions": indexing.shards,
        "backoffLimitPerIndex": indexing.backoff_limit_per_index,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failures("FailIndex"),
    }
    if indexing.max_failed_indexes is not None:
        spec["maxFailedIndexes"] = indexing.max_failed_indexes
    environment = {"INDEX_BATCH_SIZE": str(indexing.batch_size)}
    manifest = _job(resource, generation, config, "index", spec, command, environment)
    manifest["spec"]["parallelism"] = indexing.parallelism
    return manifest


def finish_job(resource: ImageIndex, generation: str, config: Config) -> Manifest:
    """The Job that checks a generation's coverage, optimizes and verifies it, and leaves it ready, not promoted."""
    verification = resource.spec.rollout.verification
    command = ["sightline", "generations", "finish", generation, "--index", resource.index, "--no-promote"]
    environment = {"INDEX_KEEP_GENERATIONS": "1000"}  # what goes, and when, is the operator's to say
    if verification.min_recall is not None:  # what the search's ef can't mend is tuned afterwards
        environment["INDEX_MIN_RECALL"] = "0"
    if verification.canary_queries:
        environment["INDEX_CANARIES"] = _CANARIES
    # 75 counts here: it may also mean that a shard has to be done again, which more attempts at finishing never do.
    spec: Manifest = {"backoffLimit": 5, "podFailurePolicy": _failures("FailJob", ignored=False)}
    return _job(resource, generation, config, "finish", spec, command, environment)


def tune_job(resource: ImageIndex, generation: str, config: Config) -> Manifest:
    """The Job that measures which `ef` holds the wanted recall, and leaves the answer in its termination message."""
    wanted = resource.spec.rollout.verification.min_recall
    command = [
        "sightline",
        "generations",
        "tune",
        generation,
        "--index",
        resource.index,
        "--min-recall",
        str(wanted),
        "--out",
        _RESULT,
    ]
    spec: Manifest = {"backoffLimit": 3, "podFailurePolicy": _failures("FailJob")}
    return _job(resource, generation, config, "tune", spec, command, {})


def canaries(resource: ImageIndex) -> Manifest | None:
    """The ConfigMap with the searches that a generation must answer; None when there are none. Named by its hash."""
    queries = resource.spec.rollout.verification.canary_queries
    if not queries:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(resource, _canaries_name(resource), "canaries"),
        "immutable": True,
        "data": {"canaries.json": orjson.dumps([query.model_dump(mode="json") for query in queries]).decode()},
    }


def schedule(resource: ImageIndex, config: Config) -> Manifest | None:
    """The CronJob that keeps time, or None without a schedule.

    Its Jobs are made suspended and replaced by the next, so none of their pods ever runs: the operator reads when the
    CronJob last fired and begins a rollout. So no pod needs a right to change anything in the cluster.
    """
    indexing = resource.spec.indexing
    if indexing.schedule is None:
        return None
    container = {
        "name": CONTAINER,
        "image": config.image,
        "command": ["true"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata(resource, f"{resource.name}-schedule", "schedule"),
        "spec": {
            "schedule": indexing.schedule,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Replace",
            "startingDeadlineSeconds": 300,
            "suspend": resource.spec.suspend,
            "jobTemplate": {
                "spec": {
                    "suspend": True,
                    "template": {
                        "spec": {
                            "restartPolicy": "Never",
                            "automountServiceAccountToken": False,
                            "securityContext": security,
                            "containers": [container],
                        }
                    },
                }
            },
        },
    }


def _job(
    resource: ImageIndex,
    generation: str,
    config: Config,
    purpose: str,
    spec: Manifest,
    command: Sequence[str],
    environment: dict[str, str],
) -> Manifest:
    indexing, model, source = resource.spec.indexing, resource.spec.model, resource.spec.source
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []
    if source.pvc and purpose == "index":
        claim = {"claimName": source.pvc.claim_name, "readOnly": True}
        volumes.append({"name": "source", "persistentVolumeClaim": claim})
        mounts.append({"name": "source", "mountPath": "/source", "readOnly": True})
    if purpose == "finish" and resource.spec.rollout.verification.canary_queries:
        volumes.append({"name": "canaries", "configMap": {"name": _canaries_name(resource)}})
        mounts.append({"name": "canaries", "mountPath": "/etc/sightline", "readOnly": True})
    if source.s3 and source.s3.endpoint and purpose == "index":
        environment["AWS_ENDPOINT_URL"] = source.s3.endpoint
    environment |= {"CLIP_MODEL": model.name, "CLIP_PRETRAINED": model.pretrained}
    pod_spec = pod(
        resource,
        config,
        command=command,
        environment=environment,
        resources=indexing.resources,
        secrets=[source.secret_name] if source.secret_name and purpose == "index" else [],
        volumes=volumes,
        mounts=mounts,
        container={"terminationMessagePolicy": "FallbackToLogsOnError"},
    )
    pod_spec["restartPolicy"] = "Never"
    own = {PURPOSE: purpose, GENERATION: generation}
    template = {"metadata": {"labels": metadata(resource, "", purpose, **own)["labels"]}, "spec": pod_spec}
    spec = {**spec, "ttlSecondsAfterFinished": indexing.ttl_seconds_after_finished, "template": template}
    if indexing.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = indexing.active_deadline_seconds
    name = f"{resource.name}-{purpose}-{digest([spec, resource.retry])}"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(resource, name, purpose, **own),
        "spec": {**spec, "suspend": resource.spec.suspend},
    }


def _failures(poison: str, *, ignored: bool = True) -> Manifest:
    """What a failed pod means: data at fault is final, a lost node never counts, nor what is away if `ignored`."""

    def on(code: int) -> Manifest:
        return {"onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [code]}}

    lost = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    away = [{"action": "Ignore", **on(EXIT_AWAY)}] if ignored else []
    return {"rules": [{"action": poison, **on(EXIT_DATA)}, lost, *away]}


def _source(resource: ImageIndex) -> str:
    source = resource.spec.source
    if source.pvc:
        return f"/source/{source.pvc.path}".rstrip("/")
    found: Any = source.s3 or source.http
    return str(found.url)


def _canaries_name(resource: ImageIndex) -> str:
    queries = resource.spec.rollout.verification.canary_queries
    return f"{resource.name}-canaries-{digest([query.model_dump(mode='json') for query in queries])}"
