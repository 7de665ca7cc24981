"""`sightline plan`: what it takes to search so many images, so fast, so often, from laws that were measured.

Pure functions from a request and a book of laws to a plan. Nothing is looked up and nothing is guessed silently: every
figure carries what it rests on beyond a measurement, an extrapolation or an assumption with its source.

    p95 = GraphQL + encode + index        each a 95th percentile, so that their sum errs on the slow side

- Of what GraphQL and one encoding alone leave of the p95, half goes to the index and half to waiting for the encoder.
  A fixed split makes plans predictable: more searches never need fewer replicas, more images never less RAM.
- index: every shard searches its N / shards vectors, all at the same time, so the slowest of them counts. Latencies are
  taken as log-normal with the measured p50 and p95; of s shards the slowest stays below the 0.95^(1/s) quantile. A copy
  of a shard has one core, busy at most half of the time; what searches wait for it follows from that (M/G/1, with the
  waiting time of Pollaczek and Khinchine taken as exponential).
- encode: searches meet in a batch while the one before is computed (`engine.batcher`): see `queues.encode_p95`.
- Of all layouts that are fast and exact enough, the one with the least RAM is taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any, Final, Literal

from engine.errors import BadUserInput
from indexing.bench.laws import Estimate, LawBook, ModelCost, shown
from indexing.queues import encode_p95, mean_of, slowest_p95, wait_p95

_INDEX_BUSY: Final = 0.5  # share of the time that a copy of a shard computes
_API_BUSY: Final = 0.7  # share of the time that a replica computes
_RAM_USED: Final = 0.8  # the rest is for the system, for merging segments and for peaks
_CACHE_S: Final = 3600  # CACHE_TTL_S
_DAY_H: Final = 24
_GENERATIONS: Final = 2  # on disk: the one that serves, and the next or the one before
_GB: Final = 1e9
_SMALLEST_SHARD: Final = 1_000
_PLACES: Final = {"ram": "in RAM", "disk": "on disk"}
_MOST_SHARDS: Final = 4_096

RAM_PARTS: Final = ("int8", "graph", "payload", "anonymous")
"""Parts of an index that have to be in RAM; originals may be."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted. `repeated` is the share of searches that the cache answers, `node_cores` and `node_gb` a node."""

    images: float
    model: str
    p95_ms: float
    qps: float
    recall: float = 0.98
    gpu: bool = False
    originals: Literal["ram", "disk"] = "ram"
    repeated: float = 0.0
    node_cores: int = 16
    node_gb: float = 64.0

    def __post_init__(self) -> None:
        """Raises `BadUserInput` for what no plan can be about."""
        positive = (("images", self.images), ("p95", self.p95_ms), ("qps", self.qps), ("node memory", self.node_gb))
        for name, value in positive:
            if not (math.isfinite(value) and value > 0):
                raise BadUserInput(f"{name}: {value} is no amount to plan for. Give more than 0.")
        if not 0 < self.recall < 1:
            raise BadUserInput(f"recall: {self.recall} is not between 0 and 1. Write 0.98 for 98 %.")
        if not 0 <= self.repeated < 1:
            raise BadUserInput(f"repeated: {self.repeated} is no share from 0 to below 1. Write 0.3 for 30 %.")
        if self.node_cores < 1:
            raise BadUserInput("node: a node needs 1 core or more. Write 16x64 for 16 cores and 64 GB.")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a plan: what, how much, and what it rests on beyond measurements."""

    part: str
    name: str
    value: float
    unit: str
    marks: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The amount for people."""
        whole = self.value >= 100 or float(self.value).is_integer()  # noqa: PLR2004 - where decimals stop mattering
        number = f"{self.value:,.0f}" if whole else f"{self.value:.3g}"
        return f"{number} {self.unit}".strip()


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: figures, what dominates the cost (shares of 1), chart values, and the machine of the laws."""

    request: Request
    figures: tuple[Figure, ...]
    drivers: Mapping[str, float]
    values: Mapping[str, Any]
    measured: Mapping[str, Any]

    def figure(self, name: str) -> Figure:
        """The figure of a name."""
        return next(figure for figure in self.figures if figure.name == name)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return asdict(self)

    def yaml(self) -> str:
        """The values for `helm install --values`."""
        return "\n".join(_yaml(self.values)) + "\n"


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to cut an index: `copies` of each of `shards`, all of an equal part of the vectors."""

    shards: int
    ef: int
    copies: Estimate
    p95_ms: Estimate
    recall: Estimate
    shard_bytes: Estimate  # in RAM

    @property
    def ram_bytes(self) -> Estimate:
        """In RAM, of all copies, without what nodes keep free."""
        return self.shard_bytes * self.copies * self.shards


