"""The process that serves: one uvicorn worker that starts with clear words and stops without dropping anyone.

After SIGTERM `/readyz` answers 503 at once, and every answer closes its connection, so that load balancers and clients
look elsewhere; until they have, for `API_DRAIN_S`, requests are answered as ever. Those still running then get
`API_SHUTDOWN_GRACE_S` to finish, and the process ends. Ctrl-C skips the first part, and a second signal ends it now.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
import time
from collections.abc import Coroutine, MutableMapping
from contextlib import suppress
from types import FrameType
from typing import Any, Final, TextIO

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.ports import Encoder
from engine.settings import Settings
from graphql_api.app import create_app
from graphql_api.protocol import SheddingProtocol
from graphql_api.services import Services
from observability import logs

_PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})


def run(settings: Settings, encoder: Encoder | None = None) -> None:
    """Serves until a signal ends it, with `encoder` instead of the settings' model if one is given.

    Raises `SystemExit` with status 1 when the port is taken or the model can't be loaded.
    """
    logs.configure(settings.log_level)
    listener = _listen(settings)
    app = create_app(settings, encoder)
    services: Services = app.state.services
    running = Running(app, services)
    server = Server(running, services, listener)
    with listener:
        server.run(sockets=[listener])
    if server.failure:
        sys.exit(1)


class Running:
    """Passes requests to the application and knows which of them, probes left out, are not answered yet."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._requests: dict[int, asyncio.Event] = {}

    async def answered(self) -> None:
        """Waits until the requests that run now are answered; those that come later do not count."""
        for done in list(self._requests.values()):
            await done.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Knows the request while the application answers."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return

        async def send_and_part(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and self._services.draining:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        done = self._requests[id(scope)] = asyncio.Event()
        try:
            await self._app(scope, receive, send_and_part)
        finally:
            del self._requests[id(scope)]
            done.set()


class Server(uvicorn.Server):
    """uvicorn, with a drain between the signal and the end, and words for the person who started it."""

    def __init__(self, running: Running, services: Services, listener: socket.socket) -> None:
        settings = services.settings
        super().__init__(
            uvicorn.Config(
                running,
                loop="uvloop" if sys.platform != "win32" else "asyncio",
                http=SheddingProtocol,
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=True,
            )
        )
        self._running = running
        self._services = services
        self._drain_s = settings.api_drain_s
        self._grace_s = settings.api_shutdown_grace_s
        host, port = listener.getsockname()[:2]
        self._address = f"http://{_host(host)}:{port}"
        self._background: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failure: str | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then says so when a first query has run."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._spawn(self._announce())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal begins the drain, the second ends the process at once."""
        if self._services.draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._services.draining = True
        linger_s = self._drain_s if sig == signal.SIGTERM else 0.0
        self._loop.call_soon_threadsafe(lambda: self._spawn(self._drain(linger_s)))

    async def _announce(self) -> None:
        reason = await self._services.started()
        if self._services.failure is not None:
            self.failure = str(self._services.failure)
            _say(f"Can't serve: {self.failure}", sys.stderr)
            self.should_exit = True
            return
        if self._services.draining:
            return
        _settle_memory()
        state = "Ready" if reason is None else f"Listening, but not ready yet: {reason}"
        _say(f"{state}\n  search   {self._address}/\n  GraphQL  {self._address}/graphql", sys.stdout)

    async def _drain(self, linger_s: float) -> None:
        """Answers everybody for so long, then whom it owes an answer, and lets uvicorn close within what is left."""
        await asyncio.sleep(linger_s)
        end = time.monotonic() + self._grace_s
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                await self._running.answered()
        self.config.timeout_graceful_shutdown = max(1, round(end - time.monotonic()))
        self.should_exit = True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _settle_memory() -> None:
    """Takes what was loaded out of the garbage collector's sight: schema and modules stay until the end.

    Otherwise each full collection walks through all of it, hundreds of thousands of objects, while requests wait. A
    model that is let go later is freed all the same: nothing in it refers back to it. And what a request made is gone
    with it, without the collector: looking after every 700 objects finds those of requests that still run, and took the
    event loop 3 % of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _listen(settings: Settings) -> socket.socket:
    """A socket on the address of the settings."""
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.api_host, settings.api_port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        where = f"{settings.api_host}:{settings.api_port}"
        if error.errno == errno.EADDRINUSE:
            message = f"Port {settings.api_port} is in use. Stop what uses it, or choose another: API_PORT=0 takes any."
        else:
            message = f"Can't listen on {where}: {error.strerror}. Check API_HOST and API_PORT."
        _say(message, sys.stderr)
        raise SystemExit(1) from error
    return listener


def _host(address: str) -> str:
    """What to write in a link for an address to listen on."""
    if address in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not listened on
        return "127.0.0.1"
    return f"[{address}]" if ":" in address else address


def _say(text: str, stream: TextIO) -> None:
    stream.write(text + "\n")
    stream.flush()
