"""Waiting: what formulas say is what simulations of the same queues find."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from indexing.bench.laws import ModelCost
from indexing.queues import encode_p95, mean_of, slowest_p95, wait_p95


def model(text_ms: float, batch_ms: float) -> ModelCost:
    """A model that takes this long for a text alone, and for one of a batch of 16."""
    return ModelCost(
        dimension=8,
        pretrained="",
        cores=2,
        text_ms=text_ms,
        batch_ms=batch_ms,
        images_per_s=1,
        memory_gb=1,
        assumed="",
    )


@pytest.mark.parametrize("cost", [model(11.5, 5.1), model(3, 1), model(10, 1)])
@pytest.mark.parametrize("busy", [0.02, 0.2, 0.5, 0.7])
def test_encoding_under_load_is_what_a_simulation_of_the_batcher_finds(cost: ModelCost, busy: float):
    """Searches come at random; whatever waits when a batch is done is the next batch. p95 within 5 %."""
    per_second = busy * 1000 / cost.batch_ms
    count, each = 40_000, (16 * cost.batch_ms - cost.text_ms) / 15
    arrivals = np.cumsum(np.random.default_rng(1).exponential(1000 / per_second, count)).tolist()
    now, first, latencies = 0.0, 0, []
    while first < count:
        now, after = max(now, arrivals[first]), first
        while after < count and arrivals[after] <= now and after - first < 64:
            after += 1
        now += cost.text_ms + (after - first - 1) * each
        latencies += [now - arrival for arrival in arrivals[first:after]]
        first = after
    assert encode_p95(cost, per_second) == pytest.approx(float(np.percentile(latencies, 95)), rel=0.05)


def test_encoding_alone_takes_as_long_as_one_text():
    """Without others there is nothing to wait for; with too many, the wait has no end."""
    cost = model(11.5, 5.1)
    assert encode_p95(cost, 0.001) == pytest.approx(11.5, rel=1e-4)
    assert encode_p95(cost, 1000 / 5.1) == float("inf")
    rising = [encode_p95(cost, rate) for rate in np.linspace(0.1, 190, 60)]
    assert all(later >= earlier for earlier, later in pairwise(rising))


def test_the_slowest_of_many_is_what_sampling_finds():
    """Log-normal latencies with p50 1 and p95 2: the p95 of the largest of 1, 10 and 100 of them."""
    assert slowest_p95(1, 2, 1) == pytest.approx(2)
    drawn = np.random.default_rng(1).lognormal(0, np.log(2) / 1.6448536, (20_000, 100))
    for shards in (10, 100):
        assert slowest_p95(1, 2, shards) == pytest.approx(np.percentile(drawn[:, :shards].max(axis=1), 95), rel=0.03)


@pytest.mark.parametrize("busy", [0.2, 0.5, 0.7])
def test_waiting_for_a_shard_is_what_a_simulation_finds(busy: float):
    """One server, log-normal times with p50 1 and p95 2, arrivals at random: p95 of the wait within 15 %."""
    rng = np.random.default_rng(1)
    times = rng.lognormal(0, np.log(2) / 1.6448536, 200_000)
    assert mean_of(1, 2) == pytest.approx(times.mean(), rel=0.01)
    waits, wait = [], 0.0
    for time, gap in zip(times.tolist(), rng.exponential(mean_of(1, 2) / busy, len(times)).tolist(), strict=True):
        waits.append(wait)
        wait = max(0.0, wait + time - gap)
    assert wait_p95(1, 2, busy) == pytest.approx(float(np.percentile(waits, 95)), rel=0.15)
    assert wait_p95(1, 2, 0.05) == 0
