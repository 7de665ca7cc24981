"""What replicas answered, from their metrics."""

from __future__ import annotations

import pytest
from imageindex_operator import traffic
from imageindex_operator.observed import Traffic
from imageindex_operator.traffic import TrafficWatch, counts_of
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest


def exposition(good: int, remembered: int = 0, **errors: int) -> str:
    """Metrics as a server writes them."""
    registry = CollectorRegistry()
    duration = Histogram("sightline_search_duration_seconds", "x", ["cached"], registry=registry)
    failed = Counter("sightline_search_errors_total", "x", ["code"], registry=registry)
    for _ in range(good):
        duration.labels(cached="false").observe(0.01)
    for _ in range(remembered):
        duration.labels(cached="true").observe(0.001)
    for code, count in errors.items():
        failed.labels(code=code).inc(count)
    return generate_latest(registry).decode()


def test_wrong_requests_and_busy_servers_are_no_fault_of_a_generation():
    """Only what it can be the reason of."""
    text = exposition(10, BAD_USER_INPUT=5, OVERLOADED=4, INDEX_UNAVAILABLE=3, INDEX_CORRUPT=2, INTERNAL=1)
    assert counts_of(text) == (25, 3)
    assert counts_of(exposition(10, INDEX_NOT_FOUND=5, INDEX_NOT_READY=4)) == (19, 0)  # of another index, by its name


def test_remembered_answers_tell_nothing_of_a_generation():
    """However bad it is, they are given."""
    assert counts_of(exposition(10, remembered=1000, INDEX_CORRUPT=5)) == (15, 5)


async def test_only_what_came_since_the_first_look_counts(monkeypatch: pytest.MonkeyPatch):
    """Errors from before the promotion are the old generation's; a new pod counts from nothing."""
    answers = {"10.0.0.1": (100, 50), "10.0.0.2": (5, 0)}

    async def read(_: object, address: str) -> tuple[int, int] | None:
        return answers.get(address)

    monkeypatch.setattr(traffic, "_read", read)

    def pod(name: str, address: str | None) -> dict[str, object]:
        return {"metadata": {"uid": name}, "status": {"podIP": address} if address else {}}

    watch = TrafficWatch()
    first = [pod("a", "10.0.0.1"), pod("starting", None)]
    assert await watch.look("shop", "12:00", first) == Traffic(0, 0)
    answers["10.0.0.1"] = (130, 52)
    assert await watch.look("shop", "12:00", [*first, pod("b", "10.0.0.2")]) == Traffic(35, 2)
    answers["10.0.0.1"] = (7, 7)
    assert await watch.look("shop", "12:00", first) == Traffic(42, 9), "one is gone, one has started again"
    assert await watch.look("shop", "13:00", first) == Traffic(0, 0)
    assert await watch.look("shop", "13:00", []) is None
