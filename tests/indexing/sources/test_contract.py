"""What all sources agree on, whatever they read from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from engine.errors import SourceError
from engine.settings import Settings
from indexing.sources import Problem, Source, open_source
from tests.support.s3 import Bucket
from tests.support.sources import PICTURE, bring, items, plan, problems, rows, tar_of

FOLDERS = ["folder", "memory", "s3"]
ALL = [*FOLDERS, "tar", "tar on s3"]


class Place:
    """Somewhere to put files, and a source that reads them."""

    def __init__(self, kind: str, folder: Path, memory_root: str, bucket: Bucket) -> None:
        self.settings = Settings(index_path=folder / "data", index_fetches=4)
        self._kind = kind
        self._folder = folder / "source"
        self._folder.mkdir()
        self._memory_root = memory_root
        self._bucket = bucket
        self._files: dict[str, bytes] = {}
        self._opened: list[Source] = []

    def put(self, **files: bytes) -> None:
        """Adds or changes files; `__` in a name stands for a slash, `_` for a dot."""
        for name, data in files.items():
            self.put_at(name.replace("__", "/").replace("_", "."), data)

    def put_at(self, key: str, data: bytes) -> None:
        """Adds or changes one file."""
        self._files[key] = data
        if self._kind == "folder":
            (self._folder / key).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / key).write_bytes(data)
        elif self._kind == "memory":
            fsspec.filesystem("memory").pipe_file(f"{self._memory_root}/{key}", data)
        elif self._kind == "s3":
            self._bucket.put(f"prefix/{key}", data)

    def remove(self, key: str) -> None:
        """Removes a file."""
        del self._files[key]
        if self._kind == "folder":
            (self._folder / key).unlink()
        elif self._kind == "memory":
            fsspec.filesystem("memory").rm(f"{self._memory_root}/{key}")
        elif self._kind == "s3":
            self._bucket.delete(f"prefix/{key}")

    def source(self) -> Source:
        """A source that has just been opened and checked."""
        if self._kind == "tar" and not self._opened:
            (self._folder / "x.tar").write_bytes(tar_of(self._files))
        elif self._kind == "tar on s3":
            self._bucket.put("x.tar", tar_of(self._files))
        where = {
            "folder": str(self._folder),
            "memory": self._memory_root,
            "s3": f"{self._bucket.address}/prefix/",
            "tar": f"{self._folder}/x.tar",
            "tar on s3": f"{self._bucket.address}/x.tar",
        }
        source = open_source(where[self._kind], self.settings)
        self._opened.append(source)
        source.check()
        return source

    @property
    def prefix(self) -> str:
        """What keys begin with."""
        return "x.tar/" if "tar" in self._kind else ""

    def close(self) -> None:
        """Closes all sources."""
        for source in self._opened:
            source.close()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, memory_root: str, bucket: Bucket) -> Iterator[Place]:
    """An empty place of the kind that is asked for."""
    made = Place(request.param, tmp_path, memory_root, bucket)
    yield made
    made.close()


every = pytest.mark.parametrize("place", ALL, indirect=True)
every_folder = pytest.mark.parametrize("place", FOLDERS, indirect=True)


@every
async def test_pictures_come_sorted_and_whole(place: Place):
    """By whole keys, in the ledger's order, with hidden files, words and litter left out; each with its own bytes."""
    names = ["b", "a/z", "a.png", "a/b/c", "a0", "\u00e9", "z z#%41?.jpg", "\U0001f600"]
    for number, name in enumerate(names):
        place.put_at(name, PICTURE + bytes([number]))
    for name in (".hidden.png", ".git/x.png", "a/.h/x.png", "a.json", "metadata.jsonl", "Thumbs.db", "in/desktop.ini"):
        place.put_at(name, b"{}")
    source = place.source()
    keys = [item.key for item in items(source)]
    assert keys == sorted(place.prefix + name for name in names)
    brought = await bring(source, place.settings)
    assert {key: each.data for key, each in brought.items()} == {
        place.prefix + name: PICTURE + bytes([number]) for number, name in enumerate(names)
    }


