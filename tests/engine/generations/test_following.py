"""Servers and their generations: followed under load, nothing dropped, and a store that goes away and comes back."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle, pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from engine import serving
from engine.caches.choice import in_memory
from engine.encoders import loaded
from engine.encoders.loaded import Load as LoadModel
from engine.encoders.loaded import LoadedEncoders
from engine.errors import IndexCorrupt, IndexUnavailable, SightlineError
from engine.generations import Generation, Generations, generations_of
from engine.ports import Encoder, VectorQuery
from engine.requests import SearchRequest, Term
from engine.search import Searcher, SearchResult
from engine.serving import IndexRegistry
from engine.settings import Settings
from tests.engine.conftest import built, id_of
from tests.support.encoders import PALETTE, Shelf, WordEncoder, loading
from tests.support.qdrant import QdrantServer
from tests.support.waiting import until

ENCODER = WordEncoder(16)
CAPTIONS = [f"{color} car" for color in PALETTE]
PATIENCE_S = 60


@pytest.fixture
def named(settings: Settings) -> Settings:
    """The same, with a default index that no other test names."""
    return settings.model_copy(update={"index_name": f"test-{secrets.token_hex(4)}"})


@pytest.fixture
async def store(named: Settings) -> AsyncIterator[Generations]:
    """Its generations, as the process that builds has them."""
    async with generations_of(named, named.index_name) as store:
        yield store


@asynccontextmanager
async def served(settings: Settings, load: LoadModel | None = None) -> AsyncIterator[IndexRegistry]:
    """A registry that is closed in the end."""
    encoders = LoadedEncoders(settings, load or loading(ENCODER))
    registry = IndexRegistry(settings, encoders)
    try:
        yield registry
    finally:
        await registry.close()
        await encoders.close()


@asynccontextmanager
async def searching(registry: IndexRegistry, settings: Settings) -> AsyncIterator[Searcher]:
    """Searches on a registry that is watched, as a server has them."""
    watch = asyncio.create_task(registry.watch())
    try:
        yield Searcher(registry, in_memory(1 << 20, 1 << 20), settings)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def marked(store: Generations, number: int, model: Encoder = ENCODER) -> Generation:
    """A ready generation whose every picture says its number, with more pictures the higher it is."""
    return await built(store, [*CAPTIONS, *(f"green boat {n}" for n in range(number))], model, build=number)


async def ask(searcher: Searcher, text: str) -> SearchResult:
    """One search, which has to be answered."""
    [answer] = await searcher.search_many([SearchRequest(query=text, first=5)])
    assert isinstance(answer, SearchResult), answer
    return answer


class Load:
    """Clients that search without a pause, and judge every answer."""

    def __init__(self, searcher: Searcher, numbers: dict[str, int]) -> None:
        self.answers = 0
        self.wrong: list[str] = []
        self.followed = 0
        self._searcher = searcher
        self._numbers = numbers
        self._served: list[str] = []

    def promoted(self, id_: str) -> None:
        """From now on this one may answer."""
        self._served.append(id_)

    async def until_followed(self) -> None:
        """Returns when the last promoted one answers; from then on no earlier one may."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self._ask("blue car")
                if isinstance(answer, SearchResult) and answer.generation == self._served[-1]:
                    break
                await asyncio.sleep(0.01)
        self.followed = len(self._served) - 1

    async def run(self) -> None:
        """One client."""
        for text in cycle(CAPTIONS):
            may_answer = self.followed
            answer = await self._ask(text)
            self.answers += 1
            if reason := self._judged(text, answer, self._served[may_answer:]):
                self.wrong.append(reason)
            await asyncio.sleep(0.002)

    async def _ask(self, text: str) -> SearchResult | SightlineError:
        [answer] = await self._searcher.search_many([SearchRequest(query=text, first=5)])
        return answer

    def _judged(self, text: str, answer: SearchResult | SightlineError, may_answer: Sequence[str]) -> str:
        """What is wrong with an answer, or nothing."""
        if isinstance(answer, SightlineError):
            return f"{text}: failed, {answer!r}"
        payloads = [edge.hit.payload for edge in answer.edges]
        number = self._numbers[answer.generation]
        if answer.generation not in may_answer:
            return f"{text}: answered by {number}, whose time was over"
        if {payload.get("build") for payload in payloads} != {number} or len(payloads) != 5:
            return f"{text}: {number} answered with {payloads}"
        if payloads[0]["caption"] != text or answer.total != len(CAPTIONS) + number:
            return f"{text}: {number} found {payloads[0]} among {answer.total}"
        return ""


