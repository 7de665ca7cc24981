"""The whole search, as a browser has it: GraphQL over HTTP against a server of its own process, alone and under load.

One run answers: how long one search takes that was never asked before, and one that was; how many searches a second
the server can do; how long they take when it is busy to 70 % of that, or to the most that still answers 95 % in time;
and which part of it is GraphQL, which the engine. Beside that stands how many of the ten best images were found, by
comparison with all vectors of the index.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import httpx
import numpy as np
import orjson

from engine.encoders.choice import load_encoder
from engine.errors import IndexNotReady, SightlineError
from engine.generations import Generation, GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.ports import Encoder, VectorQuery
from engine.settings import Settings
from indexing.bench.load import Answer, Load, closed_loop, idle_server, open_loop, pooled, sustained
from indexing.bench.queries import distinct_queries, repeated
from indexing.bench.report import Figure, Latency, Report, Target
from indexing.bench.server import SERVE, Server, running

GALLERY: Final = """query Gallery($query: String!, $first: Int!) {
  search(query: $query, first: $first) {
    query latencyMs cached totalCount { value relation } pageInfo { hasNextPage endCursor }
    edges { cursor rank score node { id filePath fileName width height category url thumbnailUrl } }
    execution { generation model strategy stages { name ms } }
  }
}"""
"""What a gallery asks for."""

RESULTS: Final = 10
CLIENTS: Final = 32
"""Clients that measure capacity: enough to keep the encoder's batches and the index busy."""

BUSY: Final = 0.7
"""Share of the capacity at which latency under load is measured."""

FLOOD: Final = 3
"""Times the capacity at which it is seen whether a server refuses what is too much and keeps up the rest.

Once by clients who come back when they are told to, three for each that the capacity was measured with; and once, which
is judged, by strangers: searches that come three times as fast as they can be answered, whatever the others were told.

Where load and server share a machine, a part of what strangers cost is the load's own: making and sending requests, and
bringing back answers. So the server is measured against itself beside such a load: the capacity that is left while as
many requests as are too many go to a server that does nothing.
"""

GOODPUT: Final = 0.9
"""Share of that capacity that must still be answered in the flood."""

REPEATED: Final = 0.3
"""Share of queries that were asked before, where what a server sustains is measured."""

LIMIT_MS: Final = 50.0
"""95 % of answers must come within this, to count as sustained."""

_WARM_UP: Final = 300
_ROUNDS: Final = 4  # of loads that are judged by one another, in turns: a machine's speed changes within seconds
_FLOOR: Final = 1000
_REFUSAL_BYTES: Final = 300
_JUDGED: Final = 100
"""Queries whose answers are compared with all vectors; a million of them take half a second each."""

_REMEMBERED: Final = 200
"""Queries that are certainly still in the server's cache when they are asked again."""

_SETTLE_S: Final = 60.0
_MOST_REQUESTS: Final = 20_000
_LEAST_REQUESTS: Final = 20
_ALONE_MS: Final = {"ViT-B-32": 15.0, "ViT-H-14": 50.0}
_START_S: Final = {"ViT-B-32": 5.0, "ViT-H-14": 15.0}
_LOADED_TIMES: Final = 3
_SUSTAINED: Final = {"ViT-B-32": 100.0}
_RECALL: Final = 0.98

EncoderFactory = Callable[[Settings], Encoder]


