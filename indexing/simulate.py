"""Embeddings without pictures: as many as an index has to be tried with, spread as those of a CLIP model are.

Uniform random vectors would be worse than useless for that: all are equally far from each other, and no graph can find
its way among them. Embeddings of photographs lie in a narrow cone, in clusters of very unequal size, on a surface of a
few dozen dimensions; text embeddings lie in another cone beside it. Here a vector is, before it is scaled to unit norm,

    image = mean  + (category + cluster + detail) P + noise
    text  = mean' + (category + cluster + detail) P + noise

where P embeds a latent space of 48 dimensions orthonormally, and each term has a share of the squared norm:

    share    mean  category  cluster  detail  noise
    image    0.50      0.08     0.17    0.20   0.05
    text     0.50      0.06     0.12    0.12   0.20

- mean: two unrelated pictures have a cosine of 0.5, about what Liang et al. measured on CLIP ("Mind the Gap", 2022).
  The two means have a cosine of 0.25, so a text scores 0.1 on any picture and 0.3 on one that fits, as CLIP's do.
- cluster: 1,000 clusters, dealt to the 8 categories in turn, with sizes like 1 / (rank + 10): the largest has 2 % of
  all pictures, the smallest 0.02 %. Members have a cosine of about 0.75 with each other.
- detail: Gaussian, wider in some clusters than in others (log-normal, sigma 0.3). The variance of latent dimension i
  goes like i^-0.5, because a model's directions are not used equally; that leaves some 30 that count.
- noise: isotropic in all dimensions, so that no projection or quantization is free. It is larger for texts, which leave
  much of a picture unsaid, and so have neighbours that are farther away and harder to find.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from asyncio import to_thread
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadUserInput, IndexCorrupt, SourceError
from engine.generations import Generation, GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.ports import ModelInfo, Point, Vectors
from engine.settings import Settings
from indexing.scenes.vocabulary import CATEGORIES

MODEL: Final = "simulated"
"""The name of the model that simulated generations say they are from."""

BATCH: Final = 2048
"""Points drawn at once: 8 MB at 1,024 dimensions. Fixed, because batch n of a seed is always the same."""

Progress = Callable[[str, int, int], None]
"""Is told the stage ("writing", "optimizing", "promoting"), and how many of how many points are written."""

_DIMENSIONS: Final = (8, 65_536)
_SEEDS: Final = 2**63
_LATENT: Final = 48
_CLUSTERS: Final = 1_000
_HEAD: Final = 10
_MEANS_COSINE: Final = 0.25
_IMAGE: Final = {"mean": 0.50, "category": 0.08, "cluster": 0.17, "detail": 0.20, "noise": 0.05}
_TEXT: Final = {"mean": 0.50, "category": 0.06, "cluster": 0.12, "detail": 0.12, "noise": 0.20}
_SPACE, _POINTS, _QUERIES = range(3)  # independent streams of random numbers of one seed

_SHAPES: Final = ((4032, 3024), (3024, 4032), (1920, 1080), (1600, 1200), (1024, 1024), (640, 480))
_FIRST_TAKEN: Final = datetime(2015, 1, 1, tzinfo=UTC).timestamp()
_TAKEN_S: Final = 10 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class _Space:
    """Where the vectors of a seed lie. Latent parts have variance 1 in all and get their share when they are used."""

    mean: Vectors  # (d,)
    text_mean: Vectors  # (d,)
    projection: Vectors  # (latent, d), orthonormal rows
    scales: Vectors  # (latent,)
    categories: Vectors  # (8, latent)
    clusters: Vectors  # (clusters, latent)
    widths: Vectors  # (clusters,)
    sizes: NDArray[np.float64]  # (clusters,), sums to 1

    @property
    def dimension(self) -> int:
        return len(self.mean)

    def draw(self, rng: np.random.Generator, count: int, mean: Vectors, shares: dict[str, float]) -> _Drawn:
        """Unit vectors around a mean, each term with its share of the squared norm."""
        cluster = rng.choice(len(self.sizes), count, p=self.sizes)
        latent = rng.standard_normal((count, len(self.scales)), dtype=np.float32)
        latent *= self.scales * self.widths[cluster, None] * _root(shares["detail"])
        latent += self.clusters[cluster] * _root(shares["cluster"])
        latent += self.categories[cluster % len(CATEGORIES)] * _root(shares["category"])
        vectors = rng.standard_normal((count, self.dimension), dtype=np.float32)
        vectors *= _root(shares["noise"] / self.dimension)
        vectors += latent @ self.projection
        vectors += mean * _root(shares["mean"])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return _Drawn(vectors, cluster)


@dataclass(frozen=True, slots=True)
class _Drawn:
    vectors: Vectors  # (n, d)
    cluster: NDArray[np.int64]  # (n,)


def vectors(count: int, dimension: int, seed: int) -> Iterator[list[Point]]:
    """`count` points of (dimension,) unit vectors, in batches of at most `BATCH`, each drawn when it is asked for.

    Point n of a seed is the same however many are asked for, and a batch does not depend on those before it. Raises
    `BadUserInput` when an argument is out of range.
    """
    if count < 1:
        raise BadUserInput(f"{count} vectors can't be simulated. Ask for 1 or more.")
    space = _space(dimension, seed)
    return (
        _batch(space, seed, start // BATCH, min(BATCH, count - start)) for start in range(0, count, BATCH)
    )  # a generator expression, so that arguments are judged now and not with the first batch


def queries(count: int, dimension: int, seed: int) -> Vectors:
    """(count, dimension) unit vectors as texts have them, each about one cluster of the pictures `vectors` draws.

    Frequent things are asked for more often. Raises `BadUserInput` when an argument is out of range.
    """
    if count < 1:
        raise BadUserInput(f"{count} queries can't be simulated. Ask for 1 or more.")
    space = _space(dimension, seed)
    return space.draw(np.random.default_rng((seed, _QUERIES)), count, space.text_mean, _TEXT).vectors


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
    """Fills a new generation of an index with simulated vectors, one batch in memory at a time, and promotes it.

    A run that fails or is interrupted leaves no generation. Raises `BadUserInput` when an argument is out of range or
    the index holds pictures, `SourceError` when the disk is too small, and whatever the index raises.
    """
    batches = vectors(count, dimension, seed)
    store = GenerationStore(settings.index_path, index_name)
    with store.lock():
        _make_way(store, index_name)
        _check_space(store, count, dimension)
        generation = store.begin(model_info(dimension, seed), None)
        try:
            await _fill(generation, batches, count, settings, progress)
            store.finish(generation, count)
        except BaseException:
            store.discard(generation)
            raise
        progress("promoting", count, count)
        serving = store.promote(generation.id)
        store.prune(settings.index_keep_generations)
    return serving


# ---------------------------------------------------------------- drawing


def _root(share: float) -> np.float32:
    return np.float32(share**0.5)


@lru_cache(maxsize=1)
def _space(dimension: int, seed: int) -> _Space:
    """The space of a seed: under 1 MB beside its projection of 50 vectors."""
    if not _DIMENSIONS[0] <= dimension <= _DIMENSIONS[1]:
        low, high = _DIMENSIONS
        raise BadUserInput(f"Vectors of {dimension} dimensions can't be simulated. Choose from {low} to {high}.")
    if not 0 <= seed < _SEEDS:
        raise BadUserInput(f"The seed {seed} is out of range. Choose one from 0 to {_SEEDS - 1}.")
    rng = np.random.default_rng((seed, _SPACE))
    latent = min(_LATENT, dimension - 2)
    frame, _ = np.linalg.qr(rng.standard_normal((dimension, latent + 2)))
    mean, aside, projection = frame.T[0], frame.T[1], frame.T[2:]
    variances = np.arange(1, latent + 1) ** -0.5
    scales = np.sqrt(variances / variances.sum())
    sizes = 1 / (np.arange(_CLUSTERS) + _HEAD)
    sizes /= sizes.sum()
    widths = rng.lognormal(0, 0.3, _CLUSTERS)
    widths /= np.sqrt((sizes * widths**2).sum())
    return _Space(
        mean=_float32(mean),
        text_mean=_float32(_MEANS_COSINE * mean + np.sqrt(1 - _MEANS_COSINE**2) * aside),
        projection=_float32(projection),
        scales=_float32(scales),
        categories=_float32(scales * rng.standard_normal((len(CATEGORIES), latent))),
        clusters=_float32(scales * rng.standard_normal((_CLUSTERS, latent))),
        widths=_float32(widths),
        sizes=sizes,
    )


def _float32(values: NDArray[np.float64]) -> Vectors:
    return np.ascontiguousarray(values, dtype=np.float32)


def _batch(space: _Space, seed: int, number: int, count: int) -> list[Point]:
    """The first `count` points of a batch. A whole one is always drawn, so that they do not depend on it."""
    rng = np.random.default_rng((seed, _POINTS, number))
    drawn = space.draw(rng, BATCH, space.mean, _IMAGE)
    shapes = rng.integers(len(_SHAPES), size=BATCH)
    taken = _FIRST_TAKEN + rng.integers(_TAKEN_S, size=BATCH)
    details = zip(drawn.vectors, drawn.cluster.tolist(), shapes.tolist(), taken.tolist(), strict=True)
    return [
        _point(seed, number * BATCH + at + 1, vector, cluster, shape, when)
        for at, (vector, cluster, shape, when) in enumerate(islice(details, count))
    ]


def _point(seed: int, number: int, vector: Vectors, cluster: int, shape: int, taken: float) -> Point:
    category = CATEGORIES[cluster % len(CATEGORIES)]
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
        "metadata": {"category": category, "cluster": cluster},
    }
    return Point(str(uuid.UUID(bytes=digest.digest()[:16], version=5)), vector, payload)


# ---------------------------------------------------------------- into an index

_BYTES_PER_COMPONENT: Final = 10
_BYTES_PER_POINT: Final = 3_000


def _make_way(store: GenerationStore, index_name: str) -> None:
    """Refuses to take the place of pictures; what an earlier simulation left unfinished goes."""
    unfinished = store.building()
    for there in (store.current(), unfinished):
        if there and there.model.name != MODEL:
            raise BadUserInput(
                f"The index {index_name!r} holds pictures, which simulated vectors would replace. Name another index "
                "with --index."
            )
    if unfinished:
        store.discard(unfinished)


def _check_space(store: GenerationStore, count: int, dimension: int) -> None:
    needed = count * (dimension * _BYTES_PER_COMPONENT + _BYTES_PER_POINT)
    free = shutil.disk_usage(store.folder).free
    if needed > free:
        raise SourceError(
            f"{count} vectors of {dimension} dimensions take up to {needed / 1e9:.1f} GB to build, and the disk of "
            f"{store.folder} has {free / 1e9:.1f} GB free. Free some space, set INDEX_PATH to another disk, or "
            "simulate fewer."
        )


async def _fill(
    generation: Generation, batches: Iterator[list[Point]], count: int, settings: Settings, progress: Progress
) -> None:
    index = EdgeIndex.create(generation.shard, generation.model.dimension, settings)
    try:
        written = 0
        progress("writing", written, count)
        while points := await to_thread(next, batches, None):
            await index.upsert(points)
            written += len(points)
            progress("writing", written, count)
        progress("optimizing", written, count)
        await index.optimize()
        points_there = (await index.info()).points
        if points_there != count:
            raise IndexCorrupt(f"{points_there} of {count} vectors were kept. Check the disk, and simulate them again.")
    finally:
        await index.close()
