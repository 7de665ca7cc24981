"""Generations on disk: nothing is ever half there, and one pointer says what serves."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadUserInput, IndexCorrupt, IndexNotFound, IndexNotReady, IndexUnavailable
from engine.generations import Generation, GenerationStore, copy_tree
from engine.indexes.edge import EdgeIndex
from engine.ports import ModelInfo, Point
from engine.settings import Settings

MODEL = ModelInfo("words", "", 4, 8, 77, "fingerprint-1")
SETTINGS = Settings(_env_file=None)


@pytest.fixture
def store(tmp_path: Path) -> GenerationStore:
    """An empty store."""
    return GenerationStore(tmp_path, "pictures")


def ready(store: GenerationStore, content: str = "vectors", model: ModelInfo = MODEL) -> Generation:
    """A finished generation whose index files are one text file."""
    generation = store.begin(model)
    segment = generation.shard / "segments" / "one"
    segment.mkdir(parents=True)
    (segment / "data").write_text(content)
    return store.finish(generation, points=3)


def test_a_generation_is_building_until_it_is_finished(store: GenerationStore):
    """Both states are on disk, with model, points and settings; an interrupted run finds its own again."""
    generation = store.begin(MODEL)
    assert (generation.state, generation.points, generation.shard.exists()) == ("building", 0, False)
    assert store.building() == store.get(generation.id) == generation
    finished = store.finish(generation, points=12)
    assert finished == replace(generation, state="ready", points=12) == store.get(generation.id)
    assert store.building() is None
    assert '"ef_construct": 200' in (generation.path / "generation.json").read_text()


def test_generations_are_listed_oldest_first(store: GenerationStore):
    """All states, and nothing that is no generation."""
    assert store.list() == []
    generations = [ready(store), ready(store), store.begin(MODEL)]
    (store.folder / "generations" / "notes").mkdir()
    assert store.list() == generations


def test_promoting_makes_a_generation_serve(store: GenerationStore):
    """Before the first nothing serves; afterwards the pointer file begins with its id."""
    assert store.current() is None
    first, second = ready(store), ready(store)
    assert store.promote(first.id) == first
    assert store.promote(second.id) == second
    assert store.current() == second
    assert (store.folder / "current").read_text().split() == [second.id, first.id]


def test_an_unfinished_generation_can_not_be_promoted(store: GenerationStore):
    """What serves goes on serving."""
    serving, building = ready(store), store.begin(MODEL)
    store.promote(serving.id)
    with pytest.raises(IndexNotReady, match="sightline index"):
        store.promote(building.id)
    assert store.current() == serving


def test_rollback_goes_back_step_by_step(store: GenerationStore):
    """To what served before, over those that are deleted; at the beginning it says that there is nothing left."""
    first, second, third, fourth = (ready(store) for _ in range(4))
    for generation in (first, second, third, fourth, fourth):
        store.promote(generation.id)
    store.discard(third)
    assert store.rollback() == second
    assert store.current() == second
    assert store.rollback() == first
    with pytest.raises(IndexNotReady, match="no earlier generation"):
        store.rollback()
    assert store.current() == first


def test_prune_keeps_the_newest_and_always_the_serving_one(store: GenerationStore):
    """The serving one counts; unfinished ones are left to their builder."""
    serving, *others = (ready(store) for _ in range(4))
    building = store.begin(MODEL)
    store.promote(serving.id)
    assert store.prune(keep=2) == [others[1], others[0]]
    assert store.list() == [serving, others[2], building]
    store.prune(keep=0)
    assert store.list() == [serving, building]


def test_the_serving_generation_can_not_be_discarded(store: GenerationStore):
    """Another must serve first."""
    serving, other = ready(store), ready(store)
    store.promote(serving.id)
    with pytest.raises(BadUserInput, match="serves"):
        store.discard(serving)
    store.discard(other)
    assert store.list() == [serving]


def test_beginning_with_a_base_copies_its_index(store: GenerationStore):
    """Files that change in the copy do not change in the base."""
    base = ready(store, content="of the base")
    generation = store.begin(MODEL, base)
    copied = generation.shard / "segments" / "one" / "data"
    copied.write_text("changed")
    assert (base.shard / "segments" / "one" / "data").read_text() == "of the base"
    assert generation.state == "building"


def test_the_index_of_another_model_is_not_copied(store: GenerationStore):
    """Its vectors could not be compared."""
    base = ready(store, model=replace(MODEL, fingerprint="fingerprint-2"))
    assert not store.begin(MODEL, base).shard.exists()


def test_what_a_killed_copy_left_is_no_generation_and_is_removed(store: GenerationStore):
    """A copy that was not renamed does not count, and the next one sweeps it away."""
    store.begin(MODEL)
    left = store.folder / "generations" / ".new-20240101-000000-000000-abcd"
    left.mkdir()
    assert len(store.list()) == 1
    store.begin(MODEL)
    assert not left.exists()


async def test_a_served_index_can_be_copied_and_changed(store: GenerationStore):
    """While a server has the base open, a builder copies it, writes to the copy and finishes it."""
    points = [Point(str(uuid.UUID(int=i)), row, {"n": i}) for i, row in enumerate(np.eye(4, dtype=np.float32))]
    base = store.begin(MODEL)
    index = EdgeIndex.create(base.shard, 4, SETTINGS)
    await index.upsert(points[:3])
    await index.optimize()
    await index.close()
    base = store.finish(base, points=3)

    served = EdgeIndex.open(base.shard, SETTINGS)
    generation = store.begin(MODEL, base)
    copy = EdgeIndex.open(generation.shard, SETTINGS)
    await copy.upsert(points[3:])
    await copy.delete([points[0].id])
    await copy.optimize()
    assert [await served.ids(), await copy.ids()] == [[p.id for p in points[:3]], [p.id for p in points[1:]]]
    await copy.close()
    await served.close()
    store.verify(store.finish(generation, points=3))
    store.verify(base)


@pytest.mark.parametrize("size", [0, 3])
def test_files_that_were_cut_are_found(store: GenerationStore, size: int):
    """Before anybody maps them into memory; a longer file is no damage."""
    generation = ready(store, content="seven b")
    file = generation.shard / "segments" / "one" / "data"
    file.write_text("eight by")
    store.verify(generation)
    os.truncate(file, size)
    with pytest.raises(IndexCorrupt, match=r"data.*7 bytes"):
        store.verify(generation)
    with pytest.raises(IndexCorrupt):
        store.begin(MODEL, generation)


def test_copies_are_equal_and_keep_holes(tmp_path: Path):
    """Data before, between and after holes, empty files, empty folders; the copy takes no more space."""
    source = tmp_path / "source"
    (source / "empty folder").mkdir(parents=True)
    (source / "empty").touch()
    with (source / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(30_000_000)
        file.write(b"middle" * 1000)
        file.truncate(60_000_000)
    copy_tree(source, tmp_path / "target")
    copied = tmp_path / "target" / "sparse"
    assert copied.read_bytes() == (source / "sparse").read_bytes()
    assert copied.stat().st_blocks * 512 < 1_000_000
    assert sorted(file.name for file in (tmp_path / "target").iterdir()) == ["empty", "empty folder", "sparse"]


def _hold(root: Path, held: multiprocessing.connection.Connection) -> None:
    with GenerationStore(root, "pictures").lock():
        held.send(os.getpid())
        held.recv()


def test_one_process_builds_at_a_time(tmp_path: Path, store: GenerationStore):
    """A second one is told which process is at work; when that one is killed, the lock is free."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path, there))
    process.start()
    pid = here.recv()
    with pytest.raises(IndexUnavailable, match=rf"Process {pid} is building"), store.lock():
        pass
    process.kill()
    process.join()
    with store.lock(), pytest.raises(IndexUnavailable, match=f"Process {os.getpid()} "), store.lock():
        pass
    here.close()
    there.close()


