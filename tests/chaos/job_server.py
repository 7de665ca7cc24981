"""Runs `sightline` in processes of their own, at once as many as wanted, with the tests' encoder.

    python -m tests.chaos.job_server

It reads an order a line, as JSON: {"job": 7, "arguments": ["index", …], "output": FILE}, and forks a process that is
the command line with these arguments. Importing it all takes seconds; a fork takes none. What happens is
told on standard output, a JSON object a line: {"job": 7, "process": 4711}, then each step of its work as {"job": 7,
"stage": "upserting"}, and its end as {"job": 7, "code": 0} (negative: the signal). When standard input ends, all that
still run are killed. Settings come from the environment.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
from typing import Any

import alembic.command
import psycopg
import sqlalchemy.dialects.postgresql

import engine.generations.qdrant
import indexing.command
import indexing.ledger
import sightline
from engine.encoders import choice
from indexing.progress import TerminalProgress
from tests.support.encoders import WordEncoder

PRELOADED = (alembic.command, psycopg, sqlalchemy.dialects.postgresql, engine.generations, indexing)
"""What every run imports sooner or later."""


class Server:
    """The jobs that run, by the descriptor that says when one has ended."""

    def __init__(self) -> None:
        self._events = os.dup(1)  # standard output is the jobs' own
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._running: dict[int, tuple[int, int]] = {}
        self._rest = b""

    def run(self) -> None:
        """Until standard input ends."""
        while self._step():
            pass
        for process, _ in self._running.values():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)

    def _step(self) -> bool:
        for ready, _ in self._selector.select():
            if ready.fd == 0:
                read = os.read(0, 2**16)
                if not read:
                    return False
                *lines, self._rest = (self._rest + read).split(b"\n")
                for line in lines:
                    self._start(**json.loads(line))
            else:
                self._reap(ready.fd)
        return True

    def _start(self, job: int, arguments: list[str], output: str) -> None:
        process = os.fork()
        if not process:
            self._be(job, arguments, output)
        descriptor = os.pidfd_open(process)
        self._running[descriptor] = (process, job)
        self._selector.register(descriptor, selectors.EVENT_READ)
        self._tell(job, process=process)

    def _reap(self, descriptor: int) -> None:
        process, job = self._running.pop(descriptor)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        self._tell(job, code=os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

    def _be(self, job: int, arguments: list[str], output: str) -> None:
        """The forked process: it never returns."""
        code = 70
        try:
            os.close(0)
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            _listen(lambda name: self._tell(job, stage=name))
            sys.argv = ["sightline", *arguments]
            sightline.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:  # noqa: BLE001 - the process ends here, and its output says why
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _tell(self, job: int, **facts: Any) -> None:
        """One line in one write, so that those of several processes do not mix."""
        os.write(self._events, json.dumps({"job": job, **facts}).encode() + b"\n")


def _listen(tell: Any) -> None:
    """Has every step of a run told, and words and pictures encoded by the tests' encoder."""
    stage = TerminalProgress.stage

    def told(self: TerminalProgress, name: str) -> None:
        tell(name)
        stage(self, name)

    TerminalProgress.stage = told  # type: ignore[method-assign]
    choice.load_encoder = lambda _: WordEncoder()


if __name__ == "__main__":
    Server().run()
