"""Events for people: posted aside, so that a slow API server delays no visit, and repeated ones are counted."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from engine.errors import ClusterRefused, ClusterUnavailable
from imageindex_operator.actions import Note
from imageindex_operator.api import Api
from imageindex_operator.conditions import timestamp
from imageindex_operator.names import API_VERSION, KIND, MANAGER, digest
from imageindex_operator.resource import ImageIndex
from observability import metrics

log = structlog.get_logger(__name__)

_WAITING: Final = 1000
_REMEMBERED: Final = 1000
_TIMEOUT_S: Final = 10.0
_CONFLICT: Final = 409
_GONE: Final = 404


class Recorder:
    """Posts notes as Events of ImageIndexes. The same note about the same object is one Event with a count."""

    def __init__(self, api: Api, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._api = api
        self._now = now
        self._queue: asyncio.Queue[tuple[ImageIndex, Note]] = asyncio.Queue(_WAITING)
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()

    def note(self, resource: ImageIndex, note: Note) -> None:
        """Takes a note and returns at once; drops it when a thousand wait."""
        log.info(note.message, imageindex=f"{resource.namespace}/{resource.name}", reason=note.reason)
        try:
            self._queue.put_nowait((resource, note))
        except asyncio.QueueFull:
            metrics.operator_events_dropped.inc()

    async def run(self) -> None:
        """Posts until it is cancelled."""
        while True:
            resource, note = await self._queue.get()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await self._post(resource, note)
            except (ClusterUnavailable, ClusterRefused, TimeoutError) as error:
                metrics.operator_events_dropped.inc()
                log.warning("an event could not be posted", reason=note.reason, error=str(error))
            finally:
                self._queue.task_done()

    async def drained(self) -> None:
        """Waits until everything that was taken has been posted or dropped."""
        await self._queue.join()

    async def _post(self, resource: ImageIndex, note: Note) -> None:
        name = f"{resource.name}.{digest([resource.uid, note.reason, note.message], 16)}"
        key = (resource.namespace, name)
        count = self._counts.pop(key, 0) + 1
        seen = timestamp(self._now())
        if count > 1 and await self._repeat(key, count, seen):
            return
        try:
            await self._api.create(_event(resource, note, name, seen))
            count = 1
        except ClusterRefused as error:
            if error.status != _CONFLICT:
                raise
            count = await self._adopt(key, seen)
        self._remember(key, count)

    async def _repeat(self, key: tuple[str, str], count: int, seen: str) -> bool:
        """Counts an Event that this process has posted; whether it was still there."""
        try:
            await self._api.merge("Event", *key, {"count": count, "lastTimestamp": seen})
        except ClusterRefused as error:
            if error.status != _GONE:
                raise
            return False
        self._remember(key, count)
        return True

    async def _adopt(self, key: tuple[str, str], seen: str) -> int:
        """Counts on where an operator before this one stopped."""
        found = await self._api.get("Event", *key)
        count = int((found or {}).get("count") or 1) + 1
        await self._api.merge("Event", *key, {"count": count, "lastTimestamp": seen})
        return count

    def _remember(self, key: tuple[str, str], count: int) -> None:
        self._counts[key] = count
        while len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)


def _event(resource: ImageIndex, note: Note, name: str, seen: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": resource.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": resource.name,
            "namespace": resource.namespace,
            "uid": resource.uid,
        },
        "reason": note.reason,
        "message": note.message[:1024],
        "type": "Warning" if note.warning else "Normal",
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "reportingInstance": "",
        "firstTimestamp": seen,
        "lastTimestamp": seen,
        "count": 1,
    }
