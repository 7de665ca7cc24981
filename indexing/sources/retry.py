"""What went wrong with a request, whether another attempt may help, and how long to wait before it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from indexing.decode import Reason
from indexing.sources.addresses import redact

T = TypeVar("T")

FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 20.0
_LONGEST_DETAIL: Final = 200


class FetchError(Exception):
    """A request that failed. `detail` is for people and has no secrets; `again` tells that repeating it may help.

    `after_s` is how long the other side asked to be left alone, in seconds.
    """

    def __init__(self, reason: Reason, detail: object, *, again: bool = False, after_s: float = 0.0) -> None:
        self.reason = reason
        self.detail = redact(" ".join(str(detail).split()))[:_LONGEST_DETAIL]
        self.again = again
        self.after_s = after_s
        super().__init__(self.detail)


async def persevere(attempt: Callable[[], Awaitable[T]], attempts: int) -> T:
    """The first success of at most so many attempts.

    Between them it waits a random part of a pause that doubles each time: callers that failed together do not come back
    together. Raises the last `FetchError`, or the first that no repetition helps.
    """
    for number in range(attempts):
        try:
            return await attempt()
        except FetchError as error:
            if not error.again:
                raise
            if number + 1 == attempts:
                raise FetchError(error.reason, f"{error.detail} ({attempts} attempts)", again=True) from error
            pause = random.uniform(0, min(_LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**number))
            await asyncio.sleep(max(pause, min(error.after_s, _LONGEST_PAUSE_S)))
    raise AssertionError("at least one attempt is made")
