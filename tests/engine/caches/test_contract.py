"""What every cache promises: the checks are the product's, `sightline check` runs them too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from engine.caches.memory import MemoryCache
from engine.caches.tiered import TieredCache
from engine.conformance.cache import CACHE, Subject
from observability import metrics
from tests.engine.caches.conftest import Connect


async def nothing() -> None:
    """Memory has stored what was set."""


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.programs),
        pytest.param("cluster", marks=pytest.mark.programs),
        pytest.param("tiered", marks=pytest.mark.programs),
        pytest.param("far", marks=pytest.mark.programs),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of cache. "far" is memory in front of Redis when memory remembers nothing."""
    name: str = request.param
    return name


@pytest.fixture
async def subject(kind: str, request: pytest.FixtureRequest, connect: Connect) -> Subject:
    """A new cache of this kind."""
    if kind == "memory":
        return Subject(MemoryCache(10_000_000), nothing)
    if kind == "cluster":
        redis = connect(request.getfixturevalue("cluster_nodes")[0].url, redis_cluster=True)
    else:
        redis = connect(request.getfixturevalue("redis_server").url)
    if kind in ("redis", "cluster"):
        return Subject(redis, redis.settle)
    near = MemoryCache(10_000_000 if kind == "tiered" else 0)
    return Subject(TieredCache(near, redis), redis.settle)


@pytest.mark.parametrize("behaviour", CACHE, ids=lambda behaviour: behaviour.__name__)
async def test_cache(subject: Subject, behaviour: Callable[[Subject], Awaitable[None]]):
    """What every cache does."""
    await behaviour(subject)


async def test_lookups_are_counted(subject: Subject, kind: str):
    """Each key is a hit or a miss in the metrics of the cache that is asked last."""
    tier = "memory" if kind in ("memory", "tiered") else "redis"

    def count(result: str) -> float:
        value: float = metrics.cache_requests.labels(tier=tier, result=result)._value.get()
        return value

    await subject.set("a", b"1")
    hits, misses = count("hit"), count("miss")
    await subject.get("a", "b", "c")
    assert (count("hit") - hits, count("miss") - misses) == (1, 2)
