"""Latency figures, and when there are none."""

from __future__ import annotations

import pytest

from engine.stats import LatencySummary, RollingStats


def test_an_empty_window_has_no_figures():
    """Nothing recorded: a count of 0, and None."""
    assert RollingStats().snapshot().total == LatencySummary(0, None, None, None, None, None, None)


@pytest.mark.parametrize(
    ("samples", "has_p95", "has_p99"),
    [(1, False, False), (19, False, False), (20, True, False), (99, True, False), (100, True, True)],
)
def test_percentiles_wait_for_enough_samples(samples: int, has_p95: bool, has_p99: bool):  # noqa: FBT001
    """p95 from 20 samples, p99 from 100; mean, least, greatest and median from the first."""
    stats = RollingStats()
    for number in range(samples):
        stats.record(None, None, float(number))
    total = stats.snapshot().total
    assert (total.count, total.min, total.max) == (samples, 0, samples - 1)
    assert total.mean == total.p50 == pytest.approx((samples - 1) / 2)
    assert (total.p95 is not None, total.p99 is not None) == (has_p95, has_p99)


def test_percentiles_are_those_of_the_samples():
    """Of 0 to 1,000 ms, 95 % lie below 950."""
    stats = RollingStats()
    for number in range(1001):
        stats.record(None, None, float(number))
    total = stats.snapshot().total
    assert (total.p50, total.p95, total.p99) == pytest.approx((500, 950, 990))


def test_stages_that_did_not_run_are_left_out():
    """A cache hit has a total, but neither embedding nor search."""
    stats = RollingStats()
    stats.record(4.0, 2.0, 7.0)
    stats.record(None, None, 1.0)
    snapshot = stats.snapshot()
    assert (snapshot.embedding.count, snapshot.search.count, snapshot.total.count) == (1, 1, 2)
    assert (snapshot.embedding.mean, snapshot.search.mean, snapshot.total.mean) == (4.0, 2.0, 4.0)


def test_the_window_forgets_the_oldest_requests():
    """After more requests than the window holds, only the latest count."""
    stats = RollingStats(window=10)
    for number in range(25):
        stats.record(1.0 if number == 3 else None, None, float(number))
    snapshot = stats.snapshot()
    assert (snapshot.total.count, snapshot.total.min, snapshot.total.max) == (10, 15, 24)
    assert snapshot.embedding.count == 0


def test_uptime_counts_seconds():
    """From making the object to the snapshot."""
    seconds = iter([100.0, 107.5])
    assert RollingStats(clock=lambda: next(seconds)).snapshot().uptime_s == 7.5