def plan(request: Request, book: LawBook) -> Plan:
    """What the request takes. Raises `BadUserInput` that says what would be possible when nothing can meet it."""
    cost = _model(request, book)
    graphql = book.assumptions["graphql_ms"].estimate()
    left = request.p95_ms - graphql.value - cost.text_ms
    if left <= 0:
        raise BadUserInput(_too_slow_to_encode(request, book, cost))
    layout = choose_layout(request, book, left / 2)
    replicas, encode_ms = _replicas(request, cost, cost.text_ms + left / 2, graphql)
    sized = _sized(request, book, cost, layout, replicas, encode_ms)
    return Plan(
        request,
        _figures(request, book, cost, sized),
        _drivers(request, book, cost, sized),
        _values(request, cost, sized),
        book.measured,
    )


# ---------------------------------------------------------------- the index


def choose_layout(request: Request, book: LawBook, budget_ms: float) -> Layout:
    """The layout with the least RAM whose p95 fits the budget. Raises `BadUserInput` if there is none."""
    layouts = list(_layouts(request, book))
    exact = [layout for layout in layouts if layout.recall.value >= request.recall]
    if not exact:
        best = max(layouts, key=lambda layout: layout.recall.value)
        raise BadUserInput(
            f"recall: {request.recall:g} is more than was measured to be possible: at most {best.recall.value:.4f}, "
            f"with SEARCH_EF={best.ef} on {best.shards} shards. Ask for --recall {_floor(best.recall.value):g}, or "
            "measure larger values of SEARCH_EF with `sightline bench growth`."
        )
    quick = [layout for layout in exact if layout.p95_ms.value <= budget_ms]
    if not quick:
        best = min(exact, key=lambda layout: layout.p95_ms.value)
        missing = 2 * (best.p95_ms.value - budget_ms)
        raise BadUserInput(
            f"p95: {request.p95_ms:g} ms leave {budget_ms:.3g} ms for the index, and {shown(request.images)} images at "
            f"recall {request.recall:g} take {best.p95_ms.value:.3g} ms at best (on {best.shards} shards, "
            f"SEARCH_EF={best.ef}). Ask for --p95 {math.ceil(request.p95_ms + missing)}ms or more, or for less recall."
        )
    usable = request.node_gb * _GB * _RAM_USED
    fitting = [layout for layout in quick if layout.shard_bytes.value <= usable]
    if not fitting:
        smallest = min(layout.shard_bytes.value for layout in quick)
        raise BadUserInput(
            f"node: the smallest shard that is fast enough takes {smallest / _GB:.3g} GB, and a node of "
            f"{request.node_gb:g} GB has {usable / _GB:.3g} GB for it. Give --node more memory, or --originals disk."
        )
    return min(fitting, key=lambda layout: (layout.ram_bytes.value, layout.shards, layout.ef))


