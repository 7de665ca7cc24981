"""What an index costs as it grows: built in several sizes, measured, and fitted with laws that plans are made from.

Each size is built in a process of its own and kept, so that a second run only searches. Memory is that process's, what
it made itself (anonymous) and what it touched of its files, as `memory` tells them apart; a plan counts the files that
searching reads as if all of them were in RAM, part by part. Vectors are simulated, as are the queries, and recall is
against comparing everything.

Small indexes are of another kind: for each frequent value of an indexed field Edge adds links to the graph, so that
filtered searches find their way. Below some 30,000 vectors of 512 dimensions no value is frequent enough; above, the
graph and the time to build it are three times as much. So laws are fitted to larger indexes alone, where there are at
least two of them.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from engine.errors import BadUserInput, SourceError
from engine.indexes.process import ProcessIndex
from engine.ports import Vectors
from engine.settings import Settings
from indexing import disk
from indexing.bench.index import LIMIT, measure, nearest
from indexing.bench.laws import Law, LawBook, fit, parse_number, shown
from indexing.bench.memory import PeakMemory, memory_of
from indexing.bench.report import Figure, Latency, Report, this_machine
from indexing.simulate import queries, vectors

SIZES: Final = ((10_000, 512), (100_000, 512), (1_000_000, 512))
"""Numbers of vectors and their dimensions that are measured if none are named."""

EFS: Final = (64, 128, 256, 512)
"""Values of SEARCH_EF that are measured, so that a plan can pay for recall with time."""

LINKED_FROM: Final = 30_000
"""Numbers of vectors from which on the laws hold: see above."""

PARTS: Final = ("originals", "int8", "graph", "payload", "other")
"""What the files of an index are."""

_SEED: Final = 1
_ROUNDS: Final = 3
_MEASURED: Final = "measured.json"  # in the folder of a size, and there only if its build was completed
_BYTES_PER_COMPONENT: Final = 12  # while building: originals twice, int8, graph
_BYTES_PER_POINT: Final = 3_000

_TERMS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "build_s": ("s", ("N", "N d", "N d ln N")),
    "peak_bytes": ("bytes", ("1", "N", "N d")),
    "anonymous_bytes": ("bytes", ("1", "N")),
    "originals_bytes": ("bytes", ("1", "N d")),
    "int8_bytes": ("bytes", ("1", "N", "N d")),
    "graph_bytes": ("bytes", ("N", "N ln N")),
    "payload_bytes": ("bytes", ("1", "N")),
    "other_bytes": ("bytes", ("1", "N")),
}
_MISSED: Final = "of the nearest 10 missed"
_MISSED_TERMS: Final = ("1", "ln N", "sqrt N")
_SEARCH_TERMS: Final = ("ln N", "d ln N", "N d")  # the last for the graphs, one for each half million vectors


@dataclass(frozen=True, slots=True)
class Build:
    """What building one size took: seconds, the peak of the process's memory, and the files by part, in bytes.

    Writing and building graphs are one figure: the graph of each half million is built before the next are written.
    """

    build_s: float
    peak_bytes: int
    parts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Searched:
    """One size searched at one ef: each query alone, one after the other, and how much of the truth was found."""

    latency: Latency
    recall: float
    anonymous_bytes: int
    file_bytes: int


def run(
    sizes: Sequence[tuple[int, int]] = SIZES,
    folder: Path = Path("data/bench/growth"),
    searches: int = 500,
    efs: Sequence[int] = EFS,
    *,
    settings: Settings,
    save: Path | None = None,
) -> Report:
    """Builds what is not there yet, searches all sizes (vectors, dimension) and fits the laws.

    With `save` the laws replace those in that file. Raises `BadUserInput` for less than two sizes, `SourceError` when
    the disk is too small.
    """
    if len({count for count, _ in sizes}) < 2:  # noqa: PLR2004 - one point makes no line
        raise BadUserInput("A law needs at least two numbers of vectors, such as --counts 10000,100000.")
    builds, found = asyncio.run(_measured(sizes, folder, searches, efs, settings))
    laws = _laws(builds, found, efs)
    report = Report(
        title="Growth of an index",
        setup={"limit": LIMIT, "searches": searches, "m": settings.search_hnsw_m, "ef": settings.search_ef}
        | {"ef_construct": settings.search_ef_construct, "seed": _SEED},
        rows=[_row(size, ef, builds[size], found[*size, ef]) for size in sizes for ef in efs],
        notes=[_told(name, law) for name, law in laws.items()],
    )
    if save:
        command = f"sightline bench growth --counts {','.join(f'{n}x{d}' for n, d in sizes)}"
        measured = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "command": command, "machine": asdict(this_machine())}
        book = LawBook.read(save)
        book.model_copy(update={"laws": laws, "measured": measured | {"setup": dict(report.setup)}}).write(save)
    return report


def parse_sizes(counts: str, dimension: int) -> list[tuple[int, int]]:
    """Sizes from words such as "10k,100000,1Mx1024": numbers of vectors, some with a dimension of their own.

    Raises `BadUserInput` for anything else.
    """
    sizes = []
    for word in counts.split(","):
        count, cross, own = word.strip().partition("x")
        vectors, length = parse_number(count, "--counts"), parse_number(own, "--counts") if cross else dimension
        if vectors < 1 or vectors % 1 or length % 1:
            raise BadUserInput(f"--counts: {word!r} is no number of vectors. Write 10000, 10k or 1Mx1024.")
        sizes.append((int(vectors), int(length)))
    return sizes


# ---------------------------------------------------------------- one size


async def _measured(
    sizes: Sequence[tuple[int, int]], folder: Path, searches: int, efs: Sequence[int], settings: Settings
) -> tuple[dict[tuple[int, int], Build], dict[tuple[int, int, int], Searched]]:
    """What each size (vectors, dimension) took to build, and what searching it at each ef took."""
    builds: dict[tuple[int, int], Build] = {}
    found: dict[tuple[int, int, int], Searched] = {}
    for count, dimension in sizes:
        here = _folder(folder, count, dimension, settings)
        builds[count, dimension] = _kept(here) or await _built(here, count, dimension, settings)
        asked = queries(searches, dimension, _SEED)
        truth = await nearest(here, here / "shard", asked, settings)
        for ef in efs:
            at = settings.model_copy(update={"search_ef": ef})
            found[count, dimension, ef] = await _searched(here / "shard", asked, truth, at)
    return builds, found


def _folder(folder: Path, count: int, dimension: int, settings: Settings) -> Path:
    return folder / f"{count}x{dimension}-m{settings.search_hnsw_m}-ef{settings.search_ef_construct}"


def _kept(folder: Path) -> Build | None:
    """What was measured when this size was built, or None and an empty folder."""
    measured = folder / _MEASURED
    if measured.is_file():
        return Build(**orjson.loads(measured.read_bytes()))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return None


async def _built(folder: Path, count: int, dimension: int, settings: Settings) -> Build:
    try:
        disk.require(folder, count * (dimension * _BYTES_PER_COMPONENT + _BYTES_PER_POINT))
    except OSError as error:
        raise SourceError(f"{shown(count)} vectors do not fit on the disk of {folder}: {error.strerror}.") from error
    index = await ProcessIndex.create(folder / "shard", dimension, settings)
    try:
        with PeakMemory(index.process_id) as watched:
            build_s = 0.0
            for batch in vectors(count, dimension, _SEED):
                started = time.perf_counter()
                await index.upsert(batch)
                build_s += time.perf_counter() - started
            started = time.perf_counter()
            await index.optimize()
            build_s += time.perf_counter() - started
    finally:
        await index.close()
    build = Build(build_s, watched.peak.total, _parts(folder / "shard"))
    _keep(folder, build)
    return build


def _keep(folder: Path, build: Build) -> None:
    (folder / _MEASURED).write_bytes(orjson.dumps(asdict(build)))


async def _searched(shard: Path, asked: Vectors, truth: Sequence[set[str]], settings: Settings) -> Searched:
    index = await ProcessIndex.open(shard, settings)
    try:
        latency, recall = await measure(index, asked, truth, _ROUNDS)
        memory = memory_of(index.process_id)
    finally:
        await index.close()
    return Searched(latency, recall, memory.anonymous, memory.files)


def _parts(shard: Path) -> dict[str, int]:
    """Bytes on disk of each part of an index, holes left out."""
    parts = dict.fromkeys(PARTS, 0)
    for file in shard.rglob("*"):
        if file.is_file():
            parts[_part(file.relative_to(shard))] += file.stat().st_blocks * 512
    return parts


def _part(file: Path) -> str:
    if file.name.startswith("quantized"):
        return "int8"
    folders = {"vector_storage": "originals", "vector_index": "graph", "payload_storage": "payload"}
    folders["payload_index"] = "payload"
    return next((folders[folder] for folder in file.parts if folder in folders), "other")


# ---------------------------------------------------------------- the laws


def _laws(
    builds: Mapping[tuple[int, int], Build], found: Mapping[tuple[int, int, int], Searched], efs: Sequence[int]
) -> dict[str, Law]:
    sizes = [size for size in builds if size[0] >= LINKED_FROM]
    if len({count for count, _ in sizes}) < 2:  # noqa: PLR2004 - one point makes no line
        sizes = list(builds)

    def fitted(values: Sequence[float], terms: Sequence[str], unit: str) -> Law:
        relative = unit != _MISSED  # nothing is missed where recall is 1, and there is no relative distance from that
        return fit([(*size, value) for size, value in zip(sizes, values, strict=True)], terms, unit, relative=relative)

    laws = {}
    for name, (unit, terms) in _TERMS.items():
        laws[name] = fitted([_value(name, builds[size], found[*size, efs[0]]) for size in sizes], terms, unit)
    for ef in efs:
        at = [found[*size, ef] for size in sizes]
        laws[f"search_p50_ms@{ef}"] = fitted([searched.latency.p50 for searched in at], _SEARCH_TERMS, "ms")
        laws[f"search_p95_ms@{ef}"] = fitted([searched.latency.p95 for searched in at], _SEARCH_TERMS, "ms")
        laws[f"misses@{ef}"] = fitted([1 - searched.recall for searched in at], _MISSED_TERMS, _MISSED)
    return laws


def _value(name: str, build: Build, searched: Searched) -> float:
    if name == "anonymous_bytes":
        return searched.anonymous_bytes
    part = name.removesuffix("_bytes")
    return build.parts[part] if part in build.parts else float(getattr(build, name))


def _row(size: tuple[int, int], ef: int, build: Build, searched: Searched) -> dict[str, Figure]:
    return {
        "vectors": size[0],
        "dimension": size[1],
        "ef": ef,
        "p50_ms": searched.latency.p50,
        "p95_ms": searched.latency.p95,
        "recall@10": searched.recall,
        "build_s": build.build_s,
        "build_peak_mb": build.peak_bytes / 1e6,
        "anonymous_mb": searched.anonymous_bytes / 1e6,
        "files_touched_mb": searched.file_bytes / 1e6,
        "disk_mb": sum(build.parts.values()) / 1e6,
    }


def _told(name: str, law: Law) -> str:
    ahead = ""
    if law.ahead is not None:
        ahead = (
            f"; from smaller ones the largest would be {abs(law.ahead):.0%} too {'high' if law.ahead > 0 else 'low'}"
        )
    return f"{name} = {law.formula()}, within {law.error:.0%} of what was measured{ahead}"
