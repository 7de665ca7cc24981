"""How many searches may be worked on at once: as many as keep the machine busy without making each of them slow.

Nobody can name that number beforehand: it depends on the model, the processor and its neighbours. So it is learnt, as
congestion control learns a path's: while searches take not much longer than one that has the machine to itself, the
limit grows with demand; when they do, it shrinks. What comes beyond the limit is refused at once, with the time after
which a place will be free, and what was let in keeps its pace.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

from engine.errors import Overloaded
from observability import metrics

PATIENCE: Final = 4.0
"""A search among others may take so many times as long as alone. Batches need company: below 3, throughput is lost."""

LEAST: Final = 2
"""The limit never falls below this; at this limit a search is as good as alone, and is believed to be."""

MOST: Final = 1024
"""The limit never rises above this: what one process can have in flight without running out of anything else."""

_FIRST: Final = 64.0
_SHRINK: Final = 0.8
_MEASURED: Final = 10  # searches that are looked at together, at least
_NEWS: Final = 0.1  # weight of a new sample in the average of those alone
_LEAST_WAIT_MS: Final = 10


@dataclass(slots=True)
class Place:
    """Somebody's leave to work. `telling` is set to False where the time says nothing about how busy the machine is."""

    telling: bool = True


class Admission:
    """Lets work in and refuses what is too much. Used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never run backwards."""
        self._clock = clock
        self._limit = _FIRST
        self._running = 0
        self._most_running = 0
        self._alone_s: float | None = None
        self._typical_s = 0.0
        self._samples: list[float] = []

    @property
    def limit(self) -> int:
        """How much may run at once now."""
        return int(self._limit)

    @property
    def running(self) -> int:
        """How much runs now."""
        return self._running

    @contextmanager
    def admitted(self, searches: int = 1) -> Iterator[Place]:
        """A place for so many searches that are made together, or `Overloaded` at once.

        Somebody who wants more than there will ever be is let in when nobody else is there. The time until the context
        ends is learnt from, if it was one search and one like others.
        """
        if self._running and self._running + searches > self._limit:
            raise Overloaded(retry_after_ms=max(math.ceil(self._typical_s * 1000), _LEAST_WAIT_MS))
        alone = not self._running
        place, started = Place(telling=searches == 1), self._clock()
        self._count(searches)
        try:
            yield place
        finally:
            self._count(-searches)
            if place.telling:
                self._learn(self._clock() - started, alone=alone)

    def _count(self, searches: int) -> None:
        self._running += searches
        self._most_running = max(self._most_running, self._running)
        metrics.searches_running.set(self._running)

    def _learn(self, took_s: float, *, alone: bool) -> None:
        if self._alone_s is None:
            self._alone_s = self._typical_s = took_s
        elif alone or self._limit <= LEAST:
            self._alone_s += _NEWS * (took_s - self._alone_s)
        self._samples.append(took_s)
        if len(self._samples) < max(_MEASURED, self._limit):
            return
        self._typical_s = median(self._samples)
        if self._typical_s > PATIENCE * self._alone_s:
            self._limit = max(self._limit * _SHRINK, LEAST)
        elif self._most_running >= self.limit:
            self._limit = min(self._limit + 1, MOST)
        self._samples.clear()
        self._most_running = self._running
        metrics.searches_limit.set(self.limit)
