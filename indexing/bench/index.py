"""The index alone: how fast and how well it finds, in this process, in a process of its own, and comparing everything.

Besides the latency of one client, eight clients at once show what a search does to everybody else: Edge holds the GIL,
so in this process it stalls the event loop for as long as it takes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from engine.errors import BadUserInput
from engine.generations import Generation, GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.indexes.process import ProcessIndex
from engine.ports import Hit, VectorIndex, VectorQuery, Vectors
from engine.settings import Settings
from indexing.bench.memory import memory_of
from indexing.bench.report import Figure, Latency, Report, Target
from indexing.simulate import MODEL, queries, simulate_vectors
from indexing.spaces import searches

EFS: Final = (64, 128, 256)
"""Values of SEARCH_EF that are measured if none are named."""

LIMIT: Final = 10
"""Hits asked for, with their payload."""

RECALL: Final = 0.98
"""The recall that a latency has to come with to count for the target."""

_P95_MS: Final = 5.0
_SEED: Final = 1
_CLIENTS: Final = 8
_TICK_S: Final = 0.001
_EXACT: Final = 20  # searches that compare everything and are timed: each takes up to a second at a million


def run(
    count: int,
    dimension: int,
    folder: Path = Path("data/bench"),
    asked: int = 300,
    efs: Sequence[int] = EFS,
    *,
    settings: Settings,
) -> Report:
    """Measures the index of `count` vectors under `folder`, which is made if it is not there.

    An index there that was made for a real model is asked in words; CLIP_MODEL has to be that model. Raises
    `BadUserInput` when another index is in its place.
    """
    generation = asyncio.run(prepared(count, dimension, folder, settings))
    vectors = _asked(generation, asked, settings)
    truth, exact_ms = asyncio.run(_truth(generation, vectors, settings))
    rows: list[dict[str, Figure]] = []
    for ef in efs:
        at = settings.model_copy(update={"search_ef": ef})
        rows += [
            asyncio.run(_measured(kind, generation.shard, vectors, truth, at)) for kind in ("in process", "process")
        ]
    exact = {"index": "exact", "recall@10": 1.0, **Latency.of(exact_ms).row()}
    good = [row for row in rows if row["index"] == "process" and float(row["recall@10"] or 0) >= RECALL]
    best = min(good or rows[-1:], key=lambda row: float(row["p95_ms"] or 0))
    size = f"{count:,} x {dimension}"
    return Report(
        title=f"Index alone, {size}",
        setup={
            "queries": asked,
            "limit": LIMIT,
            "m": settings.search_hnsw_m,
            "ef_construct": settings.search_ef_construct,
            "model": generation.model.name,
        },
        rows=[*rows, exact],
        targets=[
            Target(f"{size}, p95 ms at ef {best['ef']}", float(best["p95_ms"] or 0), "<", _P95_MS),
            Target(f"{size}, recall@{LIMIT} at ef {best['ef']}", float(best["recall@10"] or 0), ">=", RECALL),
        ],
        notes=[
            "p50, p95, p99: one client, one search at a time, each query asked once before it is timed.",
            f"searches_s, stall_p99_ms: {_CLIENTS} clients at once, and how late a timer of 1 ms rings meanwhile.",
        ],
    )


def parse_efs(text: str) -> tuple[int, ...]:
    """Values of SEARCH_EF from words such as "64,128". Raises `BadUserInput` for anything else."""
    try:
        efs = tuple(int(word) for word in text.split(","))
    except ValueError:
        efs = ()
    if not efs or min(efs) < 1:
        raise BadUserInput(f"--ef: {text!r} is no list of numbers. Write 64,128,256.")
    return efs


async def prepared(count: int, dimension: int, folder: Path, settings: Settings) -> Generation:
    """The serving generation of the index of this size under `folder`, simulated there if there is none."""
    home = folder / f"index-{count}x{dimension}"
    store = GenerationStore(home, settings.index_name)
    generation = store.current()
    if generation is None:
        there = settings.model_copy(update={"index_path": home})
        generation = await simulate_vectors(count, dimension, _SEED, settings.index_name, there)
    if (generation.points, generation.model.dimension) != (count, dimension):
        raise BadUserInput(
            f"{home} holds {generation.points} vectors of {generation.model.dimension} dimensions, not {count} of "
            f"{dimension}. Remove that folder, and run this again."
        )
    return generation


def _asked(generation: Generation, count: int, settings: Settings) -> Vectors:
    """What is asked, (count, d): simulated texts, or searches in words as the index's own model embeds them."""
    if generation.model.name == MODEL:
        return queries(count, generation.model.dimension, _SEED)
    kept = generation.path / f"queries-{count}.npy"
    if not kept.is_file():
        from engine.encoders.choice import load_encoder  # noqa: PLC0415 - torch or OpenVINO, for such an index only

        encoder = load_encoder(settings)
        if encoder.model.fingerprint != generation.model.fingerprint:
            raise BadUserInput(
                f"The index of this size was made for {generation.model.name}. Set CLIP_MODEL and CLIP_PRETRAINED to "
                f"that model, or remove {generation.path}."
            )
        np.save(kept, encoder.encode_texts(searches(count, _SEED)))
    vectors: Vectors = np.load(kept)
    return vectors


