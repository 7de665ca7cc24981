"""The use case on real parts: what is found, what is remembered, how pages fit together, and what is refused."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from prometheus_client import REGISTRY

from engine.admission import KNOWN
from engine.caches.choice import Caches, in_memory
from engine.caches.memory import MemoryCache
from engine.encoders.loaded import LoadedEncoders
from engine.errors import (
    BadUserInput,
    CursorStale,
    EncoderUnavailable,
    ImageNotFound,
    IndexNotFound,
    IndexNotReady,
    ModelUnavailable,
    Overloaded,
    SightlineError,
)
from engine.generations import Generation, GenerationStore
from engine.indexes.process import ProcessIndex
from engine.ports import Hit, Match, VectorQuery, Vectors
from engine.requests import TIERS, SearchRequest, Term
from engine.search import Searcher, SearchResult
from engine.serving import IndexRegistry
from engine.settings import Settings
from tests.engine.conftest import id_of
from tests.support.encoders import PALETTE, WordEncoder, loading

KINDS = ("car", "dog", "boat", "tree", "house")
CAPTIONS = [f"{color} {kind}" for _ in range(24) for color in PALETTE for kind in KINDS]


class Watched(WordEncoder):
    """A word encoder that notes its batches, and fails on one word."""

    def __init__(self) -> None:
        super().__init__(48)
        self.batches: list[list[str]] = []

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, (n, d)."""
        self.batches.append(list(texts))
        if any("cursed" in text for text in texts):
            raise ValueError("cursed")
        return super().encode_texts(texts)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Generation]) -> Path:
    """A data folder with 1,200 pictures in the default index, and none or others in two more."""
    root = tmp_path_factory.mktemp("data")
    build(root, CAPTIONS, WordEncoder(48))
    build(root, ["red car", "blue dog"], WordEncoder(48), index="small")
    build(root, ["red car"], WordEncoder(16, name="other"), index="alien")
    GenerationStore(root, "empty").begin(WordEncoder(48).model)
    return root


@pytest.fixture
def settings(root: Path) -> Settings:
    """Settings for that folder."""
    return Settings(_env_file=None, index_path=root)


@pytest.fixture
async def encoders(encoder: Watched, settings: Settings) -> AsyncIterator[LoadedEncoders]:
    """The encoders in memory: that one, and no other can be loaded."""
    encoders = LoadedEncoders(settings, loading(encoder))
    yield encoders
    await encoders.close()


@pytest.fixture
async def registry(encoders: LoadedEncoders, settings: Settings) -> AsyncIterator[IndexRegistry]:
    """Its indexes."""
    registry = IndexRegistry(settings, encoders)
    yield registry
    await registry.close()


class Counted(MemoryCache):
    """A cache of one megabyte that notes its look-ups, and takes a moment for them as one far away does."""

    def __init__(self) -> None:
        super().__init__(1_000_000)
        self.lookups: list[list[str]] = []

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """What is there."""
        self.lookups.append(list(keys))
        await asyncio.sleep(0)
        return await super().get_many(keys)


@pytest.fixture
def cache() -> Counted:
    """The cache of lists."""
    return Counted()


@pytest.fixture
def caches(cache: Counted) -> Caches:
    """That, and one of embeddings."""
    return Caches(cache, MemoryCache(1_000_000))


@pytest.fixture
def encoder() -> Watched:
    """The encoder under the batcher."""
    return Watched()


@pytest.fixture
async def searcher(registry: IndexRegistry, caches: Caches, settings: Settings) -> Searcher:
    """A searcher of real parts."""
    return Searcher(registry, caches, settings)


async def ask(searcher: Searcher, query: str | None = None, **arguments: Any) -> SearchResult:
    """One search; raises its error."""
    [answer] = await searcher.search_many([SearchRequest(query=query, **arguments)])
    if isinstance(answer, SightlineError):
        raise answer
    return answer


def captions(result: SearchResult) -> list[str]:
    """What is on the pictures of a page."""
    return [edge.hit.payload["metadata"]["caption"] for edge in result.edges]


async def pages(searcher: Searcher, query: str, first: int, **arguments: Any) -> list[SearchResult]:
    """All pages of a search."""
    found = [await ask(searcher, query, first=first, **arguments)]
    while found[-1].has_next_page:
        found.append(await ask(searcher, query, first=first, after=found[-1].end_cursor, **arguments))
    return found


# ---------------------------------------------------------------- what is found


