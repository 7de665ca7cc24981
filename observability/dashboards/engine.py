"""For whoever asks where the time goes: the encoder and the index."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards.panels import N, Panel, board, figure, lines, of, quantile, quantiles, rate

_STAGES = "sightline_search_stage_duration_seconds"


def engine() -> Dashboard:
    """The dashboard."""
    rows = {"Encoder": _encoder(), "Index": _index()}
    return board("engine", "Where does the time of a search go? Its stages, the encoder and Qdrant.", rows)


def _encoder() -> list[Panel]:
    queue, inference = "sightline_encoder_queue_duration_seconds", "sightline_encoder_inference_duration_seconds"
    sizes = [(quantile(q, "sightline_encoder_batch_size"), f"p{q * 100:.0f}") for q in (0.5, 0.95)]
    return [
        quantiles("p95 by stage", _STAGES, by="stage",
                  description="encode has the wait for the encoder in it."),
        lines("Queue against inference, p95",
              (quantile(0.95, queue), "queue"), (quantile(0.95, inference), "inference"),
              unit="s", marks=[(0.05, "red")],
              description="Where the queue takes longer than a pass of the encoder, more replicas help."),
        lines("Inputs that wait", (f"sum({of('sightline_encoder_queue_size')})", "waiting")),
        lines("Batch size", *sizes,
              description="Inputs encoded at once: grows with the load."),
        lines("Passes", (rate(f"{inference}_count"), "passes"), unit="ops"),
    ]  # fmt: skip


def _index() -> list[Panel]:
    slowest = quantile(0.95, "grpc_responses_duration_seconds", "endpoint", N)
    failed = rate("grpc_responses_fail_total", "endpoint", N)
    dead = f"max by (namespace, job) ({of('collection_dead_replicas', N)})"
    optimizing = of("collection_running_optimizations", N)
    return [
        quantiles("Search in the index", _STAGES, stage="search"),
        lines("Qdrant: p95 by endpoint", (slowest, "{{endpoint}}"), unit="s",
              marks=[(0.05, "red")]),
        lines("Qdrant: failed requests", (f"{failed} > 0", "{{endpoint}}"), unit="reqps"),
        figure("Dead replicas", (f"sum({dead})", ""), steps=[(None, "green"), (1.0, "red")], span=8),
        figure("Recall@10", (f"min({of('sightline_index_recall_ratio')})", ""), unit="percentunit", span=8,
               steps=[(None, "red"), (0.95, "green")],
               description="The least of the generations that serve; measured before the promotion where "
                           "rollout.verification.minRecall is given."),
        figure("Optimizations running", (f"sum({optimizing})", ""), span=8),
        lines("Points by collection", (f"sum by (id) ({of('collection_points', N)})", "{{id}}"),
              description="sightline-INDEX-GENERATION. Those of nodes are not added up: each tells of its own shards."),
        lines("Optimizations running", (f"sum by (id) ({optimizing}) > 0", "{{id}}")),
        lines("Qdrant: memory", (of("memory_resident_bytes", N), "{{pod}}"), unit="bytes"),
    ]  # fmt: skip
