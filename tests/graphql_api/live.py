"""What the API's tests share: an index to copy, a counting encoder, a real server and a client for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from engine.generations import copy_tree
from engine.ports import Vectors
from engine.settings import Settings
from graphql_api.protocol import SheddingProtocol
from tests.support.encoders import WordEncoder


def eventually(check: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The first true answer of `check`, asked again and again; fails when there is none in time."""
    end = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (answer := check()):
        if time.monotonic() > end:
            pytest.fail(f"{check} did not come true in {timeout_s} s")
        pause.wait(0.01)
    return answer


@dataclass(frozen=True)
class Library:
    """An index on disk, `data/colours`, over pictures that are still there."""

    data: Path
    pictures: Path

    def settings(self, folder: Path, **values: Any) -> Settings:
        """Settings for a copy of the index in a folder of its own: one process opens a shard only once."""
        copy_tree(self.data, folder)
        return Settings(_env_file=None, index_path=folder, index_name="colours", **values)


class CountingEncoder(WordEncoder):
    """Remembers what it was asked to encode, batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """The vectors; the batch is remembered."""
        self.batches.append(list(texts))
        return super().encode_texts(texts)


@dataclass
class Api:
    """A running server and a client for it."""

    url: str
    client: httpx.Client
    app: Starlette

    def ask(self, query: str, /, **variables: Any) -> dict[str, Any]:
        """The whole answer to a GraphQL query."""
        response = self.client.post("/graphql", json={"query": query, "variables": variables})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def data(self, query: str, /, **variables: Any) -> dict[str, Any]:
        """The data of a query that has no errors."""
        answer = self.ask(query, **variables)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def error(self, query: str, /, **variables: Any) -> dict[str, Any]:
        """The only error of a query."""
        (error,) = self.ask(query, **variables)["errors"]
        found: dict[str, Any] = error
        return found


Serve = Callable[..., AbstractContextManager[Api]]


@contextmanager
def run_server(app: Starlette, *, wait: bool = True) -> Iterator[Api]:
    """The application behind a real uvicorn; with `wait`, once it is ready."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(app, http=SheddingProtocol, log_level="warning", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            eventually(lambda: server.started or not thread.is_alive())
            with httpx.Client(base_url=url, timeout=20) as client:
                if wait:
                    eventually(lambda: client.get("/readyz").status_code == 200)
                yield Api(url, client, app)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
