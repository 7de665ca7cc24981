"""The processes that index, as a platform runs them: the same command again until it says that it is done."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

ROOT = Path(__file__).parents[2]
TRY_AGAIN = 75
"""The exit code of a run that found something away or locked."""


@dataclass(eq=False)
class Job:
    """One process: its id, its last step and when it told that, and its exit code in the end (negative: the signal).

    Jobs of one command have equal `command`.
    """

    kind: str
    command: str
    process: int = 0
    stage: str = "starting"
    since: float = field(default_factory=time.monotonic)
    code: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.process, signal.SIGKILL)


class Jobs:
    """Starts processes and hears of their steps. `on_step` is called with each job and step, an end being step ""."""

    def __init__(self, folder: Path, environment: Mapping[str, str], on_step: Callable[[Job, str], None]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
        self._on_step = on_step
        self._numbers = itertools.count()
        self._starting: dict[int, asyncio.Future[None]] = {}
        self._known: dict[int, Job] = {}
        self.running: list[Job] = []
        self.ends: Counter[str] = Counter()
        """How often each kind of job ended in which way."""

    @property
    def process(self) -> int:
        """The id of the process that all jobs are forked from."""
        return self._server.pid

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.job_server"),
            cwd=ROOT,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        await self._server.wait()
        await self._reader
        for job in self._known.values():
            job.code.cancel()

    async def complete(self, kind: str, arguments: list[str], random: Random) -> None:
        """Runs a command until it exits with 0, again and again when it was killed or is to be tried again.

        Any other exit fails, with what the process printed.
        """
        output = self._folder / f"{next(self._numbers):04}-{kind}.log"
        while True:
            job = await self.start(kind, arguments, output)
            code = await job.code
            if code == 0:
                return
            assert code in (-signal.SIGKILL, TRY_AGAIN), (
                f"sightline {' '.join(arguments)} ended with {code}:\n{output.read_text()}"
            )
            await asyncio.sleep(random.uniform(0.02, 0.5))

    async def start(self, kind: str, arguments: list[str], output: Path) -> Job:
        """Starts one process, whose output is appended to a file."""
        number = next(self._numbers)
        started = self._starting[number] = asyncio.get_running_loop().create_future()
        assert self._server.stdin
        order = {"job": number, "arguments": arguments, "output": str(output)}
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        job = self._known[number] = Job(kind, str(output))
        await started
        return job

    async def _read(self) -> None:
        assert self._server.stdout
        async for line in self._server.stdout:
            event: dict[str, Any] = json.loads(line)
            number, job = event["job"], self._known[event["job"]]
            if "process" in event:
                job.process = event["process"]
                self.running.append(job)
                self._starting.pop(number).set_result(None)
            elif "stage" in event:
                job.stage, job.since = event["stage"], time.monotonic()
                self._on_step(job, job.stage)
            else:
                self.running.remove(job)
                self.ends[f"{job.kind} {event['code']}"] += 1
                job.code.set_result(event["code"])
                self._on_step(job, "")
