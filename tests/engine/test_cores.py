from __future__ import annotations

from pathlib import Path

import pytest

from engine.cores import usable_cores


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
