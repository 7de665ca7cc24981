"""What only an index in another process has: that process, which may die, and many calls under way at once."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from engine.errors import IndexCorrupt, IndexUnavailable
from engine.indexes.edge import EdgeIndex
from engine.indexes.process import ProcessIndex, _Child, _with_huge_pages
from engine.ports import Hit, Point, VectorQuery
from engine.settings import Settings
from tests.support.waiting import until

SETTINGS = Settings(_env_file=None)
ROWS = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
POINTS = [Point(str(uuid.UUID(int=i)), row, {"category": "ab"[i % 2]}) for i, row in enumerate(ROWS)]


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[ProcessIndex]:
    """An index of `POINTS`."""
    index = await ProcessIndex.create(tmp_path / "shard", 16, SETTINGS)
    await index.upsert(POINTS)
    yield index
    await index.close()


def environment(process: int) -> list[str]:
    """The variables that a process was started with."""
    return Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")


async def nearest(index: ProcessIndex, number: int) -> Hit:
    """The first hit for the vector of a point."""
    [[hit]] = await index.search([VectorQuery(ROWS[number], limit=1)])
    return hit


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def vectors_in_memory(shard: Path) -> list[bool]:
    """Of each file of vectors, whether the system holds its beginning in memory."""
    found = []
    for file in shard.glob("segments/*/vector_storage/matrix.dat"):
        with file.open("r+b") as opened, mmap.mmap(opened.fileno(), mmap.PAGESIZE) as mapped:
            page = ctypes.c_char.from_buffer(mapped)
            told = ctypes.c_ubyte()
            assert (
                ctypes.CDLL(None).mincore(ctypes.byref(page), ctypes.c_size_t(mmap.PAGESIZE), ctypes.byref(told)) == 0
            )
            del page  # or the file can't be unmapped
            found.append(bool(told.value & 1))
    return found


async def ended(process: int) -> bool:
    """Whether a process is gone."""
    return not alive(process)


async def test_many_calls_under_way_get_their_own_answers(index: ProcessIndex):
    """Searches that wait together are made together, and other calls come between them."""
    hits = asyncio.gather(*(nearest(index, number) for number in range(200)))
    counts = asyncio.gather(*(index.count() for _ in range(20)))
    assert [hit.id for hit in await hits] == [point.id for point in POINTS[:200]]
    assert await counts == [300] * 20


async def test_a_search_that_fails_fails_alone(index: ProcessIndex):
    """The others that waited with it are answered."""
    bad = [VectorQuery(ROWS[0], limit=-1)]
    outcomes = await asyncio.gather(nearest(index, 1), index.search(bad), nearest(index, 2), return_exceptions=True)
    assert [outcome.id for outcome in outcomes if isinstance(outcome, Hit)] == [POINTS[1].id, POINTS[2].id]
    assert isinstance(outcomes[1], IndexUnavailable)


async def test_a_cancelled_call_disturbs_nobody(index: ProcessIndex):
    """Its answer is dropped when it comes; the calls around it are answered."""
    tasks = [asyncio.create_task(nearest(index, number)) for number in range(30)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcome.id for outcome in outcomes if isinstance(outcome, Hit)] == [point.id for point in POINTS[1:30:2]]
    assert (await nearest(index, 7)).id == POINTS[7].id


async def test_a_process_that_dies_fails_its_calls_and_is_replaced(index: ProcessIndex):
    """Whoever waits is told; the next call finds everything that had been written."""
    before = index.process_id
    os.kill(before, signal.SIGSTOP)  # so that the calls are under way for sure
    waiting = [asyncio.create_task(nearest(index, number)) for number in range(5)]
    await asyncio.sleep(0)
    os.kill(before, signal.SIGKILL)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [IndexUnavailable] * 5
    assert "SIGKILL" in str(outcomes[0])
    again = await asyncio.gather(*(nearest(index, number) for number in range(5)))
    assert [hit.id for hit in again] == [point.id for point in POINTS[:5]]
    assert index.process_id != before
    assert await index.count() == 300


async def test_a_process_that_dies_idle_is_replaced_unnoticed(index: ProcessIndex):
    """The next call is simply answered."""
    before = index.process_id
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - the event loop must not notice
    assert (await nearest(index, 7)).id == POINTS[7].id


async def test_a_process_that_hangs_is_replaced(tmp_path: Path):
    """Whoever waits is told, and the next call finds everything; nobody has to do anything."""
    index = await ProcessIndex.create(tmp_path / "shard", 16, SETTINGS.model_copy(update={"search_timeout_s": 0.5}))
    await index.upsert(POINTS)
    before = index.process_id
    os.kill(before, signal.SIGSTOP)
    outcomes = await asyncio.gather(*(nearest(index, number) for number in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [IndexUnavailable] * 5
    assert "hung" in str(outcomes[0])
    assert (await nearest(index, 7)).id == POINTS[7].id
    assert index.process_id != before
    await index.close()


async def test_callers_that_gave_up_do_not_keep_a_process_that_hangs(tmp_path: Path):
    """What they asked is still owed, and that it is not answered counts."""
    index = await ProcessIndex.create(tmp_path / "shard", 16, SETTINGS.model_copy(update={"search_timeout_s": 0.5}))
    before = index.process_id
    os.kill(before, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await index.count()
    await until(lambda: ended(before))
    assert await index.count() == 0
    await index.close()


async def test_a_process_that_works_long_is_left_alone(tmp_path: Path):
    """Comparing everything, or building, may take far longer than anybody waits for a search."""
    index = await ProcessIndex.create(tmp_path / "shard", 16, SETTINGS.model_copy(update={"search_timeout_s": 0.3}))
    before = index.process_id
    rows = np.random.default_rng(1).standard_normal((20_000, 16)).astype(np.float32)
    await index.upsert([Point(str(uuid.UUID(int=i)), row, {"category": "a"}) for i, row in enumerate(rows)])
    await index.optimize()
    assert await index.count() == 20_000
    assert index.process_id == before
    await index.close()


async def test_a_process_that_can_not_start_again_is_not_tried_at_every_call(
    index: ProcessIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Calls during the pause get the error of the last try; when the files are back, all is well by itself."""
    starts = 0
    start = _Child.start.__func__

    async def counted(cls: type[_Child], *arguments: Any) -> _Child:
        nonlocal starts
        starts += 1
        child: _Child = await start(cls, *arguments)
        return child

    monkeypatch.setattr(_Child, "start", classmethod(counted))
    monkeypatch.setattr("engine.indexes.process._REST_S", 3600.0)
    monkeypatch.setattr("engine.indexes.process._LONGEST_REST_S", 3600.0)
    (tmp_path / "shard").rename(tmp_path / "away")
    os.kill(index.process_id, signal.SIGKILL)
    for _ in range(3):
        outcomes = await asyncio.gather(*(index.count() for _ in range(5)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {IndexCorrupt, IndexUnavailable}
    assert starts <= 1
    (tmp_path / "away").rename(tmp_path / "shard")
    index._again_at = 0.0
    assert await index.count() == 300
    assert await index.count() == 300
    assert starts <= 2


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"], ids=["killed", "left"])
def test_the_process_ends_when_its_parent_is_gone(tmp_path: Path, ending: str):
    """However the parent ends, no index process is left behind to keep the files locked."""
    program = f"""
import asyncio, os, pathlib, signal
from engine.indexes.process import ProcessIndex
from engine.settings import Settings
async def main():
    index = await ProcessIndex.create(pathlib.Path({str(tmp_path / "shard")!r}), 4, Settings(_env_file=None))
    print(index.process_id, flush=True)
    {ending}
asyncio.run(main())
"""
    output = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True).stdout
    deadline = time.monotonic() + 30
    while alive(int(output)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_closing_ends_the_process_and_frees_the_files(index: ProcessIndex, tmp_path: Path):
    """Another opener can have them at once; calls after it say so."""
    await index.close()
    assert not alive(index.process_id)
    with pytest.raises(IndexUnavailable, match="closed"):
        await index.count()
    other = EdgeIndex.open(tmp_path / "shard", SETTINGS)
    assert await other.count() == 300
    await other.close()


async def test_closing_leaves_the_vectors_in_memory_for_the_next_process(cache: pytest.Cache):
    """A server that starts again need not read gigabytes from disk: Edge's own closing would have them forgotten."""
    with TemporaryDirectory(dir=cache.mkdir("shards")) as folder:  # on a disk, where temporary files may be in memory
        index = await ProcessIndex.create(Path(folder) / "shard", 16, SETTINGS)
        await index.upsert(POINTS)
        await index.optimize()
        await index.close()
        assert vectors_in_memory(Path(folder) / "shard") == [True]


async def test_closing_does_not_wait_for_ever(index: ProcessIndex, monkeypatch: pytest.MonkeyPatch):
    """A process that does not answer is killed."""
    monkeypatch.setattr("engine.indexes.process._CLOSE_S", 0.05)
    os.kill(index.process_id, signal.SIGSTOP)
    await index.close()
    assert not alive(index.process_id)


async def test_what_can_not_be_opened_is_told_in_the_same_words(index: ProcessIndex, tmp_path: Path):
    """The errors of opening cross over: in use, not there, there already."""
    with pytest.raises(IndexUnavailable, match=r"another process.*try again"):
        await ProcessIndex.open(tmp_path / "shard", SETTINGS)
    with pytest.raises(IndexUnavailable, match="already holds an index"):
        await ProcessIndex.create(tmp_path / "shard", 16, SETTINGS)
    with pytest.raises(IndexCorrupt, match=r"rollback.*build"):
        await ProcessIndex.open(tmp_path / "nothing", SETTINGS)
    assert await index.count() == 300


async def test_a_process_that_can_not_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without an interpreter there is no index process."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(IndexUnavailable, match="No process can be started"):
        await ProcessIndex.create(tmp_path / "shard", 16, SETTINGS)


def test_the_process_imports_no_torch():
    """It starts in a fraction of a second."""
    program = "import sys, engine.indexes.child; print('torch' in sys.modules, 'open_clip' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=3", "glibc.malloc.check=3:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_huge_pages_are_asked_for_unless_somebody_decided(before: str, after: str):
    assert _with_huge_pages(before) == after


async def test_the_process_asks_for_huge_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    index = await ProcessIndex.create(tmp_path / "shard", 8, SETTINGS)
    try:
        assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in environment(index.process_id)
    finally:
        await index.close()
