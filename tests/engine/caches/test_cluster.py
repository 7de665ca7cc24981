"""A real Redis Cluster of three nodes. What all caches have in common is in test_contract."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from engine.breaker import Breaker
from engine.caches.redis import RedisCache
from tests.engine.caches.conftest import Connect
from tests.graphql_api.live import eventually
from tests.support.redis import RedisServer, redis_cluster

pytestmark = pytest.mark.programs

KEYS = [f"key {number}" for number in range(30)]


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[RedisServer]]:
    """A cluster of the test's own."""
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


async def fill(cache: RedisCache) -> None:
    """Stores all keys."""
    for key in KEYS:
        await cache.set(key, key.encode(), 60)
    await cache.settle()


async def found(cache: RedisCache) -> int:
    """How many of the keys are there, one by one and all at once; each under its own name."""
    together = await cache.get_many(KEYS)
    alone = [(await cache.get_many([key]))[0] for key in KEYS]
    for values in (together, alone):
        assert all(value in (None, key.encode()) for key, value in zip(KEYS, values, strict=True))
    return sum(value is not None for value in alone)


async def test_keys_spread_over_all_nodes(nodes: Sequence[RedisServer], connect: Connect):
    """Found through any node of them, and all nodes are asked whether they answer."""
    await fill(connect(nodes[0].url, redis_cluster=True))
    held = [len(node.stored()) for node in nodes]
    assert min(held) > 0
    assert sum(held) == len(KEYS)
    for node in nodes:
        cache = connect(node.url, redis_cluster=True)
        assert await found(cache) == len(KEYS)
        assert await cache.ping()


async def test_slots_that_move_are_found_where_they_are(nodes: Sequence[RedisServer], connect: Connect):
    """Half of a node's slots go to another one while the cache is in use; nodes tell each other in a while."""
    cache = connect(nodes[0].url, redis_cluster=True)
    await fill(cache)
    giver, taker = (node.cli("cluster", "myid") for node in nodes[:2])
    address = f"127.0.0.1:{nodes[0].port}"
    moved = ("--cluster-from", giver, "--cluster-to", taker, "--cluster-slots", "2700", "--cluster-yes")
    await asyncio.to_thread(nodes[0].cli, "--cluster", "reshard", address, *moved)
    async with asyncio.timeout(60):
        while await found(cache) < len(KEYS):  # what is not where a node says is a miss
            pass


async def test_the_others_serve_while_a_node_is_dead(nodes: Sequence[RedisServer], connect: Connect):
    """Its keys are misses and no errors; when it is back, it is used again."""
    breaker = Breaker(lambda: 0.0, lambda: 0.0)
    cache = connect(nodes[0].url, breaker, redis_cluster=True)
    await fill(cache)
    lost = len(nodes[1].stored())
    nodes[1].kill()
    assert not await cache.ping()
    assert await found(cache) <= len(KEYS) - lost
    await fill(cache)
    nodes[1].start()
    eventually(lambda: all("cluster_state:ok" in node.cli("cluster", "info") for node in nodes))
    async with asyncio.timeout(60):
        while not await cache.ping() or await found(cache) < len(KEYS):
            await fill(cache)


async def test_closing_while_a_node_is_dead_closes_the_other_connections(
    nodes: Sequence[RedisServer], connect: Connect
):
    """Also when the library is about to look for its nodes again."""
    cache = connect(nodes[0].url, redis_cluster=True)
    await fill(cache)
    nodes[1].kill()
    await fill(cache)
    await cache.close()
    itself = 1
    for node in (nodes[0], nodes[2]):
        eventually(lambda node=node: len(node.cli("client", "list", "type", "normal").splitlines()) == itself)