def run(
    settings: Settings,
    index: str | None = None,
    queries: int = 500,
    seconds: float = 10.0,
    seed: int = 0,
    *,
    serve: Sequence[str] = SERVE,
    encoder: EncoderFactory = load_encoder,
) -> Report:
    """Measures a server on an index whose model is the configured one; it must not be open anywhere else.

    `queries` are asked alone; each of some fifteen runs under load takes `seconds`. `serve` starts the server, and
    `encoder`, a function at the top of a module, makes the model for judging its answers. Raises the engine's errors.
    """
    settings = settings.model_copy(update={"index_name": index or settings.index_name})
    generation = _generation(settings)
    fresh = distinct_queries(seed)
    asked = list(islice(fresh, queries))
    truth = _best(settings, generation, asked[:_JUDGED], encoder)
    with idle_server() as idle:
        floor = closed_loop(idle, ["{}"] * _FLOOR)
    with running(settings, serve) as server:
        measured = _measure(server, asked, fresh, seconds, seed)
        memory = server.resident_mb()
    recall = _recall(measured.alone, truth)
    rows = [
        _row("alone, not cached", measured.alone) | {"recall@10": recall},
        _row("alone, cached", measured.cached),
        _row(f"capacity, {CLIENTS} clients", measured.capacity, of=measured.capacity.accepted),
        _row(f"open loop, {BUSY:.0%} of that", measured.busy),
        _row(f"{FLOOD} times as many clients", measured.crowd, of=measured.crowd.accepted),
        _row(f"open loop, {FLOOD} times that", measured.flood, of=measured.flood.accepted),
        _row("capacity beside a flood elsewhere", measured.beside, of=measured.beside.accepted),
        _row(f"most with p95 < {LIMIT_MS:g} ms, {REPEATED:.0%} repeated", measured.sustained),
        _row("a server that does nothing", floor),
    ]
    setup: dict[str, Figure] = {
        "index": settings.index_name,
        "vectors": generation.points,
        "dimension": generation.model.dimension,
        "model": generation.model.name,
        "results": RESULTS,
        "queries": queries,
        "seconds": seconds,
        "seed": seed,
        "start_s": server.start_s,
        "server_mb": memory,
        "sustained_per_s": measured.rate,
    }
    targets = _targets(generation.model.name, measured, recall, server.start_s)
    return Report("GraphQL search over HTTP", setup, rows, targets, _notes(measured, floor))


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True)
class _Measured:
    """The runs, and the rate (1/s) of the sustained one; 0 if no rate was."""

    alone: Load
    cached: Load
    capacity: Load
    busy: Load
    crowd: Load
    flood: Load
    beside: Load
    sustained: Load
    rate: float


def _measure(server: Server, asked: Sequence[str], fresh: Iterator[str], seconds: float, seed: int) -> _Measured:
    url = f"{server.url}/graphql"
    _refuse_errors(closed_loop(url, _bodies(islice(fresh, _WARM_UP))))
    alone = _refuse_errors(closed_loop(url, _bodies(asked), keep_bodies=True))
    remembered = asked[-_REMEMBERED:]
    cached = closed_loop(url, _bodies(remembered[at % len(remembered)] for at in range(len(asked))))

    loads = _Loads(url, fresh, seconds, seed)
    enough = _count(10 * alone.per_second * seconds)
    capacities: list[Load] = []
    busy: list[Load] = []
    for _ in range(_ROUNDS):
        capacities.append(loads.clients(CLIENTS, enough))
        busy.append(loads.strangers(BUSY * capacities[-1].per_second))
    capacity = pooled(capacities)
    most = capacity.per_second
    crowd = loads.clients(FLOOD * CLIENTS, _count(4 * FLOOD * most * seconds))  # with those that are refused
    flood: list[Load] = []
    beside: list[Load] = []
    for _ in range(_ROUNDS):
        flood.append(loads.strangers(FLOOD * most))
        beside.append(loads.clients_beside((FLOOD - 1) * most, enough))
    rate, shown = sustained(lambda rate: loads.strangers(rate, REPEATED), 2 * most, LIMIT_MS)
    return _Measured(alone, cached, capacity, pooled(busy), crowd, pooled(flood), pooled(beside), shown, rate)


