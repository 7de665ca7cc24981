"""Lists that may be longer than memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexing import spool
from indexing.spool import Spool


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 5000])
@pytest.mark.parametrize("in_memory", [10, 1 << 20])
def test_everything_comes_back_in_order(count: int, in_memory: int, monkeypatch: pytest.MonkeyPatch):
    """As often as it is asked for, also by two at once, whether it lies in memory or on the disk."""
    monkeypatch.setattr(spool, "_IN_MEMORY", in_memory)
    long: Spool[tuple[int, str]] = Spool()
    items = [(number, f"{number}.jpg") for number in range(count)]
    for item in items:
        long.append(item)
    assert len(long) == count
    assert bool(long) == bool(count)
    for _ in range(2):
        assert list(long) == items
    assert list(zip(long, long, strict=True)) == list(zip(items, items, strict=True))
    assert [item for part in long.parts() for item in part] == items


def test_what_is_appended_later_is_there_too():
    """Reading does not end writing."""
    long: Spool[int] = Spool()
    for number in range(600):
        long.append(number)
        if number % 100 == 0:
            assert sum(1 for _ in long) == number + 1
    assert list(long) == list(range(600))


def test_a_long_one_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is beyond the limit lies in a file, without a name that a killed process would leave."""
    import resource  # noqa: PLC0415 - here only

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    long: Spool[str] = Spool()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(200_000):
        long.append(f"{number:0500}")
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 60  # of 100 MB of text
    assert list(tmp_path.iterdir()) == []
