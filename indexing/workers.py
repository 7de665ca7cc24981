"""A pool of decoding processes that no picture can bring down.

Each worker holds one picture at a time, so a crash or a hang is always the fault of a known file: that file fails, its
worker is replaced, and everything else goes on. Workers are started by name and not forked, so they carry nothing of
this process: no model, no open index, no locks. Pixels come through memory that each shares with this process; through
a pipe of 64 kB they would cost three times as much.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Generic, Protocol, TypeVar

import numpy as np

from engine.cores import usable_cores
from engine.errors import SightlineError
from engine.ports import Pixels
from engine.preprocess import Preprocessing
from engine.settings import Settings
from indexing.decode import Failure, Outcome, Reason, Rules
from indexing.worker import HEADER, unpack

DECODER: Final = "indexing.decode:decode"
_START_TIMEOUT_S: Final = 120.0
_EXIT_TIMEOUT_S: Final = 2.0
_PIPE_BYTES: Final = 2**20
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # NumPy would start one for each core


class HasPath(Protocol):
    """A file to decode."""

    @property
    def path(self) -> str:
        """Where it lies."""
        ...


T = TypeVar("T")
P = TypeVar("P", bound=HasPath)


@dataclass(frozen=True, slots=True)
class Arrived(Generic[T]):
    """A task whose file is at hand: its path, or why there is none. `done` is called when nobody needs it any more."""

    task: T
    file: str | Failure
    done: Callable[[], None]


class DecoderPool:
    """Decodes files in `settings.index_workers` processes, one for each core and one more if that is 0.

    `preprocessing` is the model's; `decoder` names the function that workers call, "module:function". `ahead` is how
    many results may wait to be taken.
    """

    def __init__(
        self, settings: Settings, preprocessing: Preprocessing, *, ahead: int = 8, decoder: str = DECODER
    ) -> None:
        rules = Rules(settings.index_max_bytes, settings.index_max_pixels, settings.index_thumbnail_px, preprocessing)
        self._workers = settings.index_workers or usable_cores() + 1
        self._shape = (*preprocessing.size, 3)
        self._ahead = ahead
        self._timeout_s = settings.index_decode_timeout_s
        self._import_path = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
        self._order = {
            "decoder": decoder,
            "memory_mb": settings.index_worker_memory_mb,
            "timeout_s": self._timeout_s,
            "rules": asdict(rules),
        }

    def decode(self, tasks: Iterable[P]) -> AsyncGenerator[tuple[P, Outcome], None]:
        """Like `decode_arriving`, of files that are all there."""
        return self.decode_arriving(_at_hand(tasks))

    async def decode_arriving(self, tasks: AsyncIterator[Arrived[T]]) -> AsyncGenerator[tuple[T, Outcome], None]:
        """Every task with its outcome, in the order in which they are ready; a few wait, the rest is not yet begun.

        Close the iterator (`contextlib.aclosing`) to stop the workers. Raises `SightlineError` if none can be started.
        """
        ready: asyncio.Queue[tuple[T, Outcome] | None] = asyncio.Queue()
        room = asyncio.Semaphore(self._ahead)
        crew = asyncio.create_task(self._run_crew(_Turns(tasks), ready, room))
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
        self, waiting: _Turns[T], ready: asyncio.Queue[tuple[T, Outcome] | None], room: asyncio.Semaphore
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
        waiting: _Turns[T],
        ready: asyncio.Queue[tuple[T, Outcome] | None],
        room: asyncio.Semaphore,
        complaints: IO[bytes],
    ) -> None:
        """One worker's place in the pool: whatever dies in it is replaced when the next picture comes."""
        worker: _Worker | None = None
        try:
            while arrived := await waiting.next():
                outcome: Outcome
                if isinstance(arrived.file, Failure):
                    outcome = arrived.file
                    arrived.done()
                else:
                    if worker is None or not worker.is_running:
                        if worker:
                            await worker.stop()
                        worker = await self._start(complaints)
                    outcome = await worker.ask(arrived.file, self._timeout_s)
                    arrived.done()
                    if isinstance(outcome, Failure) and outcome.reason in (Reason.TIMEOUT, Reason.WORKER_DIED):
                        await worker.stop()
                        worker = None
                await room.acquire()
                ready.put_nowait((arrived.task, outcome))
        finally:
            if worker:
                await worker.stop()

    async def _start(self, complaints: IO[bytes]) -> _Worker:
        worker = await _Worker.start(self._order, self._shape, self._import_path, complaints)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await worker.receive()
        except (TimeoutError, EOFError) as error:
            await worker.reap()
            complaints.seek(0)
            lines = complaints.read()[-2000:].decode(errors="replace").strip().splitlines() or ["no message"]
            raise SightlineError(
                f"A decoding process could not start: {lines[-1]}. Check the installation with "
                "`python -c 'import indexing.decode'`."
            ) from error
        except BaseException:
            await worker.stop()
            raise
        return worker


