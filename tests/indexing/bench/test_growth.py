"""Growth: small indexes built, measured and fitted; what was built is kept."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from engine.errors import BadUserInput, SourceError
from engine.settings import Settings
from indexing.bench import growth
from indexing.bench.commands import bench_app
from indexing.bench.growth import parse_sizes, run
from indexing.bench.index import nearest
from indexing.bench.laws import LAWS, LawBook
from indexing.bench.report import Report
from indexing.simulate import queries, vectors

pytestmark = pytest.mark.bench

SIZES = [(2_000, 32), (4_000, 32), (2_000, 64)]
EFS = [16, 64]
SEARCHES = 30


@pytest.fixture(scope="module")
def folder(memory: Path) -> Path:
    """Where the indexes of these tests are built."""
    return memory / "growth"


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    """Three small sizes, measured, with their laws beside them."""
    folder.mkdir()
    shutil.copy(LAWS, folder / "laws.json")
    return run(SIZES, folder, SEARCHES, EFS, settings=Settings(), save=folder / "laws.json")


def test_every_size_is_measured_at_every_ef(report: Report):
    """One row each, with latency and recall side by side, and the costs of the build."""
    assert [(row["vectors"], row["dimension"], row["ef"]) for row in report.rows] == [
        (count, dimension, ef) for count, dimension in SIZES for ef in EFS
    ]
    for row in report.rows:
        assert 0 < float(row["p50_ms"] or 0) <= float(row["p95_ms"] or 0)
        assert 0 <= float(row["recall@10"] or 0) <= 1
        for name in ("build_s", "disk_mb", "build_peak_mb", "anonymous_mb"):
            assert float(row[name] or 0) > 0


def test_recall_is_against_the_truth(report: Report, folder: Path):
    """The neighbours that recall is measured by are those that comparing all vectors here finds."""
    count, dimension = SIZES[0]
    everything = [point for batch in vectors(count, dimension, 1) for point in batch]
    matrix = np.stack([point.vector for point in everything if point.vector is not None])
    asked = queries(SEARCHES, dimension, 1)
    settings = Settings()

    async def truth() -> list[set[str]]:
        here = growth._folder(folder, count, dimension, settings)
        return await nearest(here, here / "shard", asked, settings)

    for right, scores in zip(asyncio.run(truth()), asked @ matrix.T, strict=True):
        assert right == {everything[at].id for at in np.argsort(-scores)[:10]}
    assert all(float(row["recall@10"] or 0) > 0.9 for row in report.rows if row["ef"] == 64)


def test_vectors_take_four_bytes_a_component_and_quantized_ones_one(report: Report, folder: Path):
    """The laws of these parts find what is known to be true."""
    laws = LawBook.read(folder / "laws.json").laws
    assert laws["originals_bytes"].terms["N d"] == pytest.approx(4, rel=0.1)
    assert laws["int8_bytes"].terms["N d"] == pytest.approx(1, rel=0.2)
    assert laws["originals_bytes"].counts == (2_000, 4_000)
    assert laws["originals_bytes"].dimensions == (32, 64)
    assert len(report.notes) == len(laws)


def test_saved_laws_keep_the_rest_of_the_book(report: Report, folder: Path):
    """Models and assumptions stay; date, machine and command are those of this run."""
    book, shipped = LawBook.read(folder / "laws.json"), LawBook.read()
    assert (book.models, book.assumptions) == (shipped.models, shipped.assumptions)
    assert book.measured["command"] == "sightline bench growth --counts 2000x32,4000x32,2000x64"
    assert book.measured["machine"]["processor"] == report.machine.processor


def test_a_second_run_builds_nothing(report: Report, folder: Path):
    """What was measured of a build is kept with it, and the index searched again is the same."""
    times = {file: file.stat().st_mtime_ns for file in folder.glob("*/measured.json")}
    again = run(SIZES[:2], folder, SEARCHES, [64], settings=Settings())
    assert {file: file.stat().st_mtime_ns for file in folder.glob("*/measured.json")} == times
    assert [row["build_s"] for row in again.rows] == [row["build_s"] for row in report.rows[1:4:2]]


def test_an_unfinished_build_is_begun_anew(memory: Path):
    """A folder without its measurements is what a killed run left: nothing of it stays."""
    left = memory / "killed" / "shard"
    left.mkdir(parents=True)
    (left / "edge_config.json").write_text("{}")
    assert growth._kept(memory / "killed") is None
    assert not list((memory / "killed").iterdir())


def test_laws_need_two_counts(memory: Path):
    """One count makes no law, whatever its dimensions."""
    with pytest.raises(BadUserInput, match="at least two"):
        run([(200, 8), (200, 16)], memory, settings=Settings())


def test_a_small_disk_is_said_before_building(memory: Path):
    """More vectors than the disk holds are refused."""
    with pytest.raises(SourceError, match="do not fit"):
        run([(10**12, 512), (10**12 + 1, 512)], memory / "large", settings=Settings())


def test_sizes_are_read_as_people_write_them():
    """Each may have its own dimension; anything else is named."""
    assert parse_sizes("10k, 100000,1Mx1024", 512) == [(10_000, 512), (100_000, 512), (1_000_000, 1024)]
    for wrong in ("", "10kx", "x512", "0", "1.5"):
        with pytest.raises(BadUserInput, match="--counts"):
            parse_sizes(wrong, 512)


def test_command_prints_the_report(memory: Path, monkeypatch: pytest.MonkeyPatch):
    """`sightline bench growth --json` prints the report, and leaves the shipped laws alone."""
    monkeypatch.chdir(memory)
    before = LAWS.read_bytes()
    asked = ["growth", "--counts", "200,400", "--dim", "8", "--ef", "64", "--searches", "20", "--json"]
    shown = CliRunner().invoke(bench_app, asked, catch_exceptions=False)
    assert orjson.loads(shown.stdout)["title"] == "Growth of an index"
    assert LAWS.read_bytes() == before
