"""What the rules' and dashboards' expressions may name: metrics of ours, and of those whose names stand here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from observability import metrics

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "charts" / "sightline" / "files" / "rules"

TARGET: Final = {"namespace", "imageindex", "job", "pod"}
"""Labels that the chart's monitors give to everything they collect."""

FOREIGN: Final[dict[str, set[str]]] = {
    # Qdrant 1.16 and newer, at /metrics
    "collection_dead_replicas": set(),
    "collection_points": {"id"},
    "collection_running_optimizations": {"id"},
    "grpc_responses_duration_seconds_bucket": {"endpoint", "le"},
    "grpc_responses_fail_total": {"endpoint"},
    "memory_resident_bytes": set(),
    # kube-state-metrics 2
    "kube_pod_container_resource_requests": {"resource"},
    "kube_pod_status_phase": {"phase"},
    "kube_pod_status_unschedulable": set(),
}
"""Metrics of others, with the labels of theirs that we use."""

_WORDS: Final = {
    "and",
    "or",
    "unless",
    "by",
    "on",
    "bool",
    "ignoring",
    "without",
    "group_left",
    "group_right",
    "offset",
}


def ours() -> dict[str, set[str]]:
    """Every series that Sightline can tell of, with its labels."""
    found: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        name, labels = metric._name, set(metric._labelnames)
        if isinstance(metric, Histogram):
            found |= {f"{name}_bucket": {*labels, "le"}, f"{name}_count": labels, f"{name}_sum": labels}
        else:
            found[f"{name}_total" if isinstance(metric, Counter) else name] = labels
    return found


def recorded() -> dict[str, set[str]]:
    """What the rules record; all of it is by namespace and imageindex."""
    return {rule["record"]: set() for rule in rules() if "record" in rule}


def rules() -> list[dict[str, Any]]:
    """Every rule of the chart."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def unknown(expression: str) -> list[str]:
    """The metrics that nobody has, and labels that a metric hasn't."""
    known = {**ours(), **recorded(), **FOREIGN}
    wrong = []
    for name, labels in _selectors(expression):
        if name not in known:
            wrong.append(name)
        else:
            wrong += [f"{name}{{{label}}}" for label in labels - known[name] - TARGET]
    return wrong


def _selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression, each with the labels that are asked of it."""
    text = re.sub(r'"[^"]*"', '""', expression)
    text = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\[[^\]]*\]", " ", text)
    for found in re.finditer(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\}|\()?", text):
        name, rest = found.group(1), found.group(2) or ""
        if rest != "(" and name not in _WORDS:
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", rest))
