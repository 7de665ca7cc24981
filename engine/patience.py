"""How long whoever builds waits for a server that is away, and with which pauses it asks again.

A search has a deadline of a few seconds and somebody who waits for it. A build has neither: a server that was killed is
back within a minute, and waiting costs less than to begin again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

PATIENCE_S: Final = 60.0
"""Seconds in which what failed is tried again: a server that was killed is back by then."""

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0


def pauses() -> Iterator[float]:
    """Seconds between attempts without an end, growing, and a little different for each who waits."""
    pause = _FIRST_PAUSE_S
    while True:
        yield pause * (0.5 + random.random())
        pause = min(2 * pause, _LONGEST_PAUSE_S)
