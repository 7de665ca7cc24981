"""What clients and probes see when the index is away, and when there is more to do than the machine can bear."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.admission import Admission
from engine.indexes.process import ProcessIndex
from engine.ports import Vectors
from graphql_api import services
from indexing.bench.load import closed_loop
from tests.graphql_api.live import Api, Serve, eventually
from tests.support.encoders import WordEncoder

SEARCH = "query($q: String!) { search(query: $q, first: 1) { cached totalCount { value } } }"
HEALTH = "{ health { status indexReachable encoderLoaded cacheReachable } }"
WELL = {"status": "HEALTHY", "indexReachable": True, "encoderLoaded": True, "cacheReachable": True}
AWAY = WELL | {"status": "DEGRADED", "indexReachable": False}
CROWD = 150


@pytest.fixture
def impatient(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server that waits a second for its index, and a tenth where health is asked."""
    monkeypatch.setattr(services, "PROBE_TIMEOUT_S", 0.1)
    with serve(search_timeout_s=1.0) as api:
        eventually(lambda: _health(api) == WELL)
        yield api


def _index(api: Api) -> ProcessIndex:
    index: ProcessIndex = api.app.state.services.registry._slots["colours"].serving.index
    return index


def _health(api: Api) -> dict[str, Any]:
    health: dict[str, Any] = api.data(HEALTH)["health"]
    return health


def _works(api: Api) -> bool:
    return "errors" not in api.ask(SEARCH, q=f"number {time.monotonic()}")


# ---------------------------------------------------------------- the index is away


def test_an_index_that_hangs_is_told_and_comes_back_by_itself(impatient: Api):
    """Health names it, new searches have its code, remembered ones are answered, and the server stays ready."""
    api = impatient
    api.data(SEARCH, q="red")
    before = _index(api).process_id
    os.kill(before, signal.SIGSTOP)
    assert _health(api) == AWAY
    (status,) = api.data("{ indexes { ready reason } }")["indexes"]
    assert not status["ready"]
    assert "did not answer" in status["reason"]
    assert api.data("{ stats { collections { ready } } }") == {"stats": {"collections": [{"ready": False}]}}
    assert api.data(SEARCH, q="red")["search"]["cached"]
    assert api.client.get("/readyz").status_code == 200
    assert api.error(SEARCH, q="something new")["extensions"] == {"code": "INDEX_UNAVAILABLE"}
    eventually(lambda: _works(api))
    assert _health(api) == WELL
    assert _index(api).process_id != before


def test_an_index_that_can_not_start_does_not_take_the_server_with_it(impatient: Api, tmp_path: Path):
    """While its files are away every start fails; the server stays ready for what it remembers, and heals by itself."""
    api = impatient
    api.data(SEARCH, q="red")
    shard = api.app.state.services.registry._slots["colours"].serving.generation.shard
    shard.rename(tmp_path / "away")
    os.kill(_index(api).process_id, signal.SIGKILL)
    eventually(lambda: _health(api) == AWAY)
    eventually(lambda: api.error(SEARCH, q="something new")["extensions"] == {"code": "INDEX_CORRUPT"})
    assert api.data(SEARCH, q="red")["search"]["cached"]
    assert api.client.get("/readyz").json() == {"status": "ready"}
    assert api.client.get("/livez").status_code == 200
    (tmp_path / "away").rename(shard)
    eventually(lambda: _works(api))
    eventually(lambda: _health(api) == WELL)


# ---------------------------------------------------------------- too much at once


class Slow(WordEncoder):
    """Encodes "slow …" when the gate is open, and every text in two milliseconds, however many come at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        if any(text.startswith("slow") for text in texts):
            self.gate.wait(60)
        time.sleep(0.002 * len(texts))
        return super().encode_texts(texts)


def _admission(api: Api) -> Admission:
    admission: Admission = api.app.state.services.searcher._admission
    return admission


def _is_refusal(answer: dict[str, Any]) -> bool:
    """Whether it says OVERLOADED, in the one form that clients know; any other error fails the test."""
    if "errors" not in answer:
        return False
    (error,) = answer["errors"]
    assert error["extensions"].keys() == {"code", "retryAfterMs"}
    assert error["extensions"]["code"] == "OVERLOADED"
    assert error["extensions"]["retryAfterMs"] > 0
    assert answer["data"] == {"search": None}
    return True


async def _ask(client: httpx.AsyncClient, query: str) -> dict[str, Any]:
    response = await client.post("/graphql", json={"query": SEARCH, "variables": {"q": query}})
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


def _client(api: Api) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=api.url, timeout=60, limits=httpx.Limits(max_connections=None))


def test_what_the_machine_can_not_bear_is_refused_at_once_and_the_rest_answered(serve: Serve):
    """All that is over the limit is told while those within it still wait; remembered answers take no place."""
    encoder = Slow()
    with serve(encoder=encoder, api_request_timeout_s=60.0) as api:
        api.data(SEARCH, q="red")
        limit = _admission(api).limit
        assert limit < CROWD

        async def flood() -> list[dict[str, Any]]:
            async with _client(api) as client:
                crowd = [asyncio.create_task(_ask(client, f"slow {n}")) for n in range(CROWD)]
                try:
                    for answer in islice(asyncio.as_completed(crowd), CROWD - limit):
                        assert _is_refusal(await answer)
                    assert _admission(api).running == limit
                    assert (await _ask(client, "red"))["data"]["search"]["cached"]
                    assert _is_refusal(await _ask(client, "blue"))
                finally:
                    encoder.gate.set()
                return await asyncio.gather(*crowd)

        answers = Counter(_is_refusal(answer) for answer in asyncio.run(flood()))
        assert answers == {True: CROWD - limit, False: limit}
        assert _admission(api).running == 0
        assert _works(api)


def test_the_limit_is_learnt_under_a_flood_and_all_is_normal_afterwards(serve: Serve):
    """Every request of many clients that keep on asking is answered or refused; then nobody is refused."""
    encoder = Slow()
    with serve(encoder=encoder) as api:
        for number in range(20):
            api.data(SEARCH, q=f"alone {number}")
        first = _admission(api).limit

        bodies = [json.dumps({"query": SEARCH, "variables": {"q": f"number {n}"}}) for n in range(10 * CROWD)]
        load = closed_loop(f"{api.url}/graphql", bodies, clients=CROWD, keep_bodies=True)
        answers = Counter(_is_refusal(json.loads(answer.body or "")) for answer in load.answers)
        assert answers.total() == len(bodies)
        assert answers[False] > 0
        assert answers[True] > 0
        assert _admission(api).limit < first
        for number in range(20):
            api.data(SEARCH, q=f"alone again {number}")
        assert _admission(api).running == 0
