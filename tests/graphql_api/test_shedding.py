"""Floods: who is refused at the door, and who is let in and looked at."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from engine.requests import SearchRequest
from engine.search import Searcher
from graphql_api.limits import Documents
from graphql_api.shedding import FLOOD, Shedder
from tests.graphql_api.live import Api, Serve

SEARCH = "query S($q: String!, $n: Int = 10) { search(query: $q, first: $n) { cached edges { node { fileName } } } }"
TWO = "query S($q: String!) { a: search(query: $q) { cached } b: search(query: $q, first: 3) { cached } }"


@pytest.fixture
def full(serve: Serve) -> Iterator[Api]:
    """A server without room, which knows SEARCH and TWO, and remembers what was found for "red"."""
    with serve(api_request_timeout_s=1.0) as api:
        for query in (SEARCH, TWO):
            api.data(query, q="red")
        admission = api.app.state.services.searcher._admission
        with admission.admitted(admission.limit):
            yield api


@pytest.fixture
def flood(full: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The same, after a hundred refusals in a moment."""
    monkeypatch.setattr(Shedder, "flooded", True)
    return full


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Every text that the engine was asked whether it would refuse it."""
    texts: list[str | None] = []
    refusal = Searcher.refusal

    async def noted(self: Searcher, requests: list[SearchRequest]) -> Any:
        texts.extend(request.query for request in requests)
        return await refusal(self, requests)

    monkeypatch.setattr(Searcher, "refusal", noted)
    return texts


def post(api: Api, query: str, headers: dict[str, str] | None = None, **variables: Any) -> httpx.Response:
    return api.client.post("/graphql", json={"query": query, "variables": variables}, headers=headers)


def told(response: httpx.Response) -> tuple[int, set[str], dict[str, Any]]:
    """All that an answer says, without the times in it."""
    body = response.json()
    for error in body["errors"]:
        assert str(error["extensions"].pop("retryAfterMs")) in error.pop("message")
    return response.status_code, set(response.headers), body


@pytest.mark.parametrize("query", [SEARCH, TWO])
@pytest.mark.parametrize("accept", ["*/*", "application/graphql-response+json, application/json;q=0.9"])
def test_new_words_are_refused_unlooked_at(
    full: Api, looked_at: list[str | None], monkeypatch: pytest.MonkeyPatch, query: str, accept: str
):
    """With the very answer that they would get inside: status, headers, media type and errors."""
    inside = post(full, query, {"Accept": accept}, q="green")
    assert set(looked_at) == {"green"}
    monkeypatch.setattr(Shedder, "flooded", True)
    outside = post(full, query, {"Accept": accept}, q="yellow")
    assert set(looked_at) == {"green"}
    assert told(outside) == told(inside)
    assert outside.headers["content-type"] == inside.headers["content-type"]
    assert {error["extensions"]["code"] for error in outside.json()["errors"]} == {"OVERLOADED"}


def test_who_comes_back_is_looked_at(flood: Api, looked_at: list[str | None]):
    """As he was told to: if his answer is not remembered, he is refused again."""
    for known in ([], ["pink"], ["pink", "pink"]):
        assert "errors" in post(flood, SEARCH, q="pink").json()
        assert looked_at == known


def test_what_was_asked_before_is_answered(flood: Api):
    """From memory, in a flood too."""
    assert post(flood, SEARCH, q="red").json()["data"]["search"]["cached"]


def test_mistakes_are_told_when_they_come_back(flood: Api):
    """The first time, nobody has looked."""
    assert told(post(flood, SEARCH, q=""))[2]["data"] == {"search": None}
    (error,) = post(flood, SEARCH, q="").json()["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"query": "{ health { status } }"}, {}),
        ({"query": "{ unknown }"}, {}),
        ({"query": 5}, {}),
        ({"query": SEARCH, "operationName": {"not": "a name"}}, {}),
        ([], {}),
        ("no JSON", {}),
        ({"query": SEARCH, "variables": {"q": "x" * 20_000}}, {}),
        ({"query": SEARCH, "variables": {"q": "olive"}}, {"Content-Type": "text/plain"}),
        ({"query": SEARCH, "variables": {"q": "olive"}}, {"Accept": "text/html"}),
        ({"query": SEARCH, "variables": {"q": "olive"}}, {"Content-Encoding": "gzip"}),
    ],
    ids=str,
)
def test_all_else_is_let_in(full: Api, monkeypatch: pytest.MonkeyPatch, body: Any, headers: dict[str, str]):
    """And answered as ever, with what is wrong with it or with what it asks for."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    if "Content-Encoding" in headers:
        content = gzip.compress(content)

    def ask() -> tuple[int, Any]:
        response = full.client.post("/graphql", content=content, headers={"Content-Type": "application/json"} | headers)
        answer = response.json()
        if "retryAfterMs" in response.text:
            answer = "refused"
        return response.status_code, answer

    monkeypatch.setattr(Shedder, "saw", lambda _self, _body: None)  # so that it is as new the second time
    as_ever = ask()
    monkeypatch.setattr(Shedder, "flooded", True)
    monkeypatch.setattr(Searcher, "refuse", None)  # what is refused at the door asks for it
    assert ask() == as_ever


def test_bodies_in_pieces_are_let_in(flood: Api, looked_at: list[str | None]):
    """They are put together inside."""
    text = json.dumps({"query": SEARCH, "variables": {"q": "violet"}}).encode()

    def pieces() -> Iterator[bytes]:
        yield text[:9]
        yield text[9:]

    for _ in range(2):
        flood.client.post("/graphql", content=pieces(), headers={"Content-Type": "application/json"})
    assert "violet" in looked_at


def test_a_body_that_does_not_come_is_given_up(flood: Api):
    """After the time that every request has, and not twice that."""
    host, port = flood.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /graphql HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"TIMEOUT" in answer


def test_a_hundred_refusals_in_a_second_are_a_flood():
    """It is over a second after the last one at most, however many there were; fewer are none, however long."""
    now = 0.0
    shedder = Shedder(Documents.__new__(Documents), lambda: now)
    for _ in range(1000):
        now += 1 / FLOOD
        shedder.refused()
        assert not shedder.flooded
    for _ in range(1000):
        shedder.refused()
    assert shedder.flooded
    now += 0.9
    assert shedder.flooded
    now += 0.2
    assert not shedder.flooded


def test_words_are_forgotten_the_oldest_first(monkeypatch: pytest.MonkeyPatch):
    """So that memory stays bounded."""
    monkeypatch.setattr("graphql_api.shedding._SEEN", 2)
    shedder = Shedder(Documents.__new__(Documents))
    for word in (b"a", b"b", b"c"):
        shedder.saw(word)
    assert list(shedder._seen) == [hash(b"b"), hash(b"c")]
