"""How many searches may be worked on at once: as many as keep the machine busy without making each of them slow.

Nobody can name that number beforehand: it depends on the model, the processor and its neighbours. So it is learnt, as
congestion control learns a path's: while searches take not much longer than such a search takes that has the machine to
itself, the limit grows with demand; when they do, it shrinks. What comes beyond the limit is refused at once, with the
time after which a place will be free, and what was let in keeps its pace. Those times are spread, one after another, as
fast as places become free: if all who were refused came back together, all but a few would be refused again.

Searches are of kinds: one page far down compares all vectors and takes a hundred times as long as a first page. Each is
compared with those of its kind. Of kinds that were never seen alone nothing can be told; where they fill the limit, it
falls to where a search is as good as alone, and rises from there.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

from engine.errors import Overloaded
from observability import metrics

PATIENCE: Final = 8.0
"""A search among others may take so many times as long as alone. Batches need company: at 4, a third of what a machine
can do is lost, at 8 a tenth; beyond that, latency grows and throughput hardly does."""

LEAST: Final = 2
"""The limit never falls below this; at this limit a search is as good as alone, and is believed to be."""

MOST: Final = 1024
"""The limit never rises above this: what one process can have in flight without running out of anything else."""

KNOWN: Final = 5
"""Searches alone without which a kind is not known: the first ones find cold caches."""

_FIRST: Final = 64.0
_SHRINK: Final = 0.8
_LEAP: Final = 1.5  # where searches take less than half of what they may
_MEASURED: Final = 30  # searches that are looked at together, at least: the median of ten swings by a half
_KEPT: Final = 9  # searches alone, the last ones of each kind; their median is robust against a pause of the machine
_NEWS: Final = 0.1  # weight of a new sample in the average time that a place is held
_LEAST_WAIT_MS: Final = 10
_SHARE: Final = 0.5  # of the places that become free, for those who were told to come back; the rest is for newcomers
_LONGEST_QUEUE_S: Final = 2.0  # that the refused wait for each other: not all of them come back


@dataclass(slots=True)
class Place:
    """Somebody's leave to work. `kind` is set to what the work can be compared with; None if it teaches nothing."""

    kind: Hashable | None = None


class Admission:
    """Lets work in and refuses what is too much. Used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never run backwards."""
        self._clock = clock
        self._limit = _FIRST
        self._running = 0
        self._most_running = 0
        self._entered = 0
        self._alone_s: dict[Hashable, deque[float]] = {}
        self._held_s: float | None = None
        self._promised = -math.inf
        self._slowness: list[float] = []
        metrics.searches_limit.set(self.limit)

    @property
    def limit(self) -> int:
        """How much may run at once now."""
        return int(self._limit)

    @property
    def running(self) -> int:
        """How much runs now; more than the limit while the last one that was let in brought several searches."""
        return self._running

    @property
    def full(self) -> bool:
        """Whether whoever comes now is refused."""
        return self._running >= self.limit

    def refusal(self, searches: int = 1) -> Overloaded:
        """What the next one who is refused is told: to come back when a place is free, and after those before him.

        His searches count as wanted for as long as one takes on average: the limit keeps what runs small and quick, so
        an autoscaler that saw only that would see no need.
        """
        now, held_s = self._clock(), self._held_s or 0.0
        metrics.search_demand.inc(held_s * searches)
        at = min(max(self._promised, now + held_s), now + held_s + _LONGEST_QUEUE_S)
        self._promised = at + held_s / (self._limit * _SHARE)
        return Overloaded(retry_after_ms=max(math.ceil((at - now) * 1000), _LEAST_WAIT_MS))

    @contextmanager
    def admitted(self, searches: int = 1) -> Iterator[Place]:
        """A place for so many searches that are made together, or `Overloaded` at once.

        Who brings several is let in where one would be: if there had to be room for all, single ones would always take
        it first. Whoever comes then waits for them too. The time until the context ends is learnt from, if it was one
        search and its place has been given a kind.
        """
        if self.full:
            raise self.refusal(searches)
        alone = not self._running
        self._entered += 1
        entered = self._entered
        self._count(searches)
        as_good = self._limit <= LEAST and self._running <= LEAST
        place, started = Place(), self._clock()
        try:
            yield place
        finally:
            self._count(-searches)
            took_s = self._clock() - started
            metrics.search_demand.inc(took_s * searches)
            self._held_s = took_s if self._held_s is None else self._held_s + _NEWS * (took_s - self._held_s)
            if place.kind is not None and searches == 1:
                self._learn(place.kind, took_s, alone=as_good or (alone and entered == self._entered))

    def _count(self, searches: int) -> None:
        self._running += searches
        self._most_running = max(self._most_running, self._running)
        metrics.searches_running.set(self._running)

    def _learn(self, kind: Hashable, took_s: float, *, alone: bool) -> None:
        times = self._alone_s.get(kind)
        if alone:
            times = self._alone_s.setdefault(kind, deque(maxlen=_KEPT))
            times.append(took_s)
        known = times is not None and len(times) >= KNOWN
        self._slowness.append(took_s / max(median(times), 1e-6) if known and times else math.inf)
        if len(self._slowness) < max(_MEASURED, self._limit):
            return
        self._adapt(median(self._slowness), wanted=self._most_running >= self.limit)
        self._slowness.clear()
        self._most_running = self._running
        metrics.searches_limit.set(self.limit)

    def _adapt(self, slowness: float, *, wanted: bool) -> None:
        """Moves the limit; `slowness` is infinite where most searches can't be compared with any that was alone."""
        if math.isinf(slowness):
            self._limit = LEAST if wanted else self._limit
        elif slowness > PATIENCE:
            self._limit = max(self._limit * _SHRINK, LEAST)
        elif wanted:
            leap = self._limit * _LEAP if slowness < PATIENCE / 2 else 0.0
            self._limit = min(max(self._limit + 1, leap), MOST)
