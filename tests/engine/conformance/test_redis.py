"""`sightline check` of a Redis: whatever is wrong with it, the reason says what, and nothing is left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.conformance import redis as conformance
from engine.conformance.cache import CACHE
from engine.conformance.check import PARTS, Verdict, verdicts
from engine.settings import Settings
from tests.support.fault_proxy import Delay, FaultProxy, Refuse
from tests.support.redis import RedisServer, redis_cluster

pytestmark = pytest.mark.programs

[REDIS] = [part for part in PARTS if part.name == "Redis"]
PATIENT_MS = 20_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of its own, to see what is left on it."""
    with RedisServer(tmp_path) as server:
        yield server


async def check(url: str, **values: Any) -> list[Verdict]:
    """All verdicts."""
    values = {"redis_timeout_ms": PATIENT_MS} | values
    settings = Settings(_env_file=None, redis_url=url, **values)
    return [verdict async for verdict in verdicts(REDIS, settings)]


def reasons(found: list[Verdict]) -> dict[str, str]:
    """Why what does not hold does not."""
    return {verdict.check: verdict.reason for verdict in found if not verdict.holds}


async def test_a_redis_that_keeps_every_promise_gets_a_yes(server: RedisServer):
    """Every behaviour of a cache, and three of a server; no key is left."""
    found = await check(server.url)
    assert reasons(found) == {}
    assert len(found) == len(CACHE) + 3
    assert server.stored() == []


async def test_a_cluster_that_keeps_every_promise_gets_a_yes(tmp_path: Path):
    """On all of its nodes."""
    with redis_cluster(tmp_path) as nodes:
        found = await check(nodes[0].url, redis_cluster=True)
        assert reasons(found) == {}
        assert [node.stored() for node in nodes] == [[], [], []]


async def test_a_single_server_is_no_cluster(server: RedisServer):
    """The setting that is wrong is named."""
    assert reasons(await check(server.url, redis_cluster=True)) == {
        "can be reached": "it is no cluster. Leave REDIS_CLUSTER out."
    }


async def test_a_node_of_a_cluster_is_no_single_server(tmp_path: Path):
    """The setting that is missing is named."""
    with redis_cluster(tmp_path) as nodes:
        told = reasons(await check(nodes[0].url))
    assert told == {"can be reached": "it is a node of a Redis Cluster. Set REDIS_CLUSTER=true."}


async def test_a_replica_is_told_by_what_it_refuses(server: RedisServer, tmp_path: Path):
    """It answers, and reads; all that needs a stored value is a no, with the same reason."""
    options = ("--replicaof", "127.0.0.1", str(server.port))
    with RedisServer(tmp_path, *options) as replica:
        found = await check(replica.url)
    told = reasons(found)
    assert {verdict.check for verdict in found} - set(told) == {
        "it makes room when it is full",
        "it answers within redis timeout ms",
        "it says that it answers",
    }
    for reason in told.values():
        assert reason.startswith("READONLY")
        assert reason.endswith("REDIS_URL names a replica: name the primary.")


async def test_a_full_memory_is_told_and_so_is_why(tmp_path: Path):
    """What it refuses now, and that it will as soon as it is full."""
    with RedisServer(tmp_path, "--maxmemory", "1kb", "--maxmemory-policy", "noeviction") as full:
        told = reasons(await check(full.url))
    assert told["it stores a value and returns it"].startswith("OOM")
    assert "allkeys-lru" in told["what was stored is found"]
    assert "noeviction" in told["it makes room when it is full"]


@pytest.mark.parametrize("password", ["", "hunter3"])
async def test_a_wrong_password_is_told_and_not_shown(tmp_path: Path, password: str):
    """Neither the wrong one nor the right one."""
    with RedisServer(tmp_path, "--requirepass", "hunter2") as server:
        url = server.url.replace("redis://", f"redis://:{password}@") if password else server.url
        [verdict] = await check(url)
    assert (verdict.check, verdict.holds) == ("can be reached", False)
    assert verdict.reason.startswith("it refuses user or password")
    assert "hunter" not in verdict.reason


async def test_a_user_who_may_not_write_is_told(server: RedisServer):
    """By Redis's own words; that it may not ask for INFO is no reason."""
    server.cli("acl", "setuser", "reader", "on", ">hunter2", "~*", "+@read", "+ping")
    told = reasons(await check(server.url.replace("redis://", "redis://reader:hunter2@")))
    assert told["it stores a value and returns it"].startswith("NOPERM")
    assert "sightline:" in told["what was stored is found"]
    assert "it makes room when it is full" not in told


async def test_nobody_at_the_address_is_told():
    """Once, and nothing else is asked."""
    [verdict] = await check("redis://127.0.0.1:1/0")
    assert verdict.check == "can be reached"
    assert "can't be reached" in verdict.reason
    [verdict] = await check("redis://127.0.0.1:1/0", redis_cluster=True)
    assert "can't be reached" in verdict.reason


async def test_an_address_that_can_not_be_one_is_told():
    """As when a server starts."""
    [verdict] = await check("http://127.0.0.1:1")
    assert "REDIS_URL" in verdict.reason


async def test_a_redis_that_hangs_is_told(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """After a while."""
    monkeypatch.setattr(conformance, "_PATIENCE_S", 0.5)
    server.signal(signal.SIGSTOP)
    [verdict] = await check(server.url)
    server.signal(signal.SIGCONT)
    assert verdict.reason.startswith("it does not answer within")


async def test_a_redis_that_is_too_far_away_is_told(server: RedisServer):
    """All it answers is right, and too late for a search."""
    async with FaultProxy(server.port) as proxy:
        proxy.fault = Delay(0.01)
        told = reasons(await check(f"redis://127.0.0.1:{proxy.port}/0", redis_timeout_ms=5))
    assert list(told) == ["it answers within redis timeout ms"]
    assert "REDIS_TIMEOUT_MS=5" in told["it answers within redis timeout ms"]


async def test_a_redis_that_goes_away_meanwhile_is_told(server: RedisServer):
    """What fails from then on says why; that its keys can't be removed is no error: they live for a minute."""
    async with FaultProxy(server.port) as proxy:
        settings = Settings(_env_file=None, redis_url=f"redis://127.0.0.1:{proxy.port}/0", redis_timeout_ms=PATIENT_MS)
        found = []
        async for verdict in verdicts(REDIS, settings):
            found.append(verdict)
            if verdict.check == "what was stored is found":
                proxy.fault = Refuse()
    told = reasons(found)
    assert len(told) == len(CACHE) - 1
    assert all("can't be reached" in reason for reason in told.values())
    assert all(0 < int(server.cli("pttl", key)) <= 60_000 for key in server.stored())
