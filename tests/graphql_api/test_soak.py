from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from itertools import islice

import pytest

from engine.search import _COUNTS_KEPT, Searcher
from graphql_api.services import Services
from indexing.bench.load import closed_loop
from indexing.bench.soak import Mixed, mixed, unexpected
from tests.graphql_api.live import Api, Serve, eventually

pytestmark = pytest.mark.bench

LISTS, EMBEDDINGS = 100_000, 20_000


def _tasks() -> int:
    """Tasks of all event loops in this process that are not done."""
    # By their types: asking every object for its class would wake proxies of other libraries, PyTorch's among them.
    return sum(issubclass(type(it), asyncio.Task) and not it.done() for it in gc.get_objects())


def _left(services: Services) -> dict[str, int]:
    """What requests hold while they run."""
    searcher = services.searcher
    encoders = [place.encoder for place in services.encoders._places.values()]
    slots = services.registry._slots.values()
    return {
        "flights": len(searcher._flights),
        "searches": len(searcher._running),
        "places": searcher._admission.running,
        "openings": len(services.registry._opening),
        "texts": sum(len(encoder._in_flight) for encoder in encoders if encoder is not None),
        "users": sum(slot.users for slot in slots),
        "asked of the index": sum(len(slot.serving.index._child._pending) for slot in slots),
    }


def test_what_is_bounded_stays_bounded_and_what_ends_leaves_nothing(serve: Serve):
    """After 3,000 mixed requests the caches are full and no fuller; no task, place or flight is left of any."""
    with serve(cache_max_bytes=LISTS, cache_embedding_bytes=EMBEDDINGS) as api:
        services: Services = api.app.state.services
        searcher = services.searcher
        generation = services.registry._slots["colours"].serving.generation
        requests = mixed(generation)
        _send(api, requests, 300)
        eventually(lambda: not any(_left(services).values()))
        tasks = _tasks()
        _send(api, requests, 2700)
        eventually(lambda: not any(_left(services).values()))
        eventually(lambda: _tasks() <= tasks)
        _check_caches(services, searcher)


def _send(api: Api, requests: Iterator[Mixed], count: int) -> None:
    part = list(islice(requests, count))
    load = closed_loop(f"{api.url}/graphql", [request.body for request in part], clients=8)
    assert unexpected(part, load) == {}


def _check_caches(services: Services, searcher: Searcher) -> None:
    assert 0.5 * LISTS < services.caches.lists.used_bytes <= LISTS
    assert 0.5 * EMBEDDINGS < services.caches.embeddings.used_bytes <= EMBEDDINGS
    assert len(searcher._counts) <= _COUNTS_KEPT
    assert len(searcher._admission._alone_s) <= 12  # four depths by three strategies
