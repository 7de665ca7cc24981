"""Embeddings without pictures: as many as an index has to be tried with, drawn as they are needed, into an index.

`spaces` says where they lie. In a made-up space they are for measuring the index alone: no text can be searched there.
In a model's space they belong to that model: its server opens them, and its searches in words find what they mean.
"""

from __future__ import annotations

import hashlib
import uuid
from asyncio import to_thread
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import numpy as np
import orjson

from engine.errors import BadUserInput, IndexCorrupt, SourceError
from engine.generations import Generation, Generations, generations_of
from engine.patience import PATIENCE_S
from engine.ports import Encoder, ModelInfo, Point, VectorIndex, Vectors
from engine.settings import Settings
from indexing import disk
from indexing.spaces import POINTS, Space, draw_texts, image_space, model_space

MODEL: Final = "simulated"
"""The name of the model that simulated generations say they are from."""

BATCH: Final = 2048
"""Points drawn at once: 8 MB at 1,024 dimensions. Fixed, because batch n of a seed is always the same."""

Progress = Callable[[str, int, int], None]
"""Is told the stage ("captioning", "writing", "optimizing", "promoting"), and how many points of all are written."""

_MARK: Final = "simulated.json"  # in the folder of a generation, so that pictures are told apart

_SHAPES: Final = ((4032, 3024), (3024, 4032), (1920, 1080), (1600, 1200), (1024, 1024), (640, 480))
_FIRST_TAKEN: Final = datetime(2015, 1, 1, tzinfo=UTC).timestamp()
_TAKEN_S: Final = 10 * 365 * 24 * 3600


def vectors(count: int, dimension: int, seed: int) -> Iterator[list[Point]]:
    """`count` points of (dimension,) unit vectors in a made-up space: see `points`."""
    return points(count, image_space(dimension, seed), seed)


