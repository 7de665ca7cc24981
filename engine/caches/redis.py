"""A cache in Redis, shared by all servers. Down, slow, full or corrupt, it costs a search its time budget at most.

Every request has `REDIS_TIMEOUT_MS`, waiting for a connection and connecting included; writes are done while nobody
waits. After a few failures in a row nobody asks any more: a breaker rests, and then one trial in the background, over
new connections, decides whether all ask again. Stored values begin with a header:

    "SL" · version, 1 byte · CRC-32 of key and value, 4 bytes, big-endian · value

What does not fit its header is a miss: garbage, cut values, values of another version, and another key's value.
The checksum finds damage; who can write to this Redis can forge answers, so it belongs to the servers alone.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, TypeVar

import structlog
from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.breaker import Breaker
from engine.errors import BadUserInput
from engine.settings import Settings
from observability import metrics

T = TypeVar("T")

log = structlog.get_logger(__name__)

PREFIX: Final = "sightline:"
"""What every key in Redis begins with."""

_VERSION: Final = 1  # of the header; raise it when its form changes
_HEADER: Final = struct.Struct(">2sBI")

_WRITES: Final = 64
"""Values on their way at most; further ones are dropped. Bounds memory while Redis is slow."""

_TRIAL_S: Final = 1.0
"""Seconds that a trial may take to connect: nobody waits for it, so it may be slower than a search's request."""


