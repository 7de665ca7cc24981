"""Sets of scenes on disk: true to their ground truth, the same bytes every time, never mixed, safe to interrupt."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from PIL import Image

from engine.errors import BadUserInput, SourceError
from indexing.scenes import dataset
from indexing.scenes.dataset import METADATA, STAMP, describe, scene_seed, write_scenes
from indexing.scenes.scene import sample
from indexing.scenes.vocabulary import BACKGROUNDS, CATEGORIES, COLORS, KINDS, TIMES, WEATHERS
from indexing.sources import FolderSource, Item, read_metadata

COUNT, SEED, SIZE = 60, 5, 48


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that was drawn in one go; not to be changed."""
    out = tmp_path_factory.mktemp("drawn") / "made" / "scenes"
    write_scenes(COUNT, SEED, out, SIZE)
    return out


@pytest.fixture
def copied(drawn: Path, tmp_path: Path) -> Path:
    """The same set, to be changed."""
    return Path(shutil.copytree(drawn, tmp_path / "copied"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder by name, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_picture_has_its_ground_truth(drawn: Path):
    """There is one line for each picture, with what its scene holds and a caption."""
    lines = [orjson.loads(line) for line in (drawn / METADATA).read_bytes().splitlines()]
    for number, line in enumerate(lines, start=1):
        scene = sample(scene_seed(SEED, number))
        assert line == {"file": f"scene-{number:06d}.jpg", **scene.metadata(describe(scene))}
        with Image.open(drawn / line["file"]) as picture:
            assert (picture.format, picture.size) == ("JPEG", (SIZE, SIZE))
    assert set(contents(drawn)) == {STAMP, METADATA, *(line["file"] for line in lines)}
    assert len(lines) == COUNT


def test_killed_run_ends_its_workers_and_is_continued(drawn: Path, tmp_path: Path):
    """After a kill no process is left, and the same command makes the set that one clean run makes."""
    out = tmp_path / "scenes"
    program = (
        "import pathlib, sys; from indexing.scenes.dataset import write_scenes\n"
        f"write_scenes({COUNT}, {SEED}, pathlib.Path(sys.argv[1]), {SIZE}, lambda there, _: print(there, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"0\n"
        process.stdout.readline()  # a piece of work is done: the workers are running
        process.kill()
        process.communicate(timeout=120)  # returns when the last process that could still write is gone
    write_scenes(COUNT, SEED, out, SIZE)
    visible = {name: data for name, data in contents(out).items() if not name.startswith(".")}
    assert visible == contents(drawn)


def test_what_is_missing_or_cut_short_is_drawn_again(drawn: Path, copied: Path):
    """Lost, empty and truncated files come back with the same bytes; files that are whole are not touched."""
    (copied / "scene-000003.jpg").unlink()
    (copied / "scene-000007.jpg").write_bytes(b"")
    (copied / "scene-000060.jpg").write_bytes((drawn / "scene-000060.jpg").read_bytes()[:-100])
    (copied / METADATA).unlink()
    kept = (copied / "scene-000001.jpg").stat().st_mtime_ns
    told: list[tuple[int, int]] = []
    write_scenes(COUNT, SEED, copied, SIZE, lambda there, count: told.append((there, count)))
    assert contents(copied) == contents(drawn)
    assert (copied / "scene-000001.jpg").stat().st_mtime_ns == kept
    assert (told[0], told[-1]) == ((COUNT - 3, COUNT), (COUNT, COUNT))
    assert told == sorted(told)


def test_complete_set_is_left_alone(drawn: Path):
    """A second run draws nothing, and says at once that all is there."""
    before = {path: path.stat().st_mtime_ns for path in drawn.iterdir()}
    told: list[tuple[int, int]] = []
    write_scenes(COUNT, SEED, drawn, SIZE, lambda there, count: told.append((there, count)))
    assert told == [(COUNT, COUNT)]
    assert {path: path.stat().st_mtime_ns for path in drawn.iterdir()} == before


@pytest.mark.parametrize(("count", "seed", "size"), [(61, SEED, SIZE), (COUNT, 6, SIZE), (COUNT, SEED, 64)])
def test_two_sets_are_never_mixed(drawn: Path, count: int, seed: int, size: int):
    """Another count, seed or size in the same folder is refused by name, and nothing changes."""
    before = contents(drawn)
    with pytest.raises(BadUserInput, match=r"60 of size 48 from seed 5\. Name another folder"):
        write_scenes(count, seed, drawn, size)
    assert contents(drawn) == before


def test_set_of_another_version_is_not_continued(copied: Path):
    """Pictures that this version would draw differently are not mixed with new ones."""
    stamp = orjson.loads((copied / STAMP).read_bytes())
    (copied / STAMP).write_bytes(orjson.dumps({**stamp, "drawing": "0123456789ab"}))
    with pytest.raises(BadUserInput, match="drawn by another version"):
        write_scenes(COUNT, SEED, copied, SIZE)


def test_damaged_stamp_is_refused(copied: Path):
    """A folder whose stamp can't be read is not taken for this set."""
    (copied / STAMP).write_bytes(b"{")
    with pytest.raises(BadUserInput, match="of another kind"):
        write_scenes(COUNT, SEED, copied, SIZE)


def test_folder_with_other_files_is_refused(tmp_path: Path):
    """Scenes are not scattered among files of someone else's."""
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(BadUserInput, match="new or empty"):
        write_scenes(COUNT, SEED, tmp_path, SIZE)
    assert set(contents(tmp_path)) == {"holiday.jpg"}


@pytest.mark.parametrize(
    ("count", "seed", "size", "message"),
    [
        (0, 1, 64, "1 or more"),
        (-3, 1, 64, "1 or more"),
        (1, -1, 64, "seed -1"),
        (1, 2**30, 64, "seed"),
        (1, 1, 8, "8 pixels"),
        (1, 1, 5000, "5000 pixels"),
    ],
)
def test_impossible_arguments_are_named(tmp_path: Path, count: int, seed: int, size: int, message: str):
    """An argument out of range is refused before anything is written, with what it may be."""
    with pytest.raises(BadUserInput, match=message):
        write_scenes(count, seed, tmp_path / "scenes", size)
    assert not (tmp_path / "scenes").exists()


@pytest.mark.parametrize("out", ["file", "file/scenes"])
def test_folder_that_cannot_be_made_is_named(tmp_path: Path, out: str):
    """A file in the folder's place is an error that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"can't be written: .* Name a folder that you may write to"):
        write_scenes(1, 1, tmp_path / out)


def test_full_disk_is_said_and_leaves_no_partial_picture(copied: Path):
    """A disk that fills up is called that, and only whole pictures have names."""
    (copied / "scene-000002.jpg").unlink()
    (copied / ".scene-000002.jpg.part").symlink_to("/dev/full")
    with pytest.raises(SourceError, match=r"disk of .* is full.*goes on from here"):
        write_scenes(COUNT, SEED, copied, SIZE)
    assert not list(copied.glob("*scene-000002*"))


def test_many_scenes_lie_in_folders_that_can_be_indexed(tmp_path: Path):
    """More than 1,000 are split, and a folder source finds the words of every picture."""
    write_scenes(1_001, 2, tmp_path, 16)
    items = list(FolderSource(tmp_path).scan())
    assert [item.key for item in items][::1_000] == ["000001/scene-000001.jpg", "001001/scene-001001.jpg"]
    for item in items:
        assert isinstance(item, Item)
        assert item.sidecar
        number = int(item.key[-10:-4])
        assert read_metadata(item.sidecar)["category"] == sample(scene_seed(2, number)).category
    assert len(items) == 1_001


def test_scenes_of_different_sets_and_of_training_have_different_seeds():
    """No two of (set, number) share a seed, and none is small enough for training to have seen it."""
    seeds = [scene_seed(seed, number) for seed in (0, 1, 2, 2**30 - 1) for number in (0, 1, 2, 10_050_000, 2**32 - 1)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) == 2**32
    assert max(seeds) < 2**63


def test_captions_are_natural_english():
    """Numbers are words, one thing has an article and no plural, many things "are", and sentences begin large."""
    captions = [(scene, describe(scene)) for scene in (sample(scene_seed(3, number)) for number in range(400))]
    faulty = re.compile(
        r"\d|\bone\b|single|There is (two|three)|(of|with|is) on the left|\ba orange|\ban (?!orange|image)"
    )
    for scene, caption in captions:
        assert not faulty.search(caption), caption
        assert caption[0].isupper()
        for group in scene.groups:
            article = "an" if group.color == "orange" else "a"
            words = rf"{article} {group.color}" if group.count == 1 else rf"(two|three|of) {group.color}"
            assert re.search(rf"\b{words} ", caption, re.IGNORECASE), caption
    assert describe(captions[0][0]) == captions[0][1]


def test_version_of_the_drawing_covers_the_vocabulary():
    """The pictures that tell versions apart hold every kind, colour, place, time and weather."""
    probes = [sample(seed) for seed in range(dataset._PROBES)]
    groups = [group for scene in probes for group in scene.groups]
    assert {group.kind for group in groups} == set(KINDS)
    assert {group.color for group in groups} == set(COLORS)
    assert {scene.category for scene in probes} == set(CATEGORIES)
    assert {(scene.background, scene.time) for scene in probes} == {(b, t) for b in BACKGROUNDS for t in TIMES}
    assert {scene.weather for scene in probes} == set(WEATHERS)
