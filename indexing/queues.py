"""How long searches wait for each other: percentiles of latency under load, computed from times measured alone."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from indexing.bench.laws import ModelCost

_Z95: Final = NormalDist().inv_cdf(0.95)
_MOST_IN_BATCH: Final = 64  # CLIP_MAX_BATCH on a GPU; on a processor batches end at 8, and searches wait a little less
_BATCH: Final = 16  # what `ModelCost.batch_ms` was measured with


def spread_of(p50: float, p95: float) -> float:
    """The standard deviation of the logarithm of a log-normal time with these percentiles."""
    return math.log(max(p95 / p50, 1)) / _Z95


def slowest_p95(p50: float, p95: float, shards: int) -> float:
    """The 95th percentile of the slowest of independent log-normal latencies with these percentiles."""
    return p50 * math.exp(spread_of(p50, p95) * NormalDist().inv_cdf(0.95 ** (1 / shards)))


def wait_p95(p50: float, p95: float, busy: float) -> float:
    """The 95th percentile of the wait for one server with log-normal times, which is busy this share of the time.

    The mean wait is that of Pollaczek and Khinchine for arrivals at random; the wait of those that have to is taken as
    exponential.
    """
    if busy <= 0.05:  # noqa: PLR2004 - p95
        return 0.0
    variance = math.expm1(spread_of(p50, p95) ** 2)  # of the time relative to its mean, squared
    return mean_of(p50, p95) * (1 + variance) / 2 / (1 - busy) * math.log(busy / 0.05)


def mean_of(p50: float, p95: float) -> float:
    """The mean of a log-normal time with these percentiles."""
    return p50 * math.exp(spread_of(p50, p95) ** 2 / 2)


def encode_p95(cost: ModelCost, per_second: float) -> float:
    """The 95th percentile of an encoding in ms, waiting included, when so many searches a second come at random.

    A batch of k takes text + (k - 1) each. Those that come meanwhile, Poisson many, are the next batch; if none came,
    the next search is alone. This Markov chain of batch sizes says how long batches are when a search comes: it waits
    for the rest of one, which is uniform, and is then computed with the others that came during it. Exact but for
    batches above 64, which are taken as 64. Infinite when searches come faster than they can be encoded.
    """
    rate, each = per_second / 1000, _each(cost)
    if rate * max(each, cost.batch_ms) >= 1:
        return math.inf
    took = cost.text_ms + each * np.arange(_MOST_IN_BATCH)  # of batches of 1, 2, …
    came = _poisson(rate * took)  # (batch, 0 … 63 or more that come meanwhile)
    step = came[:, 1:].copy()
    step[:, 0] += came[:, 0]
    sizes = np.linalg.lstsq(
        np.vstack([step.T - np.eye(_MOST_IN_BATCH), np.ones(_MOST_IN_BATCH)]),
        np.eye(_MOST_IN_BATCH + 1)[-1],
        rcond=None,
    )[0]
    idle = float(sizes @ came[:, 0]) / rate
    busy = sizes * took
    total = idle + float(busy.sum())

    def within(limit: float) -> float:
        """The share of searches that are encoded within so many ms."""
        waits = np.clip((limit - took[None, :]) / took[:, None], 0, 1)  # (batch before, own batch)
        own = came[:, :-1].copy()
        own[:, -1] += came[:, -1]
        return (idle * (limit >= cost.text_ms) + float(busy @ (waits * own).sum(axis=1))) / total

    low, high = 0.0, 2 * float(took[-1])
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle) >= 0.95 else (middle, high)  # noqa: PLR2004 - p95
    return high


def _poisson(means: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Chances of 0, 1, … events for each mean, (n, 65); the last is of 64 and more."""
    number = np.arange(_MOST_IN_BATCH)
    logs = np.array([math.lgamma(n + 1) for n in number])
    chances = np.exp(number * np.log(np.maximum(means, 1e-300))[:, None] - means[:, None] - logs)
    return np.hstack([chances, np.maximum(0, 1 - chances.sum(axis=1, keepdims=True))])


def _each(cost: ModelCost) -> float:
    """Milliseconds that one more text adds to a batch."""
    return max(0.0, (_BATCH * cost.batch_ms - cost.text_ms) / (_BATCH - 1))
