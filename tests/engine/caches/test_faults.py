"""Whatever happens to Redis, searches are answered: rightly, without an error, and soon without asking it any more.

Each test has a real searcher, whose memory remembers nothing, and a real Redis behind a proxy.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from engine.breaker import FAILURES, LONGEST_REST_S, Breaker
from engine.caches.choice import Caches, in_memory
from engine.caches.memory import MemoryCache
from engine.caches.redis import RedisCache
from engine.caches.tiered import TieredCache
from engine.encoders.loaded import LoadedEncoders
from engine.generations import Generation
from engine.indexes.exact import ExactIndex
from engine.ports import Point, Vectors
from engine.requests import SearchRequest
from engine.search import Searcher, SearchResult
from engine.serving import IndexRegistry, Serving, _Slot
from engine.settings import Settings
from observability import metrics
from tests.engine.conftest import id_of
from tests.support.encoders import WordEncoder, loading
from tests.support.fault_proxy import Change, Cut, Delay, Fault, FaultProxy, Hang, Refuse
from tests.support.redis import RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.programs

CAPTIONS = ["red car", "blue dog", "green boat", "red dog", "blue car", "green car"]
BUDGET_MS = 100
IN_FLIGHT = 4
"""Requests of one search: it looks up a list and an embedding, and stores both."""


class Watched(WordEncoder):
    """A word encoder that notes its texts."""

    def __init__(self) -> None:
        super().__init__(48)
        self.texts: list[str] = []

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        return super().encode_texts(texts)


def failures() -> float:
    """Requests to Redis that failed so far, whatever of; an answer that says no is none of them."""
    counted = ("timeout", "connection", "garbage")
    return sum(metrics.cache_errors.labels(tier="redis", reason=reason)._value.get() for reason in counted)


def refusals() -> float:
    """Requests that Redis answered with an error so far."""
    value: float = metrics.cache_errors.labels(tier="redis", reason="refused")._value.get()
    return value


@dataclass
class Rig:
    """A searcher, its Redis behind a proxy, and the breaker's time."""

    searcher: Searcher
    reference: Searcher
    cache: RedisCache
    breaker: Breaker
    proxy: FaultProxy
    server: RedisServer
    encoder: Watched
    now: float = 0.0
    numbers: Iterator[int] = field(default_factory=count)

    async def ask(self, query: str) -> SearchResult:
        """One search, answered as one without a cache is, or the test fails; also when it hangs."""
        request = SearchRequest(query=query, first=4)
        async with asyncio.timeout(30):
            [answer] = await self.searcher.search_many([request])
            [expected] = await self.reference.search_many([request])
        assert isinstance(answer, SearchResult), answer
        assert isinstance(expected, SearchResult), expected
        assert len(answer.edges) == 4
        assert (answer.edges, answer.total) == (expected.edges, expected.total)
        return answer

    async def ask_anew(self) -> SearchResult:
        """A search that nobody has made before."""
        return await self.ask(f"{CAPTIONS[next(self.numbers) % len(CAPTIONS)]} of number {next(self.numbers)}")

    async def given_up(self) -> None:
        """Asks until Redis is not asked any more."""
        async with asyncio.timeout(60):
            while self.breaker.closed:
                assert not (await self.ask("red car")).cached
                await self.ask_anew()

    async def remembered(self, query: str) -> SearchResult:
        """Asks until the answer comes from Redis, as time goes by."""
        async with asyncio.timeout(60):
            while not (answer := await self.ask(query)).cached:
                self.now += LONGEST_REST_S
                await self.cache.settle()
        return answer


