"""Visits: one at a time for each resource, none lost, none stuck behind a failing one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from imageindex_operator.queue import FIRST_PAUSE_S, LONGEST_PAUSE_S, Key, Queue

A, B = ("web", "a"), ("web", "b")


@contextlib.asynccontextmanager
async def running(visit: Callable[[Key], Awaitable[float | None]], workers: int = 2) -> AsyncIterator[Queue]:
    queue = Queue(visit, workers)
    task = asyncio.create_task(queue.run())
    try:
        async with asyncio.timeout(20):
            yield queue
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_many_events_about_one_resource_are_one_visit():
    """Or two, when they arrive during the first."""
    seen: list[Key] = []
    done = asyncio.Event()

    async def visit(key: Key) -> None:
        seen.append(key)
        done.set()

    async with running(visit) as queue:
        for _ in range(100):
            queue.add(A)
        await done.wait()
        await asyncio.sleep(0)
    assert seen == [A]


async def test_a_resource_is_visited_by_one_worker_at_a_time_and_once_more_for_what_came_meanwhile():
    """Never two decisions about the same thing at once."""
    at_once, most, count = 0, 0, 0
    free, again = asyncio.Event(), asyncio.Event()

    async def visit(_: Key) -> None:
        nonlocal at_once, most, count
        at_once, count = at_once + 1, count + 1
        most = max(most, at_once)
        if count == 1:
            await free.wait()
        else:
            again.set()
        at_once -= 1

    async with running(visit, workers=4) as queue:
        queue.add(A)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(10):
            queue.add(A)
        await asyncio.sleep(0)
        free.set()
        await again.wait()
        await asyncio.sleep(0)
    assert (most, count) == (1, 2)


async def test_one_that_fails_does_not_hold_up_the_others_and_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    """With growing pauses, up to a bound."""
    pauses: list[float] = []
    seen = asyncio.Event()

    async def visit(key: Key) -> None:
        if key == A:
            raise ValueError("it can't be")
        seen.set()

    async with running(visit, workers=1) as queue:
        plain = queue.add

        def add(key: Key, after_s: float = 0.0) -> None:
            pauses.append(after_s)
            plain(key, 0.0 if len(pauses) < 12 else 1000.0)
            if len(pauses) == 12:
                plain(B)

        monkeypatch.setattr(queue, "add", add)
        plain(A)
        await seen.wait()
    assert 0.8 * FIRST_PAUSE_S <= pauses[0] <= 1.2 * FIRST_PAUSE_S
    assert pauses[3] > pauses[0]
    assert max(pauses) <= 1.2 * LONGEST_PAUSE_S


async def test_a_visit_that_asks_for_another_gets_it():
    """After so many seconds."""
    count = 0
    twice = asyncio.Event()

    async def visit(_: Key) -> float | None:
        nonlocal count
        count += 1
        if count == 2:
            twice.set()
        return 0.01 if count == 1 else None

    async with running(visit) as queue:
        queue.add(A)
        await twice.wait()


async def test_what_is_due_later_waits_and_an_event_brings_it_forward():
    """The earlier of two wishes holds."""
    seen = asyncio.Event()

    async def visit(_: Key) -> None:
        seen.set()

    async with running(visit) as queue:
        queue.add(A, 3600)
        queue.add(A, 7200)
        await asyncio.sleep(0.01)
        assert not seen.is_set()
        queue.add(A)
        await seen.wait()


async def test_workers_that_do_not_come_show_in_how_late_visits_are():
    """What the liveness probe asks."""
    now = 0.0
    stuck, both = asyncio.Event(), asyncio.Event()

    async def visit(key: Key) -> None:
        if key == B:
            both.set()
        await stuck.wait()

    queue = Queue(visit, 1, clock=lambda: now)
    task = asyncio.create_task(queue.run())
    queue.add(A)
    await asyncio.sleep(0.01)
    queue.add(B)
    now = 500.0
    assert queue.overdue_s == 500.0
    stuck.set()
    async with asyncio.timeout(20):
        await both.wait()
    assert queue.overdue_s == 0.0
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
