"""A circuit breaker: who fails again and again is left alone for a while, and asked once before all ask again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 5
"""Failures without a success between them after which nobody asks any more."""

FIRST_REST_S: Final = 0.5
"""Seconds until the first trial. Each trial that fails doubles them."""

LONGEST_REST_S: Final = 8.0
"""Seconds between two trials at most: so long does a part that is well again wait to be used."""


class Breaker:
    """Counts failures and knows when to stop and when to try again; whoever owns it makes the trial.

    Rests are shortened by up to a half, at random, so that many servers do not come back at the same moment.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        """`clock` gives seconds that never run backwards, `chance` numbers from 0 to 1."""
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._rest_s = FIRST_REST_S
        self._until: float | None = None

    @property
    def closed(self) -> bool:
        """Whether all may ask."""
        return self._until is None

    @property
    def due(self) -> bool:
        """Whether it is time for a trial."""
        return self._until is not None and self._until <= self._clock()

    def failed(self) -> bool:
        """Counts a failure; true when this one opened the breaker. Late failures of an open one count for nothing."""
        if self._until is not None:
            return False
        self._failures += 1
        if self._failures < FAILURES:
            return False
        self._rest()
        return True

    def trial_failed(self) -> None:
        """The next trial comes after twice the rest."""
        self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        self._rest()

    def succeeded(self) -> bool:
        """Forgets all failures; true when this closed the breaker."""
        was_open = self._until is not None
        self._failures, self._rest_s, self._until = 0, FIRST_REST_S, None
        return was_open

    def _rest(self) -> None:
        self._until = self._clock() + self._rest_s * (1 - self._chance() / 2)
