"""Whole runs of sources that are elsewhere: into an index, again, interrupted, with trouble on the way."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from engine.errors import SourceError
from engine.settings import Settings
from indexing.pipeline import index
from indexing.report import Report
from indexing.sources import open_source
from tests.support.encoders import WordEncoder
from tests.support.pictures import Contents, contents, paint, paint_many
from tests.support.progress import Silent
from tests.support.s3 import CREDENTIALS, Bucket
from tests.support.sources import tar_of
from tests.support.web import Web

NAME = "default"
SCRIPT = Path(__file__).parents[2] / "support" / "index_once.py"
RUN = {"INDEX_BATCH_SIZE": "4", "INDEX_WORKERS": "1", "INDEX_FETCHES": "4", "OMP_NUM_THREADS": "1"}


class Bench:
    """Pictures on this disk to be put elsewhere, and an index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pictures = folder / "pictures"
        self.settings = Settings(
            index_path=folder / "data",
            index_workers=1,
            index_batch_size=4,
            index_fetches=4,
            index_fetch_attempts=2,
        )
        self.seen: list[str] = []

    async def run(self, address: str, **settings: Any) -> Report:
        """Indexes a source."""
        progress = Silent()
        chosen = self.settings.model_copy(update=settings)
        with closing(open_source(address, chosen)) as source:
            report = await index(
                source, settings=chosen, encoder_factory=WordEncoder, index_name=NAME, progress=progress
            )
        self.seen = sorted(progress.seen)
        return report

    async def contents(self) -> Contents:
        """What serves now."""
        return await contents(self.settings, NAME)


@pytest.fixture
def bench(memory: Path) -> Iterator[Bench]:
    """A dozen pictures and no index yet."""
    with TemporaryDirectory(dir=memory) as folder:
        made = Bench(Path(folder))
        paint_many(made.pictures, 12)
        yield made


async def test_a_bucket_becomes_an_index_like_a_folder(bench: Bench, bucket: Bucket):
    """The same keys, contents, words and skipped files; only paths differ."""
    (bench.pictures / "001.json").write_text('{"category": "animals"}')
    (bench.pictures / "bad.png").write_text("no picture")
    (bench.pictures / "large.bmp").write_bytes(b"BM" + bytes(2**17))
    bucket.put_tree(bench.pictures, "a/b")
    report = await bench.run(f"{bucket.address}/a/b/", index_max_bytes=2**17)
    found = await bench.contents()
    assert (report.source, report.indexed) == (f"{bucket.address}/a/b", 12)
    point = found.points["001.png"].payload
    assert (point["filePath"], point["fileName"]) == (f"{bucket.address}/a/b/001.png", "001.png")
    assert (point["category"], point["metadata"]) == ("animals", {"category": "animals"})
    assert (bench.settings.index_path / NAME / point["thumbnail"]).read_bytes().startswith(b"\xff\xd8\xff")
    local = bench.settings.model_copy(update={"index_path": bench.folder / "local"})
    await bench.run(str(bench.pictures), index_path=local.index_path, index_max_bytes=2**17)
    assert found.items == (await contents(local, NAME)).items | {
        key: {**item, "detail": f"{2**17 + 2} bytes, {2**17} are allowed"}
        for key, item in found.items.items()
        if key == "large.bmp"
    }


async def test_only_changes_of_a_bucket_are_done_again(bench: Bench, bucket: Bucket):
    """Nothing of what is as it was is fetched; what is gone leaves the index."""
    bucket.put_tree(bench.pictures, "p")
    await bench.run(f"{bucket.address}/p")
    report = await bench.run(f"{bucket.address}/p")
    assert (report.changed, report.unchanged, bench.seen) == (False, 12, [])
    bucket.put("p/001.png", paint(bench.folder / "new.png", "purple", (50, 50)).read_bytes())
    bucket.put("p/002.json", b'{"n": 1}')
    bucket.delete("p/004.png")
    report = await bench.run(f"{bucket.address}/p")
    assert bench.seen == ["001.png", "002.png"]
    assert (report.deleted, report.total) == (1, 11)
    assert (await bench.contents()).points["002.png"].payload["metadata"] == {"n": 1}


async def test_shards_become_an_index(bench: Bench, bucket: Bucket):
    """With the samples' captions, under the shards' names."""
    files = {path.name: path.read_bytes() for path in bench.pictures.glob("*.png")}
    bucket.put("x-0.tar", tar_of({"a.jpg": files["001.png"], "a.txt": b"a green thing"}))
    bucket.put("x-1.tar", tar_of({"in/b.png": files["002.png"]}))
    await bench.run(f"{bucket.address}/x-{{0..1}}.tar")
    found = await bench.contents()
    assert set(found.points) == {"x-0.tar/a.jpg", "x-1.tar/in/b.png"}
    payload = found.points["x-0.tar/a.jpg"].payload
    assert (payload["fileName"], payload["metadata"]) == ("a.jpg", {"caption": "a green thing"})
    assert payload["filePath"] == f"{bucket.address}/x-0.tar/a.jpg"