@dataclass(frozen=True, slots=True)
class _Loads:
    """Loads on a server, of some seconds each. After each, what it left unfinished in the server is waited for."""

    url: str
    fresh: Iterator[str]
    seconds: float
    seed: int

    def clients(self, clients: int, searches: int) -> Load:
        """So many who wait for their answers, with at most so many searches."""
        load = closed_loop(self.url, _bodies(islice(self.fresh, searches)), clients=clients, seconds=self.seconds)
        self._settle()
        return load

    def clients_beside(self, rate: float, searches: int) -> Load:
        """As many as measure the capacity, while the machine bears so many requests a second for an idle server."""
        elsewhere = _bodies(islice(self.fresh, _count(rate * (self.seconds + 1))))
        with idle_server(_REFUSAL_BYTES) as idle, ThreadPoolExecutor(1) as other:
            flood = other.submit(open_loop, idle, elsewhere, rate)
            load = self.clients(CLIENTS, searches)
            _refuse_errors(flood.result())
        return load

    def strangers(self, rate: float, again: float = 0.0) -> Load:
        """Searches that come at so many a second, a share of them asked before."""
        queries = repeated(self.fresh, again, self.seed, _REMEMBERED)
        load = open_loop(self.url, _bodies(islice(queries, _count(rate * self.seconds))), rate, self.seed)
        self._settle()
        return load

    def _settle(self) -> None:
        """A new search queues up behind all that is still there."""
        (body,) = _bodies(islice(self.fresh, 1))
        headers = {"Content-Type": "application/json"}
        httpx.post(self.url, content=body, headers=headers, timeout=_SETTLE_S, trust_env=False)


def _count(wanted: float) -> int:
    """How many requests a run has: enough to speak of a 95th percentile, not too many for memory and patience."""
    return int(min(max(wanted, _LEAST_REQUESTS), _MOST_REQUESTS))


def _refuse_errors(load: Load) -> Load:
    if load.errors:
        raise SightlineError(f"The server answers with errors: {load.errors}. Try one search with `sightline search`.")
    return load


def _bodies(queries: Iterator[str] | Sequence[str]) -> list[str]:
    return [
        orjson.dumps({"query": GALLERY, "variables": {"query": query, "first": RESULTS}}).decode() for query in queries
    ]


# ---------------------------------------------------------------- the truth


def _generation(settings: Settings) -> Generation:
    current = GenerationStore(settings.index_path, settings.index_name).current()
    if current is None:
        raise IndexNotReady(
            f"There is no index {settings.index_name!r} in {settings.index_path} to search in. Make one with "
            "`sightline index SOURCE --index NAME` or `sightline simulate vectors`."
        )
    return current


def _best(settings: Settings, generation: Generation, queries: list[str], encoder: EncoderFactory) -> list[set[str]]:
    """The ids of the nearest images of each query, by comparing all vectors.

    In a process that ends: the index can be open only once, and the model's memory must not stay.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_compare_all, settings, generation, queries, encoder).result()


def _compare_all(
    settings: Settings, generation: Generation, queries: list[str], encoder: EncoderFactory
) -> list[set[str]]:
    vectors = encoder(settings).encode_texts(queries)

    async def search() -> list[set[str]]:
        index = EdgeIndex.open(generation.shard, settings)
        try:
            found = await index.search([VectorQuery(vector, RESULTS, exact=True) for vector in vectors])
        finally:
            await index.close()
        return [{hit.id for hit in hits} for hits in found]

    return asyncio.run(search())


def _recall(load: Load, truth: list[set[str]]) -> float:
    """The share of the nearest images that the judged answers hold."""
    found = {answer.request: answer for answer in load.answers}
    shares = [len(_ids(found[number]) & best) / len(best) for number, best in enumerate(truth) if best]
    return float(np.mean(shares))


def _ids(answer: Answer) -> set[str]:
    body = orjson.loads(answer.body or "{}")
    return {edge["node"]["id"] for edge in body["data"]["search"]["edges"]}


# ---------------------------------------------------------------- telling


def _row(what: str, load: Load, of: Load | None = None) -> dict[str, Figure]:
    """Client latencies of all requests, or those in `of`, errors as never answered; server times of good answers."""
    told = of or load
    row: dict[str, Figure] = {
        "what": what,
        "requests": len(load.answers),
        "per_second": load.per_second,
        "p50_ms": told.percentile(50),
        "p95_ms": told.percentile(95),
        "p99_ms": told.percentile(99),
    }
    for name, times in (("server", _times(load, "total")), ("graphql", _graphql(load))):
        if times:
            latency = Latency.of(times)
            row |= {f"{name}_p50_ms": latency.p50, f"{name}_p95_ms": latency.p95}
    for stage in ("encode", "search"):
        if times := _times(load, stage):
            row[f"{stage}_p50_ms"] = Latency.of(times).p50
    cached = len(_times(load, "cache"))
    return row | {
        "cached": cached / max(len(load.good), 1),
        "errors": len(load.answers) - len(load.good),
        "late_p95_ms": Latency.of([answer.late_ms for answer in load.answers]).p95,
        "generator_ms": load.generator_ms,
    }


def _times(load: Load, name: str) -> list[float]:
    return [answer.timing[name] for answer in load.good if name in answer.timing]


def _graphql(load: Load) -> list[float]:
    """GraphQL's own part: what the server took beside the engine."""
    timings = [answer.timing for answer in load.good if "engine" in answer.timing]
    return [timing["total"] - timing["engine"] for timing in timings]


