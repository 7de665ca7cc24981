"""The checks of a Redis or a Redis Cluster: the cache's, and what hides behind a cache that never raises.

To our cache a Redis that refuses, is full or away is a Redis without entries. So these checks also ask Redis itself,
before the others and after each that fails, and tell what it says.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

from redis import exceptions

from engine.caches.redis import PREFIX, RedisCache, close_client, new_client
from engine.conformance.cache import CACHE, Subject
from engine.conformance.check import Check, sentence
from engine.conformance.expectation import Broken, expect, expect_equal
from engine.settings import Settings

_PATIENCE_S: Final = 10.0
"""Seconds for an answer that only has to be right; REDIS_TIMEOUT_MS has a check of its own."""

_LIFE_MS: Final = 60_000
"""What a key of ours lives at most, should nobody be able to remove it."""

_LOOK_UPS: Final = 20
_CLUSTER: Final = "it is a node of a Redis Cluster. Set REDIS_CLUSTER=true."


class _Place:
    """Keys under a random prefix, which are removed in the end, and connections of both kinds."""

    def __init__(self, settings: Settings) -> None:
        patience_ms = max(settings.redis_timeout_ms, round(_PATIENCE_S * 1000))
        self.settings = settings
        self.patient = settings.model_copy(update={"redis_timeout_ms": patience_ms})
        self.client = new_client(settings)
        self.caches: list[RedisCache] = []
        self.keys: set[str] = set()

    def subject(self) -> Subject:
        cache = RedisCache(self.patient)
        self.caches.append(cache)
        return Subject(cache, cache.settle, keys=self.keys)

    async def servers(self) -> list[dict[str, Any]]:
        """For each server of the cluster, or the only one, the argument that sends a command to it."""
        if not self.settings.redis_cluster:
            return [{}]
        await self.client.initialize()
        return [{"target_nodes": node} for node in self.client.get_primaries()]

    async def told(self, section: str) -> list[dict[str, Any]]:
        """What each server says of itself; nothing where that is not allowed, for it is not needed for a cache."""
        with suppress(exceptions.ResponseError):
            return [await self.client.info(section, **server) for server in await self.servers()]
        return []

    async def clear(self) -> None:
        """Removes the keys. Without Redis they live no longer than `_LIFE_MS`, so that is no error."""
        for cache in self.caches:
            await cache.close()
        with suppress(TimeoutError, OSError, exceptions.RedisError, exceptions.RedisClusterException):
            async with asyncio.timeout(_PATIENCE_S):
                if self.keys:
                    await self.client.delete(*(PREFIX + key for key in self.keys))
        await close_client(self.client)


@asynccontextmanager
async def redis_checks(settings: Settings) -> AsyncIterator[Sequence[Check]]:
    """The checks of the Redis that REDIS_URL names.

    Raises `Broken` with the reason when it does not answer, and `BadUserInput` when REDIS_URL can't be used.
    """
    place = _Place(settings)
    try:
        await it_answers(place)
        checks: list[Check] = [(sentence(behaviour), partial(behaviour, place)) for behaviour in _SERVER]
        checks += [(sentence(behaviour), partial(_look_behind, place, behaviour)) for behaviour in CACHE]
        yield checks
    finally:
        await place.clear()


async def it_answers(place: _Place) -> None:
    """Every server of it answers a ping, with this password, and it is a cluster if that is what the settings say."""

    async def ping() -> None:
        for server in await place.servers():
            expect(await place.client.ping(**server) is True, "it answers a ping with something else")
        if not place.settings.redis_cluster:
            [told] = await place.told("cluster") or [{}]
            expect(not told.get("cluster_enabled"), _CLUSTER)

    await _asked(ping)


async def it_stores_a_value_and_returns_it(place: _Place) -> None:
    """With Redis's own commands."""
    key, value = f"check:{secrets.token_hex(8)}", secrets.token_bytes(8)
    place.keys.add(key)

    async def store() -> None:
        expect(await place.client.set(PREFIX + key, value, px=_LIFE_MS) is True, "it does not say that it stored")
        expect_equal(await place.client.get(PREFIX + key), value, "a value that it says it stored")

    await _asked(store)