async def _truth(generation: Generation, vectors: Vectors, settings: Settings) -> tuple[list[set[str]], list[float]]:
    """The ids of the true nearest, remembered beside the index; and how many ms comparing everything took."""
    async with opened("process", generation.shard, settings) as index:
        timed: list[float] = []
        for vector in vectors[:_EXACT]:
            started = time.perf_counter()
            await index.search([VectorQuery(vector, LIMIT, exact=True)])
            timed.append((time.perf_counter() - started) * 1000)
    return await nearest(generation.path, generation.shard, vectors, settings), timed


async def nearest(folder: Path, shard: Path, asked: Vectors, settings: Settings) -> list[set[str]]:
    """The ids of the true nearest, found by comparing everything, which can take minutes, and kept in a folder."""
    kept = folder / f"truth-{len(asked)}.npy"
    if not kept.is_file():
        async with opened("process", shard, settings) as index:
            answers = await index.search([VectorQuery(v, LIMIT, exact=True, payload=False) for v in asked])
        np.save(kept, np.array([[hit.id for hit in hits] for hits in answers]))
    return [set(row) for row in np.load(kept).tolist()]


@asynccontextmanager
async def opened(kind: str, shard: Path, settings: Settings) -> AsyncIterator[VectorIndex]:
    """The index in a process of its own ("process"), or in this one."""
    index = await ProcessIndex.open(shard, settings) if kind == "process" else EdgeIndex.open(shard, settings)
    try:
        yield index
    finally:
        await index.close()


async def _measured(
    kind: str, shard: Path, vectors: Vectors, truth: Sequence[set[str]], settings: Settings
) -> dict[str, Figure]:
    async with opened(kind, shard, settings) as index:
        latency, recall = await measure(index, vectors, truth)
        searches_s, stalls = await _under_load(index, vectors)
        memory = memory_of(index.process_id if isinstance(index, ProcessIndex) else os.getpid())
    return {
        "index": kind,
        "ef": settings.search_ef,
        "recall@10": recall,
        **latency.row(),
        "searches_s": searches_s,
        "stall_p99_ms": Latency.of(stalls).p99,
        "anonymous_mb": memory.anonymous / 1e6,
        "files_mb": memory.files / 1e6,
    }


async def measure(
    index: VectorIndex, asked: Vectors, truth: Sequence[set[str]], rounds: int = 1
) -> tuple[Latency, float]:
    """How long single queries (n, d) take, and their recall.

    Each is asked once to warm up and judge it, then in each of the rounds; the median counts, so that with three of
    them a pause of the machine is not taken for a slow query.
    """
    shared = 0
    for vector, right in zip(asked, truth, strict=True):
        shared += len({hit.id for hit in await _top(index, vector)} & right)
    timed: list[list[float]] = []
    for _ in range(rounds):
        times: list[float] = []
        for vector in asked:
            started = time.perf_counter()
            await _top(index, vector)
            times.append((time.perf_counter() - started) * 1000)
        timed.append(times)
    return Latency.of([median(times) for times in zip(*timed, strict=True)]), shared / sum(map(len, truth))


async def _top(index: VectorIndex, vector: Vectors) -> list[Hit]:
    [hits] = await index.search([VectorQuery(vector, LIMIT)])
    return hits


async def _under_load(index: VectorIndex, vectors: Vectors) -> tuple[float, list[float]]:
    """Searches a second of clients that ask again as soon as they are answered, and how many ms a timer was late."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            late.append((time.perf_counter() - started - _TICK_S) * 1000)

    async def client(number: int) -> None:
        for vector in vectors[number::_CLIENTS]:
            await _top(index, vector)

    ticking = asyncio.create_task(tick())
    started = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(_CLIENTS)))
    await asyncio.sleep(_TICK_S)
    elapsed = time.perf_counter() - started
    ticking.cancel()
    return len(vectors) / elapsed, late or [elapsed * 1000]
