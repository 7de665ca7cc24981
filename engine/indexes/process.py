"""Qdrant Edge in a process of its own, for whoever has an event loop to keep going.

Edge holds the GIL while it searches, and a crash of its native code ends the process it is in. Here that is a child:
the parent only moves bytes, many calls can be under way, and if the child dies they fail with `IndexUnavailable` and
the next call starts another one. A child that hangs is ended, so that the same happens: one that owes an answer and for
`SEARCH_TIMEOUT_S` neither says anything nor uses its processor, which tells it from one that has much to do. After a
start that failed there is a pause before the next, and calls meanwhile get the error of the last.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog

from engine.errors import BadUserInput, IndexUnavailable, SightlineError
from engine.filters import canonical, validate
from engine.indexes import wire
from engine.indexes.exact import unit_query, unit_vector
from engine.ports import Filter, Hit, IndexInfo, Point, VectorQuery
from engine.settings import Settings

_RECEIVE: Final = 1 << 16
_TUNABLES: Final = "GLIBC_TUNABLES"
_HUGE_PAGES: Final = "glibc.malloc.hugetlb"
_CLOSE_S: Final = 5.0  # that a child has to finish what it is doing; what it had answered before is safe on disk
_LOOKS: Final = 4  # at a child during SEARCH_TIMEOUT_S; after one more without a sign of life it is ended
_REST_S: Final = 0.5  # after a start that failed; twice as long after each further one
_LONGEST_REST_S: Final = 8.0

log = structlog.get_logger()


class ProcessIndex:
    """An Edge index in a child process. Make it with `create` or `open`, and use it from one event loop at a time."""

    def __init__(self, path: Path, settings: Settings, child: _Child) -> None:
        """Takes over a running child."""
        self._path = path
        self._settings = settings
        self._child = child
        self._dimension = child.dimension
        self._starting: asyncio.Task[_Child] | None = None
        self._refusal: SightlineError | None = None
        self._rest_s = 0.0
        self._again_at = 0.0
        self._closed = False

    @classmethod
    async def create(cls, path: Path, dimension: int, settings: Settings) -> ProcessIndex:
        """A new, empty index of (dimension,) vectors in the folder `path`, which is made.

        Raises `IndexUnavailable` when the folder already holds an index, or no process can be started.
        """
        return cls(path, settings, await _Child.start(path, dimension, settings))

    @classmethod
    async def open(cls, path: Path, settings: Settings) -> ProcessIndex:
        """The index in the folder `path`. Settings that changed since it was built apply from the next `optimize`.

        Raises `IndexUnavailable` when another process has it open or none can be started, `IndexCorrupt` when its
        files can't be read.
        """
        return cls(path, settings, await _Child.start(path, None, settings))

    @property
    def process_id(self) -> int:
        """The id of the child process, for who measures it."""
        return self._child.process.pid

    async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """One sorted list of hits per query. HNSW candidates are at least the limit, and rescored in full precision."""
        for query in queries:
            _check(query.filter)
        units = [replace(query, vector=unit_query(query, self._dimension)) for query in queries]
        rows, floats = wire.pack_queries(units)
        answers, _ = await self._call("search", [rows], floats)
        return wire.unpack_hits(answers)

    async def count(self, filter: Filter | None = None) -> int:
        """How many points the filter admits, exactly."""
        _check(filter)
        count, _ = await self._call("count", [canonical(filter)])
        return int(count)

    async def retrieve(self, ids: Sequence[str], *, vectors: bool = False, payload: bool = True) -> list[Point]:
        """The points of these ids, in that order, unknown ones left out; their payloads are {} when not asked for."""
        return wire.unpack_points(*await self._call("retrieve", [list(ids), vectors, payload]))

    async def facet(self, field: str, filter: Filter | None = None, limit: int = 100) -> list[tuple[str, int]]:
        """The values of a field with their numbers of points. Fast for category, a full read for other fields."""
        _check(filter)
        values, _ = await self._call("facet", [field, canonical(filter), limit])
        return [(value, count) for value, count in values]

    async def upsert(self, points: Sequence[Point]) -> None:
        """Writes points and flushes them; within one call the last of equal ids wins.

        Raises `BadUserInput` for a vector of another length, a payload that is not JSON, or an id that is no UUID.
        """
        units: list[Point] = []
        for point in points:
            try:
                json.dumps(dict(point.payload), allow_nan=False)  # on the way NaN would become null
            except (TypeError, ValueError) as error:
                raise BadUserInput(f"The payload of point {point.id} is not plain JSON: {error}.") from error
            units.append(replace(point, vector=unit_vector(point, self._dimension)))
        rows, floats = wire.pack_points(units)
        await self._call("upsert", [rows], floats)

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes points; unknown ids are ignored."""
        await self._call("delete", [list(ids)])

    async def ids(self, after: str = "", limit: int | None = None) -> list[str]:
        """The ids that come after one, sorted, and at most so many; every id when nothing is named."""
        ids, _ = await self._call("ids", [after, limit])
        return list(ids)

    async def optimize(self) -> None:
        """Builds graph and quantized vectors. Other calls wait for it; this process does not."""
        await self._call("optimize")

    async def info(self) -> IndexInfo:
        """Size and shape; `disk_bytes` is what the files occupy, less than their length where they are sparse."""
        info, _ = await self._call("info")
        return IndexInfo(**info)

    async def close(self) -> None:
        """Has the child let go of the files and ends it, within 5 s whatever it is doing; harmless when done twice."""
        if self._closed:
            return
        self._closed = True
        with suppress(TimeoutError, SightlineError):  # a child that is dead or stuck is ended below
            async with asyncio.timeout(_CLOSE_S):
                if self._starting is not None and not self._starting.done():
                    await self._starting
                if not self._child.gone:
                    await self._child.ask("close")
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
        await asyncio.to_thread(self._child.end)

    async def _call(self, method: str, arguments: Sequence[Any] = (), floats: bytes = b"") -> tuple[Any, bytes]:
        if self._closed:
            raise IndexUnavailable(f"The index at {self._path} is closed. Open it again.")
        if self._child.gone:
            await self._restart()
        return await self._child.ask(method, arguments, floats)

    async def _restart(self) -> None:
        """Starts another child for one that died; of several callers, one does and the others wait."""
        if self._starting is None or self._starting.done():
            if self._refusal is not None and time.monotonic() < self._again_at:
                raise self._refusal.with_traceback(None)
            log.warning("index process starts again", index=str(self._path))
            self._starting = asyncio.create_task(self._replace())
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())  # all may have left
        await asyncio.shield(self._starting)

    async def _replace(self) -> _Child:
        try:
            self._child = await _Child.start(self._path, None, self._settings)
        except SightlineError as error:
            self._refusal, self._rest_s = error, min(2 * self._rest_s or _REST_S, _LONGEST_REST_S)
            self._again_at = time.monotonic() + self._rest_s
            raise
        self._refusal, self._rest_s = None, 0.0
        return self._child


