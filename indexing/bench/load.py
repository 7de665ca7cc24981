"""Load on an HTTP server, generated in a process of its own, and told truthfully.

- A closed loop has a number of clients, each of which sends its next request when it has the answer to the last. One
  client measures a server that is alone with its request; many measure its capacity. It can't measure latency under
  load: when the server stalls, so do the clients, and the requests that would have suffered are never sent. A client
  that is told to come back later does; otherwise those who are refused would ask again and again, and be all the load.
- An open loop sends at times that were drawn beforehand (Poisson arrivals), whatever the server does, and counts each
  latency from the moment the request was due. A request that finds all connections busy waits, and that wait counts.

Nothing is dropped: a request that fails, or is not answered in time, is an `Answer` with an error, and takes forever
where percentiles are compared with a limit. The generator says what it costs itself: processor time a request, and how
late it sent what was due while a connection was free.

Connections are raw and kept alive, requests are built beforehand, times are taken where bytes arrive. That costs about
0.1 ms of processor time a request, a tenth of a common HTTP client, which matters where server and load share cores.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import orjson

from engine.errors import Overloaded

CONNECTIONS: Final = 512
"""Most connections of an open loop; what is due while all are busy waits, and its latency grows."""

PATIENCE_S: Final = 10.0
"""Seconds that an answer may take; what is not there by then is an error."""

_CONNECTED: Final = 32
"""Connections that an open loop begins with; the others are made when they are needed."""

_START_S: Final = 30.0
"""Seconds that the generator's process may take to start, on a machine that is busy."""

