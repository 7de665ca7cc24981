"""The in-process cache keeps its bounds. What all caches have in common is in test_contract."""

from __future__ import annotations

from engine.caches.memory import MemoryCache


class Clock:
    """Time that passes when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_entries_live_to_the_last_moment():
    """Until the last moment before the time is over, and not at it; nothing is left of them."""
    clock = Clock()
    cache = MemoryCache(10_000, clock)
    await cache.set("a", b"1", ttl_s=60)
    clock.now += 59.9
    assert await cache.get_many(["a"]) == [b"1"]
    clock.now += 0.1
    assert await cache.get_many(["a"]) == [None]
    assert cache.used_bytes == 0


async def test_the_least_recently_used_entry_goes_first():
    """When it is full, what was neither read nor written for longest makes room."""
    cache = MemoryCache(4_000)
    for key in "abc":
        await cache.set(key, bytes(1000), ttl_s=60)
    await cache.get_many(["a"])
    await cache.set("d", bytes(1000), ttl_s=60)
    found = await cache.get_many(list("abcd"))
    assert [key for key, value in zip("abcd", found, strict=True) if value is not None] == ["a", "c", "d"]


async def test_it_never_grows_beyond_its_bytes():
    """Keys, values and bookkeeping together, whatever is stored and replaced."""
    cache = MemoryCache(5_000)
    for number in range(500):
        await cache.set(f"key {number % 37}", bytes(number * 13 % 2000), ttl_s=60)
        assert cache.used_bytes <= 5_000
    await cache.close()
    assert cache.used_bytes == 0


async def test_what_is_larger_than_the_cache_is_not_stored():
    """It would push out everything; and what the key held before is gone, for it is no longer true."""
    cache = MemoryCache(2_000)
    await cache.set("small", b"1", ttl_s=60)
    await cache.set("large", b"1", ttl_s=60)
    await cache.set("large", bytes(2_000), ttl_s=60)
    assert await cache.get_many(["small", "large"]) == [b"1", None]


async def test_no_bytes_remember_nothing():
    """A size of 0 turns the cache off."""
    cache = MemoryCache(0)
    await cache.set("a", b"", ttl_s=60)
    assert await cache.get_many(["a"]) == [None]
