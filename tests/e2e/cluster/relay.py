"""Carries connections into the node's network: `relay.py ADDRESS PORT`, with a listening socket as its standard input.

A socket belongs to the network that it was made in, and a process can hold one of another network. So this one runs in
the node's, and answers on this machine's loopback; no link, route or address joins the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

CHUNK = 1 << 16


def command(address: str, port: int) -> tuple[str, ...]:
    """What starts a relay; its standard input is to be the socket."""
    return (sys.executable, "-I", __file__, address, str(port))


async def serve(listening: socket.socket, address: str, port: int) -> None:
    """Relays until it is ended."""
    running = set()  # asyncio itself holds a task so weakly that it may be collected in the middle of its work

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            try:
                there, to_there = await asyncio.open_connection(address, port)
            except OSError:
                writer.transport.abort()
                return
            await asyncio.gather(carry(reader, to_there), carry(there, writer), return_exceptions=True)
            to_there.transport.abort()
            writer.transport.abort()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(answer(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(begin, sock=listening)
    await server.serve_forever()


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """One direction, until its end, which is passed on; a broken connection breaks the other one too."""
    try:
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
    except OSError:
        sink.transport.abort()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=0), sys.argv[1], int(sys.argv[2])))
