"""Building an index: the way indexing does it, against Qdrant Edge alone with the same graph and quantization.

Each build is a process of its own, and only what happens inside the index counts: points are drawn outside the clock.
"Alone" is the plain use of Edge: create, payload indexes, `upsert` in a loop, `optimize`. Recall is against products of
all vectors, made while they are drawn.

    python -m indexing.bench.build KIND COUNT DIMENSION FOLDER      one build, measured; prints JSON
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import qdrant_edge as edge

from engine.errors import SightlineError, SourceError
from engine.indexes.edge import EdgeIndex
from engine.ports import Point, VectorQuery, Vectors
from engine.settings import Settings
from indexing import disk
from indexing.bench.memory import PeakMemory
from indexing.bench.report import Figure, Report, Target
from indexing.simulate import queries, vectors

KINDS: Final = ("edge alone", "sightline")
"""What is compared."""

_SEED: Final = 1
_LIMIT: Final = 10
_RATIO: Final = 1.1
_PEAK_GB: Final = 6.0
_BYTES_PER_COMPONENT: Final = 12  # originals twice, log, int8, graph
_BYTES_PER_POINT: Final = 3_000


@dataclass(frozen=True, slots=True)
class Built:
    """Seconds inside the index by the clock and on all cores, and the recall at the ef of the settings."""

    write_s: float
    optimize_s: float
    cpu_s: float
    recall: float
    segments: int


def run(count: int, dimension: int, folder: Path = Path("data/bench"), *, settings: Settings) -> Report:
    """Builds twice under `folder`, which is empty afterwards. Raises `SourceError` when its disk is too small."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        disk.require(folder, count * (dimension * _BYTES_PER_COMPONENT + _BYTES_PER_POINT))
    except OSError as error:
        raise SourceError(f"{count} vectors do not fit on the disk of {folder}: {error.strerror}.") from error
    rows = [_row(kind, *_measured(kind, count, dimension, folder)) for kind in KINDS]
    alone, ours = ({name: float(value or 0) for name, value in row.items() if name != "build"} for row in rows)
    ratio = ours["wall_s"] / alone["wall_s"]
    size = f"{count:,} x {dimension}"
    return Report(
        title=f"Building an index, {size}",
        setup={
            "m": settings.search_hnsw_m,
            "ef_construct": settings.search_ef_construct,
            "ef": settings.search_ef,
            "batch": len(next(vectors(min(count, 10_000), dimension, _SEED))),
        },
        rows=rows,
        targets=[
            Target(f"{size}, time against Edge alone", ratio, "<", _RATIO),
            Target(f"{size}, peak of memory in GB", ours["peak_mb"] / 1000, "<", _PEAK_GB),
        ],
        notes=[
            "peak_mb: all memory at once, each page counted once. files_mb: the memory-mapped files in it.",
            "anonymous_mb: the rest. Only that has to be in memory: the system takes files back at need.",
            "resident_mb: as `ps` and VmHWM count, which is twice for what Edge maps twice.",
        ],
    )


def _measured(kind: str, count: int, dimension: int, folder: Path) -> tuple[Built, PeakMemory]:
    """One build in a process of its own."""
    place = folder / f"build-{KINDS.index(kind)}"
    shutil.rmtree(place, ignore_errors=True)
    command = [sys.executable, "-m", "indexing.bench.build", kind, str(count), str(dimension), str(place)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,  # noqa: S603 - this module
            PeakMemory(process.pid) as watched,
        ):
            output, _ = process.communicate()
        if process.returncode:
            raise SightlineError(f"The build of {kind} ended with exit code {process.returncode}; its error is above.")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Built(**json.loads(output)), watched


def _row(kind: str, built: Built, watched: PeakMemory) -> dict[str, Figure]:
    return {
        "build": kind,
        "wall_s": built.write_s + built.optimize_s,
        "write_s": built.write_s,
        "optimize_s": built.optimize_s,
        "cpu_s": built.cpu_s,
        "peak_mb": watched.peak.total / 1e6,
        "files_mb": watched.peak.files / 1e6,
        "anonymous_mb": watched.peak.anonymous / 1e6,
        "resident_mb": watched.peak.resident / 1e6,
        "recall@10": built.recall,
        "segments": built.segments,
    }


# ---------------------------------------------------------------- in the process that builds