async def test_what_can_not_be_fetched_is_skipped_and_tried_again(bench: Bench, web: Web):
    """With its reason; the next run fetches that alone."""
    web.files = {path.name: path.read_bytes() for path in bench.pictures.glob("*.png")}
    table = bench.folder / "list.csv"
    table.write_text(f"id,url\n1,{web.address}/001.png\n2,{web.address}/late.png\n3,{web.address}/forbidden/x.png\n")
    report = await bench.run(str(table))
    assert report.skipped == {"missing": ["2"], "unreachable": ["3"]}
    assert (await bench.contents()).items["3"]["detail"] == "HTTP 403"
    web.files["late.png"] = web.files["002.png"]
    report = await bench.run(str(table))
    assert bench.seen == ["2", "3"]
    assert (report.indexed, report.total) == (1, 2)


async def test_a_picture_whose_new_version_can_not_be_fetched_stays_as_it_was(bench: Bench, web: Web):
    """Trouble on the line must not empty an index; the next run tries again."""
    web.files = {path.name: path.read_bytes() for path in bench.pictures.glob("*.png")}
    table = bench.folder / "list.csv"
    table.write_text(f"id,url,version\n1,{web.address}/001.png,1\n2,{web.address}/002.png,1\n")
    await bench.run(str(table))
    before = (await bench.contents()).points["1"]
    table.write_text(f"id,url,version\n1,{web.address}/down/001.png,2\n2,{web.address}/002.png,2\n")
    report = await bench.run(str(table))
    after = await bench.contents()
    assert after.points["1"].payload == before.payload
    assert after.points["2"].payload["metadata"] == {"version": "2"}
    assert (report.indexed, report.unchanged, report.total) == (1, 1, 2)
    assert [(problem.key, problem.reason) for problem in report.problems] == [("1", "unreachable")]
    table.write_text(f"id,url,version\n1,{web.address}/003.png,2\n2,{web.address}/002.png,2\n")
    await bench.run(str(table))
    assert bench.seen == ["1"]


async def test_a_source_that_breaks_off_changes_nothing(bench: Bench, web: Web):
    """Neither before nor while its pictures are fetched; and the run after that goes on."""
    shard = {f"{number:03}.png": path.read_bytes() for number, path in enumerate(sorted(bench.pictures.rglob("*.png")))}
    more = {f"x{number:03}.png": shard["000.png"] for number in range(60)}
    web.files["x.tar"] = tar_of(shard)
    address = f"{web.address}/x.tar"
    await bench.run(address)
    before = await bench.contents()
    web.down = True
    with pytest.raises(SourceError, match="can't be listed"):
        await bench.run(address)
    web.down = False
    web.files["x.tar"] = tar_of(shard | more)
    web.down_after = 6
    with pytest.raises(SourceError, match="answers no more"):
        await bench.run(address)
    assert (await bench.contents()).manifest == before.manifest
    web.down_after = None
    report = await bench.run(address)
    assert report.total == 72


async def test_a_run_killed_and_interrupted_ends_like_a_clean_one(bench: Bench, bucket: Bucket, s3: str):
    """Nothing is lost, nothing is there twice, nothing is left behind in the temporary folder."""
    paint_many(bench.pictures, 40)
    bucket.put_tree(bench.pictures, "p")
    spool = bench.folder / "tmp"
    spool.mkdir()
    environment = {
        **os.environ,
        **CREDENTIALS,
        **RUN,
        "AWS_ENDPOINT_URL": s3,
        "TMPDIR": str(spool),
        "INDEX_NAME": NAME,
    }
    moments = [
        ("--kill", "advance:5"),
        ("--interrupt", "recording:1"),
        ("--kill", "recording:1"),
        ("--kill", "advance:1"),
    ]
    orders = [
        {
            "arguments": [f"{bucket.address}/p", str(bench.settings.index_path), *moment],
            "output": str(bench.folder / "output"),
        }
        for moment in [*moments, ()]
    ]
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
        [sys.executable, str(SCRIPT)],
        env=environment,
        input="".join(json.dumps(order) + "\n" for order in orders),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    codes = [int(line) for line in done.stdout.split()[1::2]]
    assert codes == [-9, 130, -9, -9, 0], (bench.folder / "output").read_text()
    assert list(spool.iterdir()) == []
    killed = await bench.contents()
    clean = bench.settings.model_copy(update={"index_path": bench.folder / "clean"})
    await bench.run(f"{bucket.address}/p", index_path=clean.index_path)
    wanted = await contents(clean, NAME)
    assert killed.manifest == wanted.manifest
    assert {key: point.id for key, point in killed.points.items()} == {
        key: point.id for key, point in wanted.points.items()
    }


async def test_secrets_are_nowhere(
    bench: Bench, web: Web, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    """Not in the ledger, the manifest, the index, the report, a log or the output; of what works and what does not."""
    web.files = {path.name: path.read_bytes() for path in bench.pictures.glob("*.png")}
    signed = web.address.replace("//", "//user:GEHEIM@")
    paths = ("001.png", "down/x.png", "missing/x.png", "file/x.png", "cut/001.png", "002.png")
    rows = "".join(f"{signed}/{path}?X-Amz-Signature=GEHEIM&id={path}\n" for path in paths)
    web.files["list.csv"] = f"url\n{rows}ftp://user:GEHEIM@host/x.png\n".encode()
    with caplog.at_level(logging.DEBUG):
        report = await bench.run(f"{signed}/list.csv?token=GEHEIM")
    assert report.indexed == 2
    assert report.source == f"{web.address}/list.csv"
    for file in bench.settings.index_path.rglob("*"):
        assert file.is_dir() or b"GEHEIM" not in file.read_bytes(), file
    told = capfd.readouterr()
    assert "GEHEIM" not in f"{report}{caplog.text}{told.out}{told.err}"
