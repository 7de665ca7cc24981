"""The benchmark of indexing, tiny: what it says is what was done."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import SourceError
from engine.settings import Settings
from indexing.bench.indexing import run
from tests.support.encoders import WordEncoder
from tests.support.pictures import paint_many

pytestmark = pytest.mark.bench


def test_every_stage_is_measured_on_the_same_pictures(memory: Path):
    """Three stages alone, a whole run and the loop by hand, two bounds, and the targets that follow from the rows."""
    paint_many(memory / "pictures", 30)
    (memory / "pictures" / "bad.png").write_text("no picture")
    report = run(
        memory / "pictures",
        Settings(index_workers=1, index_batch_size=8),
        WordEncoder(),
        count=25,
        rounds=1,
        folder=memory / "bench",
    )
    assert report.setup["pictures"] == 25
    speeds = {row["stage"]: row["pictures_s"] for row in report.rows}
    assert set(speeds) == {
        "decoding alone",
        "encoding alone",
        "writing alone",
        "all together",
        "by hand, one by one",
        "bound: the slowest alone",
        "bound: core time of all stages",
    }
    alone = [speed for stage, speed in speeds.items() if stage.endswith("alone") and not stage.startswith("bound")]
    assert speeds["bound: the slowest alone"] == min(alone)
    assert report.targets[0].measured == pytest.approx(speeds["all together"] / min(alone))
    assert list((memory / "bench").iterdir()) == []


def test_a_folder_without_pictures_is_an_error(memory: Path):
    """There is nothing to measure then."""
    (memory / "none").mkdir()
    with pytest.raises(SourceError):
        run(memory / "none", Settings(), WordEncoder(), count=5, rounds=1, folder=memory / "bench")
