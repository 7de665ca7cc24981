"""The index process: one shard, and the requests of one parent over one socket.

    python -m engine.indexes.child SOCKET LIFELINE '{"path": "…", "dimension": null, "settings": {…}}'

Requests are answered in the order they came, except that searches which wait together are made together. The process
ends when the parent closes the socket or is gone. While Edge works, no Python can notice that, so on Linux the kernel
tells: the lifeline is a pipe that the parent holds open, and the signal of its end is fatal. Nothing is lost by that,
because every write is flushed before it is answered.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from engine.errors import SightlineError
from engine.filters import from_canonical
from engine.indexes import wire
from engine.indexes.shard import Shard
from engine.settings import Settings

_RECEIVE: Final = 1 << 16  # larger ones come from the system and go back to it, which clears a huge page each time
_TOGETHER: Final = 4  # searches in one call of Edge: saves a tenth of the work, and more would only wait longer


class Server:
    """Answers requests on a socket until it is closed."""

    def __init__(self, connection: socket.socket, shard: Shard) -> None:
        """Takes an open shard."""
        self._connection = connection
        self._shard = shard
        self._unpacker = wire.Unpacker()
        self._waiting: deque[wire.Frame] = deque()

    def run(self) -> None:
        """Serves until the parent closes the socket or asks to close."""
        while self._receive(wait=not self._waiting):
            if not self._waiting:
                continue
            if self._waiting[0][0][1] == "search":
                self._search(self._searches())
                continue
            content, floats = self._waiting.popleft()
            number, method, *arguments = content
            self._answer(number, method, arguments, floats)
            if method == "close":
                return

    def _receive(self, *, wait: bool) -> bool:
        """Takes in what has arrived; False at the end of the stream."""
        try:
            received = self._connection.recv(_RECEIVE, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self._waiting += self._unpacker.feed(received)
        return bool(received)

    def _searches(self) -> list[wire.Frame]:
        """The searches at the head of the queue that are worth making together: none waits for one that is slow."""
        taken = [self._waiting.popleft()]
        queries = taken[0][0][2]
        while _quick(queries) and self._waiting and self._waiting[0][0][1] == "search":
            queries = queries + self._waiting[0][0][2]
            if not _quick(queries):
                break
            taken.append(self._waiting.popleft())
        return taken

    def _search(self, frames: Sequence[wire.Frame]) -> None:
        """One call of Edge for all; if that fails, one for each, so that nobody gets the error of another."""
        try:
            asked = [wire.unpack_queries(content[2], floats) for content, floats in frames]
            answers = iter(self._shard.search([query for queries in asked for query in queries]))
        except SightlineError as error:
            if len(frames) == 1:
                self._send([frames[0][0][0], *wire.pack_error(error)])
                return
            for frame in frames:
                self._search([frame])
            return
        for (content, _), queries in zip(frames, asked, strict=True):
            self._send([content[0], "ok", wire.pack_hits([next(answers) for _ in queries])])

    def _answer(self, number: int, method: str, arguments: list[Any], floats: bytes) -> None:
        try:
            result, vectors = self._call(method, arguments, floats)
        except SightlineError as error:
            self._send([number, *wire.pack_error(error)])
        else:
            self._send([number, "ok", result], vectors)

    def _call(self, method: str, arguments: list[Any], floats: bytes) -> tuple[Any, bytes]:
        """The result of a method, and the vectors that belong to it."""
        shard, vectors = self._shard, b""
        result: Any = None
        match method, arguments:
            case "count", (filter,):
                result = shard.count(from_canonical(filter))
            case "retrieve", (ids, with_vectors, with_payload):
                result, vectors = wire.pack_points(shard.retrieve(ids, vectors=with_vectors, payload=with_payload))
            case "ids", (after, limit):
                result = shard.ids(after, limit)
            case "facet", (field, filter, limit):
                result = shard.facet(field, from_canonical(filter), limit)
            case "upsert", (rows,):
                shard.upsert(wire.unpack_points(rows, floats))
            case "delete", (ids,):
                shard.delete(ids)
            case (("info" | "optimize"), ()):
                result = getattr(shard, method)()
        return result, vectors

    def _send(self, content: list[Any], floats: bytes = b"") -> None:
        self._connection.sendall(wire.pack(content, floats))


def _quick(rows: list[list[Any]]) -> bool:
    """Whether these queries may be made in one go with others."""
    return len(rows) <= _TOGETHER and not any(exact for _, _, _, exact, _ in rows)


def end_with(lifeline: int) -> None:
    """Has the kernel end this process when the other end of the pipe is closed, whatever it is doing (on Linux)."""
    if sys.platform == "linux":  # elsewhere the signal is ignored unless it is handled
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def main(descriptor: int, lifeline: int, order: str) -> None:
    """Opens or creates the shard, says so, and serves it."""
    end_with(lifeline)
    told = json.loads(order)
    path, dimension, settings = Path(told["path"]), told["dimension"], Settings(_env_file=None, **told["settings"])
    with socket.socket(fileno=descriptor) as connection:
        try:
            shard = Shard.open(path, settings) if dimension is None else Shard.create(path, dimension, settings)
        except SightlineError as error:
            connection.sendall(wire.pack([0, *wire.pack_error(error)]))
            return
        connection.sendall(wire.pack([0, "ok", shard.dimension]))
        Server(connection, shard).run()
        os._exit(0)  # without closing the shard: what the system holds of its files is what the next process needs


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
