from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from engine.errors import LedgerUnavailable, SourceError
from engine.generations import GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.ports import Encoder
from engine.settings import Settings
from indexing import migrations
from indexing.database import Database
from indexing.ledger import FILE, Ledger
from indexing.pipeline import index
from indexing.report import Report
from indexing.sources import FolderSource
from tests.support.encoders import WordEncoder
from tests.support.pictures import Contents, contents, paint, paint_many
from tests.support.postgres import Postgres
from tests.support.progress import Silent

NAME = "pets"


class Bench:
    """A source folder and an index of it."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.source.mkdir()
        self.settings = Settings(index_path=folder / "data", index_workers=1, index_batch_size=8)
        self.seen: list[str] = []

    async def run(
        self,
        encoder: Callable[[], Encoder] = WordEncoder,
        source: Path | None = None,
        progress: Silent | None = None,
        **settings: Any,
    ) -> Report:
        """Indexes `source`; `settings` are changed for this run."""
        progress = progress or Silent()
        report = await index(
            FolderSource(source or self.source),
            settings=self.settings.model_copy(update=settings),
            encoder_factory=encoder,
            index_name=NAME,
            progress=progress,
        )
        self.seen = sorted(progress.seen)
        return report

    async def contents(self) -> Contents:
        """What serves now."""
        return await contents(self.settings, NAME)

    @property
    def generations(self) -> list[str]:
        """The ids of all generations."""
        return [generation.id for generation in GenerationStore(self.settings.index_path, NAME).list()]


@pytest.fixture
def bench(memory: Path) -> Iterator[Bench]:
    """An empty source and no index yet."""
    with TemporaryDirectory(dir=memory) as folder:
        yield Bench(Path(folder))


def no_encoder() -> Encoder:
    """Stands in for a model that must not be needed."""
    raise AssertionError("the model was loaded though nothing has to be encoded")


async def test_a_folder_becomes_a_serving_index(bench: Bench):
    """Every picture is found under its key, with its standard fields, its words, its vector and a thumbnail."""
    path = paint(bench.source / "in" / "a.jpg", "red", (60, 40))
    (bench.source / "in" / "a.json").write_text('{"category": "animals", "objects": [{"kind": "dog"}]}')
    report = await bench.run()
    found = await bench.contents()
    point = found.points["in/a.jpg"]
    thumbnail = point.payload["thumbnail"]
    assert {key: value for key, value in point.payload.items() if key != "thumbnail"} == {
        "filePath": str(path),
        "fileName": "a.jpg",
        "objectKey": "in/a.jpg",
        "width": 60,
        "height": 40,
        "category": "animals",
        "takenAt": None,
        "contentHash": found.items["in/a.jpg"]["contentHash"],
        "metadata": {"category": "animals", "objects": [{"kind": "dog"}]},
    }
    assert (bench.settings.index_path / NAME / thumbnail).read_bytes().startswith(b"\xff\xd8\xff")
    assert point.vector is not None
    text = WordEncoder().encode_texts(["red"])[0]
    assert np.dot(point.vector, text) > 0.9
    assert (report.indexed, report.total, report.changed) == (1, 1, True)


async def test_bad_files_are_listed_with_their_reason_and_stop_nothing(bench: Bench):
    """Among good pictures every kind of bad file is skipped, named in the report and in the manifest."""
    paint_many(bench.source, 6)
    (bench.source / "empty.png").touch()
    (bench.source / "words.jpg").write_text("no picture")
    (bench.source / "cut.png").write_bytes(paint(bench.source / "whole.png").read_bytes()[:60])
    paint(bench.source / "vast.png", size=(300, 300))
    with (bench.source / "heavy.bmp").open("wb") as file:
        file.write(b"BM")
        file.truncate(10**9)
    report = await bench.run(index_max_pixels=299 * 300)
    wanted = {
        "empty.png": "empty",
        "words.jpg": "not_an_image",
        "cut.png": "truncated",
        "vast.png": "too_many_pixels",
        "heavy.bmp": "too_large",
    }
    assert (await bench.contents()).reasons() == wanted
    assert {key: reason for reason, keys in report.skipped.items() for key in keys} == wanted
    assert report.indexed == 7


async def test_a_bad_sidecar_does_not_cost_the_picture(bench: Bench):
    """It is indexed without words, and the manifest warns."""
    paint(bench.source / "a.png")
    (bench.source / "a.json").write_text("{nonsense")
    await bench.run()
    found = await bench.contents()
    assert found.points["a.png"].payload["metadata"] == {}
    (warning,) = json.loads(found.manifest)["warnings"]
    assert (warning["key"], warning["reason"]) == ("a.png", "bad_sidecar")


async def test_a_second_run_does_nothing(bench: Bench):
    """Without changes no model is loaded, no file decoded, no generation made."""
    paint_many(bench.source, 5)
    (bench.source / "words.txt").write_text("no picture")
    await bench.run()
    before = await bench.contents()
    report = await bench.run(no_encoder)
    assert (await bench.contents()).manifest == before.manifest
    assert (report.indexed, report.unchanged, report.changed, bench.seen) == (0, 5, False, [])
    assert bench.generations == [before.generation]


async def test_only_changes_are_done_again(bench: Bench):
    """New, changed, renamed and removed files are; touched ones are only looked at; the old generation stays."""
    paint_many(bench.source, 10)
    await bench.run()
    before = await bench.contents()
    paint(bench.source / "new.png")
    paint(bench.source / "001.png", "purple", (50, 50))
    os.utime(bench.source / "002.png", (1, 1))
    (bench.source / "004.png").rename(bench.source / "renamed.png")
    (bench.source / "005.png").unlink()
    report = await bench.run()
    after = await bench.contents()
    assert bench.seen == ["001.png", "new.png", "renamed.png"]
    assert (report.indexed, report.deleted, report.unchanged, report.total) == (3, 2, 7, 10)
    assert set(after.points) == set(before.points) - {"004.png", "005.png"} | {"new.png", "renamed.png"}
    assert after.points["001.png"].id == before.points["001.png"].id
    assert after.points["001.png"].payload["width"] == 50
    assert bench.generations == [before.generation, after.generation]


async def test_a_touched_file_is_remembered_without_a_new_generation(bench: Bench):
    """Its content is compared once; after that its new time is known."""
    paint_many(bench.source, 3)
    await bench.run()
    os.utime(bench.source / "001.png", (1, 1))
    assert not (await bench.run(no_encoder)).changed
    assert len(bench.generations) == 1


async def test_an_incremental_index_equals_a_clean_one(bench: Bench, tmp_path: Path):
    """After additions, changes and removals the manifest is that of an index made in one go."""
    paint_many(bench.source, 9)
    await bench.run()
    paint(bench.source / "new.png")
    paint(bench.source / "001.png", "purple", (50, 50))
    (bench.source / "004.png").unlink()
    (bench.source / "words.png").write_text("no picture")
    await bench.run()
    after = await bench.contents()
    clean = bench.settings.model_copy(update={"index_path": tmp_path / "clean"})
    await bench.run(index_path=tmp_path / "clean")
    assert after.manifest == (await contents(clean, NAME)).manifest


async def test_a_changed_sidecar_changes_the_words(bench: Bench):
    """Also when the picture beside it is the same."""
    paint_many(bench.source, 3)
    (bench.source / "001.json").write_text('{"n": 1}')
    await bench.run()
    (bench.source / "001.json").write_text('{"n": 2}')
    await bench.run()
    assert bench.seen == ["001.png"]
    assert (await bench.contents()).points["001.png"].payload["metadata"] == {"n": 2}


async def test_a_picture_that_became_bad_leaves_the_index(bench: Bench):
    """What can't be read any more is not found any more either."""
    paint_many(bench.source, 3)
    await bench.run()
    (bench.source / "001.png").write_text("no picture")
    await bench.run()
    found = await bench.contents()
    assert "001.png" not in found.points
    assert found.reasons() == {"001.png": "not_an_image"}


