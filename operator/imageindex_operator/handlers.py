"""kopf's part: it watches, we reconcile. Every event of an ImageIndex or of a child only asks for a visit.

So nothing depends on an event's contents or on having seen every one of them, kopf writes neither annotations nor
finalizers, and what a watch misses, the resync finds.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import kopf
import structlog

from engine.errors import BadUserInput, ClusterUnavailable, SightlineError
from engine.settings import Settings
from imageindex_operator.aliases import Aliases
from imageindex_operator.api import KINDS, Api
from imageindex_operator.config import Config
from imageindex_operator.events import Recorder
from imageindex_operator.health import Health, Watchdog
from imageindex_operator.leader import Lease
from imageindex_operator.names import GROUP, KIND, OWNER, PLURAL, VERSION, owner_of
from imageindex_operator.queue import Queue
from imageindex_operator.reconcile import CHILDREN, Reconciler
from imageindex_operator.stores import EngineStores

log = structlog.get_logger(__name__)

_LIST_S: Final = 30.0
_LONGEST_PAUSE_S: Final = 10.0
_LAST_WORDS_S: Final = 2.0
_WATCHED: Final = frozenset((KINDS[kind].api_version, KINDS[kind].plural) for kind in CHILDREN)


class _Patience:
    """Pauses between kopf's attempts, in seconds, without end: a right that was taken away may be given back.

    With kopf's own, a watch that is refused for a minute would end the operator.
    """

    def __iter__(self) -> Iterator[float]:
        """From the first attempt on."""
        return itertools.chain((1, 1, 2, 3, 5, 8), itertools.repeat(_LONGEST_PAUSE_S))


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
        self.health = Health(self._watchdog, lambda: self._queue.overdue_s, lambda: self.lease.held)

    async def run(self) -> None:
        """Waits for the Lease, works, and returns when a signal came or the Lease was lost."""
        await self.health.start(self._settings.operator_host, self._settings.operator_port)
        try:
            await self._wait()
            await self._work()
        finally:
            await self.lease.release()
            await self.health.stop()

    async def _wait(self) -> None:
        """Waits for the Lease; a signal meanwhile ends the process, also as the first of a container."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task  # noqa: S101 - called in one
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)  # kopf puts its own in their place
        await self.lease.acquire()

    async def _work(self) -> None:
        stop = asyncio.Event()
        parts = [self._queue.run(), self._recorder.run(), self._resync()]
        tasks = [asyncio.create_task(part) for part in parts]
        held = asyncio.create_task(self.lease.hold())
        held.add_done_callback(lambda _: stop.set())
        for task in tasks:
            task.add_done_callback(lambda _: stop.set())
        try:
            await kopf.operator(
                registry=self.registry(),
                settings=_kopf_settings(),
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=stop,
            )
        finally:
            lost = held.done()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._recorder.drained()
            for task in (*tasks, held):
                task.cancel()
            ended = await asyncio.gather(*tasks, held, return_exceptions=True)
        for fault in ended:
            if isinstance(fault, Exception):
                raise fault
        if lost:
            raise ClusterUnavailable("The lease is lost: another operator works now. Start this one again.")

    def registry(self) -> kopf.OperatorRegistry:
        """What kopf watches: ImageIndexes, and children that carry our label."""
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, id="login")(_login)

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
        async def on_imageindex(event: Any, body: Any, **_: Any) -> None:
            self.told(dict(body), gone=event["type"] == "DELETED")

        for kind in CHILDREN:
            group, _, version = KINDS[kind].api_version.rpartition("/")

            @kopf.on.event(
                group, version, KINDS[kind].plural, labels={OWNER: kopf.PRESENT}, registry=registry, id=f"on_{kind}"
            )
            async def on_child(body: Any, namespace: str | None, **_: Any) -> None:
                self.told_of_child(str(namespace), dict(body))

        return registry

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
        async with Api() as api:
            operator = Operator(settings, api)
            log.info("starting", identity=operator.lease.identity, namespaces=settings.operator_namespaces or "all")
            await operator.run()

    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(start())


def _login(**found: Any) -> kopf.ConnectionInfo | None:
    for way in (kopf.login_with_service_account, kopf.login_with_kubeconfig):
        info = way(**found)
        if isinstance(info, kopf.ConnectionInfo):
            return info
    return None


def _kopf_settings() -> kopf.OperatorSettings:
    """Settings with which kopf watches and does nothing else: no Events, no annotations, no finalizers, no peering."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True  # for new kinds and namespaces, which would need rights for nothing
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.networking.error_backoffs = _Patience()
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = 300
    settings.watching.label_selectors[_is_child] = OWNER  # the API server leaves out what is not ours
    settings.process.ultimate_exiting_timeout = 20
    return settings


def _is_child(resource: kopf.Resource) -> bool:
    return (f"{resource.group}/{resource.version}".lstrip("/"), resource.plural) in _WATCHED


def _key(name: str) -> tuple[str, str]:
    namespace, _, own = name.partition("/")
    return namespace, own
