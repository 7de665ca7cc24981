"""The way from a search to an index, with a deadline: an index that does not answer costs a search seconds, no more.

An engine may have deadlines of its own for single calls. These here are for what a search needs of the index in all,
whichever engine that is, and for the wait until it is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.errors import IndexUnavailable
from engine.serving import IndexRegistry, Serving


class IndexAccess:
    """Open indexes, for callers who wait `timeout_s` at most. Used from one event loop."""

    def __init__(self, registry: IndexRegistry, timeout_s: float) -> None:
        """Closes nothing: the registry belongs to whoever made it."""
        self._registry = registry
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def acquire(self, name: str | None = None) -> AsyncIterator[Serving]:
        """What the registry's `acquire` gives, with its errors, or `IndexUnavailable` when opening takes too long.

        An index that nobody has opened yet goes on being opened then, for those who ask later.
        """
        async with self.deadline(name):
            await self._registry.open(name)
        async with self._registry.acquire(name) as serving:
            yield serving

    @asynccontextmanager
    async def deadline(self, name: str | None = None) -> AsyncIterator[None]:
        """Bounds all that is asked of index `name` inside; raises `IndexUnavailable` when that was not enough."""
        try:
            async with asyncio.timeout(self._timeout_s) as timeout:
                yield
        except TimeoutError as error:
            if not timeout.expired():
                raise
            what = f"Index {name!r}" if name else "The default index"
            raise IndexUnavailable(
                f"{what} did not answer within {self._timeout_s:g} s. Try again in a moment; if it stays so, the "
                "server's log says more. Searches wait for SEARCH_TIMEOUT_S."
            ) from error