async def test_words_find_what_they_say(searcher: Searcher):
    """The best page shows only red cars, best first, and says how it came about."""
    result = await ask(searcher, "a red car", first=20)
    assert set(captions(result)) == {"red car"}
    scores = [edge.hit.score for edge in result.edges]
    assert scores == sorted(scores, reverse=True)
    assert [edge.rank for edge in result.edges] == list(range(1, 21))
    assert (result.total, result.total_exact, result.strategy, result.cached) == (1200, True, "hnsw", False)
    assert set(result.stages_ms) == {"encode", "search"}
    assert result.model == "words"


async def test_filters_are_kept_and_counted(searcher: Searcher):
    """Only admitted pictures; few are all compared, and the total is their number."""
    result = await ask(searcher, "red", filter=Match("category", ("dog",)), first=100)
    assert {caption.split()[1] for caption in captions(result)} == {"dog"}
    assert (result.total, result.total_exact, result.strategy) == (240, True, "exact")


async def test_terms_are_added_and_taken_away(searcher: Searcher):
    """Red and car, without red: cars of other colours."""
    result = await ask(searcher, "red car", terms=(Term(text="red", weight=-0.9),), first=50)
    assert {caption.split()[1] for caption in captions(result)} == {"car"}
    assert "red car" not in captions(result)


async def test_a_vector_finds_as_its_text_does(searcher: Searcher, encoder: Watched):
    """Of any length; nothing is encoded for it."""
    vector = 3 * encoder.encode_texts(["blue boat"])[0]
    encoder.batches.clear()
    by_vector = await ask(searcher, terms=(Term(vector=tuple(map(float, vector))),))
    assert encoder.batches == []
    by_text = await ask(searcher, "blue boat")
    assert [edge.hit.id for edge in by_vector.edges] == [edge.hit.id for edge in by_text.edges]


async def test_more_like_this_leaves_the_picture_itself_out(searcher: Searcher):
    """From the hits and from the total, with a filter only if it would be admitted."""
    own = id_of(CAPTIONS.index("green tree"))
    result = await ask(searcher, terms=(Term(image_id=own),), first=100)
    assert set(captions(result)[:20]) == {"green tree"}
    assert own not in {edge.hit.id for edge in result.edges}
    assert (len(result.edges), result.total) == (100, 1199)
    trees = await ask(searcher, terms=(Term(image_id=own),), filter=Match("category", ("tree",)))
    dogs = await ask(searcher, terms=(Term(image_id=own),), filter=Match("category", ("dog",)))
    assert (trees.total, dogs.total) == (239, 240)


async def test_a_threshold_cuts_what_is_not_good_enough(searcher: Searcher):
    """All hits reach it, and with all compared the total is exact; beyond the depth of the list it is a lower bound."""
    good = await ask(searcher, "red car", filter=Match("category", ("car",)), score_threshold=0.8, first=100)
    assert {edge.hit.score >= 0.8 for edge in good.edges} == {True}
    assert (good.total, good.total_exact, good.has_next_page) == (len(good.edges), True, False)
    assert set(captions(good)) == {"red car"}
    many = await ask(searcher, "red car", filter=Match("category", ("car",)), score_threshold=0.2)
    assert (many.total, many.total_exact, many.has_next_page) == (TIERS[0], False, True)


async def test_one_image_and_facets(searcher: Searcher):
    """By id, and counts over the filter."""
    assert (await searcher.image(None, id_of(7))).payload["width"] == 7
    with pytest.raises(ImageNotFound, match="nonsense"):
        await searcher.image(None, "nonsense")
    red = Match("metadata.caption", ("red car", "red dog"))
    assert await searcher.facets(None, red, [("category", 10), ("category", 1), ("nothing", 10)]) == [
        [("car", 24), ("dog", 24)],
        [("car", 24)],
        [],
    ]


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("filter", [None, Match("category", ("dog",))], ids=["all", "dogs"])
async def test_pages_show_every_image_once(searcher: Searcher, filter: Match | None):
    """Across the depths of the lists, to the last image; ranks run on, and all pages name the same total."""
    found = await pages(searcher, "red dog", first=70, filter=filter)
    ids = [edge.hit.id for page in found for edge in page.edges]
    assert len(ids) == len(set(ids)) == found[0].total == (1200 if filter is None else 240)
    assert [edge.rank for page in found for edge in page.edges] == list(range(1, len(ids) + 1))
    assert {page.total for page in found} == {len(ids)}
    assert all(edge.hit.payload for page in found for edge in page.edges)


