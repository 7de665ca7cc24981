"""The few nouns that everything in Sightline is made of, and the protocols its parts are bought against.

An `Encoder` turns words and pictures into vectors, a `VectorIndex` finds the nearest of them, and a `Cache`
remembers answers. Adapters implement the protocols and know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:  # not when it runs: the operator knows generations, and has neither NumPy nor Pillow
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from engine.preprocess import Preprocessing

Vectors: TypeAlias = "NDArray[np.float32]"
"""Embeddings: (n, d) or one (d,), float32, unit L2 norm."""

Pixels: TypeAlias = "NDArray[np.uint8]"
"""Pictures of a model's size: (n, h, w, 3) or one (h, w, 3), RGB bytes. The model normalizes them itself."""

Payload = Mapping[str, Any]
"""What the index stores beside a vector: the standard fields and, under "metadata", whatever the source said.

Standard fields: filePath, fileName, objectKey (path inside the source), width, height (pixels, orientation applied),
category, takenAt (RFC 3339), contentHash (hex), thumbnail (path under the index's folder).
"""


# ---------------------------------------------------------------- filters


@dataclass(frozen=True, slots=True)
class Match:
    """The field equals one of `values`. A field inside a list is written `metadata.objects[].kind`."""

    field: str
    values: tuple[str | int | bool, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The field, a number or an RFC 3339 date, lies between `gte` and `lte`, both inclusive; None is open."""

    field: str
    gte: float | str | None = None
    lte: float | str | None = None


@dataclass(frozen=True, slots=True)
class And:
    """All of `filters` hold (and an empty one always does)."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of `filters` holds (and an empty one never does)."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """`filter` does not hold."""

    filter: Filter


Filter = Match | Range | And | Or | Not


# ---------------------------------------------------------------- vector index


@dataclass(frozen=True, slots=True)
class Point:
    """One image in the index. `id` is a UUID string; `vector` is (d,) and None when it was not asked for."""

    id: str
    vector: Vectors | None
    payload: Payload


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """One nearest-neighbour question.

    `vector` is (d,); hits score at least `score_threshold` by cosine; with `exact` every vector is compared; without
    `payload` hits come with an empty one, which is cheaper.
    """

    vector: Vectors
    limit: int
    filter: Filter | None = None
    score_threshold: float | None = None
    exact: bool = False
    payload: bool = True


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: cosine `score` (-1 to 1) and the stored payload, if it was asked for. Sorted by score, then id."""

    id: str
    score: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """The size and shape of an index. `indexed` counts vectors reachable by the HNSW graph, `disk_bytes` its files."""

    points: int
    indexed: int
    dimension: int
    disk_bytes: int


class VectorIndex(Protocol):
    """Stores unit vectors with payloads and finds the nearest by cosine. Raises `IndexUnavailable` when it can't."""

    async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """One sorted list of hits per query, in the order of the queries."""
        ...

    async def count(self, filter: Filter | None = None) -> int:
        """How many points the filter admits, exactly."""
        ...

    async def retrieve(self, ids: Sequence[str], *, vectors: bool = False, payload: bool = True) -> list[Point]:
        """The points of these ids, in that order, unknown ones left out; their payloads are {} when not asked for."""
        ...

    async def facet(self, field: str, filter: Filter | None = None, limit: int = 100) -> list[tuple[str, int]]:
        """The values of a field with how many points have each, most frequent first, then by value."""
        ...

    async def upsert(self, points: Sequence[Point]) -> None:
        """Writes points; an id that exists is replaced. When it returns, the points survive a crash."""
        ...

    async def delete(self, ids: Sequence[str]) -> None:
        """Removes points; unknown ids are ignored."""
        ...

    async def ids(self, after: str = "", limit: int | None = None) -> list[str]:
        """The ids that come after one, sorted, and at most so many; every id when nothing is named."""
        ...

    async def optimize(self) -> None:
        """Builds the graph and the quantized vectors over everything written so far."""
        ...

    async def info(self) -> IndexInfo:
        """Size and shape."""
        ...

    async def close(self) -> None:
        """Flushes and lets go of files and connections; harmless when done twice."""
        ...


# ---------------------------------------------------------------- encoder and cache


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model an embedding came from: vectors of different `fingerprint`s can't be compared.

    `fingerprint` covers the architecture, the weights and the preprocessing; `image_size` is in pixels.
    """

    name: str
    pretrained: str
    dimension: int
    image_size: int
    context_length: int
    fingerprint: str


class Encoder(Protocol):
    """Turns words and pictures into vectors of one space. Blocking and thread-safe; the batcher gives it a thread."""

    @property
    def model(self) -> ModelInfo:
        """The model behind the vectors."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: "cuda", "mps" or "cpu"."""
        ...

    @property
    def runtime(self) -> str:
        """How it computes, for people: "OpenVINO int8", "PyTorch fp32"."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What `preprocess` does, for processes that have no encoder."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embeddings of texts, (n, d)."""
        ...

    def preprocess(self, image: Image) -> Pixels:
        """One picture, resized and cropped for the model: (h, w, 3)."""
        ...

    def encode_images(self, pixels: Pixels) -> Vectors:
        """Embeddings of preprocessed pictures, (n, h, w, 3) to (n, d)."""
        ...

    def warm_up(self) -> None:
        """Runs one real text and one real picture through, so that the first request is not the slow one."""
        ...

    def speed_up(self) -> None:
        """Makes what takes seconds and shortens later passes, while requests are answered already."""
        ...


class Cache(Protocol):
    """Remembers bytes under keys for a while. It never raises: a cache that fails is a miss."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The bytes under each key, in their order; None where there are none."""
        ...

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Stores bytes for `ttl_s` seconds, now or soon: it keeps nobody waiting for a slow cache."""
        ...

    async def ping(self) -> bool:
        """Whether the cache answers."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds, memory and connections; harmless when done twice."""
        ...
