"""A server to measure: `sightline serve` as a child on a free port of the loopback address."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import httpx

from engine.errors import SightlineError
from engine.settings import Settings
from indexing.bench.memory import Memory, memory_of, resident_mb

SERVE: Final = (sys.executable, "-m", "sightline", "serve")
"""How a server is started. It says its address on standard output when it is ready."""

_START_S: Final = 600.0
"""Seconds to wait for a server to load its model: one that exports a large one first takes minutes."""

_READY_S: Final = 60.0
"""Seconds from then to the first query that works."""

_STOP_S: Final = 30.0
_ASK_AGAIN_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its address, and the seconds from its start to the first 200 of `/readyz`."""

    url: str
    pid: int
    start_s: float

    def resident_mb(self) -> float | None:
        """Megabytes of memory that it and its children have now; None where /proc does not tell."""
        return sum(resident_mb(pid) or 0.0 for pid in found) if (found := _family(self.pid)) else None

    def memory(self) -> Memory:
        """What it and its children hold now, page by page; zeros where /proc does not tell."""
        return sum((memory_of(pid) for pid in _family(self.pid)), Memory())


@contextmanager
def running(settings: Settings, command: Sequence[str] = SERVE) -> Iterator[Server]:
    """A ready server with these settings, for as long as the context lasts.

    Raises `SightlineError` with the server's own words when it does not get ready.
    """
    environment = os.environ | settings.environment() | {"API_HOST": "127.0.0.1", "API_PORT": "0"}
    with tempfile.TemporaryFile() as errors, tempfile.NamedTemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=said.file, stderr=errors)  # noqa: S603 - ourselves
        try:
            url = _wait(process, Path(said.name), started)
            if url is None:
                raise SightlineError(f"The server did not get ready. It said:\n{_words(said)}{_words(errors)}")
            yield Server(url, process.pid, time.perf_counter() - started)
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], said: Path, started: float) -> str | None:
    """The address of the server once it is ready; None when it ends or takes too long."""
    end, url = started + _START_S, None
    with httpx.Client(trust_env=False, timeout=10) as http:
        while time.perf_counter() < end and process.poll() is None:
            if url is None and (found := re.search(r"http://127\.0\.0\.1:\d+", said.read_text(encoding="utf-8"))):
                url, end = found[0], time.perf_counter() + _READY_S
            if url and http.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return url
            time.sleep(_ASK_AGAIN_S)
    return None


def _words(file: IO[bytes]) -> str:
    """The last of what a process wrote."""
    file.seek(0)
    return "".join(file.read().decode(errors="replace").splitlines(keepends=True)[-10:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _family(pid: int) -> list[int]:
    """A process and its children, theirs included; empty where /proc does not tell."""
    if not Path(f"/proc/{pid}").is_dir():
        return []
    family = [pid]
    for member in family:  # grows while it is walked
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            family += map(int, children.read_text(encoding="ascii").split())
    return family