async def test_pages_of_any_size_agree(searcher: Searcher):
    """The same ranking, whether it is read in pages of 10 or of 100."""
    small = await pages(searcher, "blue tree", first=10, filter=Match("category", ("tree",)))
    large = await pages(searcher, "blue tree", first=100, filter=Match("category", ("tree",)))
    assert [[e.hit.id for p in found for e in p.edges] for found in (small, large)].count(
        [e.hit.id for p in small for e in p.edges]
    ) == 2


async def test_paging_continues_after_any_edge(searcher: Searcher):
    """Not only after the last one of a page."""
    page = await ask(searcher, "red car", first=10)
    rest = await ask(searcher, "red car", first=5, after=page.edges[3].cursor)
    assert [edge.hit.id for edge in rest.edges] == [edge.hit.id for edge in page.edges[4:9]]


async def test_a_page_that_is_exactly_the_last_has_no_next(searcher: Searcher):
    """Two pictures, a page of two."""
    page = await ask(searcher, "red", index="small", first=2)
    assert (len(page.edges), page.has_next_page) == (2, False)
    beyond = await ask(searcher, "red", index="small", first=2, after=page.end_cursor)
    assert (beyond.edges, beyond.has_next_page, beyond.end_cursor, beyond.total) == ((), False, None, 2)


@pytest.mark.parametrize(
    "change",
    [{"query": "blue car"}, {"score_threshold": 0.1}, {"filter": Match("width", (1,))}, {"index": "small"}],
    ids=str,
)
async def test_the_cursor_of_another_search_is_stale(searcher: Searcher, change: dict[str, Any]):
    """Other words, threshold, filter or index; the page's size may change."""
    page = await ask(searcher, "red car")
    with pytest.raises(CursorStale, match="first page"):
        await ask(searcher, **({"query": "red car", "after": page.end_cursor} | change))


async def test_the_cursor_of_another_generation_is_stale(
    tmp_path: Path, build: Callable[..., Generation], encoder: Watched
):
    """After a promotion the old pages can't be continued, and say so."""
    await asyncio.to_thread(build, tmp_path, ["red car", "blue car"], WordEncoder(48))
    settings = Settings(_env_file=None, index_path=tmp_path)
    encoders = LoadedEncoders(settings, loading(encoder))
    registry = IndexRegistry(settings, encoders)
    searcher = Searcher(registry, in_memory(100_000, 100_000), settings)
    page = await ask(searcher, "red car", first=1)
    await asyncio.to_thread(build, tmp_path, ["red car", "green car"], WordEncoder(48))
    await registry.refresh()
    with pytest.raises(CursorStale, match="has changed"):
        await ask(searcher, "red car", first=1, after=page.end_cursor)
    fresh = await ask(searcher, "green car", first=1)
    assert (captions(fresh), fresh.generation != page.generation) == (["green car"], True)
    await registry.close()
    await encoders.close()


@pytest.mark.parametrize("cursor", ["", "x", "äöü", "bm9uc2Vuc2U", base64.urlsafe_b64encode(b'{"a":1}').decode()])
async def test_what_is_no_cursor_is_refused(searcher: Searcher, cursor: str):
    """With the name of the argument."""
    with pytest.raises(BadUserInput, match="after"):
        await ask(searcher, "red car", after=cursor)


@pytest.mark.parametrize("offset", [-1, TIERS[-1] + 1, "5", 1.5, None])
async def test_forged_offsets_are_refused(searcher: Searcher, offset: object):
    """A cursor can be decoded, but not made to reach out of the list."""
    cursor = (await ask(searcher, "red car")).end_cursor
    assert cursor is not None
    parts = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    forged = base64.urlsafe_b64encode(orjson.dumps([*parts[:2], offset])).decode()
    with pytest.raises(BadUserInput, match="after"):
        await ask(searcher, "red car", after=forged)


# ---------------------------------------------------------------- cache and batches


async def test_equal_searches_are_remembered(searcher: Searcher, encoder: Watched):
    """White space and Unicode form make no difference, and neither does the page; the answer is the same."""
    first = await ask(searcher, "caf\u00e9  red car ", first=10)
    again = await ask(searcher, " cafe\u0301 red\tcar", first=10)
    page = await ask(searcher, "caf\u00e9 red car", first=20, after=first.end_cursor)
    assert (first.cached, again.cached, page.cached) == (False, True, True)
    assert again.edges == first.edges
    assert set(again.stages_ms) == {"cache"}
    assert encoder.batches == [["caf\u00e9 red car"]]


