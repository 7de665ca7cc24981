"""A Kubernetes API server that has bad days: a proxy before a real one that refuses, fails, loses answers and watches.

    with FaultyApi(cluster.kubeconfig, tmp_path, seed=19) as api:
        start_something(KUBECONFIG=api.kubeconfig)   # speaks plain HTTP to the proxy, which speaks for it
        ...
        api.befell["lost"]                           # how often an answer was lost after the work was done
        api.created                                  # paths of what was created through it, in order

Faults are drawn from a seed, request by request; a watch ends after a few seconds, one way or another. Requests reach
the server whole or not at all. It runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import ssl
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, Self

import aiohttp
import yaml
from aiohttp import web

Fault = Literal["busy", "unavailable", "broken", "refused", "lost", "slow"]
Ending = Literal["cut", "gone", "ended", "failed"]

FAULTS: Final[dict[Fault, float]] = {
    "busy": 0.05,  # 429 with Retry-After; nothing is done
    "unavailable": 0.05,  # 503; nothing is done
    "broken": 0.03,  # 500; nothing is done
    "refused": 0.03,  # the connection is cut; nothing is done
    "lost": 0.05,  # the connection is cut when all is done
    "slow": 0.05,  # up to `SLOW_S` late
}
"""How often each befalls a request."""

ENDINGS: Final[dict[Ending, float]] = {
    "cut": 0.3,  # the connection
    "gone": 0.3,  # its version is too old: an event 410
    "ended": 0.3,  # in order
    "failed": 0.1,  # an event 500, as when etcd changes its leader
}
"""How often a watch ends in each way."""

SLOW_S: Final = 1.5
WATCH_S: Final = 6.0
"""How long a watch lives at most."""

_REFUSALS: Final[dict[Fault | None, tuple[int, str]]] = {
    "busy": (429, "TooManyRequests"),
    "unavailable": (503, "ServiceUnavailable"),
    "broken": (500, "InternalError"),
}
_EVENTS: Final[dict[Ending, tuple[int, str]]] = {"gone": (410, "Expired"), "failed": (500, "InternalError")}
_TOO_MANY: Final = 429
_CREATED: Final = 201
_HOP: Final = frozenset({"host", "connection", "transfer-encoding", "content-length", "content-encoding"})


class FaultyApi:
    """The proxy, on a free port of the loopback address, in front of the server of a kubeconfig with certificates."""

    def __init__(self, kubeconfig: Path, folder: Path, *, seed: int) -> None:
        self.kubeconfig = folder / "faulty.kubeconfig"
        self.befell: Counter[str] = Counter()
        self.created: list[str] = []
        self._random = random.Random(seed)
        self._folder = folder
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._server = cluster["server"]
        self._ssl = ssl.create_default_context(cadata=_pem(cluster["certificate-authority-data"]))
        self._ssl.load_cert_chain(
            self._file("client.pem", user["client-certificate-data"]), self._file("key.pem", user["client-key-data"])
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        port = self._call(self._start())
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "faulty", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "anybody", "user": {}}],
            "contexts": [{"name": "faulty", "context": {"cluster": "faulty", "user": "anybody"}}],
            "current-context": "faulty",
        }
        self.kubeconfig.write_text(json.dumps(config))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------ the thread's

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> int:
        connector = aiohttp.TCPConnector(ssl=self._ssl, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.sleep(0.1)  # aiohttp closes connections of TLS a moment later

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self._drawn()
        if fault in _REFUSALS:
            return _failure(*_REFUSALS[fault])
        if fault == "refused":
            return _cut(request)
        if fault == "slow":
            await asyncio.sleep(self._random.uniform(0, SLOW_S))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        target = self._server + request.raw_path
        body = await request.read()
        async with self._session.request(request.method, target, data=body or None, headers=headers) as answer:
            if request.query.get("watch") == "true" and answer.ok:
                return await self._watch(request, answer)
            text = await answer.read()
            if answer.status == _CREATED:
                self.created.append(request.path)
            if fault == "lost":
                return _cut(request)
            return web.Response(status=answer.status, body=text, content_type=answer.content_type)

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Passes events on until the watch's time is over."""
        (ending,) = self._random.choices([*ENDINGS], [*ENDINGS.values()])
        response = web.StreamResponse()
        response.content_type = answer.content_type
        await response.prepare(request)
        with suppress(ConnectionResetError):  # who watched is gone
            try:
                async with asyncio.timeout(self._random.uniform(0.5, WATCH_S)):
                    while event := await answer.content.readline():
                        await response.write(event)
            except TimeoutError:
                self.befell[ending] += 1
                if ending == "cut":
                    return _cut(request)
                if ending in _EVENTS:
                    code, reason = _EVENTS[ending]
                    status = {"kind": "Status", "status": "Failure", "reason": reason, "code": code}
                    await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
        return response

    def _drawn(self) -> Fault | None:
        drawn = self._random.choices([None, *FAULTS], [1 - sum(FAULTS.values()), *FAULTS.values()])[0]
        if drawn:
            self.befell[drawn] += 1
        return drawn

    def _file(self, name: str, data: str) -> Path:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_text(_pem(data))
        return path


def _pem(data: str) -> str:
    return base64.b64decode(data).decode()


def _failure(status: int, reason: str) -> web.Response:
    """As the API server words it."""
    headers = {"Retry-After": "1"} if status == _TOO_MANY else {}
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
    return web.json_response({**body, "message": "a fault that was asked for"}, status=status, headers=headers)


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
