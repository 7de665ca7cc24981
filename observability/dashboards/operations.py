"""For whoever looks after ImageIndexes: their indexing, the operator, their replicas."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards.panels import N, Panel, board, figure, lines, of, quantile, rate, states

_EACH = "{{namespace}}/{{imageindex}}"
_BY = "by (namespace, imageindex)"
_VALUES = {"True": 1, "False": 0, "Unknown": 2}
_HELD = ("Degraded", "ReconciliationPaused", "Suspended")


def operations() -> Dashboard:
    """The dashboard."""
    rows = {"Indexing": _indexing(), "Operator": _operator(), "Scaling": _scaling()}
    return board("operations", "Do ImageIndexes become what they say? Indexing, operator and replicas.", rows)


def _each(metric: str, **equal: str) -> str:
    """One series for each ImageIndex, whichever operator tells of it."""
    return f"max {_BY} ({of(metric, **equal)})"


def _indexing() -> list[Panel]:
    left, done, failed = (_each("sightline_imageindex_shards", state=state) for state in ("open", "done", "failed"))
    indexed, seen = (_each("sightline_imageindex_images", state=state) for state in ("indexed", "seen"))
    pace = f"max {_BY} (deriv({of('sightline_imageindex_images', state='indexed')}[10m]))"
    shards = f"max {_BY} (deriv({of('sightline_imageindex_shards', state='done')}[1h]))"
    promoted = _each("sightline_imageindex_last_promotion_timestamp_seconds")
    return [
        figure("Shards to be done", (f"sum({left})", "")),
        figure("Shards failed", (f"sum({failed})", ""), steps=[(None, "green"), (1.0, "red")]),
        figure("Images/s", (f"sum(clamp_min({pace}, 0))", ""), unit="ops"),
        figure("Time left", (f"max({left} / ({shards} > 0))", ""), unit="dtdurations",
               description="Of the slowest: the shards that are open, at the pace of the last hour."),
        figure("Since the last promotion", (f"time() - max({promoted})", ""), unit="dtdurations"),
        figure("ImageIndexes", (f"count({_each('sightline_imageindex_replicas', state='desired')})", "")),
        lines("Shards", (f"{left} > 0", f"{_EACH}: open"), (done, f"{_EACH}: done"),
              (f"{failed} > 0", f"{_EACH}: failed")),
        lines("Images of the newest generation", (seen, f"{_EACH}: seen"), (indexed, f"{_EACH}: indexed"),
              description="Seen and not indexed: left out, for a reason that the manifest has."),
        lines("Images/s", (f"clamp_min({pace}, 0)", _EACH), unit="ops"),
    ]  # fmt: skip


def _operator() -> list[Panel]:
    def condition(type_: str, status: str) -> str:
        return _each("sightline_imageindex_condition", type=type_, status=status)

    words = {1: ("ready", "green"), 0: ("not ready", "red"), 2: ("unknown", "orange")}
    ready = " or ".join(f"{condition('Ready', one)} * {value}" for one, value in _VALUES.items())
    held = [(f"count({condition(one, 'True')}) or vector(0)", one) for one in _HELD]
    visits, visit = "sightline_operator_reconciliations_total", "sightline_operator_reconcile_duration_seconds"
    times = [(quantile(q, visit, scope=N), f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)]
    promotions = of("sightline_operator_promotions_total", N)
    lost = of("sightline_operator_events_dropped_total", N)
    return [
        states("Ready", (ready, _EACH), words, span=12),
        lines("ImageIndexes with a condition", *held, span=12,
              description="Degraded: something stands in the way of the spec. kubectl describe says what."),
        lines("Visits", (rate(visits, "result"), "{{result}}"), unit="ops"),
        lines("Visits that fail", (f"topk(10, {rate(visits, 'namespace, imageindex', result='failed')} > 0)", _EACH),
              unit="ops"),
        lines("Time of a visit", *times, unit="s"),
        lines("Leading and waiting", (f"sum({of('sightline_operator_leading', N)})", "operators that lead"),
              (f"sum({of('sightline_operator_queue_size', N)})", "ImageIndexes that wait"), span=6),
        lines("Untold changes", (f"max({of('sightline_operator_watch_lag_seconds', N)})", "oldest"), unit="s", span=6,
              marks=[(120.0, "red")],
              description="Changes in the cluster that no watch told of; after 120 s the operator starts again."),
        lines("Writes", (f"{rate('sightline_operator_writes_total', 'kind', N)} > 0", "{{kind}}"), unit="ops", span=6,
              description="In a quiet cluster there are none."),
        lines("Promotions and lost Events, by the hour",
              (f"sum by (result) (increase({promotions}[1h]))", "promotions {{result}}"),
              (f"sum(increase({lost}[1h]))", "Events lost"), span=6),
    ]  # fmt: skip


def _scaling() -> list[Panel]:
    desired, ready = (_each("sightline_imageindex_replicas", state=state) for state in ("desired", "ready"))
    running = of("sightline_searches_running")
    nowhere = of("kube_pod_status_unschedulable", f'pod=~".+-serving-.+", {N}')
    gpus = of("kube_pod_container_resource_requests", N, resource="nvidia_com_gpu")
    pending = of("kube_pod_status_phase", N, phase="Pending")
    return [
        lines("Replicas", (desired, f"{_EACH}: desired"), (ready, f"{_EACH}: ready")),
        lines("Searches that run on one replica", (f"sum {_BY} ({running}) / count {_BY} ({running})", _EACH),
              description="What autoscaling.targetInFlight is compared with."),
        lines("Replicas and GPUs that wait for a node", (f"sum by (namespace) ({nowhere})", "{{namespace}}: replicas"),
              (f"sum by (namespace) ({gpus} and on (namespace, pod) ({pending} == 1))", "{{namespace}}: GPUs"),
              description="From kube-state-metrics."),
    ]  # fmt: skip