async def test_a_raised_limit_lets_pictures_in(bench: Bench):
    """A file that was skipped because of a setting is tried again, one that is bad in itself is not."""
    paint(bench.source / "small.png")
    paint(bench.source / "large.png", size=(200, 200))
    (bench.source / "words.png").write_text("no picture")
    await bench.run(index_max_pixels=10_000)
    await bench.run()
    assert bench.seen == ["large.png"]
    assert set((await bench.contents()).points) == {"small.png", "large.png"}


async def test_another_model_means_another_index(bench: Bench):
    """All pictures are encoded again, and the vectors have the new model's dimension."""
    paint_many(bench.source, 4)
    await bench.run()
    report = await bench.run(lambda: WordEncoder(dimension=32), clip_model="another")
    vectors = [point.vector for point in (await bench.contents()).points.values()]
    assert report.indexed == 4
    assert all(vector is not None and vector.shape == (32,) for vector in vectors)


async def test_after_a_rollback_the_index_is_brought_up_to_date(bench: Bench):
    """The ledger follows the serving generation, not the latest one."""
    paint_many(bench.source, 4)
    await bench.run()
    paint(bench.source / "new.png")
    await bench.run()
    GenerationStore(bench.settings.index_path, NAME).rollback()
    assert "new.png" not in (await bench.contents()).points
    await bench.run()
    assert bench.seen == ["new.png"]
    assert "new.png" in (await bench.contents()).points


