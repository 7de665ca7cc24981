"""Every name that the operator puts on the cluster: the API group, labels, annotations, field managers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

GROUP: Final = "sightline.dev"
VERSION: Final = "v1alpha1"
PLURAL: Final = "imageindexes"
KIND: Final = "ImageIndex"
API_VERSION: Final = f"{GROUP}/{VERSION}"

MANAGER: Final = "sightline-operator"
"""Field manager of children and status."""

REPLICAS_MANAGER: Final = "sightline-operator-replicas"
"""Field manager of a Deployment's `replicas` while an autoscaler owns them: what keeps a value that nobody applies."""

FINALIZER: Final = f"{GROUP}/cleanup"

OWNER: Final = f"{GROUP}/imageindex"
PURPOSE: Final = f"{GROUP}/purpose"
GENERATION: Final = f"{GROUP}/generation"
SERVING: Final = f"{GROUP}/serving"
"""Labels of children: whose they are, what a Job does, for which generation, which revision of the serving pods."""

PAUSED: Final = f"{GROUP}/paused"
RETRY: Final = f"{GROUP}/retry"
REINDEX: Final = f"{GROUP}/reindex"
ABANDON: Final = f"{GROUP}/abandon-data"
"""Annotations that people set: leave alone; try what failed again; build anew; let go of what can't be deleted."""

_APP: Final = "app.kubernetes.io/"


def digest(value: Any, length: int = 10) -> str:
    """A short name for a JSON value: the same for equal values, whatever the order of their keys."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:length]


def collection(index: str, generation: str) -> str:
    """The Qdrant collection of a generation, as people see it in the status."""
    return f"sightline-{index}-{generation}"


def generation_of(index: str, collection_name: str | None) -> str | None:
    """The generation of such a collection; None without one."""
    return collection_name.removeprefix(f"sightline-{index}-") if collection_name else None


def new_generation_id(now: datetime, uid: str) -> str:
    """An id as `engine.generations.record` makes them: sorted by time, with four digits that differ by resource."""
    return f"{now:%Y%m%d-%H%M%S-%f}-{digest([uid, now.isoformat()], 4)}"


def labels(owner: str, component: str, **more: str) -> dict[str, str]:
    """The labels of a child of the ImageIndex `owner`."""
    return {
        f"{_APP}name": "sightline",
        f"{_APP}instance": owner,
        f"{_APP}component": component,
        f"{_APP}managed-by": MANAGER,
        OWNER: owner,
        **more,
    }


def owner_of(body: Mapping[str, Any]) -> str | None:
    """The name of the ImageIndex that a child belongs to, by its label."""
    found = body.get("metadata", {}).get("labels", {}).get(OWNER)
    return str(found) if found else None
