"""For whoever asks whether searches are answered, and in time: objectives, traffic, GraphQL, caches."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from observability.dashboards.panels import Panel, board, figure, heat, lines, of, quantile, quantiles, rate

_BURNS = [(1.0, "yellow"), (6.0, "orange"), (14.4, "red")]
_WINDOWS = ("5m", "1h", "6h", "3d")


def service() -> Dashboard:
    """The dashboard."""
    rows = {"Objectives": _objectives(), "Traffic": _traffic(), "GraphQL": _graphql(), "Caches": _caches()}
    return board("service", "Are searches answered, and in time? The objectives and what goes into them.", rows)


def _objectives() -> list[Panel]:
    failed = _share("searches_failed", "searches")
    slow = _share("searches_slow", "searches_answered")
    left = [(None, "red"), (0.0, "orange"), (0.5, "green")]
    return [
        figure("Availability", (f"1 - {failed}", ""), unit="percentunit", steps=[(None, "red"), (0.999, "green")],
               description="Searches that got an answer, in the time shown. Objective: 99.9 %."),
        figure("Availability budget left", (f"1 - {failed} / 0.001", ""), unit="percentunit", steps=left,
               description="Of the searches in the time shown, 0.1 % may fail. Show 30 days for the whole budget."),
        figure("Within 50 ms", (f"1 - {slow}", ""), unit="percentunit", steps=[(None, "red"), (0.95, "green")],
               description="Answers that took 50 ms at most, in the time shown. Objective: 95 %."),
        figure("Latency budget left", (f"1 - {slow} / 0.05", ""), unit="percentunit", steps=left,
               description="Of the answers in the time shown, 5 % may take longer. Show 30 days for the whole budget."),
        figure("Searches", (rate("sightline_search_duration_seconds_count"), ""), unit="reqps"),
        figure("p95", (quantile(0.95, "sightline_search_duration_seconds"), ""), unit="s",
               steps=[(None, "green"), (0.05, "red")]),
        lines("Availability: burn rate", *_burns("searches_failed", 0.001), span=12, marks=_BURNS,
              description="1 spends the budget in 30 days. Pages: 14.4 in 1h and 5m, 6 in 6h and 30m. "
                          "Tickets: 3 in 1d and 2h, 1 in 3d and 6h. The worst of the chosen."),
        lines("Latency: burn rate", *_burns("searches_slow", 0.05), span=12, marks=_BURNS,
              description="The same for answers that take longer than 50 ms."),
    ]  # fmt: skip


def _share(what: str, among: str) -> str:
    """The part of all searches in the time shown."""
    bad, all_ = (f"sum(avg_over_time({of(f'imageindex:sightline_{name}:rate5m')}[$__range]))" for name in (what, among))
    return f"{bad} / {all_}"


def _burns(what: str, budget: float) -> list[tuple[str, str]]:
    ratios = {window: of(f"imageindex:sightline_{what}:ratio_rate{window}") for window in _WINDOWS}
    return [(f"max({ratio}) / {budget}", window) for window, ratio in ratios.items()]


def _traffic() -> list[Panel]:
    answered = rate("sightline_search_duration_seconds_count", "cached")
    errors = rate("sightline_search_errors_total", "code")
    return [
        lines("Answers", (answered, "cached: {{cached}}"), unit="reqps", stacked=True),
        lines("Errors by code", (f"{errors} > 0", "{{code}}"), unit="reqps",
              description="BAD_USER_INPUT, CURSOR_STALE, INDEX_NOT_FOUND and IMAGE_NOT_FOUND are the request's own "
                          "fault; all others count against the availability."),
        lines("In flight", (f"sum({of('sightline_searches_running')})", "running"),
              (f"sum({of('sightline_searches_limit')})", "limit, as learnt"),
              description="At the limit, more are refused as OVERLOADED."),
        quantiles("Latency", "sightline_search_duration_seconds"),
        heat("Latency", "sightline_search_duration_seconds"),
        quantiles("p95 by ImageIndex", "sightline_search_duration_seconds", by="imageindex",
                  description="The API's own has no name."),
    ]  # fmt: skip


def _graphql() -> list[Panel]:
    count = "sightline_graphql_duration_seconds_count"
    failed = rate(count, "operation", outcome="error")
    return [
        lines("Operations", (rate(count, "operation"), "{{operation}}"), unit="reqps", stacked=True,
              description="By the root field that they ask for. Other: not valid, or too long to be remembered."),
        quantiles("p95 by operation", "sightline_graphql_duration_seconds", by="operation"),
        lines("Operations with errors", (f"{failed} > 0", "{{operation}}"), unit="reqps",
              description="At least one error in the answer, a client's own included."),
    ]  # fmt: skip


def _caches() -> list[Panel]:
    hits = rate("sightline_cache_requests_total", "tier", result="hit")
    asked = rate("sightline_cache_requests_total", "tier")
    source = rate("sightline_query_embeddings_total", "source")
    wrong = rate("sightline_cache_errors_total", "tier, reason")
    return [
        lines("Hits", (f"{hits} / {asked}", "{{tier}}"), unit="percentunit", span=6,
              description="Lists and embeddings together. What memory lacks is looked up in Redis."),
        lines("p95 of what was remembered",
              (quantile(0.95, "sightline_search_duration_seconds", cached="true"), "answer"),
              (quantile(0.95, "sightline_search_stage_duration_seconds", stage="cache"), "look-up"),
              unit="s", span=6, marks=[(0.05, "red")]),
        lines("Texts by where their embeddings came from", (source, "{{source}}"), unit="reqps", span=6, stacked=True),
        lines("Errors", (f"{wrong} > 0", "{{tier}}: {{reason}}"),
              (f"max by (tier) ({of('sightline_cache_breaker_open')}) > 0", "{{tier}} is not asked"), span=6,
              description="Searches go on without a cache that fails."),
    ]  # fmt: skip
