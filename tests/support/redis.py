"""Real Redis servers for tests: on free ports of the loopback address, in a temporary folder, nothing kept on disk."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from tests.graphql_api.live import eventually

_BUS = 10_000
"""What a cluster node adds to its port for talking to other nodes."""


class RedisServer:
    """One redis-server, and a context that runs it; it can be killed and started again.

    Options are as on its command line, with {port} for its port.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = _free_port()
        self._options = [option.format(port=self.port) for option in options]
        self._folder = folder / f"redis-{self.port}"
        self._folder.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What REDIS_URL would be."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it and waits until it listens."""
        program = shutil.which("redis-server")
        assert program, (
            "redis-server is missing: run tools/install-test-programs, or install your system's redis package"
        )
        base = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([program, *base, *self._options], stdout=log, stderr=log)
        eventually(self._listens)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it as a crash would, with SIGKILL; all it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def cli(self, *words: str) -> str:
        """What redis-cli prints for a command."""
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    def stored(self) -> list[str]:
        """All keys, sorted."""
        return sorted(self.cli("keys", "*").splitlines())

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()


@contextmanager
def redis_cluster(folder: Path) -> Iterator[Sequence[RedisServer]]:
    """Three nodes that are a Redis Cluster without replicas, ready to be asked; each serves without the others."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")
    with ExitStack() as stack:
        nodes = [stack.enter_context(RedisServer(folder, *options)) for _ in range(3)]
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        nodes[0].cli("--cluster", "create", *addresses, "--cluster-yes")
        eventually(lambda: all("cluster_state:ok" in node.cli("cluster", "info") for node in nodes))
        yield nodes


def _free_port() -> int:
    """A port that is free, and whose port for the cluster's bus is free as well; below those the system hands out."""
    while True:
        port = random.randrange(11_000, 22_000)
        try:
            with socket.socket() as one, socket.socket() as other:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + _BUS))
        except OSError:
            continue
        return port
