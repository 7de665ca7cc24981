"""Whether a server's memory stays flat: very many requests of all kinds, wrong ones among them, and a look every tenth.

Caches are meant to fill, so here they are small enough to be full after a fifth of the requests. What grows in the
second half is a leak, or looks like one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any, Final

from engine.errors import IndexNotReady, Overloaded
from engine.generations import Generation, GenerationStore
from engine.requests import SearchRequest, cursor_at, fingerprint_of, normalized_terms
from engine.settings import Settings
from indexing.bench.load import Load, closed_loop
from indexing.bench.queries import distinct_queries
from indexing.bench.report import Figure, Report, Target
from indexing.bench.server import SERVE, Server, running

LOOKS: Final = 10
"""Times that memory is read, evenly spread, and once before."""

CLIENTS: Final = 8

GROWTH: Final = 0.02
"""Share by which memory may grow in the second half: allocators keep a little more as time goes by."""

_LIST_BYTES: Final = 400  # of the cache of lists for each request: it is full after a tenth to a fifth of them
_EMBEDDING_BYTES: Final = 100
_RECENT: Final = 200
_DEPTHS: Final = (30, 60, 90, 150, 400, 900)
_MB: Final = 1e6

_SEARCH: Final = """query($q: String, $where: ImageFilter, $first: Int, $after: String, $index: String) {
  search(query: $q, filter: $where, first: $first, after: $after, index: $index) {
    cached totalCount { value relation } pageInfo { hasNextPage endCursor }
    edges { cursor rank score node { id fileName category width url thumbnailUrl } }
  }
}"""
_SIMILAR: Final = (
    "query($q: String) { search(query: $q, first: 2) { edges { node { similar(first: 3) { cached } } } } }"
)
_FACETS: Final = """query($where: ImageFilter) {
  facets(fields: [{path: "category"}, {path: "width", first: 5}], filter: $where) { path values { value count } }
}"""
_PROBES: Final = (
    "{ health { status device model runtime } }",
    "{ stats { uptimeSeconds window { total { p50 p95 p99 } } collections { points } } }",
    "{ indexes { name ready points } }",
)
_SHARES: Final = {
    "fresh": 34,
    "repeated": 20,
    "filtered": 12,
    "page": 8,
    "several": 4,
    "similar": 2,
    "facets": 5,
    "probe": 5,
    "bad argument": 5,
    "bad query": 4,
    "bad request": 1,
}
"""The kinds of requests, and how many of a hundred each is."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """A request: the JSON that is sent, its kind, and whether it must be answered with an error."""

    body: str
    kind: str
    wrong: bool


def mixed(generation: Generation, seed: int = 0) -> Iterator[Mixed]:
    """Endless requests of all kinds on an index, the same for a seed."""
    rng, fresh = Random(f"soak/{seed}"), distinct_queries(seed)
    recent = [next(fresh)]
    kinds, weights = list(_SHARES), list(_SHARES.values())
    while True:
        (kind,) = rng.choices(kinds, weights)
        if kind in {"fresh", "filtered", "page"}:
            recent.append(next(fresh))
            del recent[:-_RECENT]
        body = _body(kind, recent[-1] if kind != "repeated" else rng.choice(recent), generation, rng)
        yield Mixed(body if isinstance(body, str) else json.dumps(body), kind, kind.startswith("bad"))


def _body(  # noqa: PLR0911 - one for each kind
    kind: str, words: str, generation: Generation, rng: Random
) -> dict[str, Any] | str:
    first = rng.choice((5, 10, 30))
    match kind:
        case "fresh" | "repeated":
            return _asked(_SEARCH, q=words, first=first)
        case "filtered":
            return _asked(_SEARCH, q=words, first=first, where=_where(rng))
        case "page":
            return _asked(_SEARCH, q=words, first=first, after=_cursor(generation, words, rng.choice(_DEPTHS)))
        case "several":
            searches = " ".join(f'a{n}: search(query: "{words} {n}") {{ cached }}' for n in range(rng.randint(2, 12)))
            return {"query": f"{{ {searches} }}"}
        case "similar":
            return _asked(_SIMILAR, q=words)
        case "facets":
            return _asked(_FACETS, where=_where(rng))
        case "probe":
            return {"query": rng.choice(_PROBES)}
        case "bad argument":
            stale = cursor_at("0", "0" * 16, 10)
            bad = ({"q": ""}, {"first": 0}, {"first": 101}, {"after": stale}, {"after": words}, {"index": words})
            return _asked(_SEARCH, **({"q": words, "first": 10} | rng.choice(bad)))
        case "bad query":
            number = rng.getrandbits(40)  # never the same twice: what is remembered of them must be bounded
            return {"query": rng.choice((f"{{ nothing{number} }}", f"{{ search(query: {number}", f"#{number}"))}
        case _:
            return rng.choice(("{", "[]", '{"query": 1}', '{"query": "{ __typename }", "variables": []}'))


def _asked(query: str, **variables: Any) -> dict[str, Any]:
    return {"query": query, "variables": variables}


def _where(rng: Random) -> dict[str, Any]:
    return {"width": {"gte": rng.randrange(2000)}}


def _cursor(generation: Generation, words: str, offset: int) -> str:
    """What a client holds that has paged so far through the search for these words."""
    request = SearchRequest(query=words)
    return cursor_at(generation.id, fingerprint_of(generation.index, normalized_terms(request), request), offset)


# ---------------------------------------------------------------- measuring


def run(
    settings: Settings,
    index: str | None = None,
    requests: int = 100_000,
    seed: int = 0,
    *,
    serve: Sequence[str] = SERVE,
) -> Report:
    """Sends so many requests to a server of its own, on an index that must not be open anywhere else."""
    settings = settings.model_copy(
        update={
            "index_name": index or settings.index_name,
            "cache_max_bytes": min(settings.cache_max_bytes, requests * _LIST_BYTES),
            "cache_embedding_bytes": min(settings.cache_embedding_bytes, requests * _EMBEDDING_BYTES),
        }
    )
    generation = GenerationStore(settings.index_path, settings.index_name).current()
    if generation is None:
        raise IndexNotReady(
            f"There is no index {settings.index_name!r} in {settings.index_path} to search in. Make one with "
            "`sightline index SOURCE --index NAME` or `sightline simulate vectors --for-model`."
        )
    source = mixed(generation, seed)
    with running(settings, serve) as server:
        rows = [_look(server, 0)]
        surprises: dict[str, int] = {}
        refused = 0
        for number in range(1, LOOKS + 1):
            part = list(islice(source, requests // LOOKS))
            load = closed_loop(f"{server.url}/graphql", [one.body for one in part], clients=CLIENTS)
            for what, count in unexpected(part, load).items():
                surprises[what] = surprises.get(what, 0) + count
            refused += load.errors.get(Overloaded.code, 0)
            rows.append(_look(server, number * len(part)) | {"per_second": len(part) / load.elapsed_s})
    half, end = (float(rows[at]["anonymous_mb"] or 0) for at in (LOOKS // 2, LOOKS))
    setup: dict[str, Figure] = {
        "index": settings.index_name,
        "vectors": generation.points,
        "model": generation.model.name,
        "clients": CLIENTS,
        "seed": seed,
        "cache_max_bytes": settings.cache_max_bytes,
        "cache_embedding_bytes": settings.cache_embedding_bytes,
        "refused": refused,
    }
    targets = [
        Target("memory's growth in the second half, share", end / half - 1 if half else 0.0, "<", GROWTH),
        Target("requests that were not answered as they should be", sum(surprises.values()), "<", 1),
    ]
    notes = [
        "Memory is that of the server and its index process, each page once; resident is as `ps` counts.",
        "Of a hundred requests: " + ", ".join(f"{share} {kind}" for kind, share in _SHARES.items()) + ".",
        *(f"Not as it should be, {count} times: {what}." for what, count in surprises.items()),
    ]
    return Report("Memory under mixed requests", setup, rows, targets, notes)


def unexpected(sent: Sequence[Mixed], load: Load) -> dict[str, int]:
    """What was answered otherwise than it should be, and how often. To be refused for lack of room is all right."""
    found: dict[str, int] = {}
    for answer in load.answers:
        request = sent[answer.request]
        broken = answer.error is not None and answer.error.startswith(("INTERNAL", "TIMEOUT", "not answered", "conn"))
        if answer.error != Overloaded.code and (broken or request.wrong != (answer.error is not None)):
            what = f"{request.kind}: {answer.error or 'no error'}"
            found[what] = found.get(what, 0) + 1
    if len(load.answers) != len(sent):
        found["no answer"] = len(sent) - len(load.answers)
    return found


def _look(server: Server, requests: int) -> dict[str, Figure]:
    memory = server.memory()
    return {
        "requests": requests,
        "anonymous_mb": memory.anonymous / _MB,
        "total_mb": memory.total / _MB,
        "resident_mb": memory.resident / _MB,
    }
