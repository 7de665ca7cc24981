"""Who is killed, and when: a job, the index server, PostgreSQL with all its processes, or Redis, at seeded instants.

Some of the instants are drawn in time. Most lie a few milliseconds behind some step that a job has just told, so that
they fall into writes and not only between them. A server is started again after a pause that is drawn too, so several
may be away at once. A kill counts only if it hit a running process.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.chaos.jobs import TRY_AGAIN, Job, Jobs
from tests.chaos.report import Kill, Report

_JOB = "job"
_IN_TIME = 0.25
"""How many of the kills come after a time, whatever is done then."""

_PROGRESS = frozenset({"written", "promoted"})
_PREPARING = frozenset({"reading", "loading the model", "encoding"})  # steps that write nothing


@dataclass(eq=False)
class Victim:
    """A server that is killed and started again; `up` while it has answered and was not killed since.

    `share` is how many of ten kills go to it.
    """

    name: str
    share: int
    start: Callable[[], None]
    kill: Callable[[], None]
    process: Callable[[], subprocess.Popen[Any] | None]
    up: bool = True

    def end(self) -> None:
        """SIGKILL. Fails unless that is what it ended by."""
        process = self.process()
        assert process is not None
        assert process.poll() is None, f"{self.name} had ended by itself, with {process.returncode}"
        self.up = False
        self.kill()
        assert process.returncode == -signal.SIGKILL, f"{self.name} ended by itself, with {process.returncode}"

    async def revive(self, after_s: float) -> None:
        """Starts it again."""
        await asyncio.sleep(after_s)
        await asyncio.to_thread(self.start)
        self.up = True


class Killer:
    """Kills servers and jobs until as many are hit as the report wants, and writes down what it did."""

    def __init__(self, report: Report, servers: Sequence[Victim], random: Random) -> None:
        self.jobs: Jobs | None = None
        self.written = asyncio.Event()
        """Set once a job has written something, or is done."""
        self._report = report
        self._random = random
        self._servers = {server.name: server for server in servers}
        cards = [server.name for server in servers for _ in range(server.share)]
        self._cards = [*cards, *[_JOB] * (10 - len(cards))]
        self._deck: list[str] = []
        self._pending: list[tuple[Kill, float, Callable[[Job], bool]]] = []
        self._reviving: list[asyncio.Task[None]] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def names(self) -> set[str]:
        """The servers."""
        return set(self._servers)

    async def go(self, most: int, steps: int) -> None:
        """At most so many kills, each up to so many steps later than the one before. One that has begun is ended."""
        for _ in range(most):
            if len(self._report.kills) >= self._report.wanted:
                return
            await self._some_instant(steps)
            kill = asyncio.create_task(self._kill(self._draw()))
            try:
                await asyncio.shield(kill)
            except asyncio.CancelledError:
                await kill
                raise

    async def settle(self) -> None:
        """Waits until every server is up again."""
        reviving, self._reviving = self._reviving, []
        await asyncio.gather(*reviving)

    def hear(self, job: Job, step: str) -> None:
        """A job has told a step; it has ended if that is empty."""
        if step not in _PREPARING:
            waiting, self._waiting = self._waiting, []
            for steps, future in waiting:
                if steps > 1:
                    self._waiting.append((steps - 1, future))
                elif not future.done():
                    future.set_result(None)
        code = None if step else job.code.result()
        if step in _PROGRESS or code == 0:
            self.written.set()
            self._get_on(job)
        if code not in (None, 0, -signal.SIGKILL):
            restarts = self._report.restarts
            name = f"{job.kind}: exit {code}" + (", try again" if code == TRY_AGAIN else "")
            restarts[name] = restarts.get(name, 0) + 1

    # ---------------------------------------------------------------- one kill

    async def _some_instant(self, most: int) -> None:
        random = self._random
        in_time, steps, pause_s = random.random() < _IN_TIME, random.randint(1, most), random.uniform(0, 0.03)
        if in_time:
            await asyncio.sleep(min(random.expovariate(1.2), 3.0))
            return
        step: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((steps, step))
        await asyncio.wait([step], timeout=5.0)
        await asyncio.sleep(pause_s)

    def _draw(self) -> str:
        """Whom to kill next: a kind of job that was never hit, or whoever the cards say."""
        if any(job.kind not in self._report.by_victim for job in self._running()):
            return _JOB
        if not self._deck:
            self._deck = self._random.sample(self._cards, len(self._cards))
        return self._deck.pop()

    async def _kill(self, name: str) -> None:
        down_s, at, running = self._random.uniform(0, 1.2), time.monotonic(), self._running()
        latest = max(running, key=lambda job: job.since, default=None)
        during = latest.stage if latest else "between jobs"
        if name != _JOB:
            server = self._servers[name]
            if server.up:
                await asyncio.to_thread(server.end)
                self._count(Kill(self._report.rounds, name, during), at, lambda _: server.up)
                self._reviving.append(asyncio.create_task(server.revive(down_s)))
        elif running:
            job = self._random.choice(running)
            kill = Kill(self._report.rounds, job.kind, job.stage)
            job.kill()
            if await job.code == -signal.SIGKILL:
                self._count(kill, at, lambda other: other.command == job.command)

    def _count(self, kill: Kill, at: float, is_back: Callable[[Job], bool]) -> None:
        self._report.kills.append(kill)
        self._pending.append((kill, at, is_back))

    def _get_on(self, job: Job) -> None:
        """A job has got on: kills whose victims are back are over."""
        now = time.monotonic()
        for entry in [entry for entry in self._pending if entry[2](job)]:
            entry[0].recovery_s = round(now - entry[1], 2)
            self._pending.remove(entry)

    def _running(self) -> list[Job]:
        return list(self.jobs.running) if self.jobs else []