@pytest.mark.parametrize(
    "change",
    [
        {"query": "Red car"},
        {"index": "small"},
        {"score_threshold": 0.01},
        {"filter": Match("width", (1, 2))},
        {"terms": (Term(text="dog"),)},
        {"terms": (Term(text="dog", weight=0.5),)},
    ],
    ids=str,
)
async def test_different_searches_are_not_confused(searcher: Searcher, change: dict[str, Any]):
    """Everything that changes the answer is part of the key."""
    await ask(searcher, "red car")
    assert not (await ask(searcher, **({"query": "red car"} | change))).cached


async def test_filters_that_differ_in_type_only_are_not_confused(searcher: Searcher):
    """1 is not true, and not "1"."""
    for value, total in ((1, 1), (True, 0), ("1", 0)):
        result = await ask(searcher, "red car", filter=Match("width", (value,)))
        assert (result.cached, result.total) == (False, total)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"[[[1]],1,2,3,4]", b'[[["a","b",{}]],1,2,3,"hnsw"]', b"\xff"])
async def test_damaged_cache_entries_are_misses(searcher: Searcher, cache: Counted, damage: bytes):
    """The answer is computed again, and is right."""
    before = await ask(searcher, "red car")
    for key in list(cache._entries):
        await cache.set(key, damage, 60)
    after = await ask(searcher, "red car")
    assert (after.cached, after.edges) == (False, before.edges)


async def test_a_batch_is_one_pass_of_the_encoder(searcher: Searcher, encoder: Watched):
    """Different texts in one batch, equal ones once, over several indexes; answers in the order of the requests."""
    texts = ["red car", "blue dog", "red car", "green boat"]
    requests = [SearchRequest(query=text, first=3) for text in texts] + [SearchRequest(index="small", query="blue dog")]
    answers = await searcher.search_many(requests)
    assert encoder.batches == [["red car", "blue dog", "green boat"]]
    results = [answer for answer in answers if isinstance(answer, SearchResult)]
    assert [captions(result)[0] for result in results] == [*texts, "blue dog"]
    assert [result.request for result in results] == requests


