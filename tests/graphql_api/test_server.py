from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.graphql_api.live import Library, eventually

ROOT = Path(__file__).parents[2]


@contextmanager
def _process(library: Library, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    settings = library.settings(folder / "data")
    values = {"INDEX_PATH": str(settings.index_path), "INDEX_NAME": "colours", "GATE": str(folder / "gate")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.graphql_api.slow_server"],
        cwd=ROOT,
        env=os.environ | values | {"API_PORT": "0"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _url(process: subprocess.Popen[str]) -> str:
    """The address that the server prints when it is ready."""
    assert process.stdout is not None
    assert process.stdout.readline() == "Ready\n"
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert found
    return found[0]


def test_a_running_request_is_answered_after_sigterm(library: Library, tmp_path: Path):
    """SIGTERM turns readyz to 503 at once, lets the running search finish, and the process ends with 0."""
    with _process(library, tmp_path) as process, ThreadPoolExecutor(1) as threads, httpx.Client(timeout=20) as client:
        url = _url(process)
        query = {"query": '{ search(query: "slow", first: 1) { totalCount { value } } }'}
        running = threads.submit(client.post, f"{url}/graphql", json=query)
        try:
            eventually((tmp_path / "gate.begun").exists)
            process.send_signal(signal.SIGTERM)
            eventually(lambda: httpx.get(f"{url}/readyz", timeout=20).status_code == 503)
            assert httpx.get(f"{url}/readyz", timeout=20).json()["reason"] == "The server is shutting down."
        finally:
            (tmp_path / "gate").touch()
        assert running.result().json() == {"data": {"search": {"totalCount": {"value": 60}}}}
        assert process.wait(20) == 0


def test_an_idle_server_stops_on_ctrl_c(library: Library, tmp_path: Path):
    """SIGINT without requests ends the process with 0 and without a traceback."""
    with _process(library, tmp_path) as process:
        _url(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "Traceback" not in errors


def test_a_port_in_use_is_said_in_one_line(library: Library, tmp_path: Path):
    """Exit status 1 and a message that names the port and the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with _process(library, tmp_path, API_PORT=str(port)) as process:
            _, errors = process.communicate(timeout=20)
            assert process.returncode == 1
            assert errors.strip().startswith(f"Port {port} is in use.")
            assert "Traceback" not in errors
