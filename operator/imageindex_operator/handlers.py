"""One operator process: it waits for the Lease, watches, visits, and ends when a signal comes or the Lease is lost."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from engine.errors import BadUserInput, ClusterUnavailable, SightlineError
from engine.settings import Settings
from imageindex_operator.aliases import Aliases
from imageindex_operator.api import Api
from imageindex_operator.config import Config
from imageindex_operator.events import Recorder
from imageindex_operator.health import Health, Watchdog
from imageindex_operator.leader import Lease
from imageindex_operator.names import KIND, owner_of
from imageindex_operator.queue import Queue
from imageindex_operator.reconcile import Reconciler
from imageindex_operator.stores import EngineStores
from imageindex_operator.watches import Watches

log = structlog.get_logger(__name__)

_LIST_S: Final = 30.0
_LAST_WORDS_S: Final = 2.0
_END_S: Final = 8.0
"""Seconds that what runs has to end in; with all else that is done at the end, less than a pod's grace time."""


class Operator:
    """All parts of one operator process."""

    def __init__(self, settings: Settings, api: Api) -> None:
        if not settings.qdrant_url:
            raise BadUserInput("QDRANT_URL is empty. The operator needs the Qdrant server that the pods search.")
        self._settings = settings
        self._api = api
        self._namespaces = [name for name in settings.operator_namespaces.split(",") if name]
        self._aliases = Aliases()
        self._watchdog = Watchdog()
        self.lease = Lease(api, settings.operator_namespace, settings.operator_identity)
        self._recorder = Recorder(api)
        reconciler = Reconciler(
            api,
            EngineStores(settings),
            Config.of(settings),
            self._recorder,
            self._aliases,
            may_write=lambda: self.lease.held,
        )
        self._queue = Queue(reconciler.visit, settings.operator_workers)
        self._watches = Watches(self, self._namespaces)
        self.health = Health(self._watchdog, lambda: self._queue.overdue_s, lambda: self.lease.held)

    async def run(self) -> None:
        """Waits for the Lease and works until it is cancelled; raises what else ends it, the loss of the Lease too."""
        await self.health.start(self._settings.operator_host, self._settings.operator_port)
        try:
            await self.lease.acquire()
            await self._work()
        finally:
            await self.lease.release()
            await self.health.stop()

    async def _work(self) -> None:
        parts = (self.lease.hold(), self._queue.run(), self._recorder.run(), self._resync(), self._watches.run())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._recorder.drained()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_END_S)
        for task in ended:
            task.result()
        raise ClusterUnavailable("The lease is lost: another operator works now. Start this one again.")

    def told(self, body: Mapping[str, Any], *, gone: bool = False) -> None:
        """A watch told of an ImageIndex."""
        meta = body["metadata"]
        self._watchdog.told(body, gone=gone)
        for name in self._aliases.told(body, gone=gone):
            self._queue.add(_key(name))
        self._queue.add((meta["namespace"], meta["name"]))

    def told_of_child(self, namespace: str, body: Mapping[str, Any]) -> None:
        """A watch told of a child."""
        if (owner := owner_of(body)) is not None:
            self._queue.add((namespace, owner))

    async def _resync(self) -> None:
        """Compares what watches told with what is there, and has everything visited now and then."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                found = await self._list()
            except SightlineError as error:
                log.warning("the ImageIndexes can't be listed", error=str(error))
                await asyncio.sleep(_LIST_S)
                continue
            self._watchdog.listed(found)
            self._aliases.listed(found)
            for body in found:
                key = (body["metadata"]["namespace"], body["metadata"]["name"])
                if loop.time() >= due:
                    self._queue.add(key, random.uniform(0, min(self._settings.operator_resync_s / 2, 60)))
                elif not self._watchdog.knows(body):
                    self._queue.add(key)
            if loop.time() >= due:
                due = loop.time() + self._settings.operator_resync_s
            await asyncio.sleep(min(_LIST_S, self._settings.operator_resync_s))

    async def _list(self) -> list[dict[str, Any]]:
        scopes: list[str | None] = [*self._namespaces] or [None]
        lists = await asyncio.gather(*(self._api.list(KIND, scope) for scope in scopes))
        return [body for found in lists for body in found]


def run(settings: Settings) -> None:
    """Runs the operator until a signal ends it or it loses its Lease. Raises what can't be mended by trying again."""
    logging.basicConfig(level=logging.WARNING)

    async def start() -> None:
        _end_with_signals()
        async with Api() as api:
            operator = Operator(settings, api)
            log.info("starting", identity=operator.lease.identity, namespaces=settings.operator_namespaces or "all")
            await operator.run()

    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(start())


def _end_with_signals() -> None:
    """Has a signal cancel the present task, whose cleaning up no other one disturbs; also as a container's first."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task  # noqa: S101 - called in one

    def end() -> None:
        if not task.cancelling():
            log.info("ending: a signal came")
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)


def _key(name: str) -> tuple[str, str]:
    namespace, _, own = name.partition("/")
    return namespace, own
