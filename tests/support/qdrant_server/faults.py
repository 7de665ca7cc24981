"""What goes wrong on purpose. DATA/faults.json says it, for example {"latency_ms": 50} or {"reset": 2}.

Each new version of the file starts anew; without the file all is well. Replace it by renaming another over it.

    latency_ms   every call waits so long before it is answered
    fail, code   the next `fail` calls are refused with this status, such as "UNAVAILABLE", and nothing is done
    reset        the next `reset` calls are carried out, but their answers are lost with the connection
    looks, status   the next `looks` at a collection find it "Yellow", "Grey" or "Red"
    method       only calls whose name ends like this, such as "Points/QueryBatch", are concerned
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.support.qdrant_server.refusals import Refused


@dataclass(slots=True)
class Plan:
    """What the file says, with what is left of its counts."""

    latency_ms: float = 0
    fail: int = 0
    code: str = "UNAVAILABLE"
    reset: int = 0
    looks: int = 0
    status: str = "Yellow"
    method: str = ""


class Faults:
    """The plan of the moment."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._version: tuple[int, int] | None = None
        self._plan = Plan()

    async def before(self, method: str) -> None:
        """Waits, and refuses if it is this call's turn."""
        plan = self._present()
        if not method.endswith(plan.method):
            return
        if plan.latency_ms:
            await asyncio.sleep(plan.latency_ms / 1000)
        if plan.fail:
            plan.fail -= 1
            raise Refused(grpc.StatusCode[plan.code], "a fault that was asked for")

    async def after(self, method: str, peer: str) -> None:
        """Cuts the connection if it is this call's turn."""
        plan = self._present()
        if plan.reset and method.endswith(plan.method):
            plan.reset -= 1
            cut(peer)
            await asyncio.sleep(3600)  # the call is cancelled as soon as the cut is noticed

    def status(self) -> str | None:
        """What a look at a collection is to find, if not the truth."""
        plan = self._present()
        if not plan.looks:
            return None
        plan.looks -= 1
        return plan.status

    def _present(self) -> Plan:
        try:
            found = self._file.stat()
        except FileNotFoundError:
            self._version, self._plan = None, Plan()
            return self._plan
        if self._version != (found.st_ino, found.st_mtime_ns):
            self._version = (found.st_ino, found.st_mtime_ns)
            self._plan = Plan(**json.loads(self._file.read_bytes()))
        return self._plan


def cut(peer: str) -> None:
    """Cuts the connection to a peer, "ipv4:127.0.0.1:54321", under gRPC's feet: no answer, no farewell."""
    port = int(peer.rpartition(":")[2])
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as held:
            address = held.getpeername()
            if isinstance(address, tuple) and address[1] == port:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                held.shutdown(socket.SHUT_RDWR)
