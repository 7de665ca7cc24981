"""Pictures on their way from elsewhere to the decoding workers: many at once, few bytes at once.

Requests live in the stores' own loop and thread, so neither workers nor the main loop wait for a network, and a main
loop that is busy does not stall requests. A picture's bytes go into memory that is a file too (`memfd`), which a worker
opens by its path and which is gone with this process, killed or not. Room for them is reserved before they come and
given back when the picture is decoded: the pictures on their way never have more bytes than `BYTES`, or than one
picture of the largest size that is allowed.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from engine.errors import SourceUnavailable
from engine.settings import Settings
from indexing.decode import HEAD_BYTES, Failure, Reason, refusal
from indexing.plan import Work
from indexing.sources.items import UNKNOWN_SIZE, Problem
from indexing.sources.remote import RemoteSource
from indexing.sources.retry import FetchError
from indexing.sources.stores import loop
from indexing.workers import Arrived

T = TypeVar("T")

BYTES: Final = 256 * 2**20
"""Room for pictures that are being fetched or wait to be decoded."""
GUESS: Final = 4 * 2**20
"""Room for a picture whose size its server does not tell. If it has more it is fetched again, with room for any."""
_WAITING: Final = 2
"""Fetched pictures that may wait, for each that may be fetched at once."""
_HOPELESS: Final = 4
"""So many times as many as are fetched at once, one after the other without any success, and a place is given up."""


class Room:
    """Bytes that may be in use at once, granted in the order in which they are asked for, in one event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._asking: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Waits until there is room; more than all of it is never granted and must not be asked for."""
        if not self._asking and self.used + size <= self.total:
            self.used += size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking.append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give(size)
            raise

    def give(self, size: int) -> None:
        """Gives room back."""
        self.used -= size
        while self._asking:
            wanted, granted = self._asking[0]
            if granted.cancelled():
                self._asking.popleft()
                continue
            if self.used + wanted > self.total:
                return
            self._asking.popleft()
            self.used += wanted
            granted.set_result(None)


class MemoryFile:
    """One picture's bytes, as a file with a path; a `Sink` of the stores.

    What is too large, or begins like no picture, is refused as soon as that is seen.
    """

    def __init__(self, max_bytes: int, room: Room) -> None:
        self._max_bytes = max_bytes
        self._room = room
        self._reserved = 0
        self._guess = min(GUESS, max_bytes)
        self._head = b""
        self._written = 0
        self._file: int | None = None
        self.path = ""

    async def begin(self, size: int) -> None:
        """Makes room for so many bytes, of a picture that begins anew."""
        if size > self._max_bytes:
            raise self._too_large(size)
        wanted = self._guess if size == UNKNOWN_SIZE else size
        if wanted > self._reserved:
            self._release()  # never hold some and wait for more: two that do would wait for each other
            await self._room.take(wanted)
            self._reserved = wanted
        if self._file is None:
            self._file, self.path = _new_file()
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._head, self._written = b"", 0

    def write(self, chunk: bytes) -> None:
        """Adds bytes, as many as there is room for."""
        assert self._file is not None  # noqa: S101 - it has begun
        self._written += len(chunk)
        if self._written > self._max_bytes:
            raise self._too_large(self._written)
        if self._written > self._reserved:
            self._guess = self._max_bytes
            raise FetchError(Reason.UNREACHABLE, "its size was not told, or wrong", again=True)
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._file, view) :]
        if len(self._head) < HEAD_BYTES:
            self._head += chunk[: HEAD_BYTES - len(self._head)]
            if len(self._head) == HEAD_BYTES:
                self.judge()

    def judge(self) -> None:
        """Raises `FetchError` if what has come so far is no picture."""
        reason = refusal(self._head)
        if reason:
            raise FetchError(reason, "")

    def close(self) -> None:
        """Drops the bytes."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            if not self.path.startswith("/proc/"):
                Path(self.path).unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._reserved:
            reserved, self._reserved = self._reserved, 0
            self._room.give(reserved)

    def _too_large(self, size: int) -> FetchError:
        return FetchError(Reason.TOO_LARGE, f"{size} bytes, {self._max_bytes} are allowed")


