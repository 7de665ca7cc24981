"""The use case: what was asked, from the cache, or else encoded and looked up in the index, as pages of results.

Pages are cut from ranked lists of four depths: the first 30 and the first hundred come from the HNSW graph; who pages
further gets the first thousand, then the first ten thousand, from comparing all vectors. A deeper list begins with the
shallower one, so pages agree with each other and show nothing twice. Only the first list holds payloads; others are
fetched for the page that is shown. Lists are what the cache holds and what equal requests share.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

import orjson
import structlog

from engine.access import IndexAccess
from engine.admission import KNOWN, Admission
from engine.caches.choice import Caches
from engine.embeddings import CachedEncoder
from engine.encoders.loaded import Claim
from engine.errors import (
    BadUserInput,
    EncoderUnavailable,
    ImageNotFound,
    IndexCorrupt,
    IndexNotReady,
    IndexUnavailable,
    ModelUnavailable,
    Overloaded,
    SightlineError,
)
from engine.filters import canonical, matches
from engine.ports import Filter, Hit, Point, VectorQuery, Vectors
from engine.ranked import SCHEMA, Ranked, Strategy
from engine.requests import (
    GRAPH_DEPTH,
    TIERS,
    SearchRequest,
    Term,
    check,
    combined_vector,
    cursor_at,
    digest,
    fingerprint_of,
    normalized_terms,
    offset_after,
)
from engine.serving import IndexRegistry, Serving
from engine.settings import Settings
from engine.stats import RollingStats
from observability import metrics

log = structlog.get_logger(__name__)

_EXACT_BELOW: Final = 5_000  # a filter that admits fewer images: comparing them all is as fast, and complete
_COUNTS_KEPT: Final = 1_024  # numbers of admitted images remembered; a serving generation never changes

_FAULTS: Final = (
    EncoderUnavailable,
    IndexCorrupt,
    IndexNotReady,
    IndexUnavailable,
    ModelUnavailable,
    Overloaded,
    SightlineError,
)
for _fault in _FAULTS:  # counted from 0: Prometheus does not see the step to a counter's first value
    metrics.search_errors.labels(code=_fault.code)
_OVERLOADED: Final = metrics.search_errors.labels(code=Overloaded.code)  # looked up once: in a flood there are many


@dataclass(frozen=True, slots=True)
class ResultEdge:
    """A hit, its place among all hits from 1, and the cursor behind which the next page begins."""

    cursor: str
    rank: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A page. `total` is exact or, where `total_exact` is false, a lower bound; times are in ms."""

    request: SearchRequest
    edges: tuple[ResultEdge, ...]
    has_next_page: bool
    end_cursor: str | None
    total: int
    total_exact: bool
    latency_ms: float
    cached: bool
    generation: str
    model: str
    strategy: Strategy
    stages_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Job:
    """A valid request: its normalized terms, where it runs, and which part of which list it wants."""

    request: SearchRequest
    terms: tuple[Term, ...]
    serving: Serving
    fingerprint: str
    offset: int
    depth: int

    @property
    def texts(self) -> list[str]:
        """The words that are to be encoded."""
        return [term.text for term in self.terms if term.text is not None]

    @property
    def excluded(self) -> set[str]:
        """Images that are terms themselves: nobody looks for what they hold in their hand."""
        return {term.image_id for term in self.terms if term.image_id is not None}

    @property
    def limit(self) -> int:
        """Hits to fetch: the depth, one more to know whether there are more, and those that are left out."""
        return self.depth + 1 + len(self.excluded)


_Outcome = Ranked | SightlineError


