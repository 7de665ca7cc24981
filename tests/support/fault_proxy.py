"""A TCP proxy that does to connections what networks and dying servers do. It knows no protocol.

    async with FaultProxy(server_port) as proxy:
        client = connect("127.0.0.1", proxy.port)    # works: bytes go through in both directions
        proxy.fault = Hang()                          # from now on, also on connections that exist
        ...
        proxy.fault = None                            # and all is well again

What the client sends always reaches the server; a fault befalls what the server answers. `Refuse` takes the listener
away and cuts every connection. `accepted` counts connections, so that a test can tell whether anybody still tried;
`open` is how many there are.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

_CHUNK = 65536


@dataclass(frozen=True)
class Refuse:
    """Nobody listens; connections that existed are reset."""


@dataclass(frozen=True)
class Hang:
    """Connections are accepted and answers never come. Afterwards, those that were held back do."""


@dataclass(frozen=True)
class Delay:
    """Each piece of an answer comes so many seconds late."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """The connection is reset after so many bytes of an answer."""

    after: int


@dataclass(frozen=True)
class Change:
    """Each piece of an answer arrives as something else."""

    into: Callable[[bytes], bytes]


Fault = Refuse | Hang | Delay | Cut | Change


class FaultProxy:
    """A proxy on a free port of the loopback address, in front of `target_port` there."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.accepted = 0
        self._target_port = target_port
        self._fault: Fault | None = None
        self._changed = asyncio.Event()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def __aenter__(self) -> Self:
        self._listen()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._cut_all()
        self._ignore()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._connections)

    @property
    def fault(self) -> Fault | None:
        """What happens to answers now; None passes them on."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        if isinstance(fault, Refuse):
            self._cut_all()
            self._ignore()
        elif self._listener is None:
            self._listen()

    # ------------------------------------------------------------ the listener

    def _listen(self) -> None:
        """Listens at once, on the same port as before if there was one."""
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen()
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(self._listener))

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
            self.accepted += 1
            task = asyncio.create_task(self._serve(client))
            self._connections[task] = []
            task.add_done_callback(self._connections.pop)

    def _ignore(self) -> None:
        if self._accepting is not None and self._listener is not None:
            self._accepting.cancel()
            self._listener.close()
            self._listener = None

    # ------------------------------------------------------------ connections

    async def _serve(self, client: socket.socket) -> None:
        """Carries bytes to and fro until either side ends it."""
        task = asyncio.current_task()
        assert task
        from_client, to_client = await asyncio.open_connection(sock=client)
        self._connections[task].append(to_client)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._connections[task].append(to_server)
            ways = (self._carry(from_client, to_server), self._carry_answers(from_server, to_client))
            _, rest = await asyncio.wait([asyncio.create_task(way) for way in ways], return_when="FIRST_COMPLETED")
            for way in rest:
                way.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
        except OSError:
            pass  # the server is not there: the client finds its connection closed
        finally:
            for writer in self._connections[task]:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                writer.write(chunk)
                await writer.drain()

    async def _carry_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                while isinstance(self._fault, Hang):
                    await self._changed.wait()
                match self._fault:
                    case Delay(seconds):
                        with suppress(TimeoutError):
                            await asyncio.wait_for(self._changed.wait(), seconds)
                    case Cut(after):
                        writer.write(chunk[:after])
                        await writer.drain()
                        _reset(writer)
                        return
                    case Change(into):
                        chunk = into(chunk)
                writer.write(chunk)
                await writer.drain()

    def _cut_all(self) -> None:
        for writers in self._connections.values():
            for writer in writers:
                _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes a connection so that the other side finds it reset, not ended."""
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
