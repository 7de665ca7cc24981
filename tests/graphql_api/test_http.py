from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from prometheus_client import REGISTRY

from engine.caches.choice import Caches
from engine.errors import Overloaded
from engine.ports import Vectors
from graphql_api import http
from tests.graphql_api.live import Api, Serve, eventually
from tests.support.encoders import WordEncoder

GRAPHQL = "application/graphql-response+json"
QUERY = {"query": "{ __typename }"}


class BrokenCache:
    """A cache with a fault that nobody expected."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Fails, with a secret in its message."""
        message = f"secret of {len(keys)}"
        raise ZeroDivisionError(message)

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Does nothing."""

    async def ping(self) -> bool:
        """Does not answer."""
        return False

    async def close(self) -> None:
        """Does nothing."""


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        (GRAPHQL, GRAPHQL),
        ("application/json", "application/json"),
        (f"{GRAPHQL}, application/json", GRAPHQL),
        (f"{GRAPHQL};q=0.5, application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json;q=0, */*", GRAPHQL),
    ],
)
def test_the_client_chooses_the_media_type(api: Api, accept: str, answered: str):
    """The answer has the type that the Accept header prefers, in UTF-8."""
    response = api.client.post("/graphql", json=QUERY, headers={"Accept": accept})
    assert response.headers["content-type"] == f"{answered}; charset=utf-8"
    assert response.json() == {"data": {"__typename": "Query"}}


def test_a_type_that_is_not_offered_is_refused(api: Api):
    """Who accepts only XML gets 406."""
    response = api.client.post("/graphql", json=QUERY, headers={"Accept": "application/xml"})
    assert response.status_code == 406
    assert response.json()["errors"][0]["extensions"]["code"] == "NOT_ACCEPTABLE"


@pytest.mark.parametrize("query", ["{", "{ nothing }", "query Q($n: Int!) { search(first: $n) { cached } }"])
def test_a_query_that_never_ran_is_400_under_the_new_type_only(api: Api, query: str):
    """Syntax, validation and variables: 400 without data for graphql-response+json, 200 for json."""
    modern = api.client.post("/graphql", json={"query": query}, headers={"Accept": GRAPHQL})
    legacy = api.client.post("/graphql", json={"query": query}, headers={"Accept": "application/json"})
    assert (modern.status_code, legacy.status_code) == (400, 200)
    assert modern.json().keys() == {"errors"}


def test_a_query_that_ran_is_200_even_with_errors(api: Api):
    """A field's error stands beside the data."""
    query = {"query": '{ search(query: "") { cached } }'}
    response = api.client.post("/graphql", json=query, headers={"Accept": GRAPHQL})
    assert response.status_code == 200
    assert response.json()["data"] == {"search": None}


def test_queries_may_come_by_get_and_mutations_may_not(api: Api):
    """GET runs a query; a mutation by GET is 405 and says how to send it."""
    assert api.client.get("/graphql", params=QUERY).json() == {"data": {"__typename": "Query"}}
    refused = api.client.get("/graphql", params={"query": "mutation { __typename }"})
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("text/plain", b'{"query": "{ __typename }"}', 415),
        ("application/json; charset=latin-1", b'{"query": "{ __typename }"}', 415),
        ("application/json", b'[{"query": "{ __typename }"}]', 400),
        ("application/json", b"{", 400),
        ("application/json", b'{"query": 1}', 400),
        ("application/json", b'{"query": "{ __typename }", "variables": []}', 400),
        ("application/json", b'{"query": "%s"}' % (b" " * 3000), 413),
    ],
)
def test_requests_that_are_not_graphql_are_refused(serve: Serve, content_type: str, body: bytes, status: int):
    """Each with the status that says what is wrong, and a message."""
    with serve(wait=False, api_max_body_bytes=2048) as api:
        response = api.client.post("/graphql", content=body, headers={"Content-Type": content_type})
    assert response.status_code == status
    assert response.json()["errors"][0]["message"]


def test_the_time_that_an_answer_took_is_in_its_header(api: Api):
    """Server-Timing: the whole, the engine's part of it, and the stages; fewer for what was remembered."""
    found, cached = (_timing(api, '{ search(query: "timed red") { latencyMs } }') for _ in range(2))
    assert list(found) == ["total", "engine", "encode", "search"]
    assert list(cached) == ["total", "engine", "cache"]
    for times in (found, cached):
        assert times["total"] > times["engine"] > sum(list(times.values())[2:]) > 0


