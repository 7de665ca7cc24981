"""Programs of others as children that can't outlive us: each leads a session, and the whole session is ended.

Some peers start processes of their own and leave them behind when one of them fails. A session holds all of them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from engine.errors import SightlineError
from indexing.bench.memory import resident_mb

_STOP_S: Final = 15.0
_LOOK_AGAIN_S: Final = 0.02
_LAST_LINES: Final = 3


class PeerFailed(SightlineError):
    """A peer can't be measured; the message says where it stopped."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to start, with `environment` variables on top of ours."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A running program and everything that it started."""

    def __init__(self, command: Command, log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.perf_counter()
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603 - the catalogue's own commands
                    command.words,
                    env={**os.environ, **command.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise PeerFailed(f"{command.words[0]} can't be started: {error.strerror}.") from error

    def ended(self) -> int | None:
        """The exit status once it has ended."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """The exit status; raises `PeerFailed` when it takes longer."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise PeerFailed(f"It took longer than {seconds:.0f} s. {self.words()}") from error

    def words(self) -> str:
        """The last that it wrote."""
        lines = [line.strip() for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return f"It said: {' | '.join(lines[-_LAST_LINES:])}" if lines else "It said nothing."

    def members(self) -> list[int]:
        """The processes of its session that are alive; itself at most where there is no /proc."""
        if not Path("/proc/self/stat").is_file():
            return [] if self._process.poll() is not None else [self._process.pid]
        return [pid for pid in _processes() if _session(pid) == self._process.pid]

    def resident_mb(self) -> float | None:
        """Resident megabytes of all of them, with shared pages counted for each; None where /proc does not tell."""
        sizes = [size for pid in self.members() if (size := resident_mb(pid)) is not None]
        return sum(sizes) if sizes else None

    def stop(self) -> None:
        """Ends them: asks the first, which may have an order for the others, then makes sure."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        while members := self.members():
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_AGAIN_S)
        self._process.wait()


@contextmanager
def running(command: Command, log: Path) -> Iterator[Child]:
    """The child for as long as the context lasts. Raises `PeerFailed` when it can't be started."""
    child = Child(command, log)
    try:
        yield child
    finally:
        child.stop()


@contextmanager
def tidy_at_sigterm() -> Iterator[None]:
    """Makes SIGTERM an exit that ends the children first, as Ctrl-C is one. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finish(command: Command, log: Path, seconds: float) -> float:
    """Runs a command to its end and returns the seconds it took. Raises `PeerFailed` when it fails or takes longer."""
    with running(command, log) as child:
        status = child.wait(seconds)
        took = time.perf_counter() - child.started
        if status:
            raise PeerFailed(f"`{Path(command.words[0]).name}` ended with status {status}. {child.words()}")
        return took


def free_port() -> int:
    """A TCP port of the loopback address that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _session(pid: int) -> int | None:
    """The session of a process; None for one that has ended, also where its parent did not ask for its status yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[3])
