"""What every cache promises, asked of all of them alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from engine.caches.memory import MemoryCache
from engine.caches.tiered import TieredCache
from engine.ports import Cache
from observability import metrics
from tests.engine.caches.conftest import Connect
from tests.support.waiting import until


@dataclass
class Subject:
    """A cache under test, keys that no other test uses, and a way to wait until all that was set is stored."""

    cache: Cache
    tier: str
    settle: Callable[[], object]
    prefix: str = field(default_factory=lambda: f"{uuid4()} ")

    async def set(self, key: str, value: bytes, ttl_s: float = 60) -> None:
        """Stores and waits until it can be read."""
        await self.cache.set(self.prefix + key, value, ttl_s)
        await self.settle()  # type: ignore[misc]

    async def get(self, *keys: str) -> list[bytes | None]:
        """Reads."""
        return await self.cache.get_many([self.prefix + key for key in keys])

    async def gone(self, key: str) -> None:
        """Waits until a key is a miss."""

        async def is_gone() -> bool:
            return await self.get(key) == [None]

        await until(is_gone)


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
async def subject(request: pytest.FixtureRequest, connect: Connect) -> AsyncIterator[Subject]:
    """Each kind of cache. "far" is memory in front of Redis when memory remembers nothing."""
    kind = request.param
    if kind == "memory":
        yield Subject(MemoryCache(10_000_000), "memory", nothing)
        return
    if kind == "cluster":
        redis = connect(request.getfixturevalue("cluster_nodes")[0].url, redis_cluster=True)
    else:
        redis = connect(request.getfixturevalue("redis_server").url)
    if kind in ("redis", "cluster"):
        yield Subject(redis, "redis", redis.settle)
    else:
        near = MemoryCache(10_000_000 if kind == "tiered" else 0)
        yield Subject(TieredCache(near, redis), "memory" if kind == "tiered" else "redis", redis.settle)


async def test_what_was_stored_is_found(subject: Subject):
    """Bytes come back as they were; another key is a miss; storing again replaces."""
    await subject.set("a", b"1")
    assert await subject.get("a", "b") == [b"1", None]
    await subject.set("a", b"22")
    assert await subject.get("a") == [b"22"]


async def test_many_keys_are_found_in_their_order(subject: Subject):
    """Those that are missing leave their places empty, and a key may be asked for twice."""
    for number in range(0, 60, 2):
        await subject.set(str(number), b"%d" % number)
    keys = [*map(str, range(59, -1, -1)), "0", "1"]
    assert await subject.get(*keys) == [b"%d" % int(key) if int(key) % 2 == 0 else None for key in keys]
    assert await subject.get() == []


@pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)), b"\r\n$-1\r\n", bytes(2_000_000)], ids=len)
async def test_values_of_any_bytes_and_size_are_kept(subject: Subject, value: bytes):
    """An empty value is not a missing one."""
    await subject.set("a", value)
    assert await subject.get("a") == [value]


@pytest.mark.parametrize("key", ["", " ", "ключ 猫", "{a}b", "a\r\nGET b", "*", "x" * 10_000], ids=lambda key: key[:9])
async def test_keys_of_any_characters_are_kept_apart(subject: Subject, key: str):
    """Nothing in a key means anything."""
    await subject.set(key, b"1")
    assert await subject.get(key, key + "!") == [b"1", None]


async def test_entries_live_for_their_time(subject: Subject):
    """What is over is gone, and what is not is there."""
    await subject.set("long", b"1", ttl_s=60)
    await subject.set("short", b"1", ttl_s=0.02)
    await subject.gone("short")
    assert await subject.get("long") == [b"1"]


async def test_a_new_value_brings_its_own_time(subject: Subject):
    """The time of the value that it replaces is forgotten."""
    await subject.set("a", b"1", ttl_s=0.02)
    await subject.set("a", b"2", ttl_s=60)
    await subject.set("b", b"1", ttl_s=0.02)
    await subject.gone("b")
    assert await subject.get("a") == [b"2"]


async def test_many_ask_at_once(subject: Subject):
    """More than there are connections; every one gets its own answer."""
    for number in range(50):
        await subject.set(str(number), b"%d" % number)
    answers = await asyncio.gather(*(subject.get(str(number % 50)) for number in range(300)))
    assert answers == [[b"%d" % (number % 50)] for number in range(300)]


async def test_it_answers(subject: Subject):
    """A cache that works says so."""
    assert await subject.cache.ping()


async def test_a_closed_cache_has_nothing_and_is_no_error(subject: Subject):
    """For those who still search when a server stops; and closing again does nothing."""
    await subject.set("a", b"1")
    for _ in range(2):
        await subject.cache.close()
        assert await subject.get("a") == [None]
        await subject.set("b", b"1")


async def test_lookups_are_counted(subject: Subject):
    """Each key is a hit or a miss in the metrics."""

    def count(result: str) -> float:
        value: float = metrics.cache_requests.labels(tier=subject.tier, result=result)._value.get()
        return value

    await subject.set("a", b"1")
    hits, misses = count("hit"), count("miss")
    await subject.get("a", "b", "c")
    assert (count("hit") - hits, count("miss") - misses) == (1, 2)