def test_searches_of_one_batch_count_as_long_as_the_longest(api: Api):
    """Three searches that run at once do not take three times as long."""
    searches = " ".join(f'a{n}: search(query: "timed {n}") {{ cached }}' for n in range(3))
    times = _timing(api, f"{{ {searches} }}")
    assert times["total"] > times["engine"] >= times["encode"] + times["search"]


@pytest.mark.parametrize("query", ["{", "{ __typename }", '{ search(query: "") { cached } }'])
def test_answers_without_a_search_have_a_total(api: Api, query: str):
    """So has every answer, also one that is an error."""
    assert list(_timing(api, query)) == ["total"]


def _timing(api: Api, query: str) -> dict[str, float]:
    header = api.client.post("/graphql", json={"query": query}).headers["server-timing"]
    return {name: float(ms) for name, ms in re.findall(r"([a-z]+);dur=([0-9.]+)(?:, |$)", header)}


def test_other_methods_are_refused(api: Api):
    """PUT is 405 and names the methods that work."""
    response = api.client.put("/graphql", json=QUERY)
    assert (response.status_code, response.headers["allow"]) == (405, "GET, POST")


def test_a_browser_gets_the_explorer(api: Api):
    """GET with a browser's Accept header is GraphiQL."""
    response = api.client.get("/graphql", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert response.headers["content-type"].startswith("text/html")
    assert "graphiql" in response.text.lower()


def test_internal_faults_are_masked(serve: Serve, capfd: pytest.CaptureFixture[str]):
    """The client gets an id and no detail; the log has the id and the cause."""
    with serve(caches=Caches(BrokenCache(), BrokenCache())) as api:
        error = api.error('{ search(query: "red") { cached } }')
        assert api.data("{ health { status cacheReachable } }")["health"] == {
            "status": "DEGRADED",
            "cacheReachable": False,
        }
    assert error["extensions"]["code"] == "INTERNAL"
    error_id = error["extensions"]["errorId"]
    assert error["message"] == f"Internal error; quote id {error_id} to your operator."
    logged = "".join(capfd.readouterr())
    assert error_id in logged
    assert "ZeroDivisionError" in logged


def test_a_request_never_hangs(serve: Serve):
    """A search that takes longer than the limit ends in an error that says so."""
    encoder = Stuck()
    with serve(encoder=encoder, api_request_timeout_s=0.2) as api:
        response = api.client.post("/graphql", json={"query": '{ search(query: "slow") { cached } }'})
        encoder.release()
    assert response.status_code == 503
    assert response.json()["errors"][0]["extensions"]["code"] == "TIMEOUT"


def test_what_is_too_much_at_once_is_refused_at_once(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    """With two searches under way a third is told when to come back; when they have ended, it is answered.

    Whoever counts refused searches counts it too.
    """
    counted = partial(REGISTRY.get_sample_value, "sightline_search_errors_total", {"code": "OVERLOADED"})
    before = counted() or 0
    monkeypatch.setattr(http, "MAX_RUNNING", 2)
    encoder = Stuck()
    slow = {"query": '{ search(query: "slow") { cached } }'}
    with serve(encoder=encoder) as api, ThreadPoolExecutor(2) as threads:
        running = [threads.submit(api.client.post, "/graphql", json=slow) for _ in range(2)]
        refused = eventually(lambda: _refused(api))
        encoder.release()
        assert [done.result().status_code for done in running] == [200, 200]
        assert api.data("{ __typename }")
    assert refused.headers["retry-after"] == "1"
    (error,) = refused.json()["errors"]
    assert error["message"] == str(Overloaded(1000))  # as a search says it that is refused by itself
    assert error["extensions"] == {"code": "OVERLOADED", "retryAfterMs": 1000}
    assert counted() == before + 1


def _refused(api: Api) -> httpx.Response | None:
    response = api.client.post("/graphql", json=QUERY)
    return response if response.status_code == 503 else None


class Stuck(WordEncoder):
    """Encodes "slow" only when it is released."""

    def __init__(self) -> None:
        super().__init__()
        self._gate = threading.Event()

    def release(self) -> None:
        """Lets everything through."""
        self._gate.set()

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """The vectors, in time or not."""
        if "slow" in texts:
            self._gate.wait(20)
        return super().encode_texts(texts)
