"""Real Redis servers, and caches on them that are closed after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from engine.caches.redis import RedisCache
from engine.settings import Settings
from tests.support.redis import RedisServer, redis_cluster

PATIENT_MS = 20_000
"""A budget for what must succeed, however busy the machine is."""

Connect = Callable[..., RedisCache]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that the tests share; they use keys of their own and break nothing."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[RedisServer]]:
    """A Redis Cluster of three nodes that the tests share."""
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes a `RedisCache`: `connect(url, breaker=None, **settings)`; patient, unless told otherwise."""
    async with AsyncExitStack() as stack:

        def connect(url: str, breaker: Any = None, **values: Any) -> RedisCache:
            values = {"redis_timeout_ms": PATIENT_MS} | values
            cache = RedisCache(Settings(_env_file=None, redis_url=url, **values), breaker)
            stack.push_async_callback(cache.close)
            return cache

        yield connect