async def test_a_batch_asks_the_index_once(searcher: Searcher, monkeypatch: pytest.MonkeyPatch):
    """Each question more is another wait in the queue of the index's process, and an empty one is a question too."""
    asked: list[int] = []
    search = ProcessIndex.search

    async def noted(self: ProcessIndex, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        asked.append(len(queries))
        return await search(self, queries)

    monkeypatch.setattr(ProcessIndex, "search", noted)
    await ask(searcher, "a red car")
    await searcher.search_many(
        [SearchRequest(query="blue"), SearchRequest(query="red", filter=Match("category", ("dog",)))]
    )
    assert asked == [1, 2]


async def test_searches_of_one_request_are_looked_up_together(searcher: Searcher, cache: Counted):
    """One look-up, whatever they are; and those that are remembered do not wait for those that are made."""
    requests = [SearchRequest(query=f"{color} car") for color in PALETTE]
    await searcher.search_many(requests[:2])
    answers = await searcher.search_many(requests)
    assert [len(keys) for keys in cache.lookups] == [2, len(requests)]
    assert [answer.cached for answer in answers if isinstance(answer, SearchResult)] == [True, True] + [False] * (
        len(requests) - 2
    )


async def test_equal_requests_in_flight_are_looked_up_once(searcher: Searcher, cache: Counted):
    """A far cache is asked once for what many want at the same time, whether it has it or not."""
    for number in range(2):
        cache.lookups.clear()
        results = await asyncio.gather(*(ask(searcher, "pink dog") for _ in range(10)))
        assert len(cache.lookups) == 1
        assert {result.cached for result in results} == {number == 1}


async def test_embeddings_are_remembered_apart_from_lists(searcher: Searcher, encoder: Watched, cache: Counted):
    """The same words under another filter are not encoded again, and neither when all lists are forgotten."""
    await ask(searcher, "pink house")
    assert not (await ask(searcher, "pink house", filter=Match("category", ("house",)))).cached
    await cache.close()
    assert not (await ask(searcher, "pink house")).cached
    assert encoder.batches == [["pink house"]]


async def test_equal_requests_in_flight_are_computed_once(searcher: Searcher, encoder: Watched):
    """Many clients ask the same at the same time; the encoder sees it once and the first caller may leave."""
    tasks = [asyncio.create_task(ask(searcher, "pink house")) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks[1:])
    assert {captions(result)[0] for result in results} == {"pink house"}
    assert sum(batch.count("pink house") for batch in encoder.batches) == 1


async def test_one_bad_request_fails_alone(searcher: Searcher):
    """Its neighbours are answered; each error is its own."""
    answers = await searcher.search_many(
        [
            SearchRequest(query="red car"),
            SearchRequest(query=""),
            SearchRequest(index="nowhere", query="red car"),
            SearchRequest(index="empty", query="red car"),
            SearchRequest(query="a cursed car"),
            SearchRequest(terms=(Term(image_id=id_of(99_999)),)),
            SearchRequest(query="red", terms=(Term(text="red", weight=-1),)),
            SearchRequest(index="alien", query="red car"),
            SearchRequest(query="blue dog"),
        ]
    )
    assert [type(answer) for answer in answers] == [
        SearchResult,
        BadUserInput,
        IndexNotFound,
        IndexNotReady,
        EncoderUnavailable,
        ImageNotFound,
        BadUserInput,
        ModelUnavailable,
        SearchResult,
    ]
    assert "cancel each other out" in str(answers[6])
    assert "CLIP_MODEL=other" in str(answers[7])


async def test_errors_are_not_remembered(searcher: Searcher, encoder: Watched):
    """The next request tries again."""
    for _ in range(2):
        with pytest.raises(EncoderUnavailable):
            await ask(searcher, "a cursed car")
    assert encoder.batches == [["a cursed car"]] * 2


async def test_latencies_are_recorded(searcher: Searcher):
    """A search with its stages, a cache hit without; errors are no latency."""
    await searcher.search_many([SearchRequest(query="red car")])
    await searcher.search_many([SearchRequest(query="red car"), SearchRequest(query="")])
    stats = searcher.stats.snapshot()
    assert (stats.embedding.count, stats.search.count, stats.total.count) == (1, 1, 2)


async def test_how_long_searches_take_alone_is_learnt_by_kind(searcher: Searcher):
    """Readiness teaches the usual one; failures, several at once and what is remembered teach nothing."""
    await searcher.ready()
    known, model = searcher._admission._alone_s, WordEncoder(48).model.fingerprint
    assert {kind: len(times) > KNOWN for kind, times in known.items()} == {("default", model, TIERS[0], "hnsw"): True}
    before = {kind: list(times) for kind, times in known.items()}
    with pytest.raises(EncoderUnavailable):
        await ask(searcher, "a cursed car")
    await searcher.search_many([SearchRequest(query="red car"), SearchRequest(query="blue dog")])
    await ask(searcher, "red car")
    await searcher.facets(None, None, [("category", 10)])
    assert {kind: list(times) for kind, times in known.items()} == before
    await ask(searcher, "red car", first=100)
    await ask(searcher, "pink dog", filter=Match("category", ("dog",)))
    deep, filtered = ("default", model, TIERS[1], "hnsw"), ("default", model, TIERS[0], "exact")
    assert known.keys() - before.keys() == {deep, filtered}


async def test_who_is_refused_hears_it_and_so_does_who_waits_for_the_same(searcher: Searcher, encoder: Watched):
    """Nothing is encoded for them, and it is not remembered; a deeper page whose first list fails says why that did."""
    with searcher._admission.admitted(1000):
        outcomes = await asyncio.gather(
            *(ask(searcher, "red car") for _ in range(3)), ask(searcher, "red car", first=100), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [Overloaded] * 4
        with pytest.raises(Overloaded):
            await searcher.facets(None, None, [("category", 10)])
        assert encoder.batches == []
    assert not (await ask(searcher, "red car")).cached
    with pytest.raises(EncoderUnavailable):
        await ask(searcher, "a cursed car", first=100)


async def test_ready_takes_a_real_query(searcher: Searcher, encoder: Watched, encoders: LoadedEncoders, tmp_path: Path):
    """Through encoder and index, also when words are remembered; without an index it says what is missing."""
    await ask(searcher, "a picture")
    await searcher.ready()
    assert len(encoder.batches) > KNOWN
    missing = Settings(_env_file=None, index_path=tmp_path)
    other = Searcher(IndexRegistry(missing, encoders), in_memory(0, 0), missing)
    with pytest.raises(IndexNotFound, match="sightline index"):
        await other.ready()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SearchRequest(), "query"),
        (SearchRequest(query="  \n "), "query"),
        (SearchRequest(query="x" * 513), "query.*512"),
        (SearchRequest(query="\ud800"), "Unicode"),
        (SearchRequest(query="x", first=0), "first"),
        (SearchRequest(query="x", first=101), "first"),
        (SearchRequest(query="x", score_threshold=-0.1), "scoreThreshold"),
        (SearchRequest(query="x", score_threshold=float("nan")), "scoreThreshold"),
        (SearchRequest(query="x", filter=Match("a b", ("x",))), "field"),
        (SearchRequest(query="x", index="../x"), "index"),
        (SearchRequest(terms=(Term(),)), r"terms\[0\].*exactly one"),
        (SearchRequest(terms=(Term(text="x", image_id="y"),)), r"terms\[0\].*exactly one"),
        (SearchRequest(terms=(Term(text="x"), Term(text=""))), r"terms\[1\]\.text"),
        (SearchRequest(terms=(Term(text="x", weight=float("inf")),)), r"terms\[0\]\.weight"),
        (SearchRequest(terms=(Term(text="x", weight=0),)), "weights are all 0"),
        (SearchRequest(terms=(Term(vector=(1.0, 2.0)),)), r"terms\[0\]\.vector.*2 numbers"),
        (SearchRequest(terms=(Term(vector=(0.0,) * 48),)), r"terms\[0\]\.vector.*not all 0"),
        (SearchRequest(terms=(Term(vector=(float("nan"),) * 48),)), r"terms\[0\]\.vector.*finite"),
    ],
    ids=repr,
)
async def test_invalid_requests_name_the_argument(searcher: Searcher, request_: SearchRequest, message: str):
    """Nothing is encoded for them."""
    [answer] = await searcher.search_many([request_])
    assert isinstance(answer, BadUserInput)
    with pytest.raises(BadUserInput, match=message):
        raise answer


