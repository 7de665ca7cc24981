"""The operator's own probes: does the event loop turn, do the watches tell of what happens, are visits made in time.

A process whose watch has died looks alive, and goes on looking so. So what watches told is compared with what a list
says: a version of an ImageIndex that a list shows, and of which no watch has told after a while, is a dead watch. The
liveness probe then fails, and the pod is started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from observability import metrics

DEAF_S: Final = 120.0
"""Seconds after which a change that no watch told of means that the watch is dead; kopf renews its own after 70."""

STUCK_S: Final = 300.0
"""Seconds that a visit may be overdue before the workers count as stuck."""


class Watchdog:
    """What watches told and what lists showed. Versions are compared for equality only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, str] = {}
        self._untold: dict[str, tuple[str, float]] = {}

    def told(self, body: Mapping[str, Any], *, gone: bool = False) -> None:
        """A watch told of an object."""
        uid, version = body["metadata"]["uid"], body["metadata"].get("resourceVersion", "")
        self._untold.pop(uid, None)
        if gone:
            self._told.pop(uid, None)
        else:
            self._told[uid] = version

    def listed(self, bodies: Iterable[Mapping[str, Any]]) -> None:
        """A list showed these objects, and no others."""
        shown = {body["metadata"]["uid"]: body["metadata"].get("resourceVersion", "") for body in bodies}
        now = self._clock()
        for uid, version in shown.items():
            if self._told.get(uid) == version:
                self._untold.pop(uid, None)
            else:
                self._untold.setdefault(uid, (version, now))
        self._untold = {uid: since for uid, since in self._untold.items() if uid in shown}
        self._told = {uid: version for uid, version in self._told.items() if uid in shown}
        metrics.operator_watch_lag.set(self.deaf_s)

    def knows(self, body: Mapping[str, Any]) -> bool:
        """Whether a watch told of an object as it is."""
        return bool(self._told.get(body["metadata"]["uid"]) == body["metadata"].get("resourceVersion", ""))

    @property
    def deaf_s(self) -> float:
        """For how long the oldest change has been in the cluster without a watch having told of its object."""
        return max((self._clock() - since for _, since in self._untold.values()), default=0.0)


class Health:
    """Serves `/livez`, `/readyz` and `/metrics`. `overdue_s` is asked of the queue, `leading` of the Lease."""

    def __init__(self, watchdog: Watchdog, overdue_s: Callable[[], float], leading: Callable[[], bool]) -> None:
        self._watchdog = watchdog
        self._overdue_s = overdue_s
        self._leading = leading
        self._runner: web.AppRunner | None = None
        self.port = 0

    def why_dead(self) -> str | None:
        """Why this process should be started again, or None. One that only waits for the Lease is alive."""
        if not self._leading():
            return None
        if (deaf := self._watchdog.deaf_s) > DEAF_S:
            return f"No watch told of a change that has been in the cluster for {deaf:.0f} s."
        if (late := self._overdue_s()) > STUCK_S:
            return f"A visit is {late:.0f} s late: the workers are stuck."
        return None

    async def start(self, host: str, port: int) -> None:
        """Listens; `self.port` is where."""
        app = web.Application()
        app.add_routes(
            [web.get("/livez", self._live), web.get("/readyz", self._ready), web.get("/metrics", self._metrics)]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _live(self, _request: web.Request) -> web.Response:
        reason = self.why_dead()
        return web.Response(status=503 if reason else 200, text=reason or "alive")

    async def _ready(self, _request: web.Request) -> web.Response:
        return web.Response(text="leading" if self._leading() else "waiting for the lease")

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
