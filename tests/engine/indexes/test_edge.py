"""What only an index with files has: persistence, one opener, damage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import IndexCorrupt, IndexUnavailable
from engine.indexes.edge import EdgeIndex
from engine.ports import Point, VectorQuery
from engine.settings import Settings

SETTINGS = Settings(_env_file=None)
ROWS = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
POINTS = [Point(str(uuid.UUID(int=i)), row, {"category": "ab"[i % 2]}) for i, row in enumerate(ROWS)]


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in another process."""
    return subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)


def graphs(folder: Path) -> list[dict[str, Any]]:
    """The settings of the HNSW graphs on disk."""
    return [json.loads(file.read_text()) for file in folder.glob("segments/*/vector_index/hnsw_config.json")]


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A closed, optimized index of `POINTS`."""
    folder = tmp_path / "shard"
    index = EdgeIndex.create(folder, 16, SETTINGS)
    await index.upsert(POINTS)
    await index.optimize()
    await index.close()
    return folder


@pytest.fixture
async def in_three_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A closed index of `POINTS` that came 20 at a time, where a graph is built over 96 of them."""
    monkeypatch.setattr("engine.indexes.shard._GRAPH_VECTORS", 96)
    monkeypatch.setattr("engine.indexes.shard._GRAPH_BYTES", 0)
    folder = tmp_path / "shard"
    index = EdgeIndex.create(folder, 16, SETTINGS)
    for start in range(0, 300, 20):
        await index.upsert(POINTS[start : start + 20])
    await index.close()
    return folder


async def test_everything_is_there_after_closing_and_opening(folder: Path):
    """Points, payloads, payload indexes, graph and dimension survive."""
    index = EdgeIndex.open(folder, SETTINGS)
    info = await index.info()
    assert (info.points, info.indexed, info.dimension) == (300, 300, 16)
    assert info.disk_bytes > 0
    [hits] = await index.search([VectorQuery(ROWS[7], limit=1)])
    assert (hits[0].id, hits[0].payload) == (POINTS[7].id, {"category": "b"})
    assert await index.facet("category") == [("a", 150), ("b", 150)]
    await index.close()


async def test_written_points_survive_a_killed_process(tmp_path: Path):
    """When `upsert` has returned, the process may die without closing anything."""
    program = f"""
import asyncio, os, pathlib, uuid
import numpy as np
from engine.indexes.edge import EdgeIndex
from engine.ports import Point
from engine.settings import Settings
async def main():
    index = EdgeIndex.create(pathlib.Path({str(tmp_path / "shard")!r}), 4, Settings(_env_file=None))
    rows = np.eye(4, dtype=np.float32)
    await index.upsert([Point(str(uuid.UUID(int=i)), rows[i], {{"n": i}}) for i in range(4)])
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    assert run(program).returncode == -9
    index = EdgeIndex.open(tmp_path / "shard", SETTINGS)
    assert [point.payload for point in await index.retrieve(await index.ids())] == [{"n": n} for n in range(4)]
    await index.close()


async def test_a_second_opener_is_told_what_to_do(folder: Path):
    """Another process that opens a shard in use gets `IndexUnavailable` that names the way out; closing frees it."""
    index = EdgeIndex.open(folder, SETTINGS)
    program = f"""
import pathlib
from engine.errors import IndexUnavailable
from engine.indexes.edge import EdgeIndex
from engine.settings import Settings
try:
    EdgeIndex.open(pathlib.Path({str(folder)!r}), Settings(_env_file=None))
except IndexUnavailable as error:
    print(error)
"""
    output = run(program).stdout
    assert "another process" in output
    assert "try again" in output
    await index.close()
    again = EdgeIndex.open(folder, SETTINGS)
    await again.close()


async def test_creating_over_an_index_is_refused(folder: Path):
    """Nothing that exists is overwritten."""
    with pytest.raises(IndexUnavailable, match="already holds an index"):
        EdgeIndex.create(folder, 16, SETTINGS)


async def test_a_closed_index_says_so(folder: Path):
    """Calls after `close` fail at once instead of hanging."""
    index = EdgeIndex.open(folder, SETTINGS)
    await index.close()
    with pytest.raises(IndexUnavailable, match="closed"):
        await index.count()


async def test_a_graph_is_built_whenever_enough_vectors_have_come_together(in_three_graphs: Path):
    """So that no build needs much more memory than that; everything is found, and small additions share one graph."""
    folder = in_three_graphs
    assert len(graphs(folder)) == 3
    index = EdgeIndex.open(folder, SETTINGS)
    assert (await index.info()).indexed == 300
    answers = await index.search([VectorQuery(row, limit=1) for row in ROWS])
    assert [hits[0].id for hits in answers] == [point.id for point in POINTS]
    await index.upsert([Point(str(uuid.UUID(int=1000 + i)), row, {}) for i, row in enumerate(ROWS[:20])])
    await index.optimize()
    assert len(graphs(folder)) == 4
    await index.upsert([Point(str(uuid.UUID(int=2000 + i)), row, {}) for i, row in enumerate(ROWS[:20])])
    await index.optimize()
    assert len(graphs(folder)) == 4
    assert (await index.info()).indexed == 340
    await index.close()


async def test_graphs_of_earlier_versions_are_joined_to_larger_ones(
    in_three_graphs: Path, monkeypatch: pytest.MonkeyPatch
):
    """When their index is written to: a search goes through every graph, so few are better."""
    assert len(graphs(in_three_graphs)) == 3
    monkeypatch.setattr("engine.indexes.shard._GRAPH_VECTORS", 500)
    index = EdgeIndex.open(in_three_graphs, SETTINGS)
    await index.upsert(POINTS[:1])
    await index.optimize()
    assert len(graphs(in_three_graphs)) == 1
    assert (await index.info()).indexed == 300
    await index.close()


async def test_changed_settings_apply_from_the_next_optimize(folder: Path):
    """An index that is opened with other HNSW settings is rebuilt with them, and keeps its points."""
    index = EdgeIndex.open(folder, Settings(_env_file=None, search_hnsw_m=8))
    await index.optimize()
    await index.close()
    assert [graph["m"] for graph in graphs(folder)] == [8]
    again = EdgeIndex.open(folder, Settings(_env_file=None, search_hnsw_m=8))
    assert await again.count() == 300
    await again.close()


def _halve(*patterns: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for file in (file for pattern in patterns for file in folder.glob(pattern) if file.is_file()):
            with file.open("r+b") as opened:
                opened.truncate(file.stat().st_size // 2)

    return damage


DAMAGE: dict[str, Callable[[Path], object]] = {
    "folder gone": shutil.rmtree,
    "configuration gone": lambda folder: (folder / "edge_config.json").unlink(),
    "configuration unreadable": lambda folder: (folder / "edge_config.json").write_text("{"),
    "segments gone": lambda folder: shutil.rmtree(folder / "segments"),
    "segment state cut": _halve("segments/*/segment.json"),
    "vectors cut": _halve("segments/*/vector_storage/**/*"),
    "graph cut": _halve("segments/*/vector_index/**/*"),
    "payloads cut": _halve("segments/*/payload_storage/**/*"),
    "ids cut": _halve("segments/*/id_tracker*"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_damaged_files_are_reported(folder: Path, damage: Callable[[Path], object]):
    """Whatever is missing or cut short, opening says that the index is corrupt and what to do; nothing crashes."""
    damage(folder)
    with pytest.raises(IndexCorrupt, match=r"rollback.*build"):
        EdgeIndex.open(folder, SETTINGS)
