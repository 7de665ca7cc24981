from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from engine.errors import SourceError
from indexing.sources import BAD_SIDECAR, FolderSource, Item, Problem, read_metadata
from tests.support.pictures import paint


def keys(folder: Path) -> list[str]:
    """The keys of the files that are listed."""
    return [found.key for found in FolderSource(folder).scan() if isinstance(found, Item)]


def problems(folder: Path) -> list[Problem]:
    """What the listing complains about."""
    return [found for found in FolderSource(folder).scan() if isinstance(found, Problem)]


def metadata(folder: Path) -> dict[str, object]:
    """The words beside each file, None where there are none."""
    items = [found for found in FolderSource(folder).scan() if isinstance(found, Item)]
    return {item.key: read_metadata(item.sidecar) if item.sidecar else None for item in items}


def touch(folder: Path, *names: str) -> None:
    """Makes small files, and their folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_files_come_sorted_by_their_whole_key(tmp_path: Path):
    """Folders are not listed before or after files, but where their names sort: the ledger's order."""
    touch(tmp_path, "b", "a/z", "a.png", "a/b/c", "a0", "\u00e9", "z")
    assert keys(tmp_path) == sorted(keys(tmp_path)) == ["a.png", "a/b/c", "a/z", "a0", "b", "z", "\u00e9"]


def test_hidden_files_sidecars_and_litter_are_not_listed(tmp_path: Path):
    """What people do not see as files is not reported as skipped either."""
    touch(
        tmp_path, ".hidden.png", ".git/x.png", "a.json", "metadata.jsonl", "Thumbs.db", "desktop.ini", "a.txt", "a.png"
    )
    assert keys(tmp_path) == ["a.png", "a.txt"]


def test_links_are_followed_and_loops_end(tmp_path: Path):
    """A linked folder is part of the source, but a link upwards is not walked for ever."""
    touch(tmp_path / "other", "b.png")
    touch(tmp_path / "source", "a.png")
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "source" / "loop").symlink_to(tmp_path / "source")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "source")
    assert keys(tmp_path / "source") == ["a.png", "linked/b.png"]


def test_links_to_nothing_and_to_themselves_are_reported(tmp_path: Path):
    """A broken link is a problem with a name."""
    (tmp_path / "a.png").symlink_to(tmp_path / "missing.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    assert [problem.key for problem in problems(tmp_path)] == ["a.png", "b.png"]


def test_pipes_are_not_opened(tmp_path: Path):
    """Reading a pipe would wait for ever."""
    os.mkfifo(tmp_path / "a.png")
    assert keys(tmp_path) == []


def test_a_folder_that_can_not_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One locked folder does not hide the others."""
    touch(tmp_path, "a/1.png", "locked/2.png", "z/3.png")
    list_folder = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("locked"):  # root may read everything, so that permissions alone would test nothing
            raise PermissionError(13, "Permission denied", path)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert keys(tmp_path) == ["a/1.png", "z/3.png"]
    assert [(problem.key, problem.reason) for problem in problems(tmp_path)] == [("locked/", "unreadable")]


def test_a_name_that_is_not_unicode_is_reported(tmp_path: Path):
    """Such a file can't be named in JSON: it is listed with its bytes written out."""
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png"))).write_bytes(b"x")
    assert [(problem.key, problem.reason) for problem in problems(tmp_path)] == [("bad\\udcff.png", "bad_name")]


def test_a_sidecar_belongs_to_its_picture(tmp_path: Path):
    """X.jpg.json is taken before X.json, and X.json before a line of metadata.jsonl."""
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    lines = [{"file": name, "from": "lines"} for name in ("a.jpg", "b.jpg", "c.jpg")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "b.json").write_text('{"from": "stem"}')
    (tmp_path / "a.json").write_text('{"from": "stem"}')
    (tmp_path / "a.jpg.json").write_text('{"from": "name"}')
    assert metadata(tmp_path) == {
        "a.jpg": {"from": "name"},
        "b.jpg": {"from": "stem"},
        "c.jpg": {"file": "c.jpg", "from": "lines"},
        "d.jpg": None,
    }


def test_lines_may_name_pictures_in_folders_below(tmp_path: Path):
    """The nearest metadata.jsonl that names a picture counts."""
    touch(tmp_path, "in/a.jpg", "in/b.jpg")
    (tmp_path / "metadata.jsonl").write_text('{"file": "in/a.jpg", "n": 1}\n{"file": "./in/b.jpg", "n": 1}\n')
    (tmp_path / "in" / "metadata.jsonl").write_text('{"file": "b.jpg", "n": 2}\n')
    found = metadata(tmp_path)
    assert (found["in/a.jpg"], found["in/b.jpg"]) == ({"file": "in/a.jpg", "n": 1}, {"file": "b.jpg", "n": 2})


@pytest.mark.parametrize("content", ["{not json", "[1, 2]", '{"a": NaN}', "\xff", ""])
def test_a_bad_sidecar_is_a_warning(tmp_path: Path, content: str):
    """The picture is still listed, and the reason names the sidecar."""
    touch(tmp_path, "a.jpg")
    (tmp_path / "a.json").write_text(content, encoding="latin-1")
    (problem,) = problems(tmp_path)
    assert (problem.key, problem.reason) == ("a.jpg", BAD_SIDECAR)
    assert "a.json" in problem.sentence
    assert metadata(tmp_path) == {"a.jpg": {}}


def test_bad_lines_cost_only_themselves(tmp_path: Path):
    """Each bad line of a metadata.jsonl is reported by its number."""
    touch(tmp_path, "a.jpg")
    (tmp_path / "metadata.jsonl").write_text('nonsense\n\n{"n": 1}\n{"file": "a.jpg", "n": 2}\n')
    assert [problem.sentence.split(" is")[0] for problem in problems(tmp_path)] == ["Line 1", "Line 3"]
    assert metadata(tmp_path)["a.jpg"] == {"file": "a.jpg", "n": 2}


def test_a_changed_sidecar_has_another_digest(tmp_path: Path):
    """That is how a change of words alone is noticed."""
    touch(tmp_path, "a.jpg")
    digests = set()
    for text in ('{"n": 1}', '{"n": 2}', "{bad", "{also bad"):
        (tmp_path / "a.json").write_text(text)
        (item,) = [found for found in FolderSource(tmp_path).scan() if isinstance(found, Item)]
        assert item.sidecar
        digests.add(item.sidecar.digest)
    assert len(digests) == 4


def test_a_folder_with_a_picture_passes_the_check(tmp_path: Path):
    """One picture deep inside is enough, whatever its name."""
    touch(tmp_path, "a.txt", "b.txt")
    paint(tmp_path / "deep" / "down" / "c.txt", format="PNG")
    FolderSource(tmp_path).check()


@pytest.mark.parametrize("case", ["missing", "file", "empty", "words"])
def test_a_source_without_pictures_is_refused(tmp_path: Path, case: str):
    """A missing folder, a file, an empty folder and one full of other things each have their own message."""
    touch(tmp_path, "file")
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "words", "a.txt", "b.jpg")
    says = {
        "missing": "There is no folder",
        "file": "is a file",
        "empty": r"No pictures.*\(0 ",
        "words": r"No pic.*\(2 ",
    }
    with pytest.raises(SourceError, match=says[case]):
        FolderSource(tmp_path / case).check()