def points(count: int, space: Space, seed: int) -> Iterator[list[Point]]:
    """`count` points in a space, in batches of at most `BATCH`, each drawn when it is asked for.

    Point n of a seed is the same however many are asked for, and a batch does not depend on those before it. Raises
    `BadUserInput` when an argument is out of range.
    """
    if count < 1:
        raise BadUserInput(f"{count} vectors can't be simulated. Ask for 1 or more.")
    return (
        _batch(space, seed, start // BATCH, min(BATCH, count - start)) for start in range(0, count, BATCH)
    )  # a generator expression, so that arguments are judged now and not with the first batch


def queries(count: int, dimension: int, seed: int) -> Vectors:
    """(count, dimension) unit vectors as texts have them, each about one cluster of the pictures `vectors` draws.

    Frequent things are asked for more often. Raises `BadUserInput` when an argument is out of range.
    """
    if count < 1:
        raise BadUserInput(f"{count} queries can't be simulated. Ask for 1 or more.")
    return draw_texts(count, dimension, seed)


def model_info(dimension: int, seed: int) -> ModelInfo:
    """The model that simulated vectors are said to be from: no encoder has its fingerprint."""
    fingerprint = hashlib.sha256(f"{MODEL}/{dimension}/{seed}".encode()).hexdigest()[:16]
    return ModelInfo(MODEL, f"seed-{seed}", dimension, image_size=0, context_length=0, fingerprint=fingerprint)


async def simulate_vectors(
    count: int,
    dimension: int,
    seed: int,
    index_name: str,
    settings: Settings,
    progress: Progress = lambda _stage, _written, _all: None,
) -> Generation:
    """Fills a new generation of an index with vectors of a made-up space, and promotes it: see `simulate_images`.

    No text can be searched in it. Raises `BadUserInput` when an argument is out of range too.
    """
    space = image_space(dimension, seed)
    return await _simulate(count, space, seed, model_info(dimension, seed), index_name, settings, progress)


async def simulate_images(
    count: int,
    encoder: Encoder,
    seed: int,
    index_name: str,
    settings: Settings,
    progress: Progress = lambda _stage, _written, _all: None,
) -> Generation:
    """Fills a new generation of an index with vectors in the space of a model, and promotes it.

    One batch is in memory at a time. A run that fails or is interrupted leaves no generation. Each point's metadata
    has the caption that its cluster shows; `spaces.searches` asks for such. The same encoder on the same machine gives
    the same vectors. Raises `BadUserInput` when an argument is out of range, the index holds pictures, or no text can
    be told from another by the model; `SourceError` when the disk is too small, and whatever the index raises.
    """
    progress("captioning", 0, count)
    space = await to_thread(model_space, encoder, seed)
    return await _simulate(count, space, seed, encoder.model, index_name, settings, progress)


# ---------------------------------------------------------------- drawing


def _batch(space: Space, seed: int, number: int, count: int) -> list[Point]:
    """The first `count` points of a batch. A whole one is always drawn, so that they do not depend on it."""
    rng = np.random.default_rng((seed, POINTS, number))
    drawn, clusters = space.draw(rng, BATCH)
    shapes = rng.integers(len(_SHAPES), size=BATCH)
    taken = _FIRST_TAKEN + rng.integers(_TAKEN_S, size=BATCH)
    details = zip(drawn, clusters.tolist(), shapes.tolist(), taken.tolist(), strict=True)
    return [
        _point(space, seed, number * BATCH + at + 1, vector, cluster, shape, when)
        for at, (vector, cluster, shape, when) in enumerate(islice(details, count))
    ]


def _point(space: Space, seed: int, number: int, vector: Vectors, cluster: int, shape: int, taken: float) -> Point:
    category = space.categories[cluster]
    metadata: dict[str, Any] = {"category": category, "cluster": cluster}
    if space.captions:
        metadata["caption"] = space.captions[cluster].text
    name = f"image-{number:09d}.jpg"
    key = f"{category}/{name}"
    width, height = _SHAPES[shape]
    digest = hashlib.sha256(f"{MODEL}/{seed}/{number}".encode())
    payload: dict[str, Any] = {
        "filePath": f"{MODEL}/{key}",
        "fileName": name,
        "objectKey": key,
        "width": width,
        "height": height,
        "category": category,
        "takenAt": datetime.fromtimestamp(taken, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "contentHash": digest.hexdigest(),
        "metadata": metadata,
    }
    return Point(str(uuid.UUID(bytes=digest.digest()[:16], version=5)), vector, payload)


# ---------------------------------------------------------------- into an index

_BYTES_PER_COMPONENT: Final = 10
_BYTES_PER_POINT: Final = 3_000


async def _simulate(
    count: int, space: Space, seed: int, model: ModelInfo, index_name: str, settings: Settings, progress: Progress
) -> Generation:
    batches = points(count, space, seed)
    async with generations_of(settings, index_name, patience_s=PATIENCE_S) as store:
        with store.lock():
            await _make_way(store, index_name)
            if not settings.qdrant_url:  # else the vectors take space elsewhere
                _check_space(store, count, space.dimension)
            generation = await store.begin(model, None)
            try:
                (generation.path / _MARK).write_bytes(orjson.dumps({"count": count, "seed": seed}))
                await _fill(await store.create_index(generation), batches, count, progress)
                await store.finish(generation, count)
            except BaseException:
                async with generations_of(settings, index_name) as hurried:  # who has waited, or was stopped, is done
                    await hurried.discard(generation)
                raise
            progress("promoting", count, count)
            serving = await store.promote(generation.id)
            await store.prune(settings.index_keep_generations)
    return serving


async def _make_way(store: Generations, index_name: str) -> None:
    """Refuses to take the place of pictures; what an earlier simulation left unfinished goes."""
    unfinished = await store.building()
    for there in (await store.current(), unfinished):
        if there and there.model.name != MODEL and not (there.path / _MARK).is_file():
            raise BadUserInput(
                f"The index {index_name!r} holds pictures, which simulated vectors would replace. Name another index "
                "with --index."
            )
    if unfinished:
        await store.discard(unfinished)


def _check_space(store: Generations, count: int, dimension: int) -> None:
    needed = count * (dimension * _BYTES_PER_COMPONENT + _BYTES_PER_POINT)
    try:
        disk.require(store.folder, needed)
    except OSError as error:
        raise SourceError(
            f"{count} vectors of {dimension} dimensions take up to {needed / 1e9:.1f} GB to build. On the disk of "
            f"{store.folder} {error.strerror}. Free some space, set INDEX_PATH to another disk, or simulate fewer."
        ) from error


async def _fill(index: VectorIndex, batches: Iterator[list[Point]], count: int, progress: Progress) -> None:
    try:
        written = 0
        progress("writing", written, count)
        while batch := await to_thread(next, batches, None):
            await index.upsert(batch)
            written += len(batch)
            progress("writing", written, count)
        progress("optimizing", written, count)
        await index.optimize()
        kept = (await index.info()).points
        if kept != count:
            raise IndexCorrupt(f"{kept} of {count} vectors were kept. Check the disk, and simulate them again.")
    finally:
        await index.close()
