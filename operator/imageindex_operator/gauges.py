"""What Prometheus is told of each ImageIndex: its status, as figures that alerts and dashboards can read."""

from __future__ import annotations

from typing import Final

from imageindex_operator.conditions import moment_of
from imageindex_operator.names import generation_of
from imageindex_operator.resource import ImageIndex, Status
from observability import metrics

_STATUSES: Final = ("True", "False", "Unknown")

_OF_STATUS: Final = (
    metrics.imageindex_conditions,
    metrics.imageindex_replicas,
    metrics.imageindex_shards,
    metrics.imageindex_images,
    metrics.imageindex_last_promotion,
    metrics.index_recall,
)


def show(resource: ImageIndex, status: Status) -> None:
    """Sets every figure of an ImageIndex to what its status says; those that it doesn't have any more go.

    One that is being deleted has none: nobody is to be told that it serves no more.
    """
    where = (resource.namespace, resource.name)
    if resource.deleting_since is not None:
        _remove(*where)
        return
    for condition in status.conditions:
        for one in _STATUSES:
            if one == condition.status:
                metrics.imageindex_conditions.labels(*where, condition.type, one).set(1)
            else:
                metrics.imageindex_conditions.remove(*where, condition.type, one)
    metrics.imageindex_replicas.labels(*where, "desired").set(status.replicas or 0)
    metrics.imageindex_replicas.labels(*where, "ready").set(status.ready_replicas or 0)
    metrics.imageindex_images.labels(*where, "seen").set(status.images_seen or 0)
    metrics.imageindex_images.labels(*where, "indexed").set(status.points_indexed or 0)
    for state, count in _shards(resource, status).items():
        metrics.imageindex_shards.labels(*where, state).set(count)
    if promoted := moment_of(status.last_promotion_time):
        metrics.imageindex_last_promotion.labels(*where).set(promoted.timestamp())
    recall = _recall(resource, status)
    if recall is None:
        metrics.index_recall.remove(*where)
    else:
        metrics.index_recall.labels(*where).set(recall)


def forget(namespace: str, name: str) -> None:
    """Lets go of the figures of an ImageIndex that is gone."""
    _remove(namespace, name)
    metrics.operator_reconciliations.remove_by_labels({"namespace": namespace, "imageindex": name})


def _remove(namespace: str, name: str) -> None:
    for metric in _OF_STATUS:
        metric.remove_by_labels({"namespace": namespace, "imageindex": name})


def _shards(resource: ImageIndex, status: Status) -> dict[str, int]:
    done = _count(status.job.completed_indexes) if status.job else 0
    failed = _count(status.job.failed_indexes) if status.job else 0
    left = resource.spec.indexing.shards - done - failed if status.pending_collection else 0
    return {"done": done, "failed": failed, "open": max(left, 0)}


def _count(indexes: str) -> int:
    """How many indexes Kubernetes means by `0,2-4`."""
    ranges = [part.partition("-") for part in indexes.split(",") if part]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def _recall(resource: ImageIndex, status: Status) -> float | None:
    active = generation_of(resource.index, status.active_collection)
    return next((one.recall for one in status.revisions if one.generation == active), None)