@every
async def test_words_come_with_their_picture(place: Place):
    """X.json has the words about X.jpg, in folders too."""
    place.put(a_jpg=PICTURE, in__b_png=PICTURE, c_jpg=PICTURE, a_json=b'{"n": 1}', in__b_json=b'{"n": 2}')
    brought = await bring(place.source(), place.settings)
    assert {key.removeprefix(place.prefix): each.words for key, each in brought.items()} == {
        "a.jpg": {"n": 1},
        "in/b.png": {"n": 2},
        "c.jpg": None,
    }


@every_folder
async def test_the_nearest_words_count(place: Place):
    """X.jpg.json before X.json before a line, and the nearer metadata.jsonl before the farther."""
    for name in ("a.jpg", "b.jpg", "c.jpg", "in/d.jpg", "in/e.jpg"):
        place.put_at(name, PICTURE)
    lines = ("a.jpg", "b.jpg", "c.jpg", "in/d.jpg", "./in/e.jpg")
    place.put_at("metadata.jsonl", "\n".join(f'{{"file": "{name}", "n": 1}}' for name in lines).encode())
    place.put_at("in/metadata.jsonl", b'{"file": "e.jpg", "n": 2}\nnonsense\n')
    place.put(b_json=b'{"n": 3}', a_json=b'{"n": 3}', a_jpg_json=b'{"n": 4}')
    source = place.source()
    brought = await bring(source, place.settings)
    words = {key: each.words["n"] for key, each in brought.items() if each.words}
    assert words == {"a.jpg": 4, "b.jpg": 3, "c.jpg": 1, "in/d.jpg": 1, "in/e.jpg": 2}
    (problem,) = problems(source)
    assert (problem.key, problem.sentence.split(" is")[0]) == ("in/metadata.jsonl", "Line 2")


@every
@pytest.mark.parametrize("content", [b"{not json", b"[1, 2]", b"\xff", b"{" + b" " * 2**20])
async def test_bad_words_cost_only_themselves(place: Place, content: bytes):
    """The picture comes without them, and somebody is told."""
    place.put(a_jpg=PICTURE, a_json=content)
    source = place.source()
    complaints: list[Problem] = problems(source)
    brought = await bring(source, place.settings, complaints)
    (each,) = brought.values()
    assert (each.data, each.words) == (PICTURE, {})
    assert [(problem.key, problem.reason) for problem in complaints] == [(f"{place.prefix}a.jpg", "bad_sidecar")]


@every
def test_what_is_as_it_was_is_not_done_again(place: Place):
    """Opening a source anew and looking at it is enough to know."""
    place.put(a_jpg=PICTURE, b_jpg=PICTURE, b_json=b"{}", in__c_jpg=PICTURE)
    known = rows(place.source())
    again = plan(place.source(), known)
    assert ([*again.work], [*again.touched], [*again.gone], again.unchanged) == ([], [], [], 3)


@every_folder
def test_only_what_changed_is_done_again(place: Place):
    """A new picture, other bytes, other words; and what is gone is named."""
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        place.put_at(name, PICTURE)
    place.put(b_json=b'{"n": 1}')
    known = rows(place.source())
    place.put(a_jpg=PICTURE + b"more", b_json=b'{"n": 23}', e_jpg=PICTURE)
    place.remove("d.jpg")
    again = plan(place.source(), known)
    assert [work.item.key for work in again.work] == ["a.jpg", "b.jpg", "e.jpg"]
    assert ([row.key for row in again.gone], again.unchanged) == (["d.jpg"], 1)


@every
def test_a_place_without_pictures_is_an_error(place: Place):
    """It must not look like a source whose pictures were all removed."""
    place.put(a_json=b"{}")
    with pytest.raises(SourceError, match="No pictures"):
        place.source()
