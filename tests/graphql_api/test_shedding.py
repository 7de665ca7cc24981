"""Floods: who is refused at the door, and who is let in and looked at."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from engine.requests import SearchRequest
from engine.search import Searcher
from graphql_api.limits import Documents
from graphql_api.protocol import SheddingProtocol
from graphql_api.services import Services
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


def request(text: str, version: str = "1.1", header: str = "Accept: */*") -> bytes:
    """A search as it is sent, its body at the end."""
    body = json.dumps({"query": SEARCH, "variables": {"q": text}}, separators=(",", ":"))
    lines = (
        f"POST /graphql HTTP/{version}",
        "Host: here",
        header,
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*lines, "", body]).encode()


def connected(api: Api) -> socket.socket:
    host, port = api.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def send(connection: socket.socket, *pieces: bytes) -> None:
    """Sends them one after the other, so that each is read before the next one comes."""
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(0.1)


def answer(connection: socket.socket) -> dict[str, Any]:
    """The body of the next answer, and not a byte of what follows it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1) or pytest.fail("the connection was closed")
    (length,) = re.findall(rb"content-length: (\d+)", head)
    body: dict[str, Any] = json.loads(connection.recv(int(length), socket.MSG_WAITALL))
    return body


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


def test_bodies_in_pieces_are_put_together(flood: Api, looked_at: list[str | None]):
    """New words are refused at the door, and known when they come back."""
    text = json.dumps({"query": SEARCH, "variables": {"q": "violet"}}).encode()

    def pieces() -> Iterator[bytes]:
        yield text[:9]
        yield text[9:]

    for known in ([], ["violet"]):
        flood.client.post("/graphql", content=pieces(), headers={"Content-Type": "application/json"})
        assert looked_at == known


def test_a_body_that_comes_after_its_headers_is_soon_enough(flood: Api, looked_at: list[str | None]):
    """Many clients send them one after the other."""
    text = request("mauve")
    with connected(flood) as connection:
        for part in (text[:-20], text[-20:]):
            time.sleep(0.1)
            connection.sendall(part)
        assert "errors" in answer(connection)
    assert looked_at == []


def test_a_long_body_is_let_in_before_all_of_it_is_there(flood: Api, monkeypatch: pytest.MonkeyPatch):
    """So that what is held stays small."""
    monkeypatch.setattr("graphql_api.protocol._SOON_S", 60.0)
    with connected(flood) as connection:
        connection.sendall(request("x" * 20_000)[:-9])
        assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_a_wrong_method_is_told_in_a_flood_too(flood: Api):
    """It will be wrong later as well."""
    assert flood.client.put("/graphql", json={"query": SEARCH, "variables": {"q": "coral"}}).status_code == 405


def test_a_body_that_does_not_come_is_given_up(flood: Api):
    """Let in after a second, and told there after the time that every request has."""
    with connected(flood) as connection:
        connection.sendall(request("mauve")[:-9])
        received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 503 ")
    assert b"TIMEOUT" in received


@pytest.mark.parametrize(("version", "header"), [("1.0", "Accept: */*"), ("1.1", "Connection: close")])
def test_who_wants_the_connection_closed_is_let_in(flood: Api, looked_at: list[str | None], version: str, header: str):
    """And told that it is, and then it is."""
    with connected(flood) as connection:
        connection.sendall(request("plum", version, header))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert looked_at == ["plum"]
    assert b"connection: close" in received
    assert received.endswith(b'{"search":null}}')


def test_a_connection_goes_on_after_a_refusal(flood: Api, looked_at: list[str | None]):
    """Requests sent without waiting are answered in their order, the refused and the others."""
    texts = ["rose", "red", "lilac", "rose"]
    with connected(flood) as connection:
        connection.sendall(b"".join(request(text) for text in texts))
        answers = [answer(connection) for _ in texts]
    assert ["OVERLOADED" if "errors" in body else body["data"]["search"]["cached"] for body in answers] == [
        "OVERLOADED",
        True,
        "OVERLOADED",
        "OVERLOADED",
    ]
    assert looked_at == ["red", "lilac", "rose"]  # who comes behind one that is worked on waits, and is looked at


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[SheddingProtocol]:
    """The connection of every request that the parser was given."""
    connections: list[SheddingProtocol] = []
    begin = SheddingProtocol.on_message_begin

    def noted(self: SheddingProtocol) -> None:
        connections.append(self)
        begin(self)

    monkeypatch.setattr(SheddingProtocol, "on_message_begin", noted)
    return connections


def test_a_head_that_was_read_is_not_parsed_again(flood: Api, parsed: list[SheddingProtocol]):
    """On no connection, and its requests are told the same; those of another length, or let in, are parsed."""
    heads, codes = [], []
    for text, parsings in (("tan", 1), ("sky", 1), ("sea", 1), ("teal", 2), ("red", 3), ("jet", 3)):
        with connected(flood) as connection:
            connection.sendall(request(text))
            heads.append(connection.recv(200).split(b"server-timing")[0])
            codes.append(b"OVERLOADED" in connection.recv(65536))
        assert len(parsed) == parsings
    assert codes == [True, True, True, True, False, True]
    assert (
        len({re.sub(rb"date: [^\r]+", b"", head) for head, refused in zip(heads, codes, strict=True) if refused}) == 1
    )


