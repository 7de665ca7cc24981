"""The Lease: one holder, taken over only when it has expired by the watcher's own clock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from imageindex_operator import leader
from imageindex_operator.leader import LEASE_S, NAME, RENEW_S, Lease

from engine.errors import ClusterUnavailable
from tests.operator.world import Cluster


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lease(cluster: Cluster, clock: Clock, identity: str) -> Lease:
    api: Any = cluster
    return Lease(api, "system", identity, clock)


async def test_the_first_holds_it_and_the_second_waits(clock: Clock):
    """Renewing keeps it."""
    cluster = Cluster()
    one, two = lease(cluster, clock, "one"), lease(cluster, clock, "two")
    await one.acquire()
    for _ in range(10):
        clock.now += 2
        assert await one._try()
        assert not await two._try()
    spec = cluster.objects["Lease", "system", NAME]["spec"]
    assert spec["holderIdentity"] == "one"
    assert spec["leaseTransitions"] == 0


async def test_a_holder_that_is_gone_is_followed_when_its_time_is_over(clock: Clock):
    """Counted from when the other first saw it unchanged, whatever the clocks of the two say."""
    cluster = Cluster()
    one, two = lease(cluster, clock, "one"), lease(cluster, clock, "two")
    await one.acquire()
    assert not await two._try()
    clock.now += LEASE_S - 1
    assert not await two._try()
    clock.now += 1
    assert await two._try()
    assert cluster.objects["Lease", "system", NAME]["spec"]["leaseTransitions"] == 1
    assert not await one._try()
    assert not one.held


async def test_of_two_that_try_at_once_one_gets_it(clock: Clock):
    """A write counts only if nobody else wrote since it was read."""
    cluster = Cluster()
    one, two = lease(cluster, clock, "one"), lease(cluster, clock, "two")
    await one.acquire()
    await two._try()
    clock.now += LEASE_S
    read = await cluster.get("Lease", "system", NAME)

    async def stale(*_: object) -> Any:
        return read

    three = lease(cluster, clock, "three")
    three._seen = two._seen
    assert await two._try()
    three._api.get = stale  # type: ignore[method-assign]
    assert not await three._try()


async def test_a_holder_that_can_not_renew_gives_up_before_another_may_take_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    """So that no two ever write."""
    cluster = Cluster()
    one = lease(cluster, clock, "one")
    await one.acquire()

    async def away(*_: object) -> None:
        raise ClusterUnavailable("away")

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(cluster, "get", away)
    monkeypatch.setattr(leader.asyncio, "sleep", sleep)
    began = clock.now
    await one.hold()
    assert not one.held
    assert clock.now - began <= RENEW_S + leader.RETRY_S < LEASE_S


async def test_released_it_is_free_at_once(clock: Clock):
    """A rolling update of the operator need not wait."""
    cluster = Cluster()
    one, two = lease(cluster, clock, "one"), lease(cluster, clock, "two")
    await one.acquire()
    await one.release()
    async with asyncio.timeout(20):
        await two.acquire()
    assert two.held
    await one.release()
    assert cluster.objects["Lease", "system", NAME]["spec"]["holderIdentity"] == "two"