def test_indexes_are_the_folders_that_hold_generations(tmp_path: Path):
    """Sorted; nothing else that lies there; none where there is no folder."""
    assert GenerationStore.indexes(tmp_path / "absent") == []
    for name in ("zoo", "art"):
        GenerationStore(tmp_path, name).begin(MODEL)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "notes").mkdir()
    assert GenerationStore.indexes(tmp_path) == ["art", "zoo"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "Upper", "-a", "a" * 64, "ä", "a\n"])
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, name: str):
    """Only lower-case letters, digits, _ and -."""
    with pytest.raises(BadUserInput, match="index"):
        GenerationStore(tmp_path, name)


@pytest.mark.parametrize("id_", ["", "..", "../../etc", "20240101-000000-000000-abcd"])
def test_unknown_generations_are_not_found(store: GenerationStore, id_: str):
    """Nonsense and paths are just as unknown."""
    with pytest.raises(IndexNotFound, match="no generation"):
        store.get(id_)


def test_a_damaged_description_is_reported(store: GenerationStore):
    """The message names the file and the way out."""
    generation = ready(store)
    (generation.path / "generation.json").write_text('{"state": "ready"')
    with pytest.raises(IndexCorrupt, match=r"generation\.json.*rollback"):
        store.get(generation.id)
    (generation.path / "generation.json").write_text('{"state": "ready"}')
    with pytest.raises(IndexCorrupt, match=r"generation\.json.*rollback"):
        store.get(generation.id)


def test_a_pointer_to_nothing_is_reported(store: GenerationStore):
    """Somebody deleted the serving generation's folder by hand."""
    ready(store)
    (store.folder / "current").write_text("20240101-000000-000000-abcd\n")
    with pytest.raises(IndexCorrupt, match="not there"):
        store.current()
