"""Who sets the number of replicas: by searches in flight and by p95, not by CPU.

A replica's processor is busy at every load that pays, so it says little about how long a search waits. Both kinds
follow the same two figures: a HorizontalPodAutoscaler reads them from a metrics adapter (the chart has its rules), a
ScaledObject of KEDA asks Prometheus itself. Searches in flight are a mean over time and count the refused too; p95 is 0
while nobody searches. Where a figure is missing, as when nothing is collected any more, the number of replicas stays.
"""

from __future__ import annotations

from typing import Any

from imageindex_operator.builders.pods import Manifest, metadata
from imageindex_operator.config import Config
from imageindex_operator.resource import ImageIndex

_CALM_S = 300  # a replica that is let go takes minutes to come back with a large model


def autoscaler(resource: ImageIndex, revision: str) -> Manifest:
    """The HorizontalPodAutoscaler of the revision that has the traffic."""
    scaling = resource.spec.serving.autoscaling
    metrics: list[dict[str, Any]] = [
        {
            "type": "Pods",
            "pods": {
                "metric": {"name": "sightline_searches_running"},
                "target": {"type": "AverageValue", "averageValue": str(scaling.target_in_flight)},
            },
        }
    ]
    if scaling.target_p95_ms is not None:
        metrics.append(
            {
                "type": "External",
                "external": {
                    "metric": {
                        "name": "sightline_search_p95_milliseconds",
                        "selector": {"matchLabels": {"imageindex": resource.name}},
                    },
                    "target": {"type": "Value", "value": str(scaling.target_p95_ms)},
                },
            }
        )
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(resource, f"{resource.name}-serving", "serving"),
        "spec": {
            "scaleTargetRef": _target(resource, revision),
            "minReplicas": scaling.min,
            "maxReplicas": scaling.max or scaling.min,
            "metrics": metrics,
            "behavior": _behavior(),
        },
    }


def scaled_object(resource: ImageIndex, revision: str, config: Config) -> Manifest:
    """KEDA's ScaledObject of the revision that has the traffic."""
    scaling = resource.spec.serving.autoscaling
    pods = f'namespace="{resource.namespace}",pod=~"{resource.name}-serving-{revision}-.*"'
    in_flight = f"sum(irate(sightline_search_demand_seconds_total{{{pods}}}[2m]))"
    queries = [(in_flight, scaling.target_in_flight, "AverageValue")]
    if scaling.target_p95_ms is not None:
        rate = f"rate(sightline_search_duration_seconds_bucket{{{pods}}}[2m])"
        p95 = f"1000 * histogram_quantile(0.95, sum by (le) ({rate})) > 0 or 0 * sum({rate})"
        queries.append((p95, scaling.target_p95_ms, "Value"))
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(resource, f"{resource.name}-serving", "serving"),
        "spec": {
            "scaleTargetRef": _target(resource, revision),
            "minReplicaCount": scaling.min,
            "maxReplicaCount": scaling.max or scaling.min,
            "pollingInterval": 15,
            "cooldownPeriod": _CALM_S,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
            "triggers": [
                {
                    "type": "prometheus",
                    "metricType": kind,
                    "metadata": {
                        "serverAddress": config.prometheus_url,
                        "query": query,
                        "threshold": str(threshold),
                        "ignoreNullValues": "false",
                    },
                }
                for query, threshold, kind in queries
            ],
        },
    }


def _target(resource: ImageIndex, revision: str) -> Manifest:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{resource.name}-serving-{revision}"}


def _behavior() -> Manifest:
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": _CALM_S,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }
