"""The benchmark of building an index, on a tiny one: both builds, what they find, and what is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.settings import Settings
from indexing.bench.build import KINDS, build, run

pytestmark = pytest.mark.bench

SETTINGS = Settings(_env_file=None)


def test_both_builds_are_measured_and_nothing_is_left(tmp_path: Path):
    """One row each, in processes of their own; the targets follow from the rows."""
    report = run(600, 16, tmp_path, settings=SETTINGS)
    assert [row["build"] for row in report.rows] == list(KINDS)
    for row in report.rows:
        assert float(row["wall_s"] or 0) == pytest.approx(float(row["write_s"] or 0) + float(row["optimize_s"] or 0))
        assert float(row["recall@10"] or 0) > 0.9
    alone, ours = report.rows
    assert ours["segments"] == 1
    assert report.targets[0].measured == pytest.approx(float(ours["wall_s"] or 0) / float(alone["wall_s"] or 1))
    assert report.targets[1].measured == pytest.approx(float(ours["peak_mb"] or 0) / 1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_recall_is_against_all_vectors(tmp_path: Path, kind: str):
    """With as many candidates as there are vectors, everything is found."""
    exhaustive = SETTINGS.model_copy(update={"search_ef": 600})
    assert build(kind, 600, 16, tmp_path / "index", exhaustive, asked=30).recall > 0.99
