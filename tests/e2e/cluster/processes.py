"""The programs that a cluster runs: each with a log, ended together with the one who started them."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Self

LOG_LINES = 15
PATIENCE_S = 30
STEP_S = 0.05


class ClusterFailed(Exception):
    """The cluster can't be brought up, or a command in it failed; the message ends with what the program said."""


class Processes:
    """Starts programs, and ends them all when left.

    Linux ends them too when this process is killed: `setpriv --pdeathsig` asks it to.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        logs.mkdir()
        self._logs = logs
        self._environment = environment
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, *command: str, stdin: int | IO[bytes] = subprocess.DEVNULL, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a program in a process group of its own; what it prints goes to `logs/NAME.log`."""
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log,
                env=dict(self._environment),
                start_new_session=True,
            )
        self._running[name] = process
        return process

    def until(self, what: str, check: Callable[[], bool], patience_s: float = 120) -> None:
        """Returns when `check` is true.

        Raises:
            ClusterFailed: when it isn't in time, or when a program has ended meanwhile.
        """
        end, pause = time.monotonic() + patience_s, threading.Event()
        while not check():
            self.check()
            if time.monotonic() > end:
                raise ClusterFailed(f"{what}: not within {patience_s:.0f} s. Logs:\n{self._tails()}")
            pause.wait(STEP_S)

    def check(self) -> None:
        """Raises `ClusterFailed` with a program's last words when one has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise ClusterFailed(f"{name} ended with {process.returncode}. It said:\n{self._tail(name)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Ends them without a goodbye: what they know is thrown away."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()

    def _tail(self, name: str) -> str:
        log = self._logs / f"{name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def _tails(self) -> str:
        return "\n".join(f"--- {name}\n{self._tail(name)}" for name in self._running)


def run(*command: str, stdin: bytes = b"", timeout_s: float = 600) -> str:
    """What a command prints.

    Raises:
        ClusterFailed: when it fails, with what it said.
    """
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClusterFailed(f"`{' '.join(command)}` took more than {timeout_s:.0f} s.") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise ClusterFailed(f"`{' '.join(command)}` failed with {done.returncode}:\n{said}")
    return done.stdout.decode(errors="replace")


def remove(folder: Path) -> None:
    """Removes a folder and everything in it. A program that is just being killed may still write to it."""
    end, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except PermissionError:
            raise
        except OSError:
            if time.monotonic() > end:
                raise
            pause.wait(STEP_S)
