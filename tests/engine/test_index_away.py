"""An index that crashes, hangs or can't start: what was found before is still shown, the rest fails in time, all heals.

On the embedded index in its process, and on a Qdrant server, each under a real searcher.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from engine.breaker import FAILURES
from engine.caches.choice import in_memory
from engine.encoders.loaded import LoadedEncoders
from engine.errors import IndexCorrupt, IndexUnavailable, SightlineError
from engine.generations import Generation
from engine.indexes.process import ProcessIndex
from engine.indexes.qdrant import QdrantIndex
from engine.ports import Match, Point
from engine.requests import SearchRequest
from engine.search import Searcher, SearchResult
from engine.serving import IndexRegistry, Serving, _Slot
from engine.settings import Settings
from tests.engine.conftest import id_of
from tests.support.encoders import WordEncoder, loading
from tests.support.qdrant import QdrantServer
from tests.support.waiting import until

CAPTIONS = [f"{colour} {kind}" for colour in ("red", "blue", "green") for kind in ("car", "dog", "boat")] * 10
BUDGET_S = 1.0
HANG_S = 30.0
"""What waits for longer than that hangs."""


@dataclass
class Rig:
    """A searcher, and what can be done to its index."""

    searcher: Searcher
    hang: Callable[[], None]
    heal: Callable[[], None]
    numbers: Iterator[int] = field(default_factory=count)

    async def outcome(self, query: str, **arguments: object) -> SearchResult | SightlineError:
        """What comes of a search; a test that waits for ever fails here."""
        async with asyncio.timeout(HANG_S):
            [answer] = await self.searcher.search_many([SearchRequest(query=query, **arguments)])  # type: ignore[arg-type]
            return answer

    async def found(self, query: str, **arguments: object) -> SearchResult:
        """The answer; an error fails the test."""
        answer = await self.outcome(query, **arguments)
        assert isinstance(answer, SearchResult), answer
        return answer

    async def works(self) -> bool:
        """Whether a search that was never made before is answered."""
        return isinstance(await self.outcome(f"number {next(self.numbers)}"), SearchResult)

    def at_rest(self) -> bool:
        """Whether nothing is left of searches that have ended."""
        left = (self.searcher._flights, self.searcher._running, self.searcher._admission.running)
        return left == ({}, set(), 0)


def settings_for(folder: Path) -> Settings:
    """Searches may take a second."""
    return Settings(_env_file=None, index_path=folder, search_timeout_s=BUDGET_S, qdrant_timeout_s=0.8 * BUDGET_S)


def searching(registry: IndexRegistry, settings: Settings) -> Searcher:
    """A searcher on a registry."""
    return Searcher(registry, in_memory(10_000_000, 10_000_000), settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Generation]) -> Path:
    """An embedded index of `CAPTIONS`."""
    root = tmp_path_factory.mktemp("data")
    build(root, CAPTIONS, WordEncoder(48))
    return root


async def process_of(registry: IndexRegistry) -> int:
    """The process of the default index."""
    async with registry.acquire() as serving:
        assert isinstance(serving.index, ProcessIndex)
        return serving.index.process_id


@pytest.fixture
async def registry(data: Path) -> AsyncIterator[IndexRegistry]:
    """The embedded index, open."""
    settings = settings_for(data)
    encoders = LoadedEncoders(settings, loading(WordEncoder(48)))
    await encoders.load_own()
    registry = IndexRegistry(settings, encoders)
    yield registry
    await registry.close()
    await encoders.close()


@pytest.fixture
async def embedded(registry: IndexRegistry, data: Path) -> Rig:
    """A searcher on it. It heals by itself."""
    process = await process_of(registry)
    searcher = searching(registry, settings_for(data))
    return Rig(searcher, lambda: os.kill(process, signal.SIGSTOP), lambda: None)


class OneCollection(IndexRegistry):
    """A registry of one collection of a Qdrant server."""

    def __init__(
        self, settings: Settings, encoders: LoadedEncoders, generation: Generation, index: QdrantIndex
    ) -> None:
        super().__init__(settings, encoders)
        self._serving = Serving(generation, index, encoders.claim(generation.model))

    async def _open_first(self, name: str) -> None:
        self._slots[name] = _Slot(self._serving)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[QdrantServer]:
    """A server of the test's own."""
    with QdrantServer(tmp_path / "qdrant") as server:
        yield server


@pytest.fixture
async def remote(server: QdrantServer, tmp_path: Path) -> AsyncIterator[Rig]:
    """A searcher on a collection of it."""
    settings = settings_for(tmp_path).model_copy(update={"qdrant_url": f"http://127.0.0.1:{server.port}"})
    encoder = WordEncoder(48)
    index = await QdrantIndex.create("default", 48, settings)
    vectors = encoder.encode_texts(CAPTIONS)
    await index.upsert(
        [
            Point(id_of(number), vector, {"category": caption.split()[-1], "metadata": {"caption": caption}})
            for number, (caption, vector) in enumerate(zip(CAPTIONS, vectors, strict=True))
        ]
    )
    generation = Generation("1", "default", Path(), "ready", encoder.model, "", len(CAPTIONS))
    encoders = LoadedEncoders(settings, loading(encoder))
    await encoders.load_own()
    searcher = searching(OneCollection(settings, encoders, generation, index), settings)
    yield Rig(searcher, server.pause, server.resume)
    await index.close()
    await encoders.close()