class _Child:
    """One child process and the requests that wait for its answers."""

    def __init__(
        self,
        path: Path,
        process: subprocess.Popen[bytes],
        connection: socket.socket,
        lifeline: int,
        timeout_s: float,
    ) -> None:
        self.process = process
        self.dimension = 0
        self._lost = False
        self._path = path
        self._connection = connection
        self._lifeline = lifeline
        self._timeout_s = timeout_s
        self._look: asyncio.TimerHandle | None = None
        self._silent = 0
        self._worked_s: float | None = None
        self._unpacker = wire.Unpacker()
        self._unsent = bytearray()
        self._number = 0
        self._pending: dict[int, asyncio.Future[tuple[Any, bytes]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    async def start(cls, path: Path, dimension: int | None, settings: Settings) -> _Child:
        """A child that has opened the shard, or created it if a dimension is given."""
        process, ours, lifeline = _spawned(path, dimension, settings)
        ours.setblocking(False)
        child = cls(path, process, ours, lifeline, settings.search_timeout_s)
        try:
            child.dimension, _ = await child._reply(0)
        except BaseException:
            child.end()
            raise
        return child

    @property
    def gone(self) -> bool:
        """Whether the process has ended, noticed or not yet."""
        if self.process.poll() is not None:
            self._lose()
        return self._lost

    async def ask(self, method: str, arguments: Sequence[Any] = (), floats: bytes = b"") -> tuple[Any, bytes]:
        """Sends a request; its answer, or the error that the child names. Who is cancelled just doesn't get it."""
        if self._lost:
            raise self._ended()
        self._number += 1
        frame = wire.pack([self._number, method, *arguments], floats)
        reply = self._reply(self._number)
        self._unsent += frame
        self._writable()
        return await reply

    def end(self) -> None:
        """Kills the process if it still runs, and waits until it is gone."""
        self._lose()
        self.process.kill()
        self.process.wait()

    def _reply(self, number: int) -> asyncio.Future[tuple[Any, bytes]]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._connection)
            self._loop, self._look = loop, None
            loop.add_reader(self._connection, self._readable)
        if self._look is None and number:  # starting may wait for a disk, which looks like hanging
            self._look = loop.call_later(self._timeout_s / _LOOKS, self._look_after)
        self._pending[number] = loop.create_future()
        return self._pending[number]

    def _readable(self) -> None:
        try:
            received = self._connection.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._lose()
            return
        self._silent = 0
        for (number, status, *result), floats in self._unpacker.feed(received):
            future = self._pending.pop(number)
            if future.done():
                continue  # who asked has been cancelled
            if status == "ok":
                future.set_result((result[0], floats))
            else:
                future.set_exception(wire.unpack_error(status, result[0]))

    def _writable(self) -> None:
        assert self._loop  # noqa: S101 - a reply is waited for before anything is sent
        try:
            sent = self._connection.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._connection, self._writable)
        else:
            self._loop.remove_writer(self._connection)

    def _look_after(self) -> None:
        """Ends the process if it hangs. Looks are counted, not seconds: if we slept, it is not to blame."""
        self._look = None
        if self._lost or self._loop is None or not self._pending:
            self._silent = 0
            return
        worked_s = _processor_s(self.process.pid)
        self._silent = self._silent + 1 if worked_s is not None and worked_s == self._worked_s else 0
        self._worked_s = worked_s
        if self._silent > _LOOKS:
            log.error("index process hangs and is ended", index=str(self._path), waiting=len(self._pending))
            self._lose()  # at once, so that the next call starts another one
            return
        self._look = self._loop.call_later(self._timeout_s / _LOOKS, self._look_after)

    def _lose(self) -> None:
        """Lets go of a process that is gone or about to be, and fails all who wait for it."""
        if self._lost:
            return
        self._lost = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
        self._connection.close()
        os.close(self._lifeline)
        pending, self._pending = self._pending, {}
        if not pending:
            return
        self.process.kill()
        self.process.wait()  # it has closed its socket, so this is a matter of milliseconds
        for future in pending.values():
            if not future.done():
                future.set_exception(self._ended())

    def _ended(self) -> IndexUnavailable:
        self.process.kill()
        code = self.process.wait()
        why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if self._silent > _LOOKS:
            why = f"it hung for {self._timeout_s:g} s and was ended"
        return IndexUnavailable(
            f"The process of the index at {self._path} ended ({why}). The next request starts it again; if it ends "
            "again, look for a full disk or too little memory in the system's log."
        )