class Searcher:
    """Answers searches on one event loop. `stats` holds the latencies of the last 10,000."""

    def __init__(self, registry: IndexRegistry, caches: Caches, settings: Settings) -> None:
        """Takes parts that are ready; closes none of them."""
        self.stats = RollingStats()
        self._indexes = IndexAccess(registry, settings.search_timeout_s)
        self._cache = caches.lists
        self._embeddings = caches.embeddings
        self._settings = settings
        self._admission = Admission()
        self._flights: dict[str, asyncio.Future[_Outcome]] = {}
        self._counts: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self._running: set[asyncio.Task[list[SearchResult | SightlineError]]] = set()
        for cached in (True, False):  # zeros before the first search: who asks for the rate gets one, and counts it
            metrics.search_duration.labels(cached=str(cached).lower())

    async def search_many(self, requests: Sequence[SearchRequest]) -> list[SearchResult | SightlineError]:
        """One result or error per request, in their order: one encoder batch, and one index batch for each index.

        A caller that is cancelled leaves the search running, because others may be waiting for the same list.
        """
        task = asyncio.create_task(self._counted(list(requests)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    @property
    def busy(self) -> bool:
        """Whether a search whose list is not remembered is refused now."""
        return self._admission.full

    async def refusal(self, requests: Sequence[SearchRequest]) -> Overloaded | None:
        """What all of these searches would end in; None if any of them might end otherwise.

        Cheaper than to make them, for who has many to refuse.
        """
        async with AsyncExitStack() as stack:
            servings: dict[str, Serving] = {}
            jobs = [await self._plan(request, servings, stack) for request in requests]
            keys = [self._key(job, job.depth) for job in jobs if isinstance(job, _Job)]
            if len(keys) < len(jobs) or any(key in self._flights for key in keys):
                return None
            if any(stored is not None for stored in await self._cache.get_many(keys)) or not self.busy:
                return None
        return self.refuse(len(requests))

    def refuse(self, searches: int) -> Overloaded:
        """What a caller is told whose searches are not made, because there are too many; they count as refused."""
        _OVERLOADED.inc(searches)
        return self._admission.refusal(searches)

    async def image(self, index: str | None, id: str) -> Point:
        """One image, without its vector. Raises `ImageNotFound`."""
        async with self._indexes.acquire(index) as serving, self._indexes.deadline(index):
            points = await serving.index.retrieve([id])
            if not points:
                raise ImageNotFound(f"Index {serving.generation.index!r} has no image {id!r}.")
            return points[0]

    async def facets(
        self,
        index: str | None,
        filter: Filter | None,
        fields: Sequence[tuple[str, int]],
    ) -> list[list[tuple[str, int]]]:
        """For each field, named with how many values are wanted, its values and how many of the admitted have each.

        Most frequent first. All fields are let in or refused together.
        """
        with self._admission.admitted(len(fields) or 1):
            async with self._indexes.acquire(index) as serving, self._indexes.deadline(index):
                return await asyncio.gather(*(serving.index.facet(field, filter, limit) for field, limit in fields))

    async def ready(self) -> None:
        """Takes real queries through encoder and default index, past all caches; raises what a search would raise.

        As many as tell how long a search takes alone: the server may never be alone again. The first one is cold.
        Waits for the model of that index, however long it loads.
        """
        async with self._indexes.acquire() as serving:
            encoder = await serving.claim.encoder()
            for _ in range(1 + KNOWN):
                with self._admission.admitted() as place:
                    vectors = await encoder.encode_texts(["a picture"])
                    async with self._indexes.deadline():
                        await serving.index.search([VectorQuery(vectors[0], limit=TIERS[0] + 1)])
                    place.kind = _kind(serving, TIERS[0], "hnsw")

    # ------------------------------------------------------------ one batch of requests

    async def _counted(self, requests: list[SearchRequest]) -> list[SearchResult | SightlineError]:
        """Also searches that end in a fault that nobody expected are counted."""
        try:
            return await self._search_many(requests)
        except Exception:
            metrics.search_errors.labels(code=SightlineError.code).inc(len(requests))
            raise

    async def _search_many(self, requests: list[SearchRequest]) -> list[SearchResult | SightlineError]:
        started = time.perf_counter()
        async with AsyncExitStack() as stack:
            servings: dict[str, Serving] = {}
            jobs = [await self._plan(request, servings, stack) for request in requests]
            wanted: dict[int, dict[str, _Job]] = {}
            for job in jobs:
                if isinstance(job, _Job):
                    wanted.setdefault(job.depth, {})[self._key(job, job.depth)] = job
            found = await asyncio.gather(*(self._lists(group, depth) for depth, group in wanted.items()))
            lists = {key: outcome for group in found for key, outcome in group.items()}
            answers = await asyncio.gather(*(self._answer(job, lists, started) for job in jobs))
            for answer in answers:
                self._record(answer)
            return answers

    async def _plan(
        self, request: SearchRequest, servings: dict[str, Serving], stack: AsyncExitStack
    ) -> _Job | SightlineError:
        try:
            terms = normalized_terms(request)
            check(request)
            name = request.index or self._settings.index_name
            if name not in servings:
                servings[name] = await stack.enter_async_context(self._indexes.acquire(name))
            serving = servings[name]
            for position, term in enumerate(request.terms):
                if term.vector is not None and len(term.vector) != serving.generation.model.dimension:
                    raise BadUserInput(
                        f"terms[{position}].vector: it has {len(term.vector)} numbers, but index {name!r} holds "
                        f"vectors of {serving.generation.model.dimension}."
                    )
            fingerprint = fingerprint_of(name, terms, request)
            offset = offset_after(request.after, serving.generation.id, fingerprint) if request.after is not None else 0
        except SightlineError as error:
            return error
        except orjson.JSONEncodeError as error:
            return BadUserInput(f"The request holds text that is not valid Unicode: {error}. Send UTF-8.")
        end = min(offset + request.first, TIERS[-1])
        depth = next(tier for tier in TIERS if tier >= end)
        return _Job(request, terms, serving, fingerprint, offset, depth)

    async def _answer(
        self, job: _Job | SightlineError, lists: dict[str, _Outcome], started: float
    ) -> SearchResult | SightlineError:
        """The page that a request wants of its list, or the error that stands in the place of either."""
        if isinstance(job, SightlineError):
            return job
        ranked = lists[self._key(job, job.depth)]
        if isinstance(ranked, SightlineError):
            return ranked
        end = min(job.offset + job.request.first, TIERS[-1])
        hits = ranked.hits[job.offset : end]
        if job.depth > TIERS[0]:
            try:
                async with self._indexes.deadline(job.serving.generation.index):
                    points = await job.serving.index.retrieve([hit.id for hit in hits])
            except SightlineError as error:
                return error
            payloads = {point.id: point.payload for point in points}
            hits = [replace(hit, payload=payloads.get(hit.id, {})) for hit in hits]
        generation = job.serving.generation
        edges = tuple(
            ResultEdge(cursor_at(generation.id, job.fingerprint, rank), rank, hit)
            for rank, hit in enumerate(hits, start=job.offset + 1)
        )
        return SearchResult(
            request=job.request,
            edges=edges,
            has_next_page=end < TIERS[-1] and (end < len(ranked.hits) or (ranked.more and end == len(ranked.hits))),
            end_cursor=edges[-1].cursor if edges else None,
            total=ranked.total,
            total_exact=ranked.total_exact,
            latency_ms=_ms_since(started),
            cached=ranked.cached,
            generation=generation.id,
            model=generation.model.name,
            strategy=ranked.strategy,
            stages_ms=dict(ranked.stages_ms),
        )

    def _record(self, answer: SearchResult | SightlineError) -> None:
        if isinstance(answer, SightlineError):
            metrics.search_errors.labels(code=answer.code).inc()
            return
        metrics.search_duration.labels(cached=str(answer.cached).lower()).observe(answer.latency_ms / 1000)
        for stage, ms in answer.stages_ms.items():
            metrics.search_stage_duration.labels(stage=stage).observe(ms / 1000)
        self.stats.record(answer.stages_ms.get("encode"), answer.stages_ms.get("search"), answer.latency_ms)

    # ------------------------------------------------------------ ranked lists

    async def _lists(self, wanted: dict[str, _Job], depth: int) -> dict[str, _Outcome]:
        """The list of each key: somebody is at it already, or it is remembered or made here."""
        followed = {key: self._flights[key] for key in wanted if key in self._flights}
        led = {key: job for key, job in wanted.items() if key not in followed}
        outcomes = await self._lead(led, depth) if led else {}
        for key, flight in followed.items():
            outcomes[key] = await asyncio.shield(flight)
        return outcomes

    async def _lead(self, led: dict[str, _Job], depth: int) -> dict[str, _Outcome]:
        """Looks lists up, makes those that are not remembered, and hands all to those who wait for them."""
        loop = asyncio.get_running_loop()
        flights: dict[str, asyncio.Future[_Outcome]] = {key: loop.create_future() for key in led}
        self._flights |= flights
        try:
            outcomes = await self._remembered(led)
            for key, outcome in outcomes.items():
                flights[key].set_result(outcome)
            unknown = {key: job for key, job in led.items() if key not in outcomes}
            made = await self._make(unknown, depth) if unknown else {}
            for key, outcome in made.items():
                flights[key].set_result(outcome)
        except BaseException as error:
            for flight in flights.values():
                if not flight.done():
                    flight.set_exception(error)
                    flight.exception()  # marks it as seen: often nobody waits
            raise
        finally:
            for key in led:
                del self._flights[key]
        return outcomes | made

    async def _remembered(self, wanted: Iterable[str]) -> dict[str, _Outcome]:
        """The lists that the cache has, looked up in one request."""
        started = time.perf_counter()
        keys = list(wanted)
        stored = await self._cache.get_many(keys)
        cache_ms = _ms_since(started)
        decoded = zip(keys, map(Ranked.decoded, stored), strict=True)
        return {key: replace(ranked, stages_ms={"cache": cache_ms}) for key, ranked in decoded if ranked is not None}

    async def _make(self, jobs: dict[str, _Job], depth: int) -> dict[str, _Outcome]:
        """Makes lists, and has the good ones remembered."""
        shallower: dict[str, Ranked] = {}
        failed: dict[str, _Outcome] = {}
        if depth > TIERS[0]:
            above = TIERS[TIERS.index(depth) - 1]
            keys = {self._key(job, above): key for key, job in jobs.items()}
            upper = await self._lists({inner: jobs[key] for inner, key in keys.items()}, above)
            for inner, outcome in upper.items():
                if isinstance(outcome, Ranked):
                    shallower[keys[inner]] = outcome
                else:
                    failed[keys[inner]] = outcome
        failed |= await self._speechless({key: job for key, job in jobs.items() if key not in failed})
        wanted = {key: replace(job, depth=depth) for key, job in jobs.items() if key not in failed}
        outcomes = failed | (await self._admitted(wanted, shallower) if wanted else {})
        for key, outcome in outcomes.items():
            if isinstance(outcome, Ranked):
                await self._cache.set(key, outcome.encoded(), self._settings.cache_ttl_s)
        return outcomes

    async def _speechless(self, jobs: dict[str, _Job]) -> dict[str, _Outcome]:
        """Why lists can't be made: they need words, and the model of their index is not loaded or can't be.

        Whoever waits for a model keeps nobody's place, and teaches nothing about how long searches take.
        """
        waiting = {key: job for key, job in jobs.items() if job.texts and not job.serving.claim.loaded}
        errors = await asyncio.gather(*(self._loaded(job.serving) for job in waiting.values()))
        return {key: error for key, error in zip(waiting, errors, strict=True) if error is not None}

    async def _loaded(self, serving: Serving) -> SightlineError | None:
        """Waits for the encoder of a generation as long as for its index; why it is not there."""
        try:
            async with asyncio.timeout(self._settings.search_timeout_s):
                await serving.claim.encoder()
        except SightlineError as error:
            return error
        except TimeoutError:
            generation = serving.generation
            return EncoderUnavailable(
                f"{generation.model.name}, the model of index {generation.index!r}, is still loading. Try again in a "
                "moment."
            )
        return None

    async def _admitted(self, jobs: dict[str, _Job], shallower: dict[str, Ranked]) -> dict[str, _Outcome]:
        """Computes lists if the machine has room for that; who is refused hears it at once."""
        try:
            with self._admission.admitted(len(jobs)) as place:
                outcomes = await self._compute(jobs, shallower)
                for key, outcome in outcomes.items():  # where there are several, nothing is learnt
                    if isinstance(outcome, Ranked):
                        place.kind = _kind(jobs[key].serving, jobs[key].depth, outcome.strategy)
                return outcomes
        except Overloaded as error:
            return dict.fromkeys(jobs, error)

    async def _compute(self, jobs: dict[str, _Job], shallower: dict[str, Ranked]) -> dict[str, _Outcome]:
        """Encodes all texts at once and searches all indexes at once; who has a shallower list gets it continued."""
        started = time.perf_counter()
        texts = await self._encode_all(jobs.values())
        encode_ms = _ms_since(started)
        by_index: dict[str, dict[str, _Job]] = {}
        for key, job in jobs.items():
            by_index.setdefault(job.serving.generation.id, {})[key] = job
        found = await asyncio.gather(
            *(self._search_in_time(group, texts[_model(group)]) for group in by_index.values())
        )
        outcomes = {key: outcome for group in found for key, outcome in group.items()}
        for key, outcome in outcomes.items():
            if isinstance(outcome, Ranked):
                stages = ({"encode": encode_ms} if jobs[key].texts else {}) | outcome.stages_ms
                full = outcome.continuing(shallower[key], jobs[key].depth) if key in shallower else outcome
                outcomes[key] = replace(full, stages_ms=stages)
        return outcomes

    async def _search_in_time(
        self, jobs: dict[str, _Job], texts: dict[str, Vectors | SightlineError]
    ) -> dict[str, _Outcome]:
        """All lists of one index, or what is wrong with it."""
        try:
            async with self._indexes.deadline(next(iter(jobs.values())).serving.generation.index):
                return await self._search_index(jobs, texts)
        except SightlineError as error:
            return dict.fromkeys(jobs, error)

    async def _encode_all(self, jobs: Iterable[_Job]) -> dict[str, dict[str, Vectors | SightlineError]]:
        """By the fingerprint of each model that is asked, the embeddings of its texts: a batch for each."""
        claims: dict[str, Claim] = {}
        texts: dict[str, list[str]] = {}
        for job in jobs:
            model = job.serving.generation.model.fingerprint
            claims[model] = job.serving.claim
            texts.setdefault(model, []).extend(job.texts)
        vectors = await asyncio.gather(*(self._encode(claims[model], texts[model]) for model in texts))
        return dict(zip(texts, vectors, strict=True))

    async def _encode(self, claim: Claim, texts: Iterable[str]) -> dict[str, Vectors | SightlineError]:
        """The embedding of every text, in one batch; a text that can't be encoded fails by itself."""
        unique = list(dict.fromkeys(texts))
        if not unique:
            return {}
        try:
            encoder = CachedEncoder(await claim.encoder(), self._embeddings)
            return dict(zip(unique, await encoder.encode_texts(unique), strict=True))
        except (EncoderUnavailable, ModelUnavailable, Overloaded) as error:
            return dict.fromkeys(unique, error)
        except Exception as error:  # whatever a text does to an encoder is that text's error
            if len(unique) == 1:
                log.exception("a text can't be encoded")
                return {unique[0]: EncoderUnavailable(f"The encoder failed on {unique[0]!r}: {error}.")}
        answers: dict[str, Vectors | SightlineError] = {}
        for text in unique:
            answers |= await self._encode(claim, [text])
        return answers

    async def _search_index(
        self, jobs: dict[str, _Job], texts: dict[str, Vectors | SightlineError]
    ) -> dict[str, _Outcome]:
        """All lists of one index: one look for the images that are terms, one batch of searches."""
        started = time.perf_counter()
        serving = next(iter(jobs.values())).serving
        ids = list({id_ for job in jobs.values() for id_ in job.excluded})
        images = {point.id: point for point in await serving.index.retrieve(ids, vectors=True)} if ids else {}
        outcomes: dict[str, _Outcome] = {}
        queries: dict[str, VectorQuery] = {}
        admitted: dict[str, int] = {}
        for key, job in jobs.items():
            try:
                vector = combined_vector(job.terms, texts, images)
            except SightlineError as error:
                outcomes[key] = error
                continue
            admitted[key] = await self._count(serving, job.request.filter)
            queries[key] = VectorQuery(
                vector=vector,
                limit=job.limit,
                filter=job.request.filter,
                score_threshold=job.request.score_threshold or None,
                exact=job.depth > GRAPH_DEPTH or (job.request.filter is not None and admitted[key] < _EXACT_BELOW),
                payload=job.depth == TIERS[0],
            )
        answers = dict(zip(queries, await serving.index.search(list(queries.values())), strict=True))
        # A graph can lose its way under a filter. The count says so, and then everything is compared.
        lost = [
            key
            for key, query in queries.items()
            if not query.exact and query.score_threshold is None
            if len(answers[key]) < min(query.limit, admitted[key])
        ]
        if lost:
            queries |= {key: replace(queries[key], exact=True) for key in lost}
            answers |= zip(lost, await serving.index.search([queries[key] for key in lost]), strict=True)
        search_ms = _ms_since(started)
        for key, query in queries.items():
            job = jobs[key]
            left_out = _admitted([images[id_] for id_ in job.excluded], query.filter)
            ranked = Ranked.of(query, answers[key], job.depth, admitted[key] - left_out, without=job.excluded)
            outcomes[key] = replace(ranked, stages_ms={"search": search_ms})
        return outcomes

    async def _count(self, serving: Serving, filter: Filter | None) -> int:
        """How many images the filter admits; counted once for each generation and filter."""
        if filter is None:
            return serving.generation.points
        key = (serving.generation.id, orjson.dumps(canonical(filter)))
        if key not in self._counts:
            self._counts[key] = await serving.index.count(filter)
            if len(self._counts) > _COUNTS_KEPT:
                self._counts.popitem(last=False)
        return self._counts[key]

    def _key(self, job: _Job, depth: int) -> str:
        """The cache key of a list: everything that changes it.

        The generation's id stands for the index's vectors, payloads and graph, and is unique among all servers that
        share a Redis. The model's fingerprint covers its weights and preprocessing. The request's fingerprint covers
        the index's name, the terms, the filter and the threshold; `depth` is how far its pages reach. A tenant, once
        searches have one, belongs here too. The precision in which texts are encoded is left out, so that servers on
        different processors show pages of one list.
        """
        generation = job.serving.generation
        search = [self._settings.search_ef, _EXACT_BELOW, [*TIERS, GRAPH_DEPTH]]
        return "list:" + digest([SCHEMA, generation.id, generation.model.fingerprint, job.fingerprint, depth, search])


def _model(jobs: dict[str, _Job]) -> str:
    """The fingerprint of the model behind the jobs of one generation."""
    return next(iter(jobs.values())).serving.generation.model.fingerprint


def _kind(serving: Serving, depth: int, strategy: Strategy) -> tuple[str, str, int, Strategy]:
    """What decides how long a search takes alone."""
    return serving.generation.index, serving.generation.model.fingerprint, depth, strategy


def _admitted(points: list[Point], filter: Filter | None) -> int:
    return sum(filter is None or matches(filter, point.payload) for point in points)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
