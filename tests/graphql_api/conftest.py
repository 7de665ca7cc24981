"""A real index of drawn pictures, and real servers on free ports of the loopback address."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.generations import GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.ports import Point
from engine.settings import Settings
from graphql_api.app import create_app
from tests.graphql_api.live import Api, CountingEncoder, Library, Serve, run_server
from tests.support.encoders import PALETTE, WordEncoder

SHADES = 6
CATEGORIES = ("animals", "vehicles", "plants")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Sixty pictures, six shades of ten colours, indexed and promoted."""
    root = tmp_path_factory.mktemp("library")
    pictures, data = root / "pictures", root / "data"
    pictures.mkdir()
    encoder = WordEncoder()
    settings = Settings(_env_file=None, index_path=data, index_name="colours")
    store = GenerationStore(data, "colours")
    points = []
    for number, (colour, rgb) in enumerate((c, v) for c, v in PALETTE.items() for _ in range(SHADES)):
        picture = Image.new("RGB", (40 + number, 30), rgb)
        picture.paste((128, 128, 128), (0, 0, 1 + number % SHADES, 6))
        points.append(_indexed(picture, colour, number, pictures, store.folder, encoder))

    async def build() -> None:
        generation = store.begin(encoder.model)
        index = EdgeIndex.create(generation.shard, encoder.model.dimension, settings)
        await index.upsert(points)
        await index.optimize()
        await index.close()
        store.finish(generation, len(points))
        store.promote(generation.id)

    asyncio.run(build())
    return Library(data, pictures)


def _indexed(
    picture: Image.Image, colour: str, number: int, folder: Path, index_folder: Path, encoder: WordEncoder
) -> Point:
    kind = "bmp" if number % SHADES == 5 else "png"
    path = folder / f"{colour}-{number}.{kind}"
    picture.save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    thumbnail = f"thumbnails/{digest[:2]}/{digest}.webp"
    (index_folder / thumbnail).parent.mkdir(parents=True, exist_ok=True)
    picture.save(index_folder / thumbnail)
    payload = {
        "filePath": str(path),
        "fileName": path.name,
        "objectKey": path.name,
        "width": picture.width,
        "height": picture.height,
        "category": CATEGORIES[number % 3],
        "takenAt": f"2025-01-{1 + number % 28:02d}T12:00:00Z",
        "contentHash": digest,
        "thumbnail": thumbnail,
        "metadata": {
            "number": number,
            "objects": [{"kind": "square", "color": colour}, {"kind": "patch", "color": "grey"}],
        },
    }
    vector = encoder.encode_images(encoder.preprocess(picture)[None])[0]
    return Point(str(uuid.uuid5(uuid.NAMESPACE_URL, path.name)), vector, payload)


@pytest.fixture(scope="session")
def encoder() -> CountingEncoder:
    """The encoder of the shared server."""
    return CountingEncoder()


@pytest.fixture(scope="session")
def api(library: Library, encoder: CountingEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A ready server that the tests share; they only read."""
    settings = library.settings(tmp_path_factory.mktemp("api") / "data")
    with run_server(create_app(settings, encoder)) as running:
        yield running


@pytest.fixture
def serve(library: Library, tmp_path: Path) -> Serve:
    """Starts a server of the test's own: `serve(encoder=..., caches=..., wait=..., **settings)`."""

    @contextmanager
    def start(*, encoder: Any = None, caches: Any = None, wait: bool = True, **values: Any) -> Iterator[Api]:
        settings = library.settings(tmp_path / "data", **values)
        with run_server(create_app(settings, encoder or WordEncoder(), caches), wait=wait) as running:
            yield running

    return start
