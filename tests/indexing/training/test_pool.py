"""The pictures of a training: drawn once, continued when interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexing.scenes.render import render
from indexing.scenes.scene import sample
from indexing.training import pool
from indexing.training.pool import PICTURE_PX, pictures


class Stopped(Exception):
    """Someone pressed Ctrl-C."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four pictures at a time."""
    monkeypatch.setattr(pool, "_CHUNK", 4)


def draw(folder: Path) -> tuple[np.ndarray, list[int]]:
    """Ten pictures, and what was told of the progress."""
    told: list[int] = []
    return pictures(10, folder, 2, told.append), told


def stop_at(folder: Path, there: int) -> None:
    """Begins the same pictures, and is interrupted when so many are there."""

    def stop(done: int) -> None:
        if done == there:
            raise Stopped

    with pytest.raises(Stopped):
        pictures(10, folder, 2, stop)


def test_pictures_are_the_scenes_of_training(tmp_path: Path):
    """Picture n shows the training scene of seed n, in full and at the kept size."""
    drawn, told = draw(tmp_path / "new" / "folder")
    assert (drawn.shape, drawn.dtype) == ((10, PICTURE_PX, PICTURE_PX, 3), np.uint8)
    assert told == [4, 8, 10]
    for seed in (0, 5, 9):
        large = Image.fromarray(render(sample(seed, training=True), 2 * PICTURE_PX))
        small = large.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC)
        assert np.array_equal(drawn[seed], np.asarray(small))


def test_drawn_once(tmp_path: Path):
    """A second call draws nothing and gives what is there."""
    first, _ = draw(tmp_path)
    first[3] = 7
    first.flush()  # type: ignore[attr-defined]
    second, told = draw(tmp_path)
    assert told == []
    assert np.array_equal(first, second)


def test_interrupted_drawing_continues(tmp_path: Path):
    """After an interruption the finished part is kept, the rest is drawn, and all is as drawn in one go."""
    stop_at(tmp_path / "stopped", 4)
    continued, told = draw(tmp_path / "stopped")
    assert told == [8, 10]
    assert np.array_equal(continued, draw(tmp_path / "clean")[0])


def test_finished_part_is_not_drawn_again(tmp_path: Path):
    """What was there before the interruption is not touched."""
    stop_at(tmp_path, 8)
    (file,) = tmp_path.glob("*.u8")
    kept = np.memmap(file, np.uint8, "r+")
    kept[: 8 * PICTURE_PX * PICTURE_PX * 3] = 7
    kept.flush()
    continued, _ = draw(tmp_path)
    assert (continued[:8] == 7).all()
    assert not (continued[8:] == 7).all()


def test_other_drawing_code_draws_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pictures of another version of the drawing code are kept apart."""
    draw(tmp_path)
    monkeypatch.setattr(pool, "_drawing_version", lambda: "0123456789ab")
    assert draw(tmp_path)[1] == [4, 8, 10]
    assert len(list(tmp_path.glob("*.u8"))) == 2