@pytest.mark.parametrize("models", [["first"], ["first", "second"]], ids=["one model", "two models"])
async def test_promotions_and_rollbacks_under_load_are_followed_without_a_wrong_answer(
    named: Settings, store: Generations, monkeypatch: pytest.MonkeyPatch, models: list[str]
):
    """20 of them, with six clients that never pause: every answer is complete and of one generation that served.

    Two models of one dimension agree in nothing, so a text that the wrong one encodes finds the wrong pictures. In the
    end one model is left in memory.
    """
    monkeypatch.setattr(serving, "_REFRESH_S", 0.02)
    shelf = Shelf()
    generations = [await marked(store, n, shelf.encoder(models[n % len(models)])) for n in range(3)]
    await store.promote(generations[0].id)
    async with served(named, shelf) as registry, searching(registry, named) as searcher:
        load = Load(searcher, {generation.id: number for number, generation in enumerate(generations)})
        load.promoted(generations[0].id)
        clients, spoken = [asyncio.create_task(load.run()) for _ in range(6)], ["first"]
        try:
            history, others = [generations[0]], cycle([generations[1], generations[2], generations[0]])
            for step in range(20):
                if step % 4 == 3:
                    history.pop(0)
                    load.promoted(history[0].id)
                    assert await store.rollback() == history[0]
                else:
                    chosen = next(found for found in others if found != history[0])
                    history = [chosen, *(earlier for earlier in history if earlier != chosen)]
                    load.promoted(chosen.id)
                    await store.promote(chosen.id)
                await load.until_followed()
                spoken.append(history[0].model.name)
        finally:
            for client in clients:
                client.cancel()
            ended = await asyncio.gather(*clients, return_exceptions=True)
        assert [fault for fault in ended if not isinstance(fault, asyncio.CancelledError)] == []
        await until(lambda: _is(spoken[-1:], shelf.names()))
    assert load.wrong == []
    assert load.answers > 200
    assert set(shelf.loads) == set(models)
    assert len(shelf.loads) <= 1 + sum(left != right for left, right in pairwise(spoken))


async def test_a_search_keeps_the_generation_it_began_with(named: Settings, store: Generations):
    """Also when that one is pruned right after the promotion; later ones get the new one."""
    first, second = await marked(store, 0), await marked(store, 1)
    await store.promote(first.id)
    async with served(named) as registry:
        async with registry.acquire() as before:
            await store.promote(second.id)
            await store.prune(keep=1)
            assert await before.index.count() == len(CAPTIONS)
            await registry.refresh()
            async with registry.acquire() as after:
                assert (after.generation, await after.index.count()) == (second, len(CAPTIONS) + 1)
            assert await before.index.count() == len(CAPTIONS)
        with pytest.raises(IndexUnavailable, match="closed"):
            await before.index.count()


async def test_a_search_ends_with_the_model_that_it_began_with(named: Settings, store: Generations):
    """Its generation and its encoder stay until it has left; then that encoder is gone from memory."""
    shelf = Shelf()
    first, second = [await marked(store, n, shelf.encoder(name)) for n, name in enumerate(["first", "second"])]
    await store.promote(first.id)
    async with served(named, shelf) as registry:
        searcher = Searcher(registry, in_memory(0, 0), named)
        await ask(searcher, "red car")
        async with registry.acquire() as before:
            await store.promote(second.id)
            await until(lambda: _follows(registry, second))
            assert shelf.names() == ["first", "second"]
            vector = (await (await before.claim.encoder()).encode_texts(["blue car"]))[0]
            [[hit]] = await before.index.search([VectorQuery(vector, limit=1)])
            assert (hit.payload["caption"], hit.payload["build"]) == ("blue car", 0)
            assert (await ask(searcher, "blue car")).generation == second.id
        await until(lambda: _is(["second"], shelf.names()))


