from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
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
    with (
        _process(library, tmp_path, API_DRAIN_S="0") as process,
        ThreadPoolExecutor(1) as threads,
        httpx.Client(timeout=20) as client,
    ):
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


def test_nobody_is_dropped_while_a_server_under_load_shuts_down(library: Library, tmp_path: Path):
    """Clients that send until /readyz says no, on connections they keep, get an answer to every request."""
    with _process(library, tmp_path, API_DRAIN_S="1.5") as process:
        url = _url(process)
        ready, told = threading.Event(), threading.Event()
        ready.set()

        def watch() -> None:
            with httpx.Client() as client:
                while client.get(f"{url}/readyz").status_code == 200:
                    pass
            ready.clear()

        def ask(name: int) -> tuple[int, int]:
            """How many answers came before and after the signal."""
            before = after = 0
            with httpx.Client(timeout=20) as client:
                while ready.is_set():
                    late = told.is_set()
                    query = f'{{ search(query: "red {name} {before + after}", first: 1) {{ totalCount {{ value }} }} }}'
                    answer = client.post(f"{url}/graphql", json={"query": query})
                    assert answer.json() == {"data": {"search": {"totalCount": {"value": 60}}}}
                    before, after = (before, after + 1) if late else (before + 1, after)
                    if late:
                        assert answer.headers["connection"] == "close"
            return before, after

        with ThreadPoolExecutor(9) as threads:
            clients = [threads.submit(ask, name) for name in range(8)]
            eventually(lambda: all(client.running() for client in clients))
            watching = threads.submit(watch)
            process.send_signal(signal.SIGTERM)
            eventually(lambda: httpx.get(f"{url}/readyz").status_code == 503)
            told.set()
            watching.result()
            answered = [client.result() for client in clients]
        assert sum(before for before, _ in answered) > 0
        assert process.wait(20) == 0


def test_a_server_that_drains_still_answers_newcomers(library: Library, tmp_path: Path):
    """A load balancer that has not noticed yet sends one more request on a new connection."""
    with _process(library, tmp_path, API_DRAIN_S="60") as process:
        url = _url(process)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        answer = httpx.post(f"{url}/graphql", json={"query": '{ search(query: "red") { totalCount { value } } }'})
        assert answer.json() == {"data": {"search": {"totalCount": {"value": 60}}}}
        assert answer.headers["connection"] == "close"
        process.send_signal(signal.SIGTERM)
        process.wait(20)


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