async def test_another_folder_takes_the_place_of_the_first(bench: Bench):
    """An index is of one folder; that another one was replaced is told, and a rollback brings it back."""
    paint(bench.source / "first" / "a.png")
    paint(bench.source / "second" / "b.png")
    assert (await bench.run(source=bench.source / "first")).replaced is None
    report = await bench.run(source=bench.source / "second")
    assert set((await bench.contents()).points) == {"b.png"}
    assert report.replaced == str(bench.source / "first")
    GenerationStore(bench.settings.index_path, NAME).rollback()
    assert set((await bench.contents()).points) == {"a.png"}


async def test_old_generations_and_their_thumbnails_go(bench: Bench):
    """Only so many generations are kept, and no thumbnail outlives the last of them that shows it."""
    paint_many(bench.source, 3)
    for color in ("red", "green", "blue", "white"):
        paint(bench.source / "changing.png", color)
        await bench.run(index_keep_generations=2)
    thumbnails = list((bench.settings.index_path / NAME / "thumbnails").rglob("*.jpg"))
    assert len(bench.generations) == 2
    assert len(thumbnails) == 3 + 2


async def test_vectors_that_got_lost_are_made_again(bench: Bench):
    """A generation is checked against the ledger before it serves, and repaired."""
    paint_many(bench.source, 6)
    await bench.run()
    store = GenerationStore(bench.settings.index_path, NAME)
    current = store.current()
    assert current
    lost = (await bench.contents()).points["001.png"].id
    shard = EdgeIndex.open(current.shard, bench.settings)
    await shard.delete([lost])
    await shard.close()
    store.finish(current, 5)
    paint(bench.source / "new.png")
    await bench.run()
    assert len((await bench.contents()).points) == 7


@pytest.mark.parametrize("case", ["missing", "empty", "words", "all bad"])
async def test_a_source_without_pictures_creates_nothing(bench: Bench, case: str):
    """Neither a missing nor a useless folder leaves a generation behind."""
    folder = bench.source / case
    if case != "missing":
        folder.mkdir()
    if case == "words":
        (folder / "a.jpg").write_text("no picture")
    if case == "all bad":
        (folder / "a.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(SourceError):
        await bench.run(source=folder)
    assert bench.generations == []
    assert case == "all bad" or not bench.settings.index_path.exists()


async def test_a_source_that_lost_its_pictures_leaves_the_serving_index(bench: Bench):
    """An unmounted disk or a folder of ruins must not empty the index."""
    paths = paint_many(bench.source, 3)
    await bench.run()
    before = await bench.contents()
    for path in paths:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SourceError, match="None of the 3 files"):
        await bench.run()
    for path in paths:
        path.unlink()
    with pytest.raises(SourceError, match="No pictures"):
        await bench.run()
    assert (await bench.contents()).generation == before.generation
    assert bench.generations == [before.generation]


# ---------------------------------------------------------------- the catalogue


async def test_the_catalogue_says_of_every_file_what_is_known(bench: Bench):
    """A picture's facts and words, a bad file's reason, and the run."""
    path = paint(bench.source / "a.png", size=(60, 40))
    (bench.source / "a.json").write_text('{"category": "animals"}')
    (bench.source / "words.jpg").write_text("no picture")
    report = await bench.run()
    ledger = Ledger.open(bench.settings, NAME)
    picture, bad = ledger.rows(report.generation, whole=True)
    (run,) = ledger.runs()
    ledger.close()
    assert (picture.state, picture.path, picture.width, picture.height) == ("indexed", str(path), 60, 40)
    assert (picture.size, picture.metadata) == (path.stat().st_size, {"category": "animals"})
    assert (bad.state, bad.reason, bad.path) == ("skipped", "not_an_image", str(bench.source / "words.jpg"))
    assert (run.outcome, run.generation, run.indexed, run.skipped) == ("done", report.generation, 1, 1)