class OneIndex(IndexRegistry):
    """A registry of one index in memory, with six pictures: what holds vectors is no matter here."""

    def __init__(self, settings: Settings, encoders: LoadedEncoders, encoder: WordEncoder) -> None:
        super().__init__(settings, encoders)
        self._claim = encoders.claim(encoder.model)
        self._index = ExactIndex(encoder.model.dimension)
        self._pictures = [
            Point(id_of(number), vector, {"metadata": {"caption": caption}})
            for number, (caption, vector) in enumerate(zip(CAPTIONS, encoder.encode_texts(CAPTIONS), strict=True))
        ]
        self._generation = Generation("1", "default", Path(), "ready", encoder.model, "", len(CAPTIONS))

    async def _open_first(self, name: str) -> None:
        await self._index.upsert(self._pictures)
        self._slots[name] = _Slot(Serving(self._generation, self._index, self._claim))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def rig(server: RedisServer) -> AsyncIterator[Rig]:
    """All of it, healthy, with one search remembered: "red car"."""
    async with FaultProxy(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        settings = Settings(_env_file=None, redis_url=url, redis_timeout_ms=BUDGET_MS)
        breaker = Breaker(lambda: rig.now, lambda: 0.0)
        cache, encoder = RedisCache(settings, breaker), Watched()
        encoders = [LoadedEncoders(settings, loading(model)) for model in (encoder, WordEncoder(48))]
        registry, plain = (OneIndex(settings, loaded, WordEncoder(48)) for loaded in encoders)
        caches = Caches(TieredCache(MemoryCache(0), cache), TieredCache(MemoryCache(0), cache))
        searcher = Searcher(registry, caches, settings)
        reference = Searcher(plain, in_memory(0, 0), settings)
        rig = Rig(searcher, reference, cache, breaker, proxy, server, encoder)
        await rig.remembered("red car")
        yield rig
        for loaded in encoders:
            await loaded.close()
        await caches.close()


# ---------------------------------------------------------------- the network and what answers

SILENT: dict[str, Fault] = {
    "refused": Refuse(),
    "hanging": Hang(),
    "two seconds slow": Delay(2),
    "reset before a reply": Cut(0),
    "reset in mid-reply": Cut(3),
    "cut reply": Change(lambda reply: reply[:-1]),
    "not the protocol": Change(lambda _reply: b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "zeros": Change(lambda reply: bytes(len(reply))),
    "a number": Change(lambda _reply: b":1\r\n"),
    "nothing in it": Change(lambda _reply: b"*0\r\n"),
    "too much in it": Change(lambda _reply: b"*3\r\n" + 3 * b"$1\r\nx\r\n"),
}
"""Faults after which Redis is not asked any more."""

WRONG: dict[str, Fault] = {
    "reset in mid-value": Cut(40),
    "other values": Change(lambda reply: reply.replace(b"SL\x01", b"SL\x00")),
    "damaged values": Change(lambda reply: reply.replace(b"hnsw", b"HNSW")),
    "one reply too many": Change(lambda reply: b"*1\r\n$1\r\nx\r\n" + reply),
    "a number for a value": Change(lambda _reply: b"*1\r\n:1\r\n"),
    "an error": Change(lambda _reply: b"-ERR unheard of\r\n"),
}
"""Faults of some answers, or of values: each is looked at."""


@pytest.mark.parametrize("fault", SILENT.values(), ids=SILENT.keys())
async def test_a_dead_cache_is_left_alone_and_used_again_when_it_is_well(rig: Rig, fault: Fault):
    """It costs a few budgets, once; then nobody connects to it; when it is well, one trial finds out."""
    before = failures()
    rig.proxy.fault = fault
    await rig.given_up()
    await rig.cache.settle()
    assert FAILURES <= failures() - before < FAILURES + IN_FLIGHT
    tried = rig.proxy.accepted
    for _ in range(20):
        assert not (await rig.ask("red car")).cached
        await rig.ask_anew()
    assert (rig.proxy.accepted, rig.breaker.closed) == (tried, False)
    rig.proxy.fault = None
    await rig.remembered("red car")
    assert rig.breaker.closed


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG.keys())
async def test_wrong_answers_of_the_cache_reach_nobody(rig: Rig, fault: Fault):
    """They are misses, and so they are when connections return to health with something left in them."""
    rig.proxy.fault = fault
    for _ in range(5):
        assert not (await rig.ask("red car")).cached
        await rig.ask_anew()
        await rig.cache.settle()
    rig.proxy.fault = None
    for _ in range(5):
        await rig.ask("red car")
        await rig.ask_anew()
    await rig.remembered("red car")


async def test_a_trial_that_fails_lets_the_next_wait_longer(rig: Rig):
    """One connection a trial, whoever asks meanwhile."""
    rig.proxy.fault = Cut(0)
    await rig.given_up()
    for rest in (0.5, 1, 2, 4, 8, 8):
        tried = rig.proxy.accepted
        rig.now += rest - 0.1
        await rig.ask_anew()
        await rig.cache.settle()
        assert rig.proxy.accepted == tried
        rig.now += 0.1
        await asyncio.gather(*(rig.ask_anew() for _ in range(10)))
        await rig.cache.settle()
        assert rig.proxy.accepted == tried + 1


async def test_equal_searches_are_made_once_while_the_cache_hangs(rig: Rig):
    """Those who come while the first one waits for the cache follow it."""
    rig.proxy.fault = Hang()
    await asyncio.gather(*(rig.ask("blue dog") for _ in range(20)))
    assert rig.encoder.texts.count("blue dog") == 1


async def test_late_replies_go_to_nobody_else(rig: Rig):
    """A reply that comes after its request was given up is not taken for the next one's."""
    queries = [f"{caption} twice" for caption in CAPTIONS]
    for query in queries:
        await rig.remembered(query)
    rig.proxy.fault = Hang()
    await asyncio.gather(*(rig.ask(query) for query in queries))
    rig.proxy.fault = None
    for query in (*queries, *reversed(queries)):
        await rig.remembered(query)


async def test_health_asks_a_cache_that_was_given_up(rig: Rig):
    """It says what is true now, and what it finds well is used again without waiting for the rest to be over."""
    assert await rig.cache.ping()
    rig.proxy.fault = Refuse()
    await rig.given_up()
    assert not await rig.cache.ping()
    rig.proxy.fault = None
    await until(rig.cache.ping)
    assert rig.breaker.closed


async def test_writes_are_bounded_while_the_cache_hangs(rig: Rig):
    """What does not fit is dropped, and closing waits for no more than a budget."""
    rig.proxy.fault = Hang()
    dropped = metrics.cache_errors.labels(tier="redis", reason="dropped")
    before = dropped._value.get()
    for number in range(200):
        await rig.cache.set(f"key {number}", bytes(1000), 60)
    assert dropped._value.get() - before == 200 - 64
    async with asyncio.timeout(30):
        await rig.cache.close()


# ---------------------------------------------------------------- the server


async def test_a_server_killed_under_load_and_started_again(rig: Rig):
    """It comes back on the same port with nothing in it, and is filled again."""
    searches = [asyncio.create_task(rig.ask_anew()) for _ in range(50)]
    await searches[0]
    rig.server.kill()
    await asyncio.gather(*searches)
    for _ in range(10):
        assert not (await rig.ask("red car")).cached
    rig.server.start()
    assert rig.server.stored() == []
    await rig.remembered("red car")


async def test_a_server_that_is_stopped_and_goes_on(rig: Rig):
    """Its connections stay open and say nothing, as when a machine swaps or a disk stalls."""
    rig.server.signal(signal.SIGSTOP)
    await rig.given_up()
    rig.server.signal(signal.SIGCONT)
    await rig.remembered("red car")


async def test_connections_that_the_server_closes_are_replaced(rig: Rig):
    """As its `timeout` option does with idle ones: the next search finds what it remembers."""
    before = failures()
    rig.server.cli("client", "kill", "type", "normal", "skipme", "yes")

    async def all_closed() -> bool:
        return not rig.proxy.open

    await until(all_closed)
    await rig.remembered("red car")
    assert failures() - before <= 1


async def test_a_server_out_of_memory_still_answers_what_it_has(rig: Rig):
    """Storing is refused, looking up goes on; with memory again, it stores."""
    before = refusals()
    rig.server.cli("config", "set", "maxmemory-policy", "noeviction")
    rig.server.cli("config", "set", "maxmemory", "100kb")
    there = rig.server.stored()
    for _ in range(10):
        await rig.ask_anew()
        await rig.cache.settle()
    assert refusals() - before == 20
    assert rig.server.stored() == there
    await rig.remembered("red car")
    rig.server.cli("config", "set", "maxmemory", "0")
    await rig.remembered("green boat")


async def test_a_read_only_replica_still_answers_what_it_has(rig: Rig):
    """After a failover the old master may be one; its own master is lost here, so it keeps what it had."""
    before = refusals()
    rig.server.cli("replicaof", "127.0.0.1", "9")
    for _ in range(10):
        await rig.ask_anew()
        await rig.cache.settle()
    assert refusals() - before == 20
    await rig.remembered("red car")
    rig.server.cli("replicaof", "no", "one")
    await rig.remembered("green boat")


async def test_values_of_an_older_version_are_made_anew(rig: Rig):
    """As after an upgrade: they are misses, and are replaced."""
    age = """
        for _, key in ipairs(redis.call("keys", "sightline:*")) do
            local value = redis.call("get", key)
            redis.call("set", key, string.sub(value, 1, 2) .. string.char(0) .. string.sub(value, 4))
        end
    """
    rig.server.cli("eval", age, "0")
    assert not (await rig.ask("red car")).cached
    await rig.cache.settle()
    await rig.remembered("red car")
