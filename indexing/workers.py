"""A pool of decoding processes that no picture can bring down.

Each worker holds one picture at a time, so a crash or a hang is always the fault of a known file: that file fails, its
worker is replaced, and everything else goes on. Workers are started by name and not forked, so they carry nothing of
this process: no torch, no open index, no locks.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final, Protocol, TypeVar

from engine.errors import SightlineError
from engine.settings import Settings
from indexing.decode import Failure, Fit, Outcome, Reason, Rules
from indexing.worker import HEADER, unpack

DECODER: Final = "indexing.decode:decode"
_START_TIMEOUT_S: Final = 120.0
_EXIT_TIMEOUT_S: Final = 2.0
_PIPE_BYTES: Final = 2**20


class HasPath(Protocol):
    """A file to decode."""

    @property
    def path(self) -> str:
        """Where it lies."""
        ...


T = TypeVar("T", bound=HasPath)


class DecoderPool:
    """Decodes files in `settings.index_workers` processes.

    `fit` is how pictures are made smaller, None not at all; `decoder` names the function that workers call,
    "module:function". `ahead` is how many results may wait to be taken.
    """

    def __init__(self, settings: Settings, fit: Fit | None, *, ahead: int = 8, decoder: str = DECODER) -> None:
        rules = Rules(settings.index_max_bytes, settings.index_max_pixels, settings.index_thumbnail_px, fit)
        self._workers = settings.index_workers
        self._ahead = ahead
        self._import_path = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
        self._timeout_s = settings.index_decode_timeout_s
        self._order = json.dumps(
            {
                "decoder": decoder,
                "memory_mb": settings.index_worker_memory_mb,
                "timeout_s": self._timeout_s,
                "rules": asdict(rules),
            }
        )

    async def decode(self, tasks: Iterable[T]) -> AsyncGenerator[tuple[T, Outcome], None]:
        """Every task with its outcome, in the order in which they are ready; a few wait, the rest is not yet begun.

        Close the iterator (`contextlib.aclosing`) to stop the workers. Raises `SightlineError` if none can be started.
        """
        ready: asyncio.Queue[tuple[T, Outcome] | None] = asyncio.Queue()
        room = asyncio.Semaphore(self._ahead)
        crew = asyncio.create_task(self._run_crew(iter(tasks), ready, room))
        crew.add_done_callback(lambda _: ready.put_nowait(None))
        try:
            while (answer := await ready.get()) is not None:
                room.release()
                yield answer
            await crew
        finally:
            crew.cancel()
            with suppress(asyncio.CancelledError):
                await crew

    async def _run_crew(
        self, waiting: Iterable[T], ready: asyncio.Queue[tuple[T, Outcome] | None], room: asyncio.Semaphore
    ) -> None:
        with tempfile.TemporaryFile() as complaints:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._workers):
                        group.create_task(self._serve(waiting, ready, room, complaints))
            except* SightlineError as errors:
                raise errors.exceptions[0] from None

    async def _serve(
        self,
        waiting: Iterable[T],
        ready: asyncio.Queue[tuple[T, Outcome] | None],
        room: asyncio.Semaphore,
        complaints: IO[bytes],
    ) -> None:
        """One worker's place in the pool: whatever dies in it is replaced when the next picture comes."""
        worker: Process | None = None
        try:
            for task in waiting:
                if worker is None or worker.returncode is not None:
                    await _stop(worker)
                    worker = await self._start(complaints)
                outcome = await self._ask(worker, task.path)
                if isinstance(outcome, Failure) and outcome.reason in (Reason.TIMEOUT, Reason.WORKER_DIED):
                    await _stop(worker)
                    worker = None
                await room.acquire()
                ready.put_nowait((task, outcome))
        finally:
            await _stop(worker)

    async def _start(self, complaints: IO[bytes]) -> Process:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "indexing.worker", self._order),
            stdin=PIPE,
            stdout=PIPE,
            stderr=complaints,
            limit=_PIPE_BYTES,
            env={**os.environ, "PYTHONPATH": self._import_path},
            start_new_session=True,  # Ctrl-C is for the parent, who then stops its workers
        )
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await _receive(worker)
        except (TimeoutError, EOFError) as error:
            await _reap(worker)
            complaints.seek(0)
            lines = complaints.read()[-2000:].decode(errors="replace").strip().splitlines() or ["no message"]
            raise SightlineError(
                f"A decoding process could not start: {lines[-1]}. Check the installation with "
                "`python -c 'import indexing.decode'`."
            ) from error
        except BaseException:
            await _stop(worker)
            raise
        return worker

    async def _ask(self, worker: Process, path: str) -> Outcome:
        assert worker.stdin  # noqa: S101 - it was opened as a pipe
        request = json.dumps(path)
        try:
            async with asyncio.timeout(self._timeout_s):
                worker.stdin.write(request.encode() + b"\n")
                await worker.stdin.drain()
                return await _receive(worker) or Failure(Reason.WORKER_DIED, "it gave no answer")
        except TimeoutError:
            return Failure(Reason.TIMEOUT, f"{self._timeout_s:g} s")
        except (EOFError, OSError, ValueError, TypeError, KeyError):
            code = await _reap(worker)
            return Failure(Reason.WORKER_DIED, f"signal {-code}" if code < 0 else f"exit code {code}")


async def _receive(worker: Process) -> Outcome | None:
    assert worker.stdout  # noqa: S101 - it was opened as a pipe
    lengths = HEADER.unpack(await worker.stdout.readexactly(HEADER.size))
    text, pixels, thumbnail = [await worker.stdout.readexactly(length) for length in lengths]
    return unpack(text, pixels, thumbnail)


async def _reap(worker: Process) -> int:
    """The exit code of a worker that is about to end by itself, or is ended if it does not."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_EXIT_TIMEOUT_S):
            await worker.wait()
    await _stop(worker)
    return worker.returncode or 0


async def _stop(worker: Process | None) -> None:
    if worker is None:
        return
    with suppress(ProcessLookupError):
        worker.kill()
    await worker.communicate()