def test_a_connection_goes_on_after_a_head_that_was_known(flood: Api, looked_at: list[str | None]):
    """Whatever comes next, known or new, in one piece or in several."""
    pieces = [request("tan"), request("sky"), request("red"), request("sea")[:99], request("sea")[99:], request("jet")]
    with connected(flood) as connection:
        send(connection, *pieces)
        refused = ["errors" in answer(connection) for _ in range(5)]
    assert refused == [True, True, False, True, True]
    assert looked_at == ["red"]


def test_a_body_that_looks_like_a_request_is_a_body(flood: Api):
    """Even like one whose head is known: what a request's own head says decides where it ends."""
    with connected(flood) as connection:
        connection.sendall(request("tan"))
        assert "errors" in answer(connection)
        inner = request("sky")
        head = (
            f"POST /graphql HTTP/1.1\r\nHost: here\r\nContent-Type: text/plain\r\nContent-Length: {len(inner)}\r\n\r\n"
        )
        send(connection, head.encode(), inner, request("red"))
        received = connection.recv(65536)
    assert received.count(b"HTTP/1.1 ") == 2
    assert received.startswith(b"HTTP/1.1 415 ")
    assert b"OVERLOADED" not in received


def test_a_head_in_pieces_is_not_known(flood: Api):
    """What is no request alone is none because it once was the end of one."""
    start, end = request("tan")[:40], request("tan")[40:]
    with connected(flood) as connection:
        send(connection, start, end)
        assert "errors" in answer(connection)
    with connected(flood) as connection:
        connection.sendall(end.replace(b"tan", b"sky"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_a_known_head_waits_for_the_answer_before(flood: Api, monkeypatch: pytest.MonkeyPatch):
    """Requests of one connection are answered in their order."""
    refusal = Searcher.refusal

    async def slow(self: Searcher, requests: list[SearchRequest]) -> Any:
        await asyncio.sleep(0.3)
        return await refusal(self, requests)

    monkeypatch.setattr(Searcher, "refusal", slow)
    with connected(flood) as connection:
        connection.sendall(request("tan"))
        answer(connection)
        send(connection, request("red"), request("sky"))
        assert answer(connection)["data"]["search"]["cached"]
        assert "errors" in answer(connection)


def test_who_is_held_while_the_server_stops_is_answered(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    """Whoever has been heard is not sent away."""
    text = request("navy")
    with serve() as api:
        api.data(SEARCH, q="red")
        admission = api.app.state.services.searcher._admission
        connection = connected(api)
        with admission.admitted(admission.limit):
            monkeypatch.setattr(Shedder, "flooded", True)
            connection.sendall(text[:-9])
            time.sleep(0.2)
        stopping = threading.Timer(0.5, connection.sendall, [text[-9:]])
        stopping.start()
    stopping.join()
    with connection:
        assert answer(connection)["data"]["search"]["edges"]


def test_who_leaves_while_held_is_forgotten(flood: Api, caplog: pytest.LogCaptureFixture):
    """Nothing is let in later in his name, and nothing goes wrong then."""
    with connected(flood) as connection:
        connection.sendall(request("ivory")[:-9])
    time.sleep(1.2)
    assert "errors" in post(flood, SEARCH, q="pearl").json()
    assert not caplog.records


def test_nobody_is_refused_at_the_door_in_a_drain(flood: Api, looked_at: list[str | None]):
    """Answers then say that the connection closes, which only the application does."""
    flood.app.state.services.draining = True
    assert "errors" in post(flood, SEARCH, q="cream").json()
    assert looked_at == ["cream"]


@pytest.fixture
def services() -> Services:
    """What no test of the shedder alone asks for anything."""
    return Services.__new__(Services)


def test_a_hundred_refusals_in_a_second_are_a_flood(services: Services):
    """It is over a second after the last one at most, however many there were; fewer are none, however long."""
    now = 0.0
    shedder = Shedder(services, Documents.__new__(Documents), lambda: now)
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


def test_words_are_forgotten_those_unused_for_longest_first(services: Services, monkeypatch: pytest.MonkeyPatch):
    """So that memory stays bounded, and what is popular is known however many new words come."""
    monkeypatch.setattr("graphql_api.shedding._SEEN", 2)
    shedder = Shedder(services, Documents.__new__(Documents))
    for word in (b"a", b"b", b"a", b"c"):
        shedder.saw(word)
    assert list(shedder._seen) == [hash(b"a"), hash(b"c")]


def test_heads_are_forgotten_those_parsed_first(services: Services, monkeypatch: pytest.MonkeyPatch):
    """So that memory stays bounded, whatever headers clients think of; who comes again is parsed again."""
    monkeypatch.setattr("graphql_api.shedding._HEADS", 2)
    shedder = Shedder(services, Documents.__new__(Documents))
    for head in (b"a", b"b", b"a", b"c"):
        shedder.learn(head, 7, "application/json")
    assert [shedder.known(head, 7) for head in (b"a", b"b", b"c")] == ["application/json", None, "application/json"]
    assert shedder.known(b"a", 8) is None
