"""kopf's part: it watches, we reconcile. Every event of an ImageIndex or of a child only asks for a visit.

So nothing depends on an event's contents or on having seen every one of them, kopf writes neither annotations nor
finalizers, and what a watch misses, the resync finds.

kopf takes the process's signals, and every task of its event loop for its own: in the end it cancels them and raises
what befell any. So it has a thread and a loop to itself. And it ends with the first watch that brings an error other
than "410 Gone", which an API server may well send where a request would have got 500 or 429. So it is begun anew.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

import aiohttp
import kopf
import structlog

from imageindex_operator.api import KINDS, login, session
from imageindex_operator.names import GROUP, OWNER, PLURAL, VERSION
from imageindex_operator.reconcile import CHILDREN
from observability import metrics

log = structlog.get_logger(__name__)

_LONGEST_PAUSE_S: Final = 10.0
_LASTED_S: Final = 60.0
"""Seconds that watches must have lasted for the next pause to be a short one again."""
_ROUND_S: Final = 2.0
_END_S: Final = 7.0
_WATCHED: Final = frozenset((KINDS[kind].api_version, KINDS[kind].plural) for kind in CHILDREN)
_TOLD_BY_US: Final = ("kopf._core.reactor.orchestration", "kopf._core.reactor.running")
"""Loggers of kopf that tell of its end, each with a traceback, and of signals that it does not get."""


class Told(Protocol):
    """Who hears of events, in the event loop of `Watches.run`."""

    def told(self, body: Mapping[str, Any], *, gone: bool = False) -> None:
        """A watch told of an ImageIndex."""
        ...

    def told_of_child(self, namespace: str, body: Mapping[str, Any]) -> None:
        """A watch told of a child."""
        ...


class Patience:
    """Pauses between attempts, in seconds, without end: a right that was taken away may be given back.

    With kopf's own, a watch that is refused for a minute would end the operator.
    """

    def __iter__(self) -> Iterator[float]:
        """From the first attempt on."""
        return itertools.chain((1, 1, 2, 3, 5, 8), itertools.repeat(_LONGEST_PAUSE_S))


class Watches:
    """The watches of ImageIndexes and of children that carry our label, in these namespaces or, without, in all."""

    def __init__(self, hearer: Told, namespaces: Sequence[str]) -> None:
        self._hearer = hearer
        self._namespaces = namespaces
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Watches until it is cancelled."""
        self._loop = asyncio.get_running_loop()
        pauses = iter(Patience())
        while True:
            began = self._loop.time()
            fault = await self._watch()
            if self._loop.time() - began > _LASTED_S:
                pauses = iter(Patience())
            pause = next(pauses)
            metrics.operator_watches_ended.inc()
            log.warning("the watches ended and begin anew", error=str(fault), pause_s=pause)
            await asyncio.sleep(pause)

    async def _watch(self) -> BaseException | None:
        """Watches until something ends it; what."""
        here, ended, theirs = asyncio.get_running_loop(), asyncio.Event(), asyncio.new_event_loop()
        task = theirs.create_task(self._kopf())

        def work() -> None:
            with suppress(Exception, asyncio.CancelledError):  # the task keeps it
                theirs.run_until_complete(task)
            theirs.run_until_complete(theirs.shutdown_asyncgens())
            theirs.close()
            with suppress(RuntimeError):  # nobody waits any more
                here.call_soon_threadsafe(ended.set)

        threading.Thread(target=work, name="watches", daemon=True).start()
        try:
            await ended.wait()
        except asyncio.CancelledError:
            with suppress(RuntimeError, TimeoutError):  # it has just ended by itself, or does not
                theirs.call_soon_threadsafe(task.cancel)
                async with asyncio.timeout(_END_S):
                    await ended.wait()
            raise
        return None if task.cancelled() else task.exception()

    async def _kopf(self) -> None:
        """Runs kopf until a part of it ends; raises what ended that."""
        for name in _TOLD_BY_US:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        registry, sessions = self.registry(), _Sessions()
        kopf.on.login(registry=registry, id="login")(sessions.log_in)
        try:
            tasks = await kopf.spawn_tasks(
                registry=registry,
                settings=kopf_settings(),
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
            )
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                one.result()
        finally:
            # kopf's own way cancels once, and waits for ever for a watch that takes this for a pause and goes on.
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # its callbacks expect to be in a task
            me = asyncio.current_task()
            while others := {one for one in asyncio.all_tasks() if one is not me}:
                for one in others:
                    one.cancel()
                await asyncio.wait(others, timeout=_ROUND_S)
            await sessions.close()

    def registry(self) -> kopf.OperatorRegistry:
        """What kopf watches."""
        registry = kopf.OperatorRegistry()

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
        async def on_imageindex(event: Any, body: Any, **_: Any) -> None:
            self._tell(partial(self._hearer.told, dict(body), gone=event["type"] == "DELETED"))

        for kind in CHILDREN:
            group, _, version = KINDS[kind].api_version.rpartition("/")

            @kopf.on.event(
                group, version, KINDS[kind].plural, labels={OWNER: kopf.PRESENT}, registry=registry, id=f"on_{kind}"
            )
            async def on_child(body: Any, namespace: str | None, **_: Any) -> None:
                self._tell(partial(self._hearer.told_of_child, str(namespace), dict(body)))

        return registry

    def _tell(self, call: Callable[[], None]) -> None:
        assert self._loop is not None  # noqa: S101 - set by `run`
        self._loop.call_soon_threadsafe(call)


class _Sessions:
    """Connections that kopf watches with. Ours to close: at its end kopf may open others behind its own back."""

    def __init__(self) -> None:
        self._open: list[aiohttp.ClientSession] = []
        self._last: kopf.ConnectionInfo | None = None

    async def log_in(self, **_: Any) -> kopf.AiohttpSession | None:
        """Called when there is no connection yet or it was refused; None when nothing has changed since."""
        info = login()
        if info == self._last:
            return None
        self._last = info
        self._open.append(session(info, limit=0))
        return kopf.AiohttpSession(
            server=info.server, default_namespace=info.default_namespace, aiohttp_session=self._open[-1]
        )

    async def close(self) -> None:
        for one in self._open:
            await one.close()


def kopf_settings() -> kopf.OperatorSettings:
    """Settings with which kopf watches and does nothing else: no Events, no annotations, no finalizers, no peering."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True  # for new kinds and namespaces, which would need rights for nothing
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    settings.networking.error_backoffs = Patience()
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = 300
    settings.watching.label_selectors[_is_child] = OWNER  # the API server leaves out what is not ours
    settings.process.ultimate_exiting_timeout = None  # it would kill the whole process
    return settings


def _is_child(resource: kopf.Resource) -> bool:
    return (f"{resource.group}/{resource.version}".lstrip("/"), resource.plural) in _WATCHED
