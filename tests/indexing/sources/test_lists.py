from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.errors import SourceError
from engine.settings import Settings
from indexing import fetching
from indexing.decode import Failure, Reason
from indexing.sources.items import Problem
from indexing.sources.lists import ListSource
from tests.support.s3 import Bucket
from tests.support.sources import PICTURE, Brought, bring, items, plan, problems, rows
from tests.support.web import Web

SETTINGS = Settings(index_fetches=4, index_fetch_attempts=3, index_fetch_timeout_s=20, index_max_bytes=2**20)

Rows = Sequence[Mapping[str, Any]]


def as_csv(table: Rows) -> bytes:
    """The rows as CSV, as spreadsheets write it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().encode("utf-8-sig")


def as_parquet(table: Rows) -> bytes:
    """The rows as Parquet."""
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([dict(row) for row in table]), buffer)
    return buffer.getvalue()


def write(folder: Path, table: Rows) -> ListSource:
    """A source of a local list."""
    file = folder / "list.csv"
    file.write_bytes(as_csv(table))
    return ListSource(str(file), SETTINGS)


async def bring_all(folder: Path, table: Rows) -> dict[str, Brought]:
    """What a local list brings."""
    with closing(write(folder, table)) as source:
        source.check()
        return await bring(source, SETTINGS)


def complaints(folder: Path, table: Rows) -> list[Problem]:
    """What a local list can't use."""
    with closing(write(folder, table)) as source:
        source.check()
        return problems(source)


@pytest.mark.parametrize(("suffix", "encode"), [("csv", as_csv), ("parquet", as_parquet)])
async def test_columns_become_words(tmp_path: Path, web: Web, suffix: str, encode: Callable[[Rows], bytes]):
    """The id is the key, everything else beside the address is metadata; nothing is made of what is empty."""
    web.files |= {"a.jpg": PICTURE + b"a", "b.jpg": PICTURE + b"b"}
    table = [
        {"id": "2", "URL": f"{web.address}/b.jpg", "caption": "a b\u00f6at", "n": 7, "none": None, "q": 'x, "y"'},
        {"id": "1", "URL": f"{web.address}/a.jpg", "caption": "", "n": 8, "none": None, "q": ""},
    ]
    (tmp_path / f"list.{suffix}").write_bytes(encode(table))
    with closing(ListSource(f"{tmp_path}/list.{suffix}", SETTINGS)) as source:
        source.check()
        assert [(item.key, item.path) for item in items(source)] == [
            ("1", f"{web.address}/a.jpg"),
            ("2", f"{web.address}/b.jpg"),
        ]
        found = await bring(source, SETTINGS)
    number: Callable[[int], Any] = str if suffix == "csv" else int  # CSV has no numbers
    assert found["2"] == Brought(PICTURE + b"b", {"caption": "a b\u00f6at", "n": number(7), "q": 'x, "y"'})
    assert found["1"] == Brought(PICTURE + b"a", {"n": number(8)})


def test_parquet_has_more_than_text(tmp_path: Path):
    """Dates become text, lists stay lists, bytes are left out."""
    about = {"when": datetime(2026, 1, 2, tzinfo=UTC), "tags": ["a", "b"], "jpeg": b"\xff", "score": float("nan")}
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    (tmp_path / "list.parquet").write_bytes(as_parquet([{"path": "a.jpg", **about}]))
    with closing(ListSource(f"{tmp_path}/list.parquet", SETTINGS)) as source:
        source.check()
        assert source._listing
        (part,) = source._listing.words("a.jpg")
    assert part.data == b'{"when":"2026-01-02T00:00:00+00:00","tags":["a","b"],"score":null}'


