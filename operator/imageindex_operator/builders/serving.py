"""What answers searches: a Deployment for each revision of the pods, the Service that says which one, its budget.

Revisions stand side by side, so that a new one is warm before it gets traffic and the one before is there to go back
to: the Service's selector is the switch. Which generation they search is not theirs to know: they follow the alias.
"""

from __future__ import annotations

from typing import Any, Final

from imageindex_operator.builders.pods import Manifest, metadata, overlaid, pod, with_gpus
from imageindex_operator.config import Config
from imageindex_operator.names import OWNER, SERVING, digest
from imageindex_operator.resource import ImageIndex

PORT: Final = 8000
_DRAIN_S: Final = 5
_GRACE_S: Final = 20


def deployment(resource: ImageIndex, config: Config, model: tuple[str, str], ef: int | None) -> Manifest:
    """The replicas of one revision: of this spec, starting with `model` (name, pretrained), searching with `ef`.

    It has no `replicas` when an autoscaler decides.
    """
    serving = resource.spec.serving
    environment = {
        "API_HOST": "0.0.0.0",  # noqa: S104 - a container's own address
        "API_PORT": str(PORT),
        "API_DRAIN_S": str(_DRAIN_S),
        "API_SHUTDOWN_GRACE_S": str(_GRACE_S),
        "CLIP_MODEL": model[0],
        "CLIP_PRETRAINED": model[1],
        **({} if ef is None else {"SEARCH_EF": str(ef)}),
    }
    spec = pod(
        resource,
        config,
        command=["sightline", "serve"],
        environment=environment,
        resources=with_gpus(serving.resources, serving.gpu),
        container={
            "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            "startupProbe": _probe("/readyz", period=2, failures=300),
            "readinessProbe": _probe("/readyz", period=5, failures=2),
            "livenessProbe": _probe("/livez", period=10, failures=3),
        },
    )
    spec["terminationGracePeriodSeconds"] = _DRAIN_S + _GRACE_S + 5
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {OWNER: resource.name, "app.kubernetes.io/component": "serving"}},
        }
    ]
    template = overlaid({"spec": spec}, serving.pod_template, serving.tolerations_policy)
    revision = digest(template, 8)
    base = metadata(resource, f"{resource.name}-serving-{revision}", "serving", **{SERVING: revision})
    given = template.get("metadata", {}).get("labels", {})
    template["metadata"] = {**template.get("metadata", {}), "labels": {**given, **base["labels"]}}
    replicas = 0 if resource.spec.suspend else serving.wanted_replicas
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": base,
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "selector": {"matchLabels": {OWNER: resource.name, SERVING: revision}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": 900,
            "revisionHistoryLimit": 1,
            "template": template,
        },
    }


def service(resource: ImageIndex, revision: str) -> Manifest:
    """The Service that clients know, leading to one revision."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(resource, resource.name, "serving"),
        "spec": {
            "type": "ClusterIP",
            "selector": {OWNER: resource.name, SERVING: revision},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def disruption_budget(resource: ImageIndex) -> Manifest:
    """Nodes are emptied one replica at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(resource, f"{resource.name}-serving", "serving"),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {OWNER: resource.name, "app.kubernetes.io/component": "serving"}},
        },
    }


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
