from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from engine.generations import GenerationStore, copy_tree, generations_of
from engine.indexes.qdrant_connection import QdrantConnection
from engine.settings import Settings
from tests.support.pictures import Contents, contents, paint, paint_many
from tests.support.qdrant import QdrantServer

SCRIPT = Path(__file__).parents[1] / "support" / "index_once.py"
NAME = "default"
ENVIRONMENT = {"INDEX_BATCH_SIZE": "4", "INDEX_WORKERS": "1", "INDEX_NAME": NAME, "OMP_NUM_THREADS": "1"}


class Bench:
    """A folder of pictures, and indexes of it that are built by processes of their own.

    The folder is always at the same place, because manifests name it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._output = folder / "output"
        self._runs = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.source = folder / "source"
        self.data = folder / "data"
        self.clean = folder / "clean"
        paint_many(self.source, 15)
        (self.source / "bad.png").write_text("no picture")
        shutil.copytree(self.source, folder / "pictures")
        assert self.run(self.clean)[0] == 0

    def renew(self) -> None:
        """The pictures as they were, and no index but the clean one."""
        for folder in (self.source, self.data):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._folder / "pictures", self.source)

    def start_clean(self, data: Path | None = None) -> Path:
        """Puts a copy of the clean index of the first pictures under `data`."""
        copy_tree(self.clean, data or self.data)
        return data or self.data

    def change(self) -> None:
        """Something new, something changed, something gone."""
        for number in range(6):
            paint(self.source / f"new{number}.png", "yellow")
        paint(self.source / "001.png", "purple", (50, 50))
        (self.source / "002.png").unlink()

    def run(self, data: Path, *options: str, meanwhile: Callable[[int], None] | None = None) -> tuple[int, str]:
        """One run: its exit code (negative: the signal) and all it printed. `meanwhile` is given its process id."""
        assert self._runs.stdin
        assert self._runs.stdout
        order = {"arguments": [str(self.source), str(data), *options], "output": str(self._output)}
        self._runs.stdin.write(json.dumps(order) + "\n")
        self._runs.stdin.flush()
        process = int(self._runs.stdout.readline())
        if meanwhile:
            meanwhile(process)
        code = int(self._runs.stdout.readline())
        return code, self._output.read_text()

    def close(self) -> None:
        """Ends the process that starts the runs."""
        self._runs.communicate()


@pytest.fixture(scope="module")
def shared(memory: Path) -> Iterator[Bench]:
    """Fifteen pictures and one that is none: four batches; and a clean index of them."""
    bench = Bench(memory)
    yield bench
    bench.close()


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """The bench in its first state."""
    shared.renew()
    return shared


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A Qdrant server of its own."""
    with QdrantServer(tmp_path / "qdrant") as server:
        yield server


async def serving(data: Path) -> Contents:
    """What the index under this folder serves."""
    return await contents(Settings(index_path=data), NAME)


async def test_a_run_killed_again_and_again_ends_like_a_clean_one(bench: Bench):
    """Killed in every phase of a first build, each run goes on where the last one died."""
    moments = ["beginning:1", "upserting:1", "recording:2", "written:2", "advance:2", "optimizing:1", "finishing:1"]
    for moment in (*moments, "promoting:1"):
        code, told = bench.run(bench.data, "--kill", moment)
        assert code == -9, (moment, told)
    code, told = bench.run(bench.data)
    assert code == 0, told
    killed, clean = await serving(bench.data), await serving(bench.clean)
    assert killed.manifest == clean.manifest
    assert {key: point.id for key, point in killed.points.items()} == {
        key: point.id for key, point in clean.points.items()
    }
    assert len(GenerationStore(bench.data, NAME).list()) == 1


async def test_runs_on_a_server_killed_again_and_again_end_like_clean_ones(bench: Bench, server: QdrantServer):
    """A first build and an update, with a generation on a Qdrant server in every phase; no collection is left over."""
    settings, options = server.settings(index_path=bench.data), ("--qdrant", server.settings().qdrant_url)
    first = ("beginning:1", "upserting:1", "recording:2", "optimizing:1", "verifying:1", "finishing:1", "promoting:1")
    for moment in first:
        code, told = bench.run(bench.data, *options, "--kill", moment)
        assert code == -9, (moment, told)
    code, told = bench.run(bench.data, *options)
    assert code == 0, told
    before, clean = await contents(settings, NAME), await serving(bench.clean)
    assert before.manifest == clean.manifest
    assert {key: point.id for key, point in before.points.items()} == {
        key: point.id for key, point in clean.points.items()
    }
    bench.change()
    for moment in ("beginning:1", "upserting:1", "deleting:1", "checking:1", "finishing:1"):
        code, told = bench.run(bench.data, *options, "--kill", moment)
        assert code == -9, (moment, told)
        assert (await contents(settings, NAME)).manifest == before.manifest
    assert bench.run(bench.data, *options, "--kill", "promoted:1")[0] == -9
    code, told = bench.run(bench.data, *options)
    assert code == 0, told
    after = await contents(settings, NAME)
    assert set(after.points) == set(before.points) - {"002.png"} | {f"new{number}.png" for number in range(6)}
    async with generations_of(settings, NAME) as store:
        assert [found.id for found in await store.list()] == [before.generation, after.generation]
    connection = QdrantConnection(settings)
    assert len(await connection.collections()) == 2
    await connection.close()