class _Turns(Generic[T]):
    """Lets several take from one asynchronous iterator, one after the other."""

    def __init__(self, items: AsyncIterator[Arrived[T]]) -> None:
        self._items = items
        self._turn = asyncio.Lock()

    async def next(self) -> Arrived[T] | None:
        """The next one; None at the end."""
        async with self._turn:
            return await anext(self._items, None)


async def _at_hand(tasks: Iterable[P]) -> AsyncIterator[Arrived[P]]:
    for task in tasks:
        yield Arrived(task, task.path, _nothing)


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process and the (h, w, 3) pixels of its last picture, in memory that both can reach."""

    process: Process
    pixels: Pixels

    @classmethod
    async def start(
        cls, order: dict[str, Any], shape: tuple[int, ...], import_path: str, complaints: IO[bytes]
    ) -> _Worker:
        """Starts a process; its first frame will say that it is ready."""
        with _memory() as file:
            file.truncate(int(np.prod(shape)))
            pixels = np.frombuffer(mmap.mmap(file.fileno(), 0), dtype=np.uint8).reshape(shape)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "indexing.worker", json.dumps({**order, "pixels": file.fileno()})),
                stdin=PIPE,
                stdout=PIPE,
                stderr=complaints,
                limit=_PIPE_BYTES,
                pass_fds=(file.fileno(),),
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": import_path},
                start_new_session=True,  # Ctrl-C is for the parent, who then stops its workers
            )
        return cls(process, pixels)

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.returncode is None

    async def ask(self, path: str, timeout_s: float) -> Outcome:
        """What it makes of one file; the process may be dead or hanging afterwards, and then that is the outcome."""
        assert self.process.stdin  # noqa: S101 - it was opened as a pipe
        try:
            async with asyncio.timeout(timeout_s):
                self.process.stdin.write(json.dumps(path).encode() + b"\n")
                await self.process.stdin.drain()
                return await self.receive() or Failure(Reason.WORKER_DIED, "it gave no answer")
        except TimeoutError:
            return Failure(Reason.TIMEOUT, f"{timeout_s:g} s")
        except (EOFError, OSError, ValueError, TypeError, KeyError):
            code = await self.reap()
            return Failure(Reason.WORKER_DIED, f"signal {-code}" if code < 0 else f"exit code {code}")

    async def receive(self) -> Outcome | None:
        """Its next frame; None if that only says that it is ready."""
        assert self.process.stdout  # noqa: S101 - it was opened as a pipe
        lengths = HEADER.unpack(await self.process.stdout.readexactly(HEADER.size))
        text, thumbnail = [await self.process.stdout.readexactly(length) for length in lengths]
        return unpack(text, thumbnail, self.pixels)

    async def reap(self) -> int:
        """The exit code of a process that is about to end by itself, or is ended if it does not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                await self.process.wait()
        await self.stop()
        return self.process.returncode or 0

    async def stop(self) -> None:
        """Ends the process."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.communicate()


def _memory() -> IO[bytes]:
    """A file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("sightline-pixels"), "w+b")
    return tempfile.TemporaryFile()