@pytest.mark.parametrize("length", [1, 512])
async def test_the_longest_and_shortest_queries_are_answered(searcher: Searcher, length: int):
    """Counted without the white space around them."""
    result = await ask(searcher, "  " + "x" * length + "  ")
    assert len(result.edges) == 10


async def test_deep_lists_continue_the_shallow_one(searcher: Searcher):
    """The first hundred stay what they were, though the deeper list was made by comparing all."""
    first = await ask(searcher, "orange boat", first=TIERS[0])
    shallow = await ask(searcher, "orange boat", first=100)
    deep = await ask(searcher, "orange boat", first=100, after=shallow.edges[49].cursor)
    assert [edge.hit.id for edge in deep.edges[:50]] == [edge.hit.id for edge in shallow.edges[50:]]
    assert [edge.hit for edge in shallow.edges[: TIERS[0]]] == [edge.hit for edge in first.edges]
    assert (first.strategy, shallow.strategy, deep.strategy) == ("hnsw", "hnsw", "exact")
    scores = [edge.hit.score for edge in deep.edges[50:]]
    assert all(left >= right for left, right in pairwise(scores))
    assert np.isfinite(scores).all()
    assert deep.edges[0].hit == shallow.edges[50].hit


# ---------------------------------------------------------------- counted


class Broken(MemoryCache):
    """A cache with a fault that nobody expected."""

    def __init__(self) -> None:
        super().__init__(1_000)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:  # noqa: ARG002 - a cache's signature
        raise ZeroDivisionError


def errors(code: str) -> float | None:
    """How many searches ended in an error of that code."""
    return REGISTRY.get_sample_value("sightline_search_errors_total", {"code": code})


async def test_searches_that_end_in_a_fault_of_ours_are_counted(registry: IndexRegistry, settings: Settings):
    """Whoever watches the share of failed searches sees them, although they have no code of their own."""
    before = errors("INTERNAL") or 0
    searcher = Searcher(registry, Caches(Broken(), MemoryCache(1_000)), settings)
    with pytest.raises(ZeroDivisionError):
        await searcher.search_many([SearchRequest(query="car"), SearchRequest(query="dog")])
    assert errors("INTERNAL") == before + 2


@pytest.mark.parametrize("code", ["OVERLOADED", "INDEX_UNAVAILABLE", "ENCODER_UNAVAILABLE", "INTERNAL"])
def test_faults_are_counted_from_nought(code: str):
    """There is a counter before there is a fault: Prometheus does not see the step to a counter's first value."""
    assert errors(code) is not None