async def test_a_local_list_names_local_files(tmp_path: Path):
    """They are decoded where they lie, and a changed file is noticed by its size and time."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(PICTURE)
    (tmp_path / "b c.jpg").write_bytes(PICTURE + b"b")
    table = [{"url": "in/a.jpg", "n": 1}, {"url": f"file://{tmp_path}/b%20c.jpg", "n": 2}]
    with closing(write(tmp_path, table)) as source:
        source.check()
        known = rows(source)
        assert [item.path for item in items(source)] == [f"{tmp_path}/b c.jpg", f"{tmp_path}/in/a.jpg"]
        found = await bring(source, SETTINGS)
        assert [each.words for each in found.values()] == [{"n": "2"}, {"n": "1"}]
        (tmp_path / "in" / "a.jpg").write_bytes(PICTURE + b"more")
        source.check()
        assert [work.item.key for work in plan(source, known).work] == ["in/a.jpg"]


@pytest.mark.parametrize("home", ["memory", "s3", "web"])
async def test_a_remote_list_names_what_lies_beside_it(memory_root: str, bucket: Bucket, web: Web, home: str):
    """Relative to the list; and nothing of this machine."""
    table = as_csv([{"path": "in/a.jpg"}, {"path": "/etc/hostname"}, {"path": "file:///etc/hostname"}])
    fsspec.filesystem("memory").pipe({f"{memory_root}/list.csv": table, f"{memory_root}/in/a.jpg": PICTURE})
    for key, data in {"list.csv": table, "in/a.jpg": PICTURE}.items():
        bucket.put(key, data)
        web.files[key] = data
    root = {"memory": memory_root, "s3": bucket.address, "web": web.address}[home]
    with closing(ListSource(f"{root}/list.csv", SETTINGS)) as source:
        source.check()
        found = await bring(source, SETTINGS)
        refused = problems(source)
    assert {key: each.data for key, each in found.items()} == {"in/a.jpg": PICTURE}
    assert [problem.key for problem in refused] == ["row 2", "row 3"]
    assert all("may" in problem.sentence for problem in refused)


async def test_lists_name_stores(tmp_path: Path, bucket: Bucket):
    """With the size asked for, as no listing told it."""
    bucket.put("in/a.jpg", PICTURE)
    found = await bring_all(tmp_path, [{"url": f"{bucket.address}/in/a.jpg"}, {"url": f"{bucket.address}/no.jpg"}])
    assert found[f"{bucket.address}/in/a.jpg"].data == PICTURE
    assert found[f"{bucket.address}/no.jpg"].data == Failure(Reason.MISSING, "not there")


async def test_every_fault_of_a_server_costs_one_picture(tmp_path: Path, web: Web):
    """And each is named as what it is; what may pass is tried again, what can't is not."""
    web.files |= {
        "a.jpg": PICTURE,
        "page.jpg": b"<!doctype html>" + bytes(100),
        "empty.jpg": b"",
        "large.jpg": PICTURE + bytes(2**20),
        "big.jpg": PICTURE + bytes(2**19),
        "vector.jpg": b"<svg" + bytes(100),
    }
    paths = {
        "ok": "a.jpg",
        "twice": "twice/a.jpg",
        "moved": "moved/moved/a.jpg",
        "chunked": "chunked/big.jpg",
        "down": "down/a.jpg",
        "missing": "missing/a.jpg",
        "forbidden": "forbidden/a.jpg",
        "cut": "cut/big.jpg",
        "loop": "loop/a.jpg",
        "file": "file/a.jpg",
        "page": "page.jpg",
        "empty": "empty.jpg",
        "vector": "vector.jpg",
        "large": "large.jpg",
        "large without a size": "chunked/large.jpg",
    }
    others = {"refused": "http://127.0.0.1:9/a.jpg", "no host": "http:///a.jpg"}
    table = [{"id": key, "url": f"{web.address}/{path}"} for key, path in paths.items()]
    found = await bring_all(tmp_path, [*table, *({"id": key, "url": url} for key, url in others.items())])
    told = {key: each.data for key, each in found.items()}
    whole = {"ok": PICTURE, "twice": PICTURE, "moved": PICTURE, "chunked": PICTURE + bytes(2**19)}
    assert {key: told.pop(key) for key in whole} == whole
    reasons = {key: (each.reason, each.detail) for key, each in told.items() if isinstance(each, Failure)}
    assert {key: reason for key, (reason, _) in reasons.items()} == {
        "down": Reason.UNREACHABLE,
        "missing": Reason.MISSING,
        "forbidden": Reason.UNREACHABLE,
        "cut": Reason.UNREACHABLE,
        "loop": Reason.UNREACHABLE,
        "file": Reason.UNREACHABLE,
        "page": Reason.NOT_AN_IMAGE,
        "empty": Reason.EMPTY,
        "vector": Reason.UNSUPPORTED,
        "large": Reason.TOO_LARGE,
        "large without a size": Reason.TOO_LARGE,
        "refused": Reason.UNREACHABLE,
        "no host": Reason.UNREACHABLE,
    }
    assert reasons["down"][1] == "HTTP 503 (3 attempts)"
    assert reasons["forbidden"][1] == "HTTP 403"
    assert reasons["loop"][1] == "redirected more than 5 times"
    assert reasons["file"][1] == "redirected to file:, which is not followed"
    assert web.asked["/down/a.jpg"] == web.asked["/cut/big.jpg"] == 3
    assert web.asked["/missing/a.jpg"] == web.asked["/forbidden/a.jpg"] == web.asked["/page.jpg"] == 1


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path, web: Web):
    """The others do not wait for it."""
    web.files["a.jpg"] = PICTURE
    table = [{"id": "stuck", "url": f"{web.address}/stuck/a.jpg"}, {"id": "ok", "url": f"{web.address}/a.jpg"}]
    hasty = SETTINGS.model_copy(update={"index_fetch_timeout_s": 0.5, "index_fetch_attempts": 1})
    (tmp_path / "list.csv").write_bytes(as_csv(table))
    with closing(ListSource(f"{tmp_path}/list.csv", hasty)) as source:
        source.check()
        found = await bring(source, hasty)
    assert list(found) == ["ok", "stuck"]
    assert isinstance(found["stuck"].data, Failure)
    assert found["stuck"].data.reason == Reason.UNREACHABLE