async def it_makes_room_when_it_is_full(place: _Place) -> None:
    """Its memory has no bound, or a policy by which older entries go."""

    async def read() -> None:
        for memory in await place.told("memory"):
            bounded, policy = memory.get("maxmemory", 0) > 0, memory.get("maxmemory_policy", "")
            expect(
                not (bounded and policy == "noeviction"),
                "with the policy noeviction it refuses to store once its memory is full. Set maxmemory-policy to "
                "allkeys-lru.",
            )

    await _asked(read)


async def it_answers_within_redis_timeout_ms(place: _Place) -> None:
    """Half of its look-ups and more do, once connected."""
    took: list[float] = []

    async def look_up() -> None:
        for _ in range(_LOOK_UPS + 1):
            began = time.perf_counter()
            await place.client.get(f"{PREFIX}check:{secrets.token_hex(8)}")
            took.append(1000 * (time.perf_counter() - began))

    await _asked(look_up)
    median, budget = statistics.median(took[1:]), place.settings.redis_timeout_ms
    expect(
        median <= budget,
        f"a look-up takes {median:.0f} ms (the median of {_LOOK_UPS}), longer than REDIS_TIMEOUT_MS={budget}, so "
        "searches do without it. Bring it nearer, or raise REDIS_TIMEOUT_MS.",
    )


_SERVER: Final[tuple[Callable[[_Place], Awaitable[None]], ...]] = (
    it_stores_a_value_and_returns_it,
    it_makes_room_when_it_is_full,
    it_answers_within_redis_timeout_ms,
)


async def _look_behind(place: _Place, behaviour: Callable[[Subject], Awaitable[None]]) -> None:
    """Runs one of the cache's checks. If it fails, Redis is asked why: what it says goes before what was missing."""
    try:
        await behaviour(place.subject())
    except Broken:
        await it_answers(place)
        await it_stores_a_value_and_returns_it(place)
        raise


async def _asked(ask: Callable[[], Awaitable[None]]) -> None:
    """Asks Redis itself. Raises `Broken` with what is wrong and what to do, never with a password."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await ask()
    except (OSError, TimeoutError, exceptions.RedisError, exceptions.RedisClusterException) as error:
        raise Broken(_explained(error)) from error


def _explained(error: BaseException) -> str:  # noqa: PLR0911 - one sentence for each thing that goes wrong
    """What Redis or the network says, and what to do about it."""
    said = str(error).rstrip(".")
    match error:
        case exceptions.RedisClusterException() if "not enabled" in said:
            return "it is no cluster. Leave REDIS_CLUSTER out."
        case exceptions.RedisClusterException() if error.__cause__ is not None:
            return _explained(error.__cause__)
        case exceptions.ReadOnlyError():
            return f"READONLY: {said}. REDIS_URL names a replica: name the primary."
        case exceptions.OutOfMemoryError():
            return f"OOM: {said}. Set maxmemory-policy to allkeys-lru, or give it more maxmemory."
        case exceptions.AuthenticationError():
            return f"it refuses user or password: {said}. Correct USER:PASSWORD@ in REDIS_URL."
        case exceptions.NoPermissionError():
            return f"NOPERM: {said}. Allow the user PING, GET, MGET, SET and DEL on keys that begin with {PREFIX}"
        case exceptions.MovedError():
            return _CLUSTER
        case TimeoutError() | exceptions.TimeoutError():
            return f"it does not answer within {_PATIENCE_S:g} s. Is REDIS_URL right, and is nothing in between?"
        case OSError() | exceptions.ConnectionError():
            return f"it can't be reached: {said}. Start it, or correct REDIS_URL."
        case _:
            return f"it answers {type(error).__name__}: {said}"