class _Clock:
    """Counts the time inside the index, and nothing else."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def time(self, work: Callable[[], object]) -> float:
        """Seconds that `work` took."""
        cpu, started = time.process_time(), time.perf_counter()
        work()
        self.cpu_s += time.process_time() - cpu
        return time.perf_counter() - started


class _Nearest:
    """The true nearest of some queries, kept up to date while vectors pass by."""

    def __init__(self, asked: Vectors) -> None:
        self._asked = asked
        self._scores = np.zeros((len(asked), 0), dtype=np.float32)
        self._ids = np.zeros((len(asked), 0), dtype="U36")

    def see(self, points: Sequence[Point]) -> None:
        """Takes points into account."""
        rows = np.stack([point.vector for point in points if point.vector is not None])
        new = self._asked @ rows.T
        scores = np.hstack([self._scores, new])
        ids = np.hstack([self._ids, np.broadcast_to(np.array([point.id for point in points]), new.shape)])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :_LIMIT]
        self._scores = np.take_along_axis(scores, best, axis=1)
        self._ids = np.take_along_axis(ids, best, axis=1)

    def recall(self, found: Sequence[set[str]]) -> float:
        """The share of the true nearest that was found."""
        shared = sum(len(got & set(right)) for got, right in zip(found, self._ids.tolist(), strict=True))
        return shared / self._ids.size


def build(kind: str, count: int, dimension: int, folder: Path, settings: Settings, asked: int = 200) -> Built:
    """Builds in this process, and asks `asked` queries of what was built."""
    texts = queries(asked, dimension, _SEED)
    nearest, clock = _Nearest(texts), _Clock()
    maker: type[_Alone | _Ours] = _Alone if kind == KINDS[0] else _Ours
    index = maker(folder, dimension, settings)
    write_s = clock.time(index.create)
    for batch in vectors(count, dimension, _SEED):
        nearest.see(batch)
        write_s += clock.time(partial(index.upsert, batch))
    optimize_s = clock.time(index.optimize)
    built = Built(write_s, optimize_s, clock.cpu_s, nearest.recall(index.search(texts)), _segments(folder))
    index.close()
    return built


class _Alone:
    """Qdrant Edge as its documentation uses it, with the graph and the quantization of the settings."""

    def __init__(self, folder: Path, dimension: int, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        folder.mkdir(parents=True)
        self._config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine),
            hnsw_config=edge.HnswIndexConfig(
                m=settings.search_hnsw_m, ef_construct=settings.search_ef_construct, full_scan_threshold=10_000
            ),
            quantization_config=edge.ScalarQuantizationConfig(
                type=edge.ScalarType.Int8, quantile=settings.search_quantile, memory=edge.Memory.Pinned
            ),
        )
        self._shard: edge.EdgeShard

    def create(self) -> None:
        self._shard = edge.EdgeShard.create(str(self._folder), self._config)
        kinds = edge.PayloadSchemaType
        fields = {"category": kinds.Keyword, "width": kinds.Integer, "height": kinds.Integer, "takenAt": kinds.Datetime}
        for field, kind in fields.items():
            self._shard.update(edge.UpdateOperation.create_field_index(field, kind))

    def upsert(self, points: Sequence[Point]) -> None:
        rows: list[tuple[str, Any, dict[str, Any]]] = [(p.id, p.vector, dict(p.payload)) for p in points]
        self._shard.update(edge.UpdateOperation.upsert_points([edge.Point(*row) for row in rows]))

    def optimize(self) -> None:
        self._shard.optimize()
        self._shard.flush()

    def search(self, texts: Vectors) -> list[set[str]]:
        params = edge.SearchParams(
            hnsw_ef=self._settings.search_ef,
            quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0),
        )
        vectors: list[Any] = list(texts)
        asked = [edge.QueryRequest(_LIMIT, query=edge.Query.Nearest(vector), params=params) for vector in vectors]
        return [{str(point.id) for point in self._shard.query(request)} for request in asked]

    def close(self) -> None:
        self._shard.close()


class _Ours:
    """The index as `sightline index` builds it."""

    def __init__(self, folder: Path, dimension: int, settings: Settings) -> None:
        self._folder, self._dimension, self._settings = folder, dimension, settings
        self._index: EdgeIndex

    def create(self) -> None:
        self._index = EdgeIndex.create(self._folder, self._dimension, self._settings)

    def upsert(self, points: Sequence[Point]) -> None:
        asyncio.run(self._index.upsert(points))

    def optimize(self) -> None:
        asyncio.run(self._index.optimize())

    def search(self, texts: Vectors) -> list[set[str]]:
        answers = asyncio.run(self._index.search([VectorQuery(text, _LIMIT) for text in texts]))
        return [{hit.id for hit in hits} for hits in answers]

    def close(self) -> None:
        asyncio.run(self._index.close())


def _segments(folder: Path) -> int:
    """Segments with a graph."""
    return sum(1 for _ in folder.glob("segments/*/vector_index/hnsw_config.json"))


if __name__ == "__main__":
    _kind, _count, _dimension, _folder = sys.argv[1:]
    measured = build(_kind, int(_count), int(_dimension), Path(_folder), Settings())
    sys.stdout.write(json.dumps(asdict(measured)))