def _layouts(request: Request, book: LawBook) -> Iterator[Layout]:
    efs = sorted(int(name.partition("@")[2]) for name in book.laws if name.startswith("misses@"))
    if not efs:
        raise BadUserInput("There are no measured laws to plan from. Run `sightline bench growth --save` first.")
    dimension = _model(request, book).dimension
    network = book.assumptions["network_ms"].estimate()
    searches = request.qps * (1 - request.repeated)
    for shards in _shard_counts():
        vectors = _vectors(request, shards)
        parts = {name: law.at(vectors, dimension) for name, law in book.laws.items() if name.endswith("_bytes")}
        held = [*RAM_PARTS, *(["originals"] if request.originals == "ram" else [])]
        memory = _sum(parts[f"{part}_bytes"] for part in held)
        for ef in efs:
            p50 = book.laws[f"search_p50_ms@{ef}"].at(vectors, dimension)
            p95 = book.laws[f"search_p95_ms@{ef}"].at(vectors, dimension)
            misses = book.laws[f"misses@{ef}"].at(vectors, dimension)
            marks = p50.marks | p95.marks
            work = mean_of(p50.value, p95.value)
            wait = wait_p95(p50.value, p95.value, _INDEX_BUSY)
            yield Layout(
                shards=shards,
                ef=ef,
                copies=Estimate(max(1, math.ceil(searches * work / 1000 / _INDEX_BUSY)), marks),
                p95_ms=Estimate(slowest_p95(p50.value, p95.value, shards) + wait, marks) + network,
                recall=Estimate(1 - misses.value, misses.marks),
                shard_bytes=memory,
            )