async def test_a_touched_file_keeps_its_words_in_the_catalogue(bench: Bench):
    """Its row has the new time, and all else that was known."""
    path = paint(bench.source / "a.png")
    (bench.source / "a.json").write_text('{"category": "animals"}')
    await bench.run()
    os.utime(path, (1, 1))
    report = await bench.run(no_encoder)
    ledger = Ledger.open(bench.settings, NAME)
    (picture,) = ledger.rows(report.generation, whole=True)
    ledger.close()
    assert (picture.mtime_ns, picture.metadata) == (10**9, {"category": "animals"})


async def test_an_index_of_the_first_release_goes_on_where_it_is(bench: Bench):
    """Its ledger is brought up to date, and no picture is encoded again."""
    paint_many(bench.source, 3)
    (bench.source / "words.txt").write_text("no picture")
    before = await bench.run()
    database = Database.named(bench.settings, bench.settings.index_path / NAME / FILE)
    migrations.downgrade(database, "0001")
    database.write(lambda connection: connection.execute(text("DROP TABLE alembic_version")))
    database.close()
    report = await bench.run(no_encoder)
    assert (report.unchanged, report.indexed, report.generation) == (3, 0, before.generation)
    paint(bench.source / "new.png")
    report = await bench.run()
    assert (report.unchanged, report.indexed, bench.seen) == (3, 1, ["new.png"])


@pytest.mark.programs
async def test_an_index_with_its_ledger_in_postgresql(bench: Bench, postgresql: Settings):
    """It equals one with a SQLite file, runs on unchanged, follows changes, and leaves no file behind."""
    paint_many(bench.source, 20)
    (bench.source / "words.jpg").write_text("no picture")
    await bench.run()
    wanted = (await bench.contents()).manifest
    bench.settings = postgresql.model_copy(update={"index_workers": 1, "index_batch_size": 8})
    await bench.run()
    assert (await bench.contents()).manifest == wanted
    report = await bench.run(no_encoder)
    assert (report.indexed, report.unchanged, report.changed) == (0, 20, False)
    paint(bench.source / "new.png")
    (bench.source / "001.png").unlink()
    report = await bench.run()
    assert (report.indexed, report.deleted, report.unchanged) == (1, 1, 19)
    assert not (bench.settings.index_path / NAME / FILE).exists()


async def test_a_full_disk_of_the_database_is_not_taken_for_the_index_s(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """The error names the database, whose disk is on another machine."""
    paint(bench.source / "a.png")

    def full(*_: object) -> None:
        raise LedgerUnavailable("PostgreSQL at db/pictures refuses") from OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(Ledger, "record", full)
    with pytest.raises(LedgerUnavailable, match="PostgreSQL at db/pictures"):
        await bench.run()


class Killing(Silent):
    """Kills PostgreSQL whenever something is about to be recorded, and has it started again in the background."""

    def __init__(self, server: Postgres) -> None:
        super().__init__()
        self._server = server
        self._thread = ThreadPoolExecutor(1)
        self._started: list[Future[None]] = []

    def stage(self, name: str) -> None:
        """Counts kills by the starts."""
        if name in {"recording", "beginning", "promoted"} and len(self._started) < 5:
            self.wait()
            self._server.kill()
            self._started.append(self._thread.submit(self._server.start))

    def wait(self) -> int:
        """Until it was started as often as it was killed, which is how often."""
        for start in self._started:
            start.result(120)
        return len(self._started)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown()


@pytest.mark.programs
async def test_a_postgresql_killed_during_a_run_costs_nothing(bench: Bench):
    """The run waits until it is back, and ends like any other; the next one has nothing to do."""
    paint_many(bench.source, 30)
    with Postgres(durable=True) as server:
        url = SecretStr(server.url(server.create()))
        progress = Killing(server)
        try:
            report = await bench.run(progress=progress, index_database_url=url)
            assert progress.wait() == 5
        finally:
            progress.close()
        assert (report.indexed, report.total) == (30, 30)
        report = await bench.run(no_encoder, index_database_url=url)
        assert (report.unchanged, report.changed) == (30, False)
    assert len((await bench.contents()).points) == 30
