"""The stand-in for a Qdrant server as a process that tests start, disturb, kill and start again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from engine.settings import Settings

ROOT = Path(__file__).parents[2]


class QdrantServer:
    """A process with its data in a folder. After the first start it keeps its port. As a context it runs inside it."""

    def __init__(self, data: Path, *, api_key: str = "") -> None:
        self.data = data
        self.port = 0
        self._api_key = api_key
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        self.stop()

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.qdrant_server"),
                *("--data", str(self.data), "--port", str(self.port), "--api-key", self._api_key, "--attached"),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,  # closed when this process is gone, however it ends
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the stand-in for Qdrant ended before it answered; the reason is on standard error"
        self.port = int(line)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in order; harmless when it has ended."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Lets it hang: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends the pause; harmless when there is none."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def plan(self, **faults: Any) -> None:
        """What goes wrong from now on (see `qdrant_server/faults.py`); nothing when nothing is named."""
        self.data.mkdir(parents=True, exist_ok=True)
        new = self.data / ".faults.json"
        new.write_text(json.dumps(faults))
        new.replace(self.data / "faults.json")

    def aliases(self) -> list[dict[str, str]]:
        """All that callers have ever seen of the aliases, alias to collection, oldest first; also while it is down."""
        log = self.data / "aliases.log"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def settings(self, **values: Any) -> Settings:
        """Settings that name it."""
        return Settings(_env_file=None, qdrant_url=f"http://127.0.0.1:{self.port}", **values)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.communicate()
        self._process = None
