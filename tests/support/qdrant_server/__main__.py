"""Runs the stand-in as a process of its own, because Edge holds the GIL while it works.

    python -m tests.support.qdrant_server --data DIR [--host 127.0.0.1] [--port 0] [--api-key KEY] [--attached]

It prints its port on the first line when it answers. SIGTERM ends it in order; SIGKILL loses nothing that it answered.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from tests.support.qdrant_server.server import start


async def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.support.qdrant_server", description="A stand-in for a Qdrant server.")
    parser.add_argument("--data", type=Path, required=True, help="folder of collections, aliases and faults.json")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="gRPC port; 0 takes a free one")
    parser.add_argument("--api-key", default="", help="the key that every call must bring; none when empty")
    parser.add_argument("--attached", action="store_true", help="end when standard input does: with the parent")
    told = parser.parse_args()
    server, port, storage = await start(told.data, told.host, told.port, told.api_key)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    if told.attached:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    print(port, flush=True)  # noqa: T201 - it is how a parent learns the port
    await ended.wait()
    await server.stop(grace=1.0)
    storage.close()


asyncio.run(main())
