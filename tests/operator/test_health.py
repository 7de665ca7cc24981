"""Probes that notice what a process that only looks alive does not tell."""

from __future__ import annotations

from typing import Any

import aiohttp
from imageindex_operator.health import DEAF_S, STUCK_S, Health, Watchdog


def body(version: str, uid: str = "a") -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": version}}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_was_told_and_listed_alike_is_fine_for_ever():
    """Quiet is not deaf."""
    clock = Clock()
    dog = Watchdog(clock)
    dog.told(body("1"))
    for _ in range(10):
        clock.now += 1000
        dog.listed([body("1")])
        assert dog.deaf_s == 0


def test_a_change_that_no_watch_tells_of_is_noticed():
    """And how long it has been there."""
    clock = Clock()
    dog = Watchdog(clock)
    dog.told(body("1"))
    dog.listed([body("2")])
    assert not dog.knows(body("2"))
    clock.now = 50
    dog.listed([body("2")])
    assert dog.deaf_s == 50
    dog.told(body("2"))
    assert dog.deaf_s == 0
    assert dog.knows(body("2"))


def test_a_watch_that_lags_behind_many_changes_is_not_deaf():
    """Each word from it about the object counts, also an older one."""
    clock = Clock()
    dog = Watchdog(clock)
    for number in range(10):
        clock.now += 30
        dog.listed([body(str(number + 1))])
        dog.told(body(str(number)))
    assert dog.deaf_s == 0


def test_what_is_gone_is_no_reason():
    """Neither told nor listed any more."""
    clock = Clock()
    dog = Watchdog(clock)
    dog.listed([body("1"), body("1", "b")])
    clock.now = 500
    dog.listed([body("1", "b")])
    dog.told(body("1", "b"), gone=True)
    assert dog.deaf_s == 0


async def test_the_liveness_probe_fails_for_a_dead_watch_and_for_stuck_workers_of_the_leader_only():
    """Who waits for the Lease is alive."""
    clock = Clock()
    dog = Watchdog(clock)
    late, leading = 0.0, True
    health = Health(dog, lambda: late, lambda: leading)
    await health.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{health.port}") as session:

            async def ask(path: str) -> tuple[int, str]:
                async with session.get(path) as answer:
                    return answer.status, await answer.text()

            assert await ask("/livez") == (200, "alive")
            assert await ask("/readyz") == (200, "leading")
            dog.listed([body("1")])
            clock.now = DEAF_S + 1
            assert (await ask("/livez"))[0] == 503
            assert "No watch told" in (await ask("/livez"))[1]
            dog.told(body("1"))
            late = STUCK_S + 1
            assert "stuck" in (await ask("/livez"))[1]
            leading = False
            assert await ask("/livez") == (200, "alive")
            assert await ask("/readyz") == (200, "waiting for the lease")
            assert "sightline_operator_leading" in (await ask("/metrics"))[1]
    finally:
        await health.stop()