class Fetcher:
    """Fetches a plan's pictures. `problems` are those of the words that came with them."""

    def __init__(self, source: RemoteSource, settings: Settings) -> None:
        self.problems: list[Problem] = []
        self.room = Room(max(BYTES, settings.index_max_bytes))
        self._source = source
        self._at_once = settings.index_fetches
        self._max_bytes = settings.index_max_bytes
        self._open: set[MemoryFile] = set()
        self._failed_in_a_row = 0

    async def fetch(self, tasks: Iterable[Work]) -> AsyncGenerator[Arrived[Work], None]:
        """Every task with its file, in the order in which they come. Each must be told when it is `done`.

        The end comes when all are: the last files are there until they have been read. Close the iterator
        (`contextlib.aclosing`) to end what is under way. Raises `SourceError` when their place answers no more.
        """
        arrived: asyncio.Queue[Arrived[Work] | None] = asyncio.Queue()
        crew = await _over(self._start(iter(tasks), arrived))
        try:
            while (next_ := await _over(arrived.get())) is not None:
                yield next_
            await _over(_result(crew))
        finally:
            await _over(self._stop(crew))

    # ---------------------------------------------------------------- in the stores' loop

    async def _start(self, tasks: Iterator[Work], arrived: asyncio.Queue[Arrived[Work] | None]) -> asyncio.Task[None]:
        crew = asyncio.create_task(self._run_crew(tasks, arrived))
        crew.add_done_callback(lambda _: arrived.put_nowait(None))
        return crew

    async def _stop(self, crew: asyncio.Task[None]) -> None:
        crew.cancel()
        await asyncio.wait([crew])
        if not crew.cancelled():
            crew.exception()  # it was raised by `fetch`, or nobody asks any more
        while self._open:
            self._open.pop().close()

    async def _run_crew(self, tasks: Iterator[Work], arrived: asyncio.Queue[Arrived[Work] | None]) -> None:
        waiting = asyncio.Semaphore(_WAITING * self._at_once)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._at_once):
                    group.create_task(self._carry(tasks, arrived, waiting))
            for _ in range(_WAITING * self._at_once):
                await waiting.acquire()  # whoever has a file gives this back with it
        except* SourceUnavailable as errors:
            raise errors.exceptions[0] from None

    async def _carry(
        self, tasks: Iterator[Work], arrived: asyncio.Queue[Arrived[Work] | None], waiting: asyncio.Semaphore
    ) -> None:
        own = asyncio.get_running_loop()
        while True:
            await waiting.acquire()
            task = next(tasks, None)
            if task is None:
                waiting.release()
                return
            file = MemoryFile(self._max_bytes, self.room)
            self._open.add(file)

            def done(file: MemoryFile = file) -> None:
                own.call_soon_threadsafe(self._drop, file, waiting)

            arrived.put_nowait(await self._bring(task, file, done))

    def _drop(self, file: MemoryFile, waiting: asyncio.Semaphore) -> None:
        if file in self._open:
            self._open.remove(file)
            file.close()
        waiting.release()

    async def _bring(self, task: Work, file: MemoryFile, done: Callable[[], None]) -> Arrived[Work]:
        item = task.item
        try:
            fetched, problems = await self._source.fetch(item, file)
            if item.remote:
                file.judge()
        except FetchError as error:
            self._count(error)
            file.close()
            return Arrived(task, Failure(error.reason, error.detail), done)
        self._failed_in_a_row = 0
        self.problems += problems
        return Arrived(replace(task, item=fetched), file.path if item.remote else item.path, done)

    def _count(self, error: FetchError) -> None:
        """Gives a place up that has answered nothing for long: a run through all of its pictures would take days."""
        if error.reason != Reason.UNREACHABLE:
            self._failed_in_a_row = 0
            return
        self._failed_in_a_row += 1
        if self._source.in_one_place and self._failed_in_a_row >= _HOPELESS * self._at_once:
            raise SourceUnavailable(
                f"{self._source.name} answers no more: {error.detail}. Check the network and the credentials, then run "
                "the same command again: it goes on from here. What serves is as it was."
            )


async def _over(work: Coroutine[Any, Any, T]) -> T:
    """Awaits in this loop what runs in the stores'."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop()))


async def _result(task: asyncio.Task[None]) -> None:
    await task


def _new_file() -> tuple[int, str]:
    """An empty file's descriptor and path: in memory, and without a name, where the system has that."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):  # noqa: PTH112 - asked once for each picture
        file = os.memfd_create("sightline-picture")
        return file, f"/proc/{os.getpid()}/fd/{file}"
    return tempfile.mkstemp(prefix="sightline-")
