from __future__ import annotations

from pathlib import Path

import pytest

from engine.encoders.cores import usable_cores
from engine.encoders.precision import Measured, Precision, choose, worthwhile_threads


def measured(precision: Precision, ms: float, cosine: float = 0.9999) -> Measured:
    return Measured(precision, single_ms=ms, batch_ms=ms, cosine=cosine)


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ([measured("fp32", 10, 1), measured("bf16", 6), measured("int8", 3)], "int8"),
        ([measured("fp32", 10, 1), measured("bf16", 50), measured("int8", 8)], "int8"),
        ([measured("fp32", 10, 1), measured("bf16", 6), measured("int8", 3, 0.99)], "bf16"),
        ([measured("fp32", 10, 1), measured("bf16", 9.5), measured("int8", 9.3)], "fp32"),
        ([measured("fp32", 10, 1), measured("bf16", 5), measured("int8", 4.8)], "bf16"),
        ([measured("fp32", 10, 1), measured("int8", 20)], "fp32"),
    ],
    ids=["fastest", "bf16 is slow here", "int8 is too inexact", "not worth it", "hardly faster", "all slower"],
)
def test_choice(figures: list[Measured], best: Precision):
    """The fastest precision is taken that keeps the vectors, and a less exact one only for a tenth of the time."""
    assert choose(figures) == best


@pytest.mark.parametrize(
    ("times_ms", "threads"), [({4: 3.4, 8: 3.0}, 4), ({8: 14.0, 4: 19.7}, 8)], ids=["hardly help", "help"]
)
def test_threads_that_hardly_help_are_left_to_others(times_ms: dict[int, float], threads: int):
    """Where twice the threads make a text less than a quarter faster, half of them are taken."""
    assert worthwhile_threads(times_ms) == threads


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("100000 100000", 1)])
def test_container_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int):
    """A container that may use one and a half of 64 processors gets two threads, not 64."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(64)))
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path / "cpu.max") == cores


@pytest.mark.parametrize("text", ["max 100000", "", None])
def test_without_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None):
    """Without a limit the processors of this process count."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(3)))
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path / "cpu.max") == 3