def _shard_counts() -> Iterator[int]:
    """1, 2, 3 … and from 64 on in steps of a quarter."""
    shards = 1
    while shards <= _MOST_SHARDS:
        yield shards
        shards += max(1, shards // 64 * 16)


def _vectors(request: Request, shards: int) -> float:
    """Of one shard. Few are counted as 1,000, below which nothing is won."""
    return max(request.images / shards, _SMALLEST_SHARD)


# ---------------------------------------------------------------- the encoder


def _replicas(request: Request, cost: ModelCost, budget_ms: float, graphql: Estimate) -> tuple[int, float]:
    """The fewest replicas that encode within the budget and are not too busy, and their p95."""
    encoded = request.qps * (1 - request.repeated)
    work_ms = encoded * cost.batch_ms + request.qps * graphql.value
    low, high = 0, max(1, math.ceil(work_ms / 1000 / _API_BUSY))
    while encode_p95(cost, encoded / high) > budget_ms:
        low, high = high, high * 2
    fewest = max(1, math.ceil(work_ms / 1000 / _API_BUSY))
    low = max(low, fewest - 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if encode_p95(cost, encoded / middle) <= budget_ms else (middle, high)
    return high, encode_p95(cost, encoded / high)


# ---------------------------------------------------------------- all together


@dataclass(frozen=True, slots=True)
class _Sized:
    """What a layout and so many replicas come to. Memory and disk in GB, times in hours."""

    layout: Layout
    replicas: Estimate
    encode_ms: Estimate
    nodes: Estimate
    node_ram: Estimate
    node_disk: Estimate
    redis: Estimate
    answers: float
    job_hours: Estimate
    build_hours: Estimate

    @property
    def ram(self) -> Estimate:
        """Of all copies, with what nodes keep free."""
        return self.layout.ram_bytes / (_RAM_USED * _GB)

    @property
    def jobs(self) -> Estimate:
        """That encode all pictures within a day."""
        return (self.job_hours / _DAY_H).rounded_up()


def _sized(request: Request, book: LawBook, cost: ModelCost, layout: Layout, replicas: int, encode_ms: float) -> _Sized:
    of_model = frozenset({f"assumed: {cost.assumed}"} if cost.assumed else ())
    at = _laws_at(request, book, cost, layout)
    usable = request.node_gb * _GB * _RAM_USED
    on_one = min(request.node_cores, int(usable // layout.shard_bytes.value))
    placed = layout.copies * layout.shards
    marks = placed.marks | layout.shard_bytes.marks
    nodes = Estimate(max(math.ceil(placed.value / on_one), layout.copies.value), marks)
    on_node = (placed / nodes).rounded_up()
    files = _sum(at[f"{part}_bytes"] for part in ("originals", "int8", "graph", "payload", "other"))
    answers = request.qps * (1 - request.repeated) * _CACHE_S
    return _Sized(
        layout=layout,
        replicas=Estimate(replicas, of_model | book.assumptions["graphql_ms"].estimate().marks),
        encode_ms=Estimate(encode_ms, of_model),
        nodes=nodes,
        node_ram=layout.shard_bytes * on_node / (_RAM_USED * _GB),
        node_disk=files * on_node * _GENERATIONS / _GB,
        redis=book.assumptions["cached_answer_bytes"].estimate() * answers / _GB,
        answers=answers,
        job_hours=Estimate(request.images / cost.images_per_s / 3600, of_model),
        build_hours=at["build_s"] / 3600,
    )


def _figures(request: Request, book: LawBook, cost: ModelCost, sized: _Sized) -> tuple[Figure, ...]:
    layout, at = sized.layout, _laws_at(request, book, cost, sized.layout)
    graphql = book.assumptions["graphql_ms"].estimate()
    worker = "1 GPU" if request.gpu else f"{cost.cores} cores"

    def all_gb(part: str) -> Estimate:
        return at[f"{part}_bytes"] * layout.copies * layout.shards / _GB

    def line(part: str, name: str, amount: Estimate | float, unit: str) -> Figure:
        estimate = amount if isinstance(amount, Estimate) else Estimate(amount)
        return Figure(part, name, estimate.value, unit, tuple(sorted(estimate.marks)))

    return (
        line("search", "p95", graphql + sized.encode_ms + layout.p95_ms, "ms"),
        line("search", "p95 of encoding", sized.encode_ms, "ms"),
        line("search", "p95 of the index", layout.p95_ms, "ms"),
        line("search", "p95 of GraphQL", graphql, "ms"),
        line("search", "recall@10", layout.recall, ""),
        line("index", "Qdrant nodes", sized.nodes, f"of {request.node_cores} cores, {request.node_gb:g} GB"),
        line("index", "shards", layout.shards, f"of {shown(_vectors(request, layout.shards))} vectors"),
        line("index", "copies of each shard", layout.copies, ""),
        line("index", "SEARCH_EF", layout.ef, ""),
        line("index", "RAM a node", sized.node_ram, "GB"),
        line("index", "RAM", sized.ram, "GB"),
        line("index", "int8 vectors", all_gb("int8"), "GB in RAM"),
        line("index", f"originals {_PLACES[request.originals]}", all_gb("originals"), "GB"),
        line("index", "graph", all_gb("graph"), "GB in RAM"),
        line("index", "payload", all_gb("payload"), "GB in RAM"),
        line("index", "the server's own", all_gb("anonymous"), "GB in RAM"),
        line("index", "disk a node", sized.node_disk, f"GB, {_GENERATIONS} generations"),
        line("API", "API replicas", sized.replicas, f"of {worker}"),
        line("API", "RAM a replica", Estimate(cost.memory_gb, sized.encode_ms.marks), "GB"),
        line("cache", "Redis memory", sized.redis, f"GB, {shown(sized.answers)} answers an hour"),
        line("indexing", "encoding pictures", sized.job_hours, f"hours of one job of {worker}"),
        line("indexing", "jobs for one day", sized.jobs, ""),
        line("indexing", "building the graphs", sized.build_hours, "hours of 2 cores, all shards at once"),
    )


def _drivers(request: Request, book: LawBook, cost: ModelCost, sized: _Sized) -> dict[str, float]:
    """Shares of the cost, largest first."""
    replicas = sized.replicas.value
    amounts = {
        "index RAM": (sized.ram.value, "gb_ram_cost"),
        "index cores": (sized.nodes.value * request.node_cores, "core_cost"),
        "index disk": (sized.node_disk.value * sized.nodes.value, "gb_disk_cost"),
        "API cores": (replicas * cost.cores, "core_cost"),
        "API GPUs": (replicas if request.gpu else 0, "gpu_cost"),
        "API RAM": (replicas * cost.memory_gb, "gb_ram_cost"),
        "Redis RAM": (sized.redis.value, "gb_ram_cost"),
    }
    priced = {name: amount * book.assumptions[price].value for name, (amount, price) in amounts.items() if amount}
    total = sum(priced.values())
    return {name: price / total for name, price in sorted(priced.items(), key=lambda item: -item[1])}


def _values(request: Request, cost: ModelCost, sized: _Sized) -> dict[str, Any]:
    """For the chart: an ImageIndex by the operator's names, and what stands beside it."""
    layout, jobs = sized.layout, int(sized.jobs.value)
    needs = {"cpu": cost.cores, "memory": f"{math.ceil(cost.memory_gb)}G"}
    return {
        "imageIndex": {
            "model": {"name": request.model, "pretrained": cost.pretrained, "dimension": cost.dimension},
            "collection": {"shardNumber": layout.shards, "replicationFactor": int(layout.copies.value)},
            "indexing": {"shards": jobs, "parallelism": jobs, "batchSize": 256},
            "serving": {
                "replicas": int(sized.replicas.value),
                "gpu": int(request.gpu),
                "resources": {"requests": needs},
            },
        },
        "api": {"env": {"SEARCH_EF": str(layout.ef)}},
        "qdrant": {
            "replicaCount": int(sized.nodes.value),
            "resources": {"requests": {"cpu": request.node_cores, "memory": f"{math.ceil(sized.node_ram.value)}G"}},
            "persistence": {"size": f"{math.ceil(sized.node_disk.value)}G"},
        },
        "redis": {"maxmemory": f"{math.ceil(sized.redis.value)}gb", "maxmemoryPolicy": "allkeys-lru"},
    }


def _laws_at(request: Request, book: LawBook, cost: ModelCost, layout: Layout) -> dict[str, Estimate]:
    """Every law for one shard."""
    return {name: law.at(_vectors(request, layout.shards), cost.dimension) for name, law in book.laws.items()}


def _model(request: Request, book: LawBook) -> ModelCost:
    known = book.gpu_models if request.gpu else book.models
    if request.model not in known:
        where = "a GPU" if request.gpu else "a CPU"
        raise BadUserInput(
            f"--model: no figures of {request.model!r} on {where} are known. Choose from {', '.join(known)}: "
            "the one of about its size."
        )
    return known[request.model]


def _too_slow_to_encode(request: Request, book: LawBook, cost: ModelCost) -> str:
    graphql = book.assumptions["graphql_ms"].value
    quicker = [
        f"--model {name}"
        for name, other in (book.gpu_models if request.gpu else book.models).items()
        if other.text_ms + graphql < request.p95_ms
    ]
    on_gpu = book.gpu_models.get(request.model)
    if not request.gpu and on_gpu and on_gpu.text_ms + graphql < request.p95_ms:
        quicker.append("--gpu")
    least = math.ceil(2 * (cost.text_ms + graphql))
    return (
        f"p95: {request.p95_ms:g} ms are less than one search takes before it reaches the index: {cost.text_ms:g} ms "
        f"to encode with {request.model}, {graphql:g} ms in GraphQL. "
        f"Ask for {' or '.join([f'--p95 {least}ms or more', *quicker])}."
    )


def _sum(estimates: Iterator[Estimate] | Sequence[Estimate]) -> Estimate:
    return reduce(Estimate.__add__, estimates, Estimate(0.0))


def _floor(recall: float) -> float:
    return math.floor(recall * 1000) / 1000


def _yaml(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _yaml(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {json.dumps(value)}"