@pytest.fixture(params=["embedded", "remote"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Each of the two."""
    rig: Rig = request.getfixturevalue(request.param)
    return rig


# ---------------------------------------------------------------- it hangs


async def test_an_index_that_hangs_fails_searches_in_time_and_heals(rig: Rig):
    """Every search, in whatever way it needs the index, with its own error; afterwards all is as before."""
    await rig.found("red car")
    page = await rig.found("red dog", first=30)
    rig.hang()
    async with asyncio.timeout(HANG_S):
        outcomes = await asyncio.gather(
            rig.outcome("a new car"),
            rig.outcome("red car", filter=Match("category", ("dog",))),
            rig.outcome("red dog", first=30, after=page.end_cursor),
            rig.searcher.image(None, id_of(1)),
            rig.searcher.facets(None, None, [("category", 10), ("width", 10)]),
            rig.searcher.ready(),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [IndexUnavailable] * 6
    rig.heal()
    await until(rig.works)
    assert (await rig.searcher.image(None, id_of(1))).id == id_of(1)
    assert rig.at_rest()


async def test_a_qdrant_server_that_hangs_makes_a_few_searches_wait_and_tells_the_others(remote: Rig):
    """They hear it at once, and what is remembered is shown; when the server is well, so are searches."""
    await remote.found("red car")
    remote.hang()
    await asyncio.gather(*(remote.outcome(f"new {number}") for number in range(FAILURES)))
    await until(lambda: _refused_at_once(remote))
    assert (await remote.found("red car")).cached
    remote.heal()
    await until(remote.works)
    assert remote.at_rest()


async def _refused_at_once(rig: Rig) -> bool:
    return "hangs: " in str(await rig.outcome("another"))


async def test_what_is_remembered_is_shown_while_the_index_hangs(rig: Rig):
    """First pages of lists in the cache; pages further down need the index for what they show, and say so."""
    page = await rig.found("red car", first=30)
    await rig.found("red car", first=30, after=page.end_cursor)
    rig.hang()
    hanging = asyncio.create_task(rig.outcome("never asked"))
    again = await rig.found("red car", first=30)
    assert (again.cached, again.edges, again.total) == (True, page.edges, page.total)
    assert (await rig.found("red car", first=5)).cached
    assert isinstance(await rig.outcome("red car", first=30, after=page.end_cursor), IndexUnavailable)
    assert isinstance(await hanging, IndexUnavailable)
    rig.heal()
    await until(rig.works)
    assert rig.at_rest()


async def test_of_many_searches_in_a_request_those_that_are_remembered_are_answered(rig: Rig):
    """And each of the others has its error, first pages and deep ones."""
    await rig.found("red car")
    deep = [await rig.found(f"{colour} car", first=30) for colour in ("red", "green", "blue")]
    deep += [await rig.found(page.request.query or "", first=30, after=page.end_cursor) for page in deep]
    pages = [SearchRequest(query=page.request.query, first=30, after=page.end_cursor) for page in deep[:3]]
    rig.hang()
    requests = [SearchRequest(query="red car"), *(SearchRequest(query=f"new {n}") for n in range(20)), *pages]
    answers = await rig.searcher.search_many(requests)
    assert [type(answer) for answer in answers] == [SearchResult] + [IndexUnavailable] * 23
    rig.heal()
    await until(rig.works)


# ---------------------------------------------------------------- it crashes


async def test_an_index_process_that_crashes_is_back_with_the_next_search(embedded: Rig, registry: IndexRegistry):
    """Searches under way are told; the next ones find everything."""
    before = await process_of(registry)
    os.kill(before, signal.SIGSTOP)  # so that they are under way for sure
    waiting = [asyncio.create_task(embedded.outcome(f"number {n}")) for n in range(5)]
    await until(lambda: _running(embedded, 5))
    os.kill(before, signal.SIGKILL)
    assert {type(outcome) for outcome in await asyncio.gather(*waiting)} == {IndexUnavailable}
    await until(embedded.works)
    assert await process_of(registry) != before
    assert embedded.at_rest()


async def _running(rig: Rig, searches: int) -> bool:
    return rig.searcher._admission.running == searches


async def test_an_index_that_can_not_start_is_told_and_heals_when_its_files_are_back(
    embedded: Rig, registry: IndexRegistry, tmp_path: Path
):
    """The error says what to do; what is remembered is shown."""
    await embedded.found("red car")
    async with registry.acquire() as serving:
        shard = serving.generation.shard
    shard.rename(tmp_path / "away")
    os.kill(await process_of(registry), signal.SIGKILL)
    await until(lambda: _corrupt(embedded))
    assert (await embedded.found("red car")).cached
    (tmp_path / "away").rename(shard)
    await until(embedded.works)


async def _corrupt(rig: Rig) -> bool:
    return isinstance(await rig.outcome("anything new"), IndexCorrupt)


async def test_a_qdrant_server_that_is_gone_is_told_and_taken_back(remote: Rig, server: QdrantServer):
    """Under load: errors while it is away, none before and after; what is remembered is shown all the time."""
    await remote.found("red car")
    server.kill()
    outcomes = await asyncio.gather(*(remote.outcome(f"new {n}") for n in range(20)))
    assert {type(outcome) for outcome in outcomes} == {IndexUnavailable}
    assert (await remote.found("red car")).cached
    server.start()
    await until(remote.works)
    assert remote.at_rest()
