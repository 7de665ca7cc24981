"""Replicas that follow searches, by Kubernetes' own autoscaler and what Prometheus collects of real pods."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from imageindex_operator.drift import quantity

from tests.e2e.cluster.processes import ClusterFailed
from tests.e2e.system.crowd import Crowd
from tests.e2e.system.installation import NAMESPACE, Installation, eventually
from tests.e2e.system.monitoring import Monitoring
from tests.support.s3 import Bucket

pytestmark = pytest.mark.programs

INDEX = "crowded"
SCALER = f"{INDEX}-serving"
REPLICAS = f"sightline.dev/imageindex={INDEX},app.kubernetes.io/component=serving"
MOST = 3
ENOUGH = 20
SMALL = {"limits": {"cpu": "500m"}, "requests": {"cpu": "10m"}}
"""So that a replica, and not the crowd, is what searches wait for, on any machine."""
TARGET_P95_MS = 10_000
"""So much that searches in flight alone decide; and a number that Kubernetes writes in another way, as 10k."""
RUNNING, P95 = "sightline_searches_running", "sightline_search_p95_milliseconds"
LOG = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def monitoring(installation: Installation) -> Iterator[Monitoring]:
    with Monitoring(installation) as monitoring:
        yield monitoring


@pytest.fixture(scope="module")
def few(bucket: Bucket, scenes: Path, source: dict[str, Any]) -> dict[str, Any]:
    """A source of twenty pictures."""
    for picture in sorted(scenes.rglob("*.jpg"))[:20]:
        bucket.put(f"few/{picture.name}", picture.read_bytes())
    return {"s3": {**source["s3"], "url": f"{bucket.address}/few"}}


def test_replicas_follow_searches_in_flight_and_are_shared_by_the_crowd(
    installation: Installation, few: dict[str, Any], monitoring: Monitoring
):
    """From one replica to three while a crowd searches; no search fails, and the operator writes none of it back."""
    scaling = {"class": "hpa", "min": 1, "max": MOST, "targetInFlight": 1, "targetP95Ms": TARGET_P95_MS}
    installation.index(INDEX, few, serving={"autoscaling": scaling, "resources": SMALL})
    eventually(lambda: installation.condition(INDEX, "Ready"), "True Serving")
    eventually(lambda: sorted(figures(installation)), [P95, RUNNING])
    assert condition(installation, "ScalingActive") == "True ValidMetricFound"
    quiet = figures(installation)
    assert quiet[P95] == 0
    assert quiet[RUNNING] < 1
    assert served(monitoring).keys() == set(pods(installation))
    written = writes(monitoring)

    words = [f"a red boat, number {number}" for number in range(100_000)]
    with Crowd(installation.url(INDEX), words, steady=2, new=6, pause_s=0) as crowd:
        began = time.monotonic()
        eventually(lambda: replicas(installation), MOST)
        eventually(lambda: installation.status(INDEX).get("readyReplicas"), MOST)
        LOG.info("From one replica to three that are ready: %.0f s", time.monotonic() - began)
        eventually(lambda: sorted(served(monitoring)) == sorted(pods(installation)), True)
        before = served(monitoring)
        eventually(lambda: all(many > before[pod] + ENOUGH for pod, many in served(monitoring).items()), True)
        eventually(lambda: figures(installation)[P95] > 0, True)
        eventually(lambda: any(mean % 1 for mean in in_flight(installation, REPLICAS).values()), True)
        busy = figures(installation)
        LOG.info("In flight on each of three replicas: %.1f; p95: %.0f ms", busy[RUNNING], busy[P95])
        assert busy[RUNNING] > 0
        assert condition(installation, "ScalingActive") == "True ValidMetricFound"
    LOG.info("Searches: %d, of which told to come back: %d", crowd.answered, crowd.refused)
    assert crowd.failures == []
    assert replicas(installation) == MOST

    eventually(lambda: condition(installation, "AbleToScale"), "True ScaleDownStabilized")
    assert writes(monitoring) == written
    installation.kubectl("delete", "imageindex", INDEX)
    eventually(lambda: installation.names("hpa,deployments,pods", INDEX), [])


@pytest.mark.usefixtures("monitoring")
def test_the_apis_replicas_have_the_figure_too(installation: Installation):
    """For api.autoscaling.targetSearchesRunning, by the labels that the ServiceMonitor gives."""
    api = "app.kubernetes.io/component=api"
    names = [one["metadata"]["name"] for one in installation.get("pods", f"--selector={api}")["items"]]
    eventually(lambda: list(in_flight(installation, api)), names)


def in_flight(installation: Installation, selector: str) -> dict[str, float]:
    """What an autoscaler of these pods is told."""
    path = (
        f"/apis/custom.metrics.k8s.io/v1beta1/namespaces/{NAMESPACE}/pods/*/{RUNNING}?labelSelector={quote(selector)}"
    )
    try:
        told = json.loads(installation.cluster.kubectl("get", "--raw", path))["items"]
    except ClusterFailed:  # not known yet
        return {}
    return {one["describedObject"]["name"]: float(quantity(one["value"])) for one in told}


def autoscaler(installation: Installation) -> dict[str, Any]:
    return dict(installation.get("hpa", SCALER).get("status", {}))


def condition(installation: Installation, type_: str) -> str:
    """Status and reason of a condition of the autoscaler."""
    found = autoscaler(installation).get("conditions", [])
    return next((f"{one['status']} {one['reason']}" for one in found if one["type"] == type_), "")


def figures(installation: Installation) -> dict[str, float]:
    """What the autoscaler goes by now: searches in flight on each replica in the mean, and p95 in milliseconds."""
    found = autoscaler(installation).get("currentMetrics") or []
    metrics = [one[one["type"].lower()] for one in found if one["type"]]
    return {one["metric"]["name"]: float(quantity(next(iter(one["current"].values())))) for one in metrics}


def replicas(installation: Installation) -> int:
    [name] = installation.names("deployments", INDEX)
    return int(installation.get("deployment", name)["spec"]["replicas"])


def pods(installation: Installation) -> list[str]:
    return [one["metadata"]["name"] for one in installation.get("pods", f"--selector={REPLICAS}")["items"]]


def served(monitoring: Monitoring) -> dict[str, float]:
    """How many searches each replica has answered."""
    of_index = f'{{namespace="{NAMESPACE}",imageindex="{INDEX}"}}'
    return monitoring.ask(f"sum by (pod) (sightline_search_duration_seconds_count{of_index})")


def writes(monitoring: Monitoring) -> float:
    """How often the operator has written replicas or the autoscaler that were there already."""
    of_both = 'kind=~"Deployment|HorizontalPodAutoscaler",action=~"update|scale"'
    return sum(monitoring.ask(f"sum(sightline_operator_writes_total{{{of_both}}})").values())