async def test_an_update_killed_on_the_way_ends_like_a_clean_run(bench: Bench, tmp_path: Path):
    """While it dies and goes on, the old generation serves, unchanged; in the end the new one equals a clean build."""
    data = bench.start_clean()
    before = await serving(data)
    bench.change()
    for moment in ("upserting:1", "recording:1", "deleting:1", "checking:1"):
        code, told = bench.run(data, "--kill", moment)
        assert code == -9, (moment, told)
        assert (await serving(data)).manifest == before.manifest
    assert bench.run(data, "--kill", "promoted:1")[0] == -9
    assert bench.run(data)[0] == 0
    bench.run(tmp_path / "clean")
    after, clean = await serving(data), await serving(tmp_path / "clean")
    assert after.manifest == clean.manifest
    assert set(after.points) == set(clean.points)


async def test_a_run_killed_at_any_time_can_be_continued(bench: Bench):
    """Not only between steps: killed from outside after seeded delays, also within a write."""
    delays = Random(7)

    def kill_later(process: int) -> None:
        started = time.monotonic()
        while not list(bench.data.glob("*/generations/*/shard")) and time.monotonic() - started < 30:
            time.sleep(0.002)
        time.sleep(delays.random() * 0.2)
        with suppress(ProcessLookupError):  # it was done by then
            os.kill(process, signal.SIGKILL)

    codes = [bench.run(bench.data, meanwhile=kill_later)[0] for _ in range(4)]
    assert -9 in codes
    code, told = bench.run(bench.data)
    assert code == 0, told
    assert (await serving(bench.data)).manifest == (await serving(bench.clean)).manifest


@pytest.mark.parametrize(("option", "code"), [("--interrupt", 130), ("--terminate", 143)])
async def test_a_signal_stops_in_order(bench: Bench, option: str, code: int):
    """Ctrl-C and SIGTERM end with their exit codes and a sentence, leave what serves alone, and lose nothing."""
    data = bench.start_clean()
    before = await serving(data)
    bench.change()
    ended, told = bench.run(data, option, "written:1")
    assert ended == code, told
    assert "goes on" in told
    assert (await serving(data)).manifest == before.manifest
    ended, told = bench.run(data)
    assert ended == 0
    assert "An interrupted run was continued" in told
    assert "new0.png" in (await serving(data)).points


@pytest.mark.parametrize(("option", "code"), [("--interrupt", 130), ("--terminate", 143)])
def test_a_signal_does_not_wait_for_the_model(bench: Bench, option: str, code: int):
    """Loading a model blocks the event loop for seconds, and still the run stops with its sentence at once."""
    ended, told = bench.run(bench.data, option, "loading the model:1")
    assert ended == code, told
    assert "goes on" in told


def test_a_signal_while_the_graph_is_built_ends_the_process(bench: Bench):
    """Edge runs no Python then, so the system's own way is left to work."""
    code, told = bench.run(bench.data, "--interrupt", "optimizing:1")
    assert code == -2, told
    assert bench.run(bench.data)[0] == 0


async def test_a_full_disk_is_explained_and_changes_nothing(bench: Bench, tmp_path: Path):
    """On a small disk that is nearly full the run stops with a sentence, and goes on when there is room."""
    disk = SmallDisk(tmp_path / "disk", megabytes=1000)
    with disk:
        data = bench.start_clean(disk.path / "data")
        before = await serving(data)
        bench.change()
        disk.fill()
        code, told = bench.run(data)
        assert code == 1, told
        assert "is full" in told
        assert "goes on" in told
        assert (await serving(data)).manifest == before.manifest
        disk.free()
        assert bench.run(data)[0] == 0
        assert "new0.png" in (await serving(data)).points


class SmallDisk:
    """A file system of a few megabytes in memory, which needs root."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        self._megabytes = megabytes

    def __enter__(self) -> None:
        self.path.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={self._megabytes}m", "tmpfs", str(self.path)]
        subprocess.run(["mount", *options], check=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self.path)], check=True)

    def fill(self) -> None:
        """Leaves 1 MB."""
        with (self.path / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.path).free - 2**20)

    def free(self) -> None:
        """Takes back what `fill` took."""
        (self.path / "filler").unlink()