async def test_a_generation_whose_model_can_not_be_loaded_does_not_serve_until_it_can(
    named: Settings, store: Generations, monkeypatch: pytest.MonkeyPatch
):
    """The one before it goes on; the reason is there to be seen, is logged once, and goes away with what caused it."""
    shelf = Shelf()
    shelf.missing = {"second"}
    first, second = [await marked(store, n, shelf.encoder(name)) for n, name in enumerate(["first", "second"])]
    await store.promote(first.id)
    with capture_logs() as logs:
        async with served(named, shelf) as registry:
            searcher = Searcher(registry, in_memory(0, 0), named)
            await ask(searcher, "red car")
            await store.promote(second.id)
            await until(lambda: _problems(registry))
            for _ in range(3):
                await registry.refresh()
                assert (await ask(searcher, "blue car")).generation == first.id
            assert shelf.loads.count("second") == 1
            [problem] = registry.problems
            assert first.id in problem
            assert "weights of second are not here" in problem
            monkeypatch.setattr(loaded, "_RETRY_S", 0)
            await until(lambda: _tried(registry, shelf, 3))
            shelf.missing.clear()
            await until(lambda: _follows(registry, second))
            assert (await ask(searcher, "blue car")).generation == second.id
            assert registry.problems == []
    errors = [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert errors == ["a model can't be loaded", "generation not opened, the one before it goes on serving"]


async def test_a_rollback_while_the_new_model_loads_forgets_it(named: Settings, store: Generations):
    """What serves is never left, the model that nobody wants any more is let go, and nothing is reported."""
    shelf = Shelf()
    first, second = [await marked(store, n, shelf.encoder(name)) for n, name in enumerate(["first", "second"])]
    await store.promote(first.id)
    async with served(named, shelf) as registry:
        searcher = Searcher(registry, in_memory(0, 0), named)
        await ask(searcher, "red car")
        shelf.gate.clear()
        await store.promote(second.id)
        await registry.refresh()
        await until(lambda: _is(["first", "second"], shelf.loads))
        assert (await ask(searcher, "blue car")).generation == first.id
        await store.rollback()
        await registry.refresh()
        shelf.gate.set()
        await until(lambda: _is(["first"], [model.info.name for model in registry._encoders.models]))
        await until(lambda: _is(["first"], shelf.names()))
        assert (await ask(searcher, "pink car")).generation == first.id
        assert registry.problems == []


async def test_an_index_that_nobody_searches_in_words_loads_no_model(named: Settings, store: Generations):
    """Neither when it is opened nor when it follows a promotion; pictures and vectors are found all the same."""
    shelf = Shelf()
    first, second = [await marked(store, n, shelf.encoder(name)) for n, name in enumerate(["first", "second"])]
    await store.promote(first.id)
    async with served(named, shelf) as registry:
        searcher = Searcher(registry, in_memory(0, 0), named)
        for generation in (first, second):
            await store.promote(generation.id)
            await registry.refresh()
            term = Term(image_id=id_of(0))
            [answer] = await searcher.search_many([SearchRequest(terms=(term,), first=1)])
            assert isinstance(answer, SearchResult)
            assert answer.generation == generation.id
            assert (await searcher.image(None, id_of(1))).payload["build"] == generation.points - len(CAPTIONS)
        assert shelf.loads == []


async def _is(expected: list[str], found: list[str]) -> bool:
    return expected == found


async def _follows(registry: IndexRegistry, generation: Generation) -> bool:
    await registry.refresh()
    serving = registry.peek()
    return serving is not None and serving.generation == generation


async def _problems(registry: IndexRegistry) -> bool:
    await registry.refresh()
    return bool(registry.problems)


async def _tried(registry: IndexRegistry, shelf: Shelf, times: int) -> bool:
    await registry.refresh()
    return shelf.loads.count("second") >= times


async def test_an_old_generation_is_closed_though_its_last_user_gives_up(
    named: Settings, store: Generations, monkeypatch: pytest.MonkeyPatch
):
    """A client that goes away at that moment leaves no connection and no process behind."""
    first, second = await marked(store, 0), await marked(store, 1)
    await store.promote(first.id)
    async with served(named) as registry:
        async with registry.acquire() as before:
            pass
        closing, go_on, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        close = before.index.close

        async def slow() -> None:
            closing.set()
            await go_on.wait()
            await close()
            closed.set()

        monkeypatch.setattr(before.index, "close", slow)

        async def leave() -> None:
            async with registry.acquire() as found:
                assert found is before
                await store.promote(second.id)
                await registry.refresh()

        client = asyncio.create_task(leave())
        await closing.wait()
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)
        assert client.cancelled()
        go_on.set()
    assert closed.is_set()


