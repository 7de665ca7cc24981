from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from indexing.bench.load import Answer, Job, Load, _Generator, closed_loop, idle_server, open_loop, pooled, sustained

STALL_S = 0.5
RETRY_AFTER_MS = 200


class Handler(BaseHTTPRequestHandler):
    """Does what the body asks for: answer, stall the whole server, fail in some way, or never answer."""

    protocol_version = "HTTP/1.1"
    received: ClassVar[Counter[str]] = Counter()
    one_at_a_time = threading.Lock()
    ended = threading.Event()

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["do"]
        with self.one_at_a_time:
            self.received[order] += 1
            if order == "stall":
                time.sleep(STALL_S)
        if order == "close":
            self.close_connection = True
            return
        if order == "never":
            self.close_connection = True
            self.ended.wait(20)
            return
        told = {"code": "OVERLOADED", "retryAfterMs": RETRY_AFTER_MS}
        errors = {"overloaded": [{"message": "Busy.", "extensions": told}]}
        body = json.dumps({"errors": errors[order]} if order in errors else {"data": {"echo": order}}).encode()
        self.send_response(503 if order == "unavailable" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Server-Timing", "total;dur=1.5, encode;dur=0.25")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Is silent."""


@pytest.fixture
def url() -> Iterator[str]:
    """A server on a free port."""
    Handler.received.clear()
    Handler.ended.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/graphql"
        Handler.ended.set()
        server.shutdown()
        thread.join()


def _orders(*orders: str) -> list[str]:
    return [json.dumps({"do": order}) for order in orders]


@pytest.mark.parametrize("clients", [1, 4])
def test_a_closed_loop_sends_every_request_once(url: str, clients: int):
    """Each has one answer, with what the server said of its time, and its body if that is wanted."""
    names = [f"number {at}" for at in range(20)]
    load = closed_loop(url, _orders(*names), clients=clients, keep_bodies=True)
    assert Handler.received == Counter(names)
    assert sorted(answer.request for answer in load.answers) == list(range(20))
    assert all(json.loads(a.body or "") == {"data": {"echo": names[a.request]}} for a in load.answers)
    assert all(answer.timing == {"total": 1.5, "encode": 0.25} for answer in load.answers)
    assert load.errors == {}
    assert load.generator_ms > 0


def test_a_closed_loop_ends_in_time(url: str):
    """After its seconds no request is begun."""
    load = closed_loop(url, _orders(*["stall"] * 20), seconds=STALL_S / 2)
    assert len(load.answers) == 1


def test_clients_come_back_when_they_are_told_to(url: str):
    """Between a refusal and the next request of that client lies what it was told."""
    load = closed_loop(url, _orders("overloaded", "overloaded", "ok", "overloaded"))
    assert load.errors == {"OVERLOADED": 3}
    assert load.elapsed_s * 1000 >= 2 * RETRY_AFTER_MS
    short = closed_loop(url, _orders(*["overloaded"] * 20), seconds=RETRY_AFTER_MS / 2000)
    assert len(short.answers) == 1


def test_a_stall_is_felt_by_all_that_were_due_meanwhile(url: str):
    """Requests due during the stall were late by what was left of it, though the server answered each at once."""
    load = open_loop(url, _orders("stall", *["ok"] * 80), rate=200, seed=3)
    assert len(load.answers) == 81
    assert load.errors == {}
    suffered = [answer for answer in load.answers if answer.latency_ms > STALL_S * 1000 / 4]
    assert len(suffered) > 40
    assert load.percentile(50) > STALL_S * 1000 / 4


def test_errors_are_kept_and_counted(url: str):
    """A status, a GraphQL error, a closed connection and silence are answers with an error each."""
    orders = ["ok", "unavailable", "overloaded", "ok", "close", "never", "ok"]
    load = open_loop(url, _orders(*orders), rate=1000, patience_s=1)
    errors = {orders[answer.request]: answer.error for answer in load.answers}
    assert errors == {
        "ok": None,
        "unavailable": "HTTP 503",
        "overloaded": "OVERLOADED",
        "close": "connection failed: closed by the server",
        "never": "not answered in 1 s",
    }
    assert (len(load.answers), len(load.good)) == (7, 3)
    assert load.per_second == 3 / load.elapsed_s


def test_a_server_that_is_not_there_fails_every_request():
    """Nobody listens: each is an answer with that error."""
    load = open_loop("http://127.0.0.1:9/graphql", _orders("ok", "ok"), rate=100)
    assert [(answer.error or "")[:18] for answer in load.answers] == ["connection failed:"] * 2


def test_failed_requests_take_forever():
    """Percentiles are over all requests; errors are slower than everything."""
    load = _load([10.0] * 90, errors=10)
    assert load.percentile(50) == load.percentile(90) == 10
    assert load.percentile(91) == load.percentile(99) == math.inf
    assert load.errors == {"OVERLOADED": 10}


def test_pooled_runs_count_by_their_answers_and_their_time():
    """A rate is that of both together, and a percentile that of all answers."""
    slow, quick = Load(_load([30.0] * 10).answers, 10.0, 0.4), Load(_load([10.0] * 30).answers, 2.0, 0.2)
    both = pooled([slow, quick])
    assert both.per_second == pytest.approx(40 / 12)
    assert (both.percentile(75), both.percentile(76)) == (10, 30)
    assert both.generator_ms == pytest.approx(0.25)


def test_arrivals_are_poisson_and_repeatable():
    """The gaps between them have the mean and the standard deviation of an exponential distribution."""

    def gaps(seed: int) -> list[float]:
        due = list(_Generator(Job("http://127.0.0.1:1/", ["{}"] * 20_000, rate=50, seed=seed))._arrivals(0.0))
        return [after - before for before, after in zip([0.0, *due], due, strict=False)]

    some = gaps(1)
    mean = sum(some) / len(some)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in some) / len(some))
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert deviation == pytest.approx(1 / 50, rel=0.03)
    assert some == gaps(1) != gaps(2)


@pytest.mark.parametrize("limit", [7.0, 37.0, 99.0])
def test_the_sustained_rate_is_found_by_bisection(limit: float):
    """The largest rate that stays under the limit, to a sixty-fourth of the range."""
    rate, shown = sustained(_attempts(lambda rate: rate <= limit), most=100)
    assert limit - 100 / 64 <= rate <= limit
    assert shown.percentile(95) < 50


def test_a_server_that_sustains_nothing_says_so():
    """The rate is 0, and the run at the least rate shows why."""
    rate, shown = sustained(_attempts(lambda _rate: False), most=100)
    assert rate == 0
    assert shown.per_second == pytest.approx(100 / 64)


def test_the_floor_is_a_whole_load():
    """The generator measures itself against a server that does nothing."""
    with idle_server(answer_bytes=100) as url:
        load = closed_loop(url, ["{}"] * 50, keep_bodies=True)
    assert {len(answer.body or "") for answer in load.good} == {100}
    assert len(load.good) == 50
    assert load.generator_ms > 0


def _attempts(good: Callable[[float], bool]) -> Callable[[float], Load]:
    def attempt(rate: float) -> Load:
        load = _load([10.0 if good(rate) else 100.0] * 20)
        return Load(load.answers, elapsed_s=20 / rate, generator_ms=0.1)

    return attempt


def _load(latencies: list[float], errors: int = 0) -> Load:
    answers = [Answer(at, ms, 0.0, {}) for at, ms in enumerate(latencies)]
    failed = [Answer(len(answers) + at, 1.0, 0.0, {}, "OVERLOADED") for at in range(errors)]
    return Load(answers + failed, elapsed_s=1.0, generator_ms=0.1)
