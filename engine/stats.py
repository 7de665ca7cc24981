"""How fast searches were lately: a rolling window of latencies, and honest silence where there are too few."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MIN_FOR_P95: Final = 20
_MIN_FOR_P99: Final = 100


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """One series of latencies, in ms. Figures are None when there are no samples; p95 under 20, p99 under 100."""

    count: int
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class StatsSnapshot:
    """The window at one moment. `embedding` and `search` leave out requests that had no such stage (cache hits)."""

    uptime_s: float
    window: int
    embedding: LatencySummary
    search: LatencySummary
    total: LatencySummary


class RollingStats:
    """Latencies of the last `window` requests. Used from the event loop only."""

    def __init__(self, window: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        """`window` is in requests; `clock` gives seconds."""
        self._clock = clock
        self._started = clock()
        self._rows: NDArray[np.float64] = np.full((window, 3), np.nan)
        self._recorded = 0

    def record(self, embedding_ms: float | None, search_ms: float | None, total_ms: float) -> None:
        """Adds one request; a stage that did not run is None."""
        row = self._recorded % len(self._rows)
        self._rows[row] = [
            np.nan if embedding_ms is None else embedding_ms,
            np.nan if search_ms is None else search_ms,
            total_ms,
        ]
        self._recorded += 1

    def snapshot(self) -> StatsSnapshot:
        """The figures over the window, and the seconds since this object was made."""
        rows = self._rows[: min(self._recorded, len(self._rows))]
        embedding, search, total = (_summary(rows[:, column]) for column in range(3))
        return StatsSnapshot(self._clock() - self._started, len(self._rows), embedding, search, total)


def _summary(series: NDArray[np.float64]) -> LatencySummary:
    samples = series[~np.isnan(series)]
    count = len(samples)
    if count == 0:
        return LatencySummary(0)
    p50, p95, p99 = (float(value) for value in np.percentile(samples, [50, 95, 99]))
    return LatencySummary(
        count=count,
        mean=float(samples.mean()),
        min=float(samples.min()),
        max=float(samples.max()),
        p50=p50,
        p95=p95 if count >= _MIN_FOR_P95 else None,
        p99=p99 if count >= _MIN_FOR_P99 else None,
    )
