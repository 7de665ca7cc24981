"""What every pod of Sightline has in common: restricted security, variables, volumes, GPUs, and overlays on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from imageindex_operator.config import Config
from imageindex_operator.names import labels
from imageindex_operator.resource import ImageIndex

Manifest = dict[str, Any]

CONTAINER: Final = "sightline"
GPU: Final = "nvidia.com/gpu"
USER: Final = 10001
"""The user that the image runs as; not root, and no user of a node."""

_GPU_TOLERATION: Final = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
_NAMED: Final = frozenset({"containers", "initContainers", "env", "volumes", "ports"})
_MOUNTS: Final = "volumeMounts"


def metadata(resource: ImageIndex, name: str, component: str, **more: str) -> Manifest:
    """Name, namespace, labels and owner of a child."""
    return {
        "name": name,
        "namespace": resource.namespace,
        "labels": labels(resource.name, component, **more),
        "ownerReferences": [resource.reference],
    }


def variables(resource: ImageIndex, config: Config, more: Mapping[str, str]) -> list[Manifest]:
    """The variables of a pod, sorted by name; secrets come from Secrets, never from here."""
    values = {
        "QDRANT_URL": config.qdrant_url,
        "QDRANT_SHARDS": str(resource.spec.collection.shard_number),
        "QDRANT_REPLICAS": str(resource.spec.collection.replication_factor),
        "INDEX_NAME": resource.index,
        "INDEX_PATH": "/data",
        "CLIP_EXPORTS": "/cache/exports",
        "HF_HOME": "/cache/huggingface",
        "HOME": "/cache",
        **more,
    }
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def pod(  # noqa: PLR0913 - each part of a pod is one
    resource: ImageIndex,
    config: Config,
    *,
    command: Sequence[str],
    environment: Mapping[str, str],
    resources: Mapping[str, Any],
    secrets: Sequence[str] = (),
    volumes: Sequence[Manifest] = (),
    mounts: Sequence[Manifest] = (),
    container: Mapping[str, Any] | None = None,
) -> Manifest:
    """A pod's spec that the restricted Pod Security standard admits: non-root, no capabilities, nothing writable."""
    data: Manifest = (
        {"name": "data", "persistentVolumeClaim": {"claimName": config.data_claim}}
        if config.data_claim
        else {"name": "data", "emptyDir": {}}
    )
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": CONTAINER,
                "image": config.image,
                "command": list(command),
                "env": variables(resource, config, environment),
                "envFrom": [{"secretRef": {"name": name}} for name in (config.stores_secret, *secrets)],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "cache", "mountPath": "/cache"},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the container
                    {"name": "data", "mountPath": "/data"},
                    *mounts,
                ],
                **({"resources": dict(resources)} if resources else {}),
                **(container or {}),
            }
        ],
        "volumes": [{"name": "cache", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}, data, *volumes],
    }
    if _gpus(resources):
        spec["tolerations"] = [dict(_GPU_TOLERATION)]
    return spec


def with_gpus(resources: Mapping[str, Any], gpus: int) -> Manifest:
    """Resources that also ask for so many GPUs, whose request equals their limit."""
    merged: Manifest = copy.deepcopy(dict(resources))
    if gpus:
        for kind in ("limits", "requests"):
            merged.setdefault(kind, {})[GPU] = str(gpus)
    return merged


def overlaid(template: Manifest, overlay: Mapping[str, Any], tolerations: str) -> Manifest:
    """A pod template with another merged over it: maps by key, lists of named things by name, other lists replaced.

    `tolerations` says whether the overlay's come beside the template's ("append") or replace them.
    """
    merged = _merged(template, overlay)
    own = template.get("spec", {}).get("tolerations", [])
    given = overlay.get("spec", {}).get("tolerations")
    if given is not None and tolerations == "append":
        merged["spec"]["tolerations"] = [*own, *(one for one in given if one not in own)]
    return merged


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Manifest:
    merged: Manifest = copy.deepcopy(dict(base))
    for key, value in over.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(before, value)
        elif key in _NAMED and isinstance(before, list) and isinstance(value, list):
            merged[key] = _by(before, value, "name")
        elif key == _MOUNTS and isinstance(before, list) and isinstance(value, list):
            merged[key] = _by(before, value, "mountPath")
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _by(base: Sequence[Mapping[str, Any]], over: Sequence[Mapping[str, Any]], key: str) -> list[Manifest]:
    """Lists of things that are known by a key: those of the same key merged, new ones behind."""
    given = {item.get(key): item for item in over}
    there = {item.get(key) for item in base}
    merged = [_merged(item, given[item.get(key)]) if item.get(key) in given else dict(item) for item in base]
    return [*merged, *(copy.deepcopy(dict(item)) for item in over if item.get(key) not in there)]


def _gpus(resources: Mapping[str, Any]) -> bool:
    return any(GPU in resources.get(kind, {}) for kind in ("limits", "requests"))