class RedisCache:
    """Redis or a Redis Cluster as a `Cache`: it never raises, and what fails is a miss. Used from one event loop.

    What was set can be read a moment later, not at once.
    """

    def __init__(self, settings: Settings, breaker: Breaker | None = None) -> None:
        """Connects at the first request. Raises `BadUserInput` for a `REDIS_URL` that can't be one."""
        self._settings = settings
        self._budget_s = settings.redis_timeout_ms / 1000
        self._breaker = breaker or Breaker()
        self._slots = asyncio.Semaphore(settings.redis_pool)
        self._writes: set[asyncio.Task[Any]] = set()
        self._trial: asyncio.Task[None] | None = None
        self._closed = False
        self._told: set[str] = set()
        self._results = {
            result: metrics.cache_requests.labels(tier="redis", result=result) for result in ("hit", "miss")
        }
        metrics.cache_breaker_open.labels(tier="redis").set(0)
        self._client = new_client(self._settings)

    # ------------------------------------------------------------ the cache

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """What is under each key, in their order, all in one request (in a cluster, one to each node concerned)."""
        values: list[bytes | None] = [None] * len(keys)
        if keys and self._may_ask():
            stored = await self._ask(lambda: self._read(keys)) or values
            values = [_unpacked(key, at) for key, at in zip(keys, stored, strict=True)]
        hits = sum(value is not None for value in values)
        self._results["hit"].inc(hits)
        self._results["miss"].inc(len(keys) - hits)
        return values

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Has bytes stored for `ttl_s` seconds and returns at once."""
        if not self._may_ask():
            return
        if len(self._writes) >= _WRITES:
            _count_error("dropped")
            return
        packed, ttl_ms = _packed(key, value), max(1, round(ttl_s * 1000))
        write = asyncio.create_task(self._ask(lambda: self._write(key, packed, ttl_ms)))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def ping(self) -> bool:
        """Whether Redis (in a cluster, every node) answers now and in time, also when searches have given it up."""
        if self._closed:
            return False
        if not self._breaker.closed:
            await asyncio.shield(self._begin_trial())
        return self._breaker.closed and bool(await self._ask(self._pong))

    async def close(self) -> None:
        """Lets writes end, which their time bounds, and closes the connections; harmless when done twice."""
        self._closed = True
        await self.settle()
        await close_client(self._client)

    async def settle(self) -> None:
        """Waits until what was set is stored or given up, and a trial decided."""
        while tasks := self._writes | ({self._trial} if self._trial is not None and not self._trial.done() else set()):
            await asyncio.wait(tasks)

    # ------------------------------------------------------------ asking

    def _may_ask(self) -> bool:
        """Whether Redis is worth asking; begins a trial when it is time for one."""
        if self._closed:
            return False
        if self._breaker.due:
            self._begin_trial()
        return self._breaker.closed

    async def _ask(self, request: Callable[[], Awaitable[T]]) -> T | None:
        """What Redis answers in time, or None."""
        try:
            async with asyncio.timeout(self._budget_s), self._slots:
                answer = await request()
        except exceptions.ResponseError as error:  # it answered at once: other requests are worth a try
            self._tell(error)
            self._succeeded()
            return None
        except Exception as error:  # noqa: BLE001 - whatever the library makes of garbage, no search may see it
            self._failed(error)
            return None
        self._succeeded()
        return answer

    async def _read(self, keys: Sequence[str]) -> list[Any]:
        """What is stored under each key; anything but a list of that length is no answer."""
        names = [PREFIX + key for key in keys]
        if not self._settings.redis_cluster:
            found = await self._client.mget(names)
        elif len(names) == 1:
            found = [await self._client.get(names[0])]
        else:
            found = await self._client.mget_nonatomic(names)
        if not isinstance(found, list) or len(found) != len(keys):
            raise exceptions.InvalidResponse(f"Redis answers {type(found).__name__} for {len(keys)} keys.")
        return found

    async def _write(self, key: str, packed: bytes, ttl_ms: int) -> None:
        if await self._client.set(PREFIX + key, packed, px=ttl_ms) is not True:
            raise exceptions.InvalidResponse("Redis does not say that it stored a value.")

    async def _pong(self) -> bool:
        if not self._settings.redis_cluster:
            return await self._client.ping() is True
        await self._client.initialize()
        pings = (self._client.ping(target_nodes=node) for node in self._client.get_primaries())
        return all([await ping is True for ping in pings])

    def _failed(self, error: Exception) -> None:
        _count_error(_reason(error))
        if self._breaker.failed():
            metrics.cache_breaker_open.labels(tier="redis").set(1)
            log.warning("Redis does not answer as it should, searches go on without it", error=_described(error))

    def _succeeded(self) -> None:
        if self._breaker.succeeded():
            metrics.cache_breaker_open.labels(tier="redis").set(0)
            log.info("Redis answers again")

    def _tell(self, error: exceptions.ResponseError) -> None:
        """Counts what Redis refused; the log hears of each kind (out of memory, read-only) once."""
        _count_error("refused")
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            log.warning("Redis refuses requests, searches go on without its help", error=_described(error))

    # ------------------------------------------------------------ trials

    def _begin_trial(self) -> asyncio.Task[None]:
        if self._trial is None or self._trial.done():
            self._trial = asyncio.create_task(self._try_again())
        return self._trial

    async def _try_again(self) -> None:
        """Reads once over new connections, whatever state the old ones were in, and once more within the budget."""
        async with AsyncExitStack() as stack:
            for _ in range(self._settings.redis_pool):  # those who still ask give up in time
                await stack.enter_async_context(self._slots)
            try:
                lost, self._client = self._client, new_client(self._settings)
                await close_client(lost)
                async with asyncio.timeout(_TRIAL_S):
                    await self._read([f"trial:{secrets.token_hex(4)}"])
                async with asyncio.timeout(self._budget_s):
                    await self._read([f"trial:{secrets.token_hex(4)}"])
            except exceptions.ResponseError as error:
                self._tell(error)
            except Exception as error:  # noqa: BLE001 - as when asking
                _count_error(_reason(error))
                self._breaker.trial_failed()
                return
        self._succeeded()


# ---------------------------------------------------------------- connections


def new_client(settings: Settings) -> Any:
    """A client that has not connected yet. It tries once: a breaker and a miss are better than its patience.

    Raises `BadUserInput` for a `REDIS_URL` that can't be one.
    """
    url = settings.redis_url.get_secret_value()
    # Protocol 2 and no driver_info spare a new connection two round trips. Every request has our own time limit.
    options: dict[str, Any] = {"protocol": 2, "driver_info": None}
    options |= {"socket_timeout": None, "socket_connect_timeout": _TRIAL_S}
    options |= {"max_connections": settings.redis_pool}
    try:
        if settings.redis_cluster:  # one more try, because after a move or a failover that finds the new node
            return RedisCluster.from_url(url, retry=Retry(NoBackoff(), 1), require_full_coverage=False, **options)
        client: Any = Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        client.connection_pool.make_connection()  # says now what is wrong with the options
    except (ValueError, TypeError, exceptions.RedisError, exceptions.RedisClusterException):
        raise BadUserInput(
            "REDIS_URL: this can't be used. Write redis://HOST:PORT/DATABASE, or rediss:// for TLS, with "
            "USER:PASSWORD@ (percent-encoded) before the host if it asks for them. A cluster has database 0 only."
        ) from None  # the library's words may hold the password
    return client


async def close_client(client: Any) -> None:
    """Closes its connections, whatever state they are in."""
    with suppress(Exception):  # a connection that can't even be closed is gone
        async with asyncio.timeout(_TRIAL_S):
            await client.aclose()
            if isinstance(client, RedisCluster):  # it closes nothing while it is about to look for its nodes again
                await client.nodes_manager.aclose("nodes_cache")
                await client.nodes_manager.aclose("startup_nodes")


# ---------------------------------------------------------------- values and errors


def _packed(key: str, value: bytes) -> bytes:
    return _HEADER.pack(b"SL", _VERSION, _checksum(key, value)) + value


def _unpacked(key: str, stored: Any) -> bytes | None:
    """The value, or None when there is none or it is not what was stored under this key."""
    if stored is None:
        return None
    value: bytes | None = None
    if isinstance(stored, bytes) and len(stored) >= _HEADER.size:
        value = stored[_HEADER.size :]
        if _HEADER.unpack_from(stored) != (b"SL", _VERSION, _checksum(key, value)):
            value = None
    if value is None:
        _count_error("value")
    return value


def _checksum(key: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key.encode()))


def _reason(error: Exception) -> str:
    if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
        return "timeout"
    if isinstance(error, (OSError, exceptions.ConnectionError, exceptions.RedisClusterException)):
        return "connection"
    return "garbage"


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _count_error(reason: str) -> None:
    metrics.cache_errors.labels(tier="redis", reason=reason).inc()