async def test_many_who_come_first_open_an_index_once(named: Settings, store: Generations):
    """Also when one of them gives up."""
    await store.promote((await marked(store, 0)).id)
    async with served(named) as registry:

        async def ask() -> int:
            async with registry.acquire() as serving:
                return id(serving.index)

        impatient = asyncio.create_task(ask())
        waiting = [asyncio.create_task(ask()) for _ in range(5)]
        await asyncio.sleep(0)
        impatient.cancel()
        assert len(set(await asyncio.gather(*waiting))) == 1
        assert impatient.cancelled()


# ---------------------------------------------------------------- a server that goes away


@pytest.fixture
async def away(server: QdrantServer, tmp_path: Path) -> AsyncIterator[tuple[Settings, Generations]]:
    """An index on a server of its own, that serves its first generation; reads get one second."""
    settings = server.settings(index_path=tmp_path, qdrant_timeout_s=1)
    async with generations_of(settings, "default") as store:
        await store.promote((await marked(store, 0)).id)
        yield settings, store


async def test_an_index_that_is_away_is_unavailable_and_comes_back_by_itself(
    server: QdrantServer, away: tuple[Settings, Generations], monkeypatch: pytest.MonkeyPatch
):
    """Whoever has it open and whoever opens it hears so; what was promoted next is followed when it is back."""
    monkeypatch.setattr(serving, "_REFRESH_S", 0.02)
    settings, store = away
    second = await marked(store, 1)
    async with served(settings) as open_, served(settings) as unopened, searching(open_, settings) as searcher:
        load = Load(searcher, {})

        async def answered() -> SearchResult | SightlineError:
            [answer] = await searcher.search_many([SearchRequest(query=f"a {secrets.token_hex(4)}", first=1)])
            return answer

        assert isinstance(await answered(), SearchResult)
        server.kill()
        assert isinstance(await answered(), IndexUnavailable)
        with pytest.raises(IndexUnavailable, match="does not answer"):
            async with unopened.acquire():
                pass
        with pytest.raises(IndexUnavailable, match="does not answer"):
            await unopened.names()
        server.start()
        assert isinstance(await answered(), SearchResult)
        await store.promote(second.id)
        load.promoted(second.id)
        await load.until_followed()
        async with unopened.acquire() as found:
            assert found.generation == second


async def test_an_index_that_hangs_is_unavailable_after_one_deadline_for_all(
    server: QdrantServer, away: tuple[Settings, Generations]
):
    """Those who come first share one attempt; they don't wait for each other's."""
    settings, _ = away
    async with served(settings) as registry:

        async def ask() -> None:
            async with registry.acquire():
                pass

        server.pause()
        async with asyncio.timeout(15 * settings.qdrant_timeout_s):
            errors = await asyncio.gather(*(ask() for _ in range(40)), return_exceptions=True)
        assert {type(error) for error in errors} == {IndexUnavailable}
        server.resume()
        await ask()


async def test_a_pointer_to_no_generation_leaves_the_serving_one(
    server: QdrantServer, away: tuple[Settings, Generations]
):
    """Somebody moved the alias by hand: who is new hears what to do, who serves goes on."""
    settings, store = away
    foreign = server.settings()
    async with served(settings) as registry, served(settings) as fresh:
        async with registry.acquire() as before:
            pass
        await point_elsewhere(foreign, "sightline-default")
        await registry.refresh()
        async with registry.acquire() as still:
            assert still is before
        with pytest.raises(IndexCorrupt, match=r"no generation of index 'default'.*promote"):
            async with fresh.acquire():
                pass
        await store.promote(before.generation.id)
        async with fresh.acquire() as again:
            assert again.generation == before.generation


async def point_elsewhere(settings: Settings, alias: str) -> None:
    """Lets an alias stand for a collection that is no generation."""
    from engine.indexes.qdrant import QdrantIndex  # noqa: PLC0415 - loads gRPC

    index = await QdrantIndex.create("sightline-default-mine", 4, settings)
    await index.connection.switch_alias(alias, index.collection)
    await index.close()