_IDLE_S: Final = 3.0
"""Seconds after which an idle connection is not used again: servers close them, uvicorn after 5 s."""

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TIMING: Final = re.compile(rb"\r\nserver-timing: *([^\r]*)", re.IGNORECASE)
_DURATION: Final = re.compile(r"([\w-]+);dur=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's end. `timing` is its Server-Timing in ms; `late_ms` is the generator's own delay in sending it."""

    request: int
    latency_ms: float
    late_ms: float
    timing: dict[str, float]
    error: str | None = None
    body: str | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """All answers of one run in the order they came. `generator_ms`: the generator's processor time a request."""

    answers: list[Answer]
    elapsed_s: float
    generator_ms: float

    @property
    def good(self) -> list[Answer]:
        """The answers without an error."""
        return [answer for answer in self.answers if answer.error is None]

    @property
    def accepted(self) -> Load:
        """The same run without the requests that were refused because there were too many."""
        accepted = [answer for answer in self.answers if answer.error != Overloaded.code]
        return replace(self, answers=accepted)

    @property
    def errors(self) -> dict[str, int]:
        """How many requests failed in which way."""
        found: dict[str, int] = {}
        for answer in self.answers:
            if answer.error is not None:
                found[answer.error] = found.get(answer.error, 0) + 1
        return found

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return len(self.good) / self.elapsed_s

    def percentile(self, percent: float) -> float:
        """The latency in ms that so many per cent of all requests stay within; infinite where errors reach into it."""
        times = sorted(math.inf if answer.error else answer.latency_ms for answer in self.answers)
        return times[max(0, math.ceil(len(times) * percent / 100) - 1)]


def pooled(loads: Sequence[Load]) -> Load:
    """Several runs as if they were one: all answers, the time of all."""
    answers = [answer for load in loads for answer in load.answers]
    spent_ms = sum(load.generator_ms * len(load.answers) for load in loads)
    return Load(answers, sum(load.elapsed_s for load in loads), spent_ms / max(len(answers), 1))


@dataclass(frozen=True, slots=True)
class Job:
    """What the generator's process is told: `clients` for a closed loop, or `rate` (1/s) and `seed` for an open one."""

    url: str
    bodies: Sequence[str]
    clients: int = 0
    seconds: float = 3600.0
    rate: float = 0.0
    seed: int = 0
    keep_bodies: bool = False
    patience_s: float = PATIENCE_S


def closed_loop(
    url: str,
    bodies: Sequence[str],
    *,
    clients: int = 1,
    seconds: float = 3600.0,
    keep_bodies: bool = False,
    patience_s: float = PATIENCE_S,
) -> Load:
    """POSTs each of the JSON `bodies` once, by `clients` that wait for their answers; none is begun after `seconds`."""
    job = Job(url, bodies, clients=clients, seconds=seconds, keep_bodies=keep_bodies, patience_s=patience_s)
    return _generate(job, seconds)


def open_loop(url: str, bodies: Sequence[str], rate: float, seed: int = 0, *, patience_s: float = PATIENCE_S) -> Load:
    """POSTs each of the JSON `bodies` once, at Poisson arrivals of `rate` a second."""
    return _generate(Job(url, bodies, rate=rate, seed=seed, patience_s=patience_s), 2 * len(bodies) / rate)


def sustained(
    attempt: Callable[[float], Load], most: float, limit_ms: float = 50.0, steps: int = 6
) -> tuple[float, Load]:
    """The largest rate below `most` (1/s) whose 95th percentile stays under `limit_ms`, and the run that shows it.

    `attempt` runs an open loop at a rate. The range from 0 to `most` is halved `steps` times. If no rate stayed under
    the limit, the rate is 0 and the run is the slowest one.
    """
    low, high = 0.0, most
    shown: Load | None = None
    for _ in range(steps):
        rate = (low + high) / 2
        load = attempt(rate)
        if load.percentile(95) < limit_ms:
            low, shown = rate, load
        else:
            high = rate
            shown = shown if low and shown else load
    if shown is None:
        raise ValueError("Rates can't be compared in no steps.")
    return low, shown


@contextmanager
def idle_server(answer_bytes: int = 5000) -> Iterator[str]:
    """The address of a server that only answers: what the generator and the loopback take by themselves."""
    command = [sys.executable, "-m", __name__, "idle", str(answer_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:  # noqa: S603 - ourselves
        assert server.stdout is not None  # noqa: S101 - it is a pipe
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/"
        finally:
            server.kill()


def _generate(job: Job, seconds: float) -> Load:
    if not job.bodies:
        raise ValueError("There are no requests to send.")
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", __name__, "load"],
        input=orjson.dumps(asdict(job)),
        stdout=subprocess.PIPE,
        check=True,
        timeout=seconds + 2 * job.patience_s + _START_S,
    )
    told = orjson.loads(done.stdout)
    return Load([Answer(**row) for row in told["answers"]], told["elapsed_s"], told["generator_ms"])


# ---------------------------------------------------------------- in the generator's process

_Reply = tuple[float, bytes, bytes]
"""When the last byte of an answer came (perf_counter), its head and its body."""


class _Connection(asyncio.Protocol):
    """A connection that stays open, with one request at a time on it."""

    def __init__(self) -> None:
        self.open = False
        self.used = time.perf_counter()
        self._transport: asyncio.Transport | None = None
        self._reply: asyncio.Future[_Reply] | None = None
        self._received = bytearray()
        self._length = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP
        self._transport, self.open = transport, True

    async def ask(self, request: bytes) -> _Reply:
        """Sends a request and waits for the answer; raises `ConnectionError` when there will be none."""
        if self._transport is None or not self.open:
            raise ConnectionError("it is closed")
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._reply
        finally:
            self._reply, self.used = None, time.perf_counter()

    def data_received(self, data: bytes) -> None:
        """Collects one answer."""
        now = time.perf_counter()
        self._received += data
        if self._length < 0:
            end = self._received.find(_HEAD_END)
            if end < 0:
                return
            length = _LENGTH.search(self._received, 0, end + 2)
            self._length = end + len(_HEAD_END) + (int(length[1]) if length else 0)
        if len(self._received) >= self._length:
            head, _, body = bytes(self._received[: self._length]).partition(_HEAD_END)
            del self._received[: self._length]
            self._length = -1
            if self._reply is not None and not self._reply.done():
                self._reply.set_result((now, head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """What is under way fails."""
        self.open = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(exc or ConnectionResetError("closed by the server"))

    def close(self) -> None:
        """Lets go."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()


class _Generator:
    """Sends a job's requests and keeps their answers."""

    def __init__(self, job: Job) -> None:
        self.answers: list[Answer] = []
        self._job = job
        place, _, path = job.url.removeprefix("http://").partition("/")
        host, _, port = place.partition(":")
        self._address = host, int(port)
        head = (
            f"POST /{path} HTTP/1.1\r\nHost: {place}\r\nAccept: application/json\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._requests = [b"%s%d\r\n\r\n%s" % (head, len(body), body) for body in map(str.encode, job.bodies)]
        self._free: list[_Connection] = []
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._ended = 0.0

    async def run(self) -> dict[str, Any]:
        """All answers, the seconds from the first request to the last answer, and the generator's time a request."""
        connected = await asyncio.gather(
            *(self._connect() for _ in range(self._job.clients or _CONNECTED)), return_exceptions=True
        )
        self._free = [connection for connection in connected if isinstance(connection, _Connection)]
        used, started = time.process_time(), time.perf_counter()
        await (self._closed(started) if self._job.clients else self._open(started))
        elapsed = self._ended - started
        generator_ms = (time.process_time() - used) * 1000 / len(self.answers)
        for connection in self._free:
            connection.close()
        return {"answers": self.answers, "elapsed_s": elapsed, "generator_ms": generator_ms}

    async def _closed(self, started: float) -> None:
        numbers = iter(range(len(self._requests)))

        async def client() -> None:
            for number in numbers:
                now = time.perf_counter()
                if now > started + self._job.seconds:
                    return
                wait_s = await self._send(number, now)
                if self._ended + wait_s > started + self._job.seconds:
                    return
                await asyncio.sleep(wait_s)

        await asyncio.gather(*(client() for _ in range(self._job.clients)))

    async def _open(self, started: float) -> None:
        tasks = []
        for number, due in enumerate(self._arrivals(started)):
            await asyncio.sleep(due - time.perf_counter())
            tasks.append(asyncio.create_task(self._send(number, due)))
        await asyncio.gather(*tasks)

    def _arrivals(self, started: float) -> Iterator[float]:
        rng, due = random.Random(self._job.seed), started
        for _ in self._requests:
            due += rng.expovariate(self._job.rate)
            yield due

    async def _send(self, number: int, due: float) -> float:
        """Sends one request and keeps its answer, or what came instead of it; the seconds that it asks us to wait."""
        late_ms = (time.perf_counter() - due) * 1000
        body, timing, connection, wait_s = "", {}, None, 0.0
        error: str | None
        try:
            async with asyncio.timeout(self._job.patience_s), self._room:
                connection = await self._take()
                now, head, content = await connection.ask(self._requests[number])
            self._free.append(connection)
            timing, (error, wait_s) = _timing(head), _error(head, content)
            body = content.decode() if self._job.keep_bodies else ""
        except TimeoutError:
            now, error = time.perf_counter(), f"not answered in {self._job.patience_s:g} s"
        except OSError as problem:
            now, error = time.perf_counter(), f"connection failed: {problem}"
        if error and connection is not None and connection not in self._free:
            connection.close()
        self.answers.append(Answer(number, (now - due) * 1000, late_ms, timing, error, body or None))
        self._ended = time.perf_counter()
        return wait_s

    async def _take(self) -> _Connection:
        """The connection that was used last, or a new one."""
        while self._free:
            connection = self._free.pop()
            if connection.open and time.perf_counter() - connection.used < _IDLE_S:
                return connection
            connection.close()
        return await self._connect()

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        return connection


def _timing(head: bytes) -> dict[str, float]:
    found = _TIMING.search(head)
    return {name: float(ms) for name, ms in _DURATION.findall(found[1].decode())} if found else {}


def _error(head: bytes, body: bytes) -> tuple[str | None, float]:
    """What is wrong with an answer, its status or the code of the first GraphQL error in it; seconds until a retry."""
    status = head[9:12].decode()
    if b'"errors"' in body[:2000]:
        errors = orjson.loads(body).get("errors")
        if errors:
            extensions = errors[0].get("extensions") or {}
            return str(extensions.get("code") or errors[0]["message"]), extensions.get("retryAfterMs", 0) / 1000
    return None if status == "200" else f"HTTP {status}", 0.0


class _Idle(asyncio.Protocol):
    """A server's end of a connection that answers each request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        """One request: clients here send each in one piece and wait for its answer."""
        assert isinstance(self._transport, asyncio.Transport)  # noqa: S101 - TCP
        self._transport.write(self._answer)


async def _idle(answer_bytes: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (answer_bytes, b" " * answer_bytes)
    server = await asyncio.get_running_loop().create_server(lambda: _Idle(answer), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def _main() -> None:
    """`load`: a job as JSON on standard input, its answers on standard output. `idle N`: a server of N bytes."""
    if sys.argv[1] == "idle":
        asyncio.run(_idle(int(sys.argv[2])))
        return
    job = Job(**orjson.loads(sys.stdin.buffer.read()))
    gc.disable()  # a job is bounded, and a collection would delay what is due
    # select() waits to the microsecond; epoll and uvloop round up to the millisecond, and would send that much late.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        told = runner.run(_Generator(job).run())
    sys.stdout.buffer.write(orjson.dumps(told))


if __name__ == "__main__":
    _main()
