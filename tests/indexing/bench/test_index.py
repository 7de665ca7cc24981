"""The benchmark of the index alone, on a tiny one: its rows, its recall, and what it refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.errors import BadUserInput
from engine.ports import VectorQuery
from engine.settings import Settings
from indexing.bench.index import opened, parse_efs, prepared, run
from indexing.simulate import queries

pytestmark = pytest.mark.bench

SETTINGS = Settings(_env_file=None)


def test_it_compares_both_homes_of_the_index_with_comparing_everything(tmp_path: Path):
    """For each ef; a second run finds the index and its truth where the first left them."""
    report = run(1500, 16, tmp_path, 20, (16, 64), settings=SETTINGS)
    assert [(row["index"], row.get("ef")) for row in report.rows] == [
        ("in process", 16),
        ("process", 16),
        ("in process", 64),
        ("process", 64),
        ("exact", None),
    ]
    recalls = [float(row["recall@10"] or 0) for row in report.rows]
    assert recalls[0] == recalls[1]
    assert 0.5 < recalls[0] <= recalls[2] <= 1
    assert all(float(row["p50_ms"] or 0) <= float(row["p99_ms"] or 0) for row in report.rows)
    assert all(float(row["searches_s"] or 0) > 0 for row in report.rows[:-1])
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("truth-*.npy")}
    assert len(files) == 1
    again = run(1500, 16, tmp_path, 20, (16,), settings=SETTINGS)
    assert [row["recall@10"] for row in again.rows] == [recalls[0], recalls[1], 1.0]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("truth-*.npy")} == files


def test_an_index_of_another_size_is_not_measured(tmp_path: Path):
    """A folder that holds something else is named."""
    asyncio.run(prepared(300, 16, tmp_path, SETTINGS))
    (tmp_path / "index-300x16").rename(tmp_path / "index-400x16")
    with pytest.raises(BadUserInput, match="holds 300 vectors of 16 dimensions, not 400"):
        asyncio.run(prepared(400, 16, tmp_path, SETTINGS))


async def test_the_truth_is_the_truth(tmp_path: Path):
    """The index's exact search gives what a product of all vectors gives."""
    generation = await prepared(300, 16, tmp_path, SETTINGS)
    [query] = queries(1, 16, 1)
    async with opened("process", generation.shard, SETTINGS) as index:
        points = await index.retrieve(await index.ids(), vectors=True)
    scores = {point.id: float(point.vector @ query) for point in points if point.vector is not None}
    async with opened("in process", generation.shard, SETTINGS) as index:
        [hits] = await index.search([VectorQuery(query, 10, exact=True)])
    assert [hit.id for hit in hits] == sorted(scores, key=lambda id_: -scores[id_])[:10]


@pytest.mark.parametrize("text", ["", "64,", "a", "0", "-5"])
def test_values_of_ef_are_numbers(text: str):
    """Anything else is refused with an example."""
    assert parse_efs("64,128") == (64, 128)
    with pytest.raises(BadUserInput, match="64,128,256"):
        parse_efs(text)
