"""What autoscalers are told when it matters: the adapter's rules and KEDA's queries, computed by Prometheus itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from imageindex_operator.builders import scaled_object
from imageindex_operator.config import Config
from imageindex_operator.resource import ImageIndex

from tests.charts.conftest import CHART

pytestmark = pytest.mark.programs

EVERY_S = 30
STEPS = 20
"""Collections, as often as the chart's monitors ask for them by default."""
PODS = ("shop-serving-r-1", "shop-serving-r-2")

Series = dict[str, str]


def labels(pod: str, *, namespace: str = "web", **more: str) -> str:
    """Those of a replica of the ImageIndex `shop`, as its PodMonitor gives them."""
    given = {"namespace": namespace, "pod": pod, "imageindex": "shop", **more}
    return ",".join(f'{name}="{value}"' for name, value in given.items())


def demand(pod: str, values: str, **more: str) -> Series:
    return {"series": f"sightline_search_demand_seconds_total{{{labels(pod, **more)}}}", "values": values}


def durations(pod: str, within_50_ms: str, within_1_s: str, **more: str) -> list[Series]:
    """A histogram of two buckets."""
    counts = {"0.05": within_50_ms, "1.0": within_1_s, "+Inf": within_1_s}
    return [
        {"series": f"sightline_search_duration_seconds_bucket{{{labels(pod, le=bound, **more)}}}", "values": values}
        for bound, values in counts.items()
    ]


def adapter(kind: str, matchers: str) -> str:
    """The query that the adapter makes of its only rule of a kind."""
    rules = yaml.safe_load((CHART / "files" / "prometheus-adapter.yaml").read_text())["rules"]
    [rule] = rules[kind]
    parts = {
        "<<.Series>>": rule["seriesQuery"].partition("{")[0],
        "<<.LabelMatchers>>": matchers,
        "<<.GroupBy>>": "pod",
    }
    query = rule["metricsQuery"]
    for placeholder, text in parts.items():
        query = query.replace(placeholder, text)
    return str(query)


def keda() -> list[str]:
    """The queries for searches in flight and for p95, whose answers must not be missing."""
    serving = {"autoscaling": {"class": "keda", "max": 3, "targetP95Ms": 50}}
    spec = {"source": {"http": {"url": "https://a.example.com/a.csv"}}, "model": {"name": "m", "pretrained": ""}}
    body = {"metadata": {"name": "shop", "namespace": "web", "uid": "u"}, "spec": {**spec, "serving": serving}}
    config = Config(image="i", qdrant_url="http://qdrant:6334", prometheus_url="http://prometheus:9090")
    triggers = scaled_object(ImageIndex.parse(body), "r", config)["spec"]["triggers"]
    assert all(one["metadata"]["ignoreNullValues"] == "false" for one in triggers)
    return [one["metadata"]["query"] for one in triggers]


IN_FLIGHT = adapter("custom", f'namespace="web",pod=~"{"|".join(PODS)}"'), keda()[0]
P95 = adapter("external", 'imageindex="shop",namespace="web"'), keda()[1]
"""What the adapter asks for a HorizontalPodAutoscaler, and what KEDA does."""


def tell(folder: Path, series: list[Series], *expected: tuple[str, dict[str, float]]) -> None:
    """Fails unless each query gives these values, by labels, after ten minutes of collecting the series."""
    promtool = shutil.which("promtool")
    assert promtool, "Prometheus is missing: run tools/install-test-programs, or `make test`, which does."
    asked = [
        {
            "expr": f"round({query}, 0.001)",
            "eval_time": f"{EVERY_S * STEPS}s",
            "exp_samples": [{"labels": name, "value": value} for name, value in values.items()],
        }
        for query, values in expected
    ]
    case = folder / "case.yaml"
    test = {"interval": f"{EVERY_S}s", "input_series": series, "promql_expr_test": asked}
    case.write_text(json.dumps({"tests": [test]}))
    done = subprocess.run([promtool, "test", "rules", case], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_searches_in_flight_are_those_of_each_pod_and_of_this_namespace(tmp_path: Path):
    """Two at once on one replica and four on the other; in another namespace is an index of the same name."""
    one, other = PODS
    series = [
        demand(one, f"0+{2 * EVERY_S}x{STEPS}"),
        demand(other, f"0+{4 * EVERY_S}x{STEPS}"),
        demand(one, f"0+{90 * EVERY_S}x{STEPS}", namespace="elsewhere"),
    ]
    rule, query = IN_FLIGHT
    tell(tmp_path, series, (rule, {f'{{pod="{one}"}}': 2, f'{{pod="{other}"}}': 4}), (query, {"{}": 6}))


def test_searches_in_flight_follow_a_change_within_two_collections(tmp_path: Path):
    """Three at once, and none before."""
    series = [demand(PODS[0], f"0+0x{STEPS - 2} {3 * EVERY_S} {6 * EVERY_S}")]
    rule, query = IN_FLIGHT
    tell(tmp_path, series, (rule, {f'{{pod="{PODS[0]}"}}': 3}), (query, {"{}": 3}))


def test_p95_is_that_of_all_replicas_together(tmp_path: Path):
    """Of one replica's searches all take less than 50 ms, of the other's nine in ten: together 95 in a hundred."""
    one, other = PODS
    series = [
        *durations(one, f"0+100x{STEPS}", f"0+100x{STEPS}"),
        *durations(other, f"0+90x{STEPS}", f"0+100x{STEPS}"),
        *durations(one, f"0x{STEPS}", f"0+100x{STEPS}", namespace="elsewhere"),
    ]
    rule, query = P95
    tell(tmp_path, series, (rule, {'{imageindex="shop"}': 50}), (query, {"{}": 50}))


@pytest.mark.parametrize("before", ["0x99", f"0+50x{STEPS // 2} 500+0x99"], ids=["ever", "for minutes"])
def test_all_is_zero_while_nobody_searches(tmp_path: Path, before: str):
    """Not NaN, and not nothing: an autoscaler of which one figure is missing lets no replica go."""
    series = [demand(PODS[0], before), *durations(PODS[0], before, before)]
    for (rule, query), labelled in ((IN_FLIGHT, f'{{pod="{PODS[0]}"}}'), (P95, '{imageindex="shop"}')):
        tell(tmp_path, series, (rule, {labelled: 0}), (query, {"{}": 0}))


def test_nothing_is_told_when_nothing_is_collected_any_more(tmp_path: Path):
    """0 would be taken for a quiet hour, and replicas be let go under load."""
    gone = f"0+50x{STEPS // 2} _x99"
    series = [demand(PODS[0], gone), *durations(PODS[0], gone, gone)]
    for rule, query in (IN_FLIGHT, P95):
        tell(tmp_path, series, (rule, {}), (query, {}))
