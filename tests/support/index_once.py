"""Indexing runs in processes of their own, with the tests' encoder, that can be told to die on the way.

It reads one run a line, as JSON: {"arguments": [...], "output": FILE}, where the arguments are

    SOURCE INDEX_PATH [--qdrant URL] [--kill STAGE:N | --interrupt STAGE:N | --terminate STAGE:N]

At the N-th time that the run reaches STAGE (of `indexing.pipeline.Progress.stage`, or "advance") its process sends
itself SIGKILL, SIGINT or SIGTERM. Settings come from the environment. Each run is forked from here before anything has
begun, which saves the seconds that importing takes and shares nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from engine.settings import Settings
from indexing import command
from indexing.decode import Reason
from indexing.progress import TerminalProgress
from tests.support.encoders import WordEncoder

_SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}


class DyingProgress(TerminalProgress):
    """A progress display that sends a signal to its own process at a given moment."""

    moment = ""
    signal = signal.SIGKILL
    left = 0

    def stage(self, name: str) -> None:
        """Counts a stage."""
        super().stage(name)
        self._pass(name)

    def advance(self, key: str, reason: Reason | None) -> None:
        """Counts a file."""
        super().advance(key, reason)
        self._pass("advance")

    @classmethod
    def _pass(cls, moment: str) -> None:
        if moment == cls.moment:
            cls.left -= 1
            if cls.left == 0:
                os.kill(os.getpid(), cls.signal)


def run_once(arguments: Sequence[str]) -> int:
    """Runs once and returns the exit code of `sightline index`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("index_path", type=Path)
    parser.add_argument("--qdrant", default="")
    for name in _SIGNALS:
        parser.add_argument(f"--{name}", default="")
    told = parser.parse_args(arguments)
    for name, number in _SIGNALS.items():
        if when := getattr(told, name):
            DyingProgress.moment, _, count = when.partition(":")
            DyingProgress.left, DyingProgress.signal = int(count), number
    settings = Settings(index_path=told.index_path, qdrant_url=told.qdrant)
    return command.run_index(told.source, settings=settings, encoder_factory=WordEncoder, progress=DyingProgress)


def main() -> None:
    """Forks a process for each line on standard input, and tells its id, then its exit code (negative: the signal)."""
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = run_once(order["arguments"])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
