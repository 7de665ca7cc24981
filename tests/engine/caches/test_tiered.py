"""Two caches as one. What all caches have in common is in test_contract."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.caches.memory import MemoryCache
from engine.caches.tiered import NEAR_TTL_S, TieredCache


class Watched(MemoryCache):
    """Memory that notes what it was asked for, and may be said not to answer."""

    def __init__(self, clock: object) -> None:
        super().__init__(1_000_000, clock)  # type: ignore[arg-type]
        self.asked: list[list[str]] = []
        self.answers = True

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self.asked.append(list(keys))
        return await super().get_many(keys)

    async def ping(self) -> bool:
        return self.answers


class Pair:
    """A near and a far cache, on one clock, as one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.near, self.far = Watched(lambda: self.now), Watched(lambda: self.now)
        self.both = TieredCache(self.near, self.far)


@pytest.fixture
def pair() -> Pair:
    """Both empty."""
    return Pair()


async def test_only_what_is_not_near_is_looked_for_afar(pair: Pair):
    """In one request; and when all is near, in none."""
    for key in "ac":
        await pair.near.set(key, b"near", 60)
    await pair.far.set("b", b"far", 60)
    assert await pair.both.get_many(list("abcd")) == [b"near", b"far", b"near", None]
    assert pair.far.asked == [["b", "d"]]
    assert await pair.both.get_many(list("abc")) == [b"near", b"far", b"near"]
    assert pair.far.asked == [["b", "d"]]


async def test_what_was_found_afar_stays_near_for_a_minute(pair: Pair):
    """Not longer, because how much of its time is left is not known."""
    await pair.far.set("a", b"1", 3600)
    await pair.both.get_many(["a"])
    pair.now += NEAR_TTL_S - 0.1
    assert await pair.near.get_many(["a"]) == [b"1"]
    pair.now += 0.1
    assert await pair.near.get_many(["a"]) == [None]
    assert await pair.both.get_many(["a"]) == [b"1"]


async def test_both_store_for_the_whole_time(pair: Pair):
    """What was made here is here as long as there."""
    await pair.both.set("a", b"1", 3600)
    pair.now += 3599
    assert await pair.near.get_many(["a"]) == await pair.far.get_many(["a"]) == [b"1"]


async def test_the_far_cache_is_the_one_that_can_be_lost(pair: Pair):
    """It decides whether the cache answers."""
    assert await pair.both.ping()
    pair.far.answers = False
    assert not await pair.both.ping()


async def test_closing_closes_both(pair: Pair):
    """Nothing is left of either."""
    await pair.both.set("a", b"1", 60)
    await pair.both.close()
    assert (pair.near.used_bytes, pair.far.used_bytes) == (0, 0)
