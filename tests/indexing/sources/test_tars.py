from __future__ import annotations

import io
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.errors import SourceError
from engine.settings import Settings
from indexing.sources import stores, tars
from indexing.sources.tars import Member, TarSource, read_members
from tests.support.s3 import Bucket
from tests.support.sources import PICTURE, bring, items, plan, problems, rows, tar_of
from tests.support.web import Web

SAMPLES = {
    "0001.jpg": PICTURE + b"1",
    "0001.json": b'{"n": 1, "caption": "of json"}',
    "0001.txt": b"a red boat\n",
    "0001.cls": b"7",
    "0002.txt": b"alone",
    "0002.PNG": PICTURE + b"2",
    "in/0003.seg.png": PICTURE + b"3",
    "in/0003.json": b'{"n": 3}',
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A folder for headers."""
    return Settings(index_path=tmp_path / "data", index_fetches=4, index_fetch_attempts=2)


async def test_members_of_one_name_are_a_sample(tmp_path: Path, settings: Settings):
    """Its picture has its JSON, its text as caption, its class as a number."""
    (tmp_path / "a.tar").write_bytes(tar_of(SAMPLES))
    with closing(TarSource(f"{tmp_path}/a.tar", settings)) as source:
        source.check()
        found = await bring(source, settings)
    assert {key: (each.data, each.words) for key, each in found.items()} == {
        "a.tar/0001.jpg": (PICTURE + b"1", {"n": 1, "caption": "a red boat", "cls": 7}),
        "a.tar/0002.PNG": (PICTURE + b"2", {"caption": "alone"}),
        "a.tar/in/0003.seg.png": (PICTURE + b"3", {"n": 3}),
    }


@pytest.mark.parametrize("place", ["disk", "s3", "web"])
async def test_shards_are_named_by_patterns(tmp_path: Path, settings: Settings, bucket: Bucket, web: Web, place: str):
    """With braces anywhere, with wildcards where files can be listed; keys begin after the last fixed folder."""
    for number in range(3):
        data = tar_of({f"{number}.jpg": PICTURE + bytes([number])})
        (tmp_path / f"x-{number:02}.tar").write_bytes(data)
        bucket.put(f"x-{number:02}.tar", data)
        web.files[f"x-{number:02}.tar"] = data
    root = {"disk": str(tmp_path), "s3": bucket.address, "web": web.address}[place]
    patterns = [f"{root}/x-{{00..02}}.tar", *([f"{root}/*.tar"] if place != "web" else [])]
    for pattern in patterns:
        with closing(TarSource(pattern, settings)) as source:
            source.check()
            found = await bring(source, settings)
        assert {key: each.data for key, each in found.items()} == {
            f"x-{number:02}.tar/{number}.jpg": PICTURE + bytes([number]) for number in range(3)
        }


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of which bytes are asked for from now on."""
    asked: list[str] = []
    real = stores.Stores.read

    async def read(opened: Any, address: str, start: int, length: int) -> bytes:
        asked.append(address)
        return await real(opened, address, start, length)

    monkeypatch.setattr(stores.Stores, "read", read)
    return asked


def test_an_unchanged_shard_is_not_read_again(bucket: Bucket, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Its size and ETag are enough, also for a new process; a changed one is read anew, the others are not."""
    for number in range(3):
        bucket.put(f"{number}.tar", tar_of({f"{number}.jpg": PICTURE}))
    pattern = f"{bucket.address}/{{0..2}}.tar"
    with closing(TarSource(pattern, settings)) as source:
        source.check()
        known = rows(source)
    asked = count_reads(monkeypatch)
    bucket.put("1.tar", tar_of({"1.jpg": PICTURE, "new.jpg": PICTURE}))
    with closing(TarSource(pattern, settings)) as source:
        source.check()
        again = plan(source, known)
    assert asked == [f"{bucket.address}/1.tar"]
    assert [work.item.key for work in again.work] == ["1.tar/1.jpg", "1.tar/new.jpg"]
    assert ([*again.gone], again.unchanged) == ([], 2)


def test_headers_are_read_in_blocks(bucket: Bucket, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Many small members take one request, and the bodies of large ones are left out."""
    monkeypatch.setattr(tars, "BLOCK", 2**16)
    large = {"0.jpg": bytes(2**20), "1.jpg": bytes(2**20)}
    small = {f"{number + 2}.jpg": bytes(100) for number in range(40)}
    bucket.put("x.tar", tar_of(large | small))
    asked = count_reads(monkeypatch)
    with closing(TarSource(f"{bucket.address}/x.tar", settings)) as source:
        source.check()
        assert len(items(source)) == 42
    assert len(asked) <= 5


@pytest.mark.parametrize("damage", ["cut in a body", "cut in a header", "no end", "garbage", "not a tar", "missing"])
def test_a_damaged_shard_hides_nothing(tmp_path: Path, settings: Settings, damage: str):
    """What was indexed from it stays, and what can be read of it and of the others is read."""
    files = {f"{number}.jpg": PICTURE for number in range(4)}
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar").write_bytes(tar_of(files))
    pattern = f"{tmp_path}/{{a,b}}.tar"
    with closing(TarSource(pattern, settings)) as source:
        source.check()
        known = rows(source)
    whole = tar_of(files)
    shard = tmp_path / "a.tar"
    if damage == "missing":
        shard.unlink()
    else:
        at = {"cut in a body": 1024 + 530, "cut in a header": 1024 + 100, "garbage": 2048, "not a tar": 0}.get(damage)
        rest = b"\x99" * 3000 if damage in {"garbage", "not a tar"} else b""
        shard.write_bytes(tar_of(files, end=False)[: 1024 * 4] if at is None else whole[:at] + rest)
    with closing(TarSource(pattern, settings)) as source:
        source.check()
        (problem,) = problems(source)
        again = plan(source, known)
    assert problem.key == "a.tar/"
    assert [*again.gone] == []
    assert again.unchanged + len(again.work) == 8
    assert not {work.item.key for work in again.work} & {f"b.tar/{number}.jpg" for number in range(4)}


def test_no_shard_that_can_be_read_is_an_error(tmp_path: Path, settings: Settings, web: Web):
    """A wrong pattern must not look like an empty source."""
    for pattern, says in {
        f"{tmp_path}/{{0..2}}.tar": "None of the 3 shards",
        f"{tmp_path}/*.tar": "No tar shards match",
        f"{web.address}/down/x.tar": "can't be listed: HTTP 503",
        f"{tmp_path}/{{0..99999999}}.tar": "more than",
    }.items():
        with closing(TarSource(pattern, settings)) as source, pytest.raises(SourceError, match=says):
            source.check()


def test_a_server_without_parts_is_explained(tmp_path: Path, settings: Settings, web: Web):
    """Members lie in the middle of a shard."""
    web.files["x.tar"] = tar_of({"a.jpg": bytes(2**20), "b.jpg": PICTURE})
    address = f"{web.address}/chunked/x.tar"
    with closing(TarSource(address, settings)) as source, pytest.raises(SourceError, match="does not tell its size"):
        source.check()
    assert not (tmp_path / "data").exists()


def test_members_are_found_without_their_bodies():
    """Long names, folders, links, and names with dots before them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE), ("./a.jpg", tarfile.REGTYPE)):
            about = tarfile.TarInfo(name)
            about.type = kind
            archive.addfile(about)
        about = tarfile.TarInfo("../" + "x" * 200 + ".jpg")
        about.size = 3
        archive.addfile(about, io.BytesIO(b"abc"))
    data = buffer.getvalue()
    first, second = read_members(io.BytesIO(data))
    assert first.name == "a.jpg"
    assert second == Member("x" * 200 + ".jpg", data.index(b"abc"), 3)


def test_a_name_that_is_not_unicode_is_reported(tmp_path: Path, settings: Settings):
    """The other members are listed."""
    files = {"bad\udcff.jpg": PICTURE, "a.jpg": PICTURE}
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    with closing(TarSource(f"{tmp_path}/a.tar", settings)) as source:
        source.check()
        assert [item.key for item in items(source)] == ["a.tar/a.jpg"]
        assert [(problem.key, problem.reason) for problem in problems(source)] == [("a.tar/bad\\udcff.jpg", "bad_name")]
