"""Every Prometheus metric of Sightline, in one place. Names and labels are an interface: dashboards read them."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 10)

search_duration = Histogram(
    "sightline_search_duration_seconds", "One search, end to end in the server.", ["cached"], buckets=_LATENCY_BUCKETS
)
search_stage_duration = Histogram(
    "sightline_search_stage_duration_seconds", "One stage of a search.", ["stage"], buckets=_LATENCY_BUCKETS
)
search_errors = Counter("sightline_search_errors_total", "Searches that ended in an error.", ["code"])
searches_running = Gauge("sightline_searches_running", "Searches that are being computed now.")
searches_limit = Gauge("sightline_searches_limit", "Searches that may be computed at once, as learnt so far.")
search_demand = Counter(
    "sightline_search_demand_seconds_total",
    "Time for which searches were computed, and for which refused ones would have been: its rate is how many were "
    "wanted at once.",
)
encoder_queue_size = Gauge("sightline_encoder_queue_size", "Inputs that wait for the encoder.")
encoder_queue_duration = Histogram(
    "sightline_encoder_queue_duration_seconds", "Time an input waited for the encoder.", buckets=_LATENCY_BUCKETS
)
encoder_batch_size = Histogram(
    "sightline_encoder_batch_size", "Inputs encoded at once.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
encoder_inference_duration = Histogram(
    "sightline_encoder_inference_duration_seconds", "One pass of the encoder.", buckets=_LATENCY_BUCKETS
)
cache_requests = Counter("sightline_cache_requests_total", "Look-ups in a cache.", ["tier", "result"])
cache_errors = Counter(
    "sightline_cache_errors_total", "What went wrong with a cache; searches went on.", ["tier", "reason"]
)
cache_breaker_open = Gauge("sightline_cache_breaker_open", "1 while a cache that failed is not asked.", ["tier"])
query_embeddings = Counter(
    "sightline_query_embeddings_total", "Texts of searches, by where their embeddings came from.", ["source"]
)
graphql_duration = Histogram(
    "sightline_graphql_duration_seconds",
    "One GraphQL operation, by the root field that it asks for.",
    ["operation", "outcome"],
    buckets=_LATENCY_BUCKETS,
)
indexing_images = Counter("sightline_indexing_images_total", "Images handled by indexing.", ["result"])

operator_reconciliations = Counter(
    "sightline_operator_reconciliations_total",
    "Visits of the operator to an ImageIndex.",
    ["namespace", "imageindex", "result"],
)
operator_reconcile_duration = Histogram(
    "sightline_operator_reconcile_duration_seconds",
    "One visit of the operator to an ImageIndex.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
operator_writes = Counter(
    "sightline_operator_writes_total", "What the operator changed in the cluster.", ["kind", "action"]
)
operator_promotions = Counter(
    "sightline_operator_promotions_total", "Switches of an alias by the operator.", ["result"]
)
operator_queue_size = Gauge("sightline_operator_queue_size", "ImageIndexes that wait for a visit.")
operator_leading = Gauge("sightline_operator_leading", "1 while this operator holds the Lease and works.")
operator_watch_lag = Gauge(
    "sightline_operator_watch_lag_seconds", "How long changes have been in the cluster that no watch has told of."
)
operator_watches_ended = Counter(
    "sightline_operator_watches_ended_total", "How often an error ended the operator's watches; they begin anew."
)
operator_events_dropped = Counter("sightline_operator_events_dropped_total", "Events that could not be posted.")

imageindex_conditions = Gauge(
    "sightline_imageindex_condition",
    "1 for the status (True, False, Unknown) that a condition of an ImageIndex has; no series for the others.",
    ["namespace", "imageindex", "type", "status"],
)
imageindex_replicas = Gauge(
    "sightline_imageindex_replicas",
    "Replicas of an ImageIndex: those that it should have (desired), those that answer (ready).",
    ["namespace", "imageindex", "state"],
)
imageindex_shards = Gauge(
    "sightline_imageindex_shards",
    "Shards of the newest generation of an ImageIndex: done, failed, still to be done (open).",
    ["namespace", "imageindex", "state"],
)
imageindex_images = Gauge(
    "sightline_imageindex_images",
    "Images of the newest generation of an ImageIndex: those that were looked at (seen), those in the index (indexed).",
    ["namespace", "imageindex", "state"],
)
imageindex_last_promotion = Gauge(
    "sightline_imageindex_last_promotion_timestamp_seconds",
    "When the alias of an ImageIndex was moved last, in Unix time; no series before the first time.",
    ["namespace", "imageindex"],
)
index_recall = Gauge(
    "sightline_index_recall_ratio",
    "Recall@10 of the generation that serves, as measured before its promotion; only where a minRecall is given.",
    ["namespace", "imageindex"],
)