def _spawned(
    path: Path, dimension: int | None, settings: Settings
) -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    """Starts a process by name; with it come our ends of its socket and of its lifeline."""
    chosen = {name for name in type(settings).model_fields if name.startswith("search_")}
    order = json.dumps(
        {
            "path": str(path.absolute()),
            "dimension": dimension,
            "settings": settings.model_dump(mode="json", include=chosen),
        }
    )
    imports = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    ours, theirs = socket.socketpair()
    end, lifeline = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of ours
            [sys.executable, "-m", "engine.indexes.child", str(theirs.fileno()), str(end), order],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), end),
            env={**os.environ, "PYTHONPATH": imports, _TUNABLES: _with_huge_pages(os.environ.get(_TUNABLES, ""))},
            start_new_session=True,  # Ctrl-C is for the parent, who then closes its index
        )
    except OSError as error:
        ours.close()
        os.close(lifeline)
        raise IndexUnavailable(f"No process can be started for the index at {path}: {error}.") from error
    finally:
        theirs.close()
        os.close(end)
    return process, ours, lifeline


def _with_huge_pages(tunables: str) -> str:
    """The C library's tunables, with one that asks for huge pages, unless somebody has decided that already.

    A search visits thousands of vectors all over the memory, and looking up where each small page lies takes as long as
    comparing: measured on a million vectors, huge pages save a quarter to a half. Other C libraries ignore it.
    """
    if _HUGE_PAGES in tunables:
        return tunables
    return ":".join(filter(None, (tunables, f"{_HUGE_PAGES}=1")))


def _processor_s(process: int) -> float | None:
    """Seconds of processor time that a process has used, all its threads together; None where that can't be told."""
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime((~process << 3) | 2)  # what clock_getcpuclockid(3) gives, without calling it
    except OSError:
        return None


def _check(filter: Filter | None) -> None:
    if filter is not None:
        validate(filter)
