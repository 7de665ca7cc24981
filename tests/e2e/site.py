"""The server that the browser is pointed at, on pictures drawn for the purpose."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from PIL import Image

from engine.generations import GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.ports import Point
from engine.settings import Settings
from graphql_api.app import create_app
from indexing.scenes.render import render
from indexing.scenes.scene import Group, Scene
from indexing.scenes.vocabulary import COLORS
from tests.support.encoders import WordEncoder

KINDS = ("boat", "car", "dog", "cat", "tree", "flower")
START_S = 20
HOSTILE = "<img src=x onerror='window.pwned=1'>"


class Site:
    """The server on a port of its own, which can be stopped and started again on the same one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns once the server has run a first query."""
        app = create_app(self._settings, encoder=WordEncoder())
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self._port, log_level="warning", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        end, pause = time.monotonic() + START_S, threading.Event()
        while reason := self._not_ready():
            if not self._thread.is_alive() or time.monotonic() > end:
                self.stop()
                pytest.fail(f"The server did not become ready: {reason}")
            pause.wait(0.02)

    def stop(self) -> None:
        """Returns once the port is closed."""
        self._server.should_exit = True
        self._thread.join(START_S)
        assert not self._thread.is_alive(), "The server did not stop."

    def _not_ready(self) -> str | None:
        """What the server says it waits for, or None."""
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=START_S)
        except httpx.TransportError as error:
            return str(error)
        return None if answer.status_code == httpx.codes.OK else answer.text


def publish(settings: Settings) -> None:
    """Draws pictures of every kind in every colour by day and by night, and a hostile one, and indexes them."""
    folder = settings.index_path / settings.index_name
    points = list(_points(settings.index_path / "pictures", folder / "thumbnails"))
    asyncio.run(_publish(settings, points))


def _points(pictures: Path, thumbnails: Path) -> Iterator[Point]:
    pictures.mkdir(parents=True)
    thumbnails.mkdir(parents=True)
    encoder = WordEncoder()
    for number, (kind, color, hour) in enumerate(itertools.product(KINDS, COLORS, ("day", "night"))):
        scene = Scene(number, (Group(kind, color, 1, "center"),), "sea" if kind == "boat" else "field", hour, "clear")
        caption = f"a {color} {kind} {'by day' if hour == 'day' else 'at night'}"
        path = pictures / f"{number:03}.webp"
        Image.fromarray(render(scene, 160)).save(path)
        yield _point(encoder, caption, path, thumbnails, scene.category, scene.metadata(caption))
    hostile = f"{HOSTILE} hostile"
    path = pictures / "<svg onload=window.pwned=1>.webp"
    shutil.copy(pictures / "000.webp", path)
    yield _point(encoder, hostile, path, thumbnails, HOSTILE, {"caption": hostile, HOSTILE: HOSTILE})


def _point(
    encoder: WordEncoder, caption: str, path: Path, thumbnails: Path, category: str, metadata: dict[str, object]
) -> Point:
    key = str(uuid.uuid5(uuid.NAMESPACE_URL, path.name))
    shutil.copy(path, thumbnails / f"{key}.webp")
    payload = {
        "filePath": str(path),
        "fileName": path.name,
        "objectKey": path.name,
        "width": 160,
        "height": 160,
        "category": category,
        "contentHash": key.replace("-", ""),
        "thumbnail": f"thumbnails/{key}.webp",
        "metadata": metadata,
    }
    return Point(key, encoder.encode_texts([caption])[0], payload)


async def _publish(settings: Settings, points: list[Point]) -> None:
    model = WordEncoder().model
    store = GenerationStore(settings.index_path, settings.index_name)
    generation = store.begin(model)
    index = EdgeIndex.create(generation.shard, model.dimension, settings)
    await index.upsert(points)
    await index.optimize()
    await index.close()
    store.finish(generation, len(points))
    store.promote(generation.id)
