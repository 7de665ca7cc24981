"""Waiting for what no event tells of: the end of an entry's time, a server that another process runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(check: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """Asks again and again until `check` is true; raises `TimeoutError` when it does not become so in time."""
    async with asyncio.timeout(timeout_s):
        while not await check():  # noqa: ASYNC110 - see the module's docstring
            await asyncio.sleep(0.005)