def _targets(model: str, measured: _Measured, recall: float, start_s: float) -> list[Target]:
    targets = [
        Target("cached search, server p95 ms", _p95(_times(measured.cached, "total")), "<", 1.0),
        Target("GraphQL's own part, p95 ms", _p95(_graphql(measured.alone)), "<", 1.0),
        Target("recall@10", recall, ">=", _RECALL),
        Target(
            f"goodput at {FLOOD} times the capacity, of what is done beside such a flood elsewhere",
            measured.flood.per_second / measured.beside.per_second,
            ">=",
            GOODPUT,
        ),
    ]
    if limit := _ALONE_MS.get(model):
        targets += [
            Target("alone and not cached, p95 ms", measured.alone.percentile(95), "<", limit),
            Target(f"at {BUSY:.0%} of capacity, p95 ms", measured.busy.percentile(95), "<", _LOADED_TIMES * limit),
            Target("start to ready, s", start_s, "<", _START_S[model]),
        ]
    if least := _SUSTAINED.get(model):
        targets.append(Target(f"searches a second with p95 < {LIMIT_MS:g} ms", measured.rate, ">=", least))
    return targets


def _p95(times: Sequence[float]) -> float:
    return Latency.of(times).p95 if times else float("inf")


def _notes(measured: _Measured, floor: Load) -> list[str]:
    alone, cached = measured.alone.percentile(50), measured.cached.percentile(50)
    engine = Latency.of(_times(measured.alone, "engine")).p50
    crowd = measured.crowd.per_second / measured.capacity.per_second
    flood = measured.flood.per_second / measured.capacity.per_second
    notes = [
        f"A cached answer comes {alone / cached:.1f} times as fast as one that is not (medians, at the client).",
        (
            f"The whole search takes {alone / engine:.2f} times as long as the engine alone: GraphQL, HTTP and client "
            f"add {alone - engine:.2f} ms (medians); {floor.percentile(50):.2f} ms of that are the client and the "
            "loopback, as the server that does nothing shows."
        ),
        "Latencies at the capacity and beyond are of those requests that were not refused at once.",
        f"{FLOOD} times as many clients, who wait as they are told, are answered {crowd:.2f} of the capacity.",
        f"Strangers who come {FLOOD} times as fast as they can be answered are answered {flood:.2f} of it.",
        f"Capacity and {BUSY:.0%} of it, the flood and what is done beside one are run in turns, {_ROUNDS} times each.",
        "Latencies of open loops count from the moment a request was due, however late the generator sent it.",
        "server and graphql: as Server-Timing says. generator: the load's own processor time a request.",
        "recall@10: against the index's own comparison with all vectors in full precision.",
    ]
    loads = (
        ("capacity", measured.capacity),
        ("open loop", measured.busy),
        ("the crowd", measured.crowd),
        ("the flood", measured.flood),
    )
    errors = {name: load.errors for name, load in loads}
    return notes + [f"Errors in {name}: {found}." for name, found in errors.items() if found]
