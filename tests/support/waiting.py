"""Waiting for what no event tells of: the end of an entry's time, a server that another process runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def until(check: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """Asks again and again until `check` is true; raises `TimeoutError` when it does not become so in time."""
    async with asyncio.timeout(timeout_s):
        while not await check():  # noqa: ASYNC110 - see the module's docstring
            await asyncio.sleep(0.005)


def eventually(ask: Callable[[], Any], wanted: object, pause_s: float = 0.1, patience_s: float = 120.0) -> None:
    """Asks until the answer is as wanted; fails with the last one."""
    end = time.monotonic() + patience_s
    while (found := ask()) != wanted:
        assert time.monotonic() < end, json.dumps(found, default=str)
        time.sleep(pause_s)