async def test_a_large_picture_without_a_size_is_fetched_again_with_room(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
):
    """The first attempt has room for a usual one only, so that pictures without sizes need not wait for each other."""
    monkeypatch.setattr(fetching, "GUESS", 2**16)
    web.files["big.jpg"] = PICTURE + bytes(2**19)
    (each,) = (await bring_all(tmp_path, [{"url": f"{web.address}/chunked/big.jpg"}])).values()
    assert each.data == web.files["big.jpg"]
    assert web.asked["/chunked/big.jpg"] == 2


def test_an_unchanged_row_is_not_fetched_again(tmp_path: Path, web: Web):
    """A new signature is no change, another word is."""

    def table(signature: str, words: Sequence[str]) -> Rows:
        return [{"url": f"{web.address}/{n}.jpg?X-Amz-Signature={signature}", "w": w} for n, w in enumerate(words)]

    with closing(write(tmp_path, table("one", "abc"))) as source:
        source.check()
        known = rows(source)
    with closing(write(tmp_path, table("two", "axc"))) as source:
        source.check()
        again = plan(source, known)
    assert [work.item.key for work in again.work] == [f"{web.address}/1.jpg"]
    assert again.unchanged == 2
    assert not web.asked


async def test_secrets_reach_the_server_and_nobody_else(tmp_path: Path, web: Web):
    """The address is used as it stands, and kept without them; so is any other column that has an address."""
    web.files["a.jpg"] = PICTURE
    signed = web.address.replace("//", "//user:pass@") + "/a.jpg?token=SECRET&id=7"
    with closing(write(tmp_path, [{"url": signed, "page": "see https://u:SECRET@host/x"}])) as source:
        source.check()
        found = await bring(source, SETTINGS)
    clean = f"{web.address}/a.jpg?id=7"
    assert found == {clean: Brought(PICTURE, {"page": "see https://host/x"})}
    assert web.authorizations == ["Basic dXNlcjpwYXNz"]


def test_rows_that_can_not_be_used_cost_only_themselves(tmp_path: Path):
    """Each is named by its number."""
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    table = [
        {"id": "1", "url": "a.jpg"},
        {"id": "1", "url": "a.jpg"},
        {"id": "2", "url": ""},
        {"id": "3", "url": "missing.jpg"},
        {"id": "4", "url": "ftp://host/a.jpg"},
        {"id": "", "url": "a.jpg"},
    ]
    told = {problem.sentence for problem in complaints(tmp_path, table)}
    assert told == {
        "Row 2 is left out: Another row has the same key.",
        "Row 3 is left out: It has no address.",
        "Row 4: No such file or directory.",
        "Row 5 is left out: Addresses with ftp: are not fetched; use http, https, s3, gs or az.",
    }


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"name,caption\nx,y\n", "no column named url"),
        ("a.csv", b"", "no column named url"),
        ("a.csv", b"url\n\xff\xfe\n", "not well-formed CSV in UTF-8"),
        ("a.csv", b'url\n"open', "not well-formed CSV in UTF-8"),
        ("a.csv", b"url\n", "No pictures"),
        ("a.parquet", b"PAR1 and nothing else", "not well-formed Parquet"),
        ("a.parquet", as_parquet([{"name": "x"}]), "no column named url"),
    ],
)
def test_a_list_that_is_none_is_an_error(tmp_path: Path, name: str, content: bytes, says: str):
    """With what to do about it; half a list would look like pictures removed."""
    (tmp_path / name).write_bytes(content)
    with closing(ListSource(f"{tmp_path}/{name}", SETTINGS)) as source, pytest.raises(SourceError, match=says):
        source.check()


def test_a_listing_that_takes_too_long_can_be_ended(web: Web):
    """Closing the source ends the thread that waits for a server, so that Ctrl-C does not wait for it."""
    source = ListSource(f"{web.address}/stuck/list.csv", SETTINGS)
    ended: list[BaseException] = []

    def check() -> None:
        try:
            source.check()
        except BaseException as error:  # noqa: BLE001 - that it is one is what is tested
            ended.append(error)

    thread = threading.Thread(target=check)
    thread.start()
    while not web.asked:
        thread.join(0.005)
    source.close()
    thread.join(15)
    assert not thread.is_alive()
    assert isinstance(ended[0], CancelledError)


def test_a_list_that_can_not_be_had_is_an_error(tmp_path: Path, web: Web):
    """Missing here or there, or on a server that is down; the address is shown without its secrets."""
    down = web.address.replace("//", "//user:SECRET@") + "/down/list.csv"
    for address, says in {
        f"{tmp_path}/list.csv": "No such file",
        f"{web.address}/missing/list.csv": "HTTP 404",
        down: r"HTTP 503 \(3 attempts\)",
    }.items():
        with closing(ListSource(address, SETTINGS)) as source, pytest.raises(SourceError, match=says) as caught:
            source.check()
        assert "SECRET" not in str(caught.value)
