"""Who is visited next: each ImageIndex at most once at a time, however many events told of it.

The last visit may have asked for the next one; after failures there are growing pauses.

Visits are levels, not edges: an event that arrives during a visit only means that there is one more.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from observability import metrics

log = structlog.get_logger(__name__)

Key = tuple[str, str]
"""Namespace and name."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 120.0


class Queue:
    """Keys that wait for `visit`, which returns after how many seconds it wants the next one, or None."""

    def __init__(
        self,
        visit: Callable[[Key], Awaitable[float | None]],
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._visit = visit
        self._workers = workers
        self._clock = clock
        self._due: dict[Key, float] = {}
        self._running: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, after_s: float = 0.0) -> None:
        """Asks for a visit, no later than so many seconds from now."""
        due = self._clock() + after_s
        self._due[key] = min(due, self._due.get(key, due))
        metrics.operator_queue_size.set(len(self._due))
        self._changed.set()

    @property
    def overdue_s(self) -> float:
        """How long the oldest wish has waited past its time; 0 when all are served in time."""
        waiting = [due for key, due in self._due.items() if key not in self._running]
        return max([0.0, *(self._clock() - due for due in waiting)])

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._next()
            try:
                again = await self._visit(key)
            except Exception as fault:  # one index that can't be visited must not stop the others
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                pause = min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S)
                log.warning("a visit failed", imageindex="/".join(key), failures=failures, error=str(fault))
                log.debug("the fault", exc_info=fault)
                self.add(key, pause * random.uniform(0.8, 1.2))
            else:
                self._failures.pop(key, None)
                if again is not None:
                    self.add(key, again)
            finally:
                self._running.discard(key)
                self._changed.set()

    async def _next(self) -> Key:
        """The next key whose time has come and that nobody works on."""
        while True:
            now = self._clock()
            free = [(due, key) for key, due in self._due.items() if key not in self._running]
            soonest = min(free, default=None)
            if soonest and soonest[0] <= now:
                key = soonest[1]
                del self._due[key]
                self._running.add(key)
                metrics.operator_queue_size.set(len(self._due))
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout(soonest[0] - now if soonest else None):
                    await self._changed.wait()
            except TimeoutError:
                continue
