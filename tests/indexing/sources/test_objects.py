from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import fsspec
import pytest

from engine.errors import SourceError
from engine.settings import Settings
from indexing.decode import Failure, Reason
from indexing.sources import stores
from indexing.sources.objects import ObjectSource
from tests.support.s3 import CREDENTIALS, Bucket
from tests.support.sources import PICTURE, bring, items, plan, rows

SETTINGS = Settings(index_fetches=4, index_fetch_attempts=2)


@pytest.fixture
def pages_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers with three objects at a time."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")


@pytest.fixture
def ten(bucket: Bucket) -> Iterator[ObjectSource]:
    """Ten pictures below a prefix, and some in its neighbours."""
    for number in range(10):
        bucket.put(f"in/{number}.jpg", PICTURE)
    for neighbour in ("in.jpg", "inside/x.jpg", "i/x.jpg"):
        bucket.put(neighbour, PICTURE)
    with closing(ObjectSource(f"{bucket.address}/in", SETTINGS)) as source:
        yield source


@pytest.mark.usefixtures("pages_of_three")
def test_a_prefix_is_a_folder(ten: ObjectSource):
    """All pages of what lies below it, and nothing of what only begins like it."""
    ten.check()
    assert [item.key for item in items(ten)] == [f"{number}.jpg" for number in range(10)]
    assert items(ten)[0].path == f"{ten.name}/0.jpg"


@pytest.mark.usefixtures("pages_of_three")
def test_a_page_that_fails_for_good_ends_the_run(ten: ObjectSource, monkeypatch: pytest.MonkeyPatch):
    """The pages before it are not taken for all there is."""
    real, asked = stores._FileStore._s3_page, []

    async def page(store: Any, step: Any) -> Any:
        asked.append(step)
        if len(asked) > 2:
            raise OSError(5, "the line is cut")
        return await real(store, step)

    monkeypatch.setattr(stores._FileStore, "_s3_page", page)
    with pytest.raises(SourceError, match=r"can't be listed: .*the line is cut \(2 attempts\)"):
        ten.check()
    assert len(asked) == 2 + SETTINGS.index_fetch_attempts


@pytest.mark.usefixtures("pages_of_three")
def test_a_page_that_fails_once_is_asked_for_again(ten: ObjectSource, monkeypatch: pytest.MonkeyPatch):
    """One bad answer among thousands must not cost the run."""
    real, asked = stores._FileStore._s3_page, []

    async def page(store: Any, step: Any) -> Any:
        asked.append(step)
        if len(asked) % 2:
            raise OSError(5, "the line is cut")
        return await real(store, step)

    monkeypatch.setattr(stores._FileStore, "_s3_page", page)
    ten.check()
    assert len(items(ten)) == 10


def test_the_same_content_put_again_is_no_change(ten: ObjectSource, bucket: Bucket):
    """The ETag tells, whatever the time says; another content has another one, even with the same size."""
    ten.check()
    known = rows(ten)
    bucket.put("in/1.jpg", PICTURE)
    bucket.put("in/2.jpg", PICTURE[:-1] + b"x")
    ten.check()
    again = plan(ten, known)
    assert [work.item.key for work in again.work] == ["2.jpg"]


async def test_an_object_that_went_after_the_listing_is_missing(ten: ObjectSource, bucket: Bucket):
    """The others come."""
    ten.check()
    bucket.delete("in/3.jpg")
    found = await bring(ten, SETTINGS)
    assert found["3.jpg"].data == Failure(Reason.MISSING, "not there")
    assert sum(each.data == PICTURE for each in found.values()) == 9


@pytest.mark.parametrize("address", ["s3://no-such-bucket/in", "memory://no/such/folder"])
def test_a_place_that_is_not_there_is_an_error(bucket: Bucket, address: str):  # noqa: ARG001 - the server's settings
    """With what to do."""
    with closing(ObjectSource(address, SETTINGS)) as source, pytest.raises(SourceError, match=r"not there\. Check"):
        source.check()


def test_a_single_object_is_no_folder(memory_root: str):
    """Its listing is empty, or is itself."""
    fsspec.filesystem("memory").pipe_file(f"{memory_root}/a.jpg", PICTURE)
    with closing(ObjectSource(f"{memory_root}/a.jpg", SETTINGS)) as source, pytest.raises(SourceError, match="a file"):
        source.check()


def test_a_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch, bucket: Bucket):
    """After as many attempts as are allowed, and without a word of the credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with closing(ObjectSource(bucket.address, SETTINGS)) as source, pytest.raises(SourceError) as caught:
        source.check()
    assert "2 attempts" in str(caught.value)
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_no_credentials_are_explained(monkeypatch: pytest.MonkeyPatch, bucket: Bucket):
    """With the variables that have them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with closing(ObjectSource(bucket.address, SETTINGS)) as source, pytest.raises(SourceError, match="set AWS_ACCESS"):
        source.check()


def test_a_folder_that_may_not_be_read_hides_nothing(memory_root: str, monkeypatch: pytest.MonkeyPatch):
    """What is known of pictures in it stays, and the other folders are read."""
    files = fsspec.filesystem("memory")
    for key in ("a/1.jpg", "locked/2.jpg", "z/3.jpg"):
        files.pipe_file(f"{memory_root}/{key}", PICTURE)
    with closing(ObjectSource(memory_root, SETTINGS)) as source:
        source.check()
        known = rows(source)
    real = type(files).ls

    def ls(store: Any, path: str, **options: Any) -> Any:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(store, path, **options)

    monkeypatch.setattr(type(files), "ls", ls)
    with closing(ObjectSource(memory_root, SETTINGS)) as source:
        source.check()
        again = plan(source, known)
    assert ([*again.work], [*again.gone], again.unchanged) == ([], [], 3)
    assert [problem.key for problem in again.problems] == ["locked/"]


async def test_nothing_is_logged_of_credentials(ten: ObjectSource, caplog: pytest.LogCaptureFixture):
    """Even when all loggers write everything, the libraries' stay quiet."""
    with caplog.at_level(logging.DEBUG):
        ten.check()
        await bring(ten, SETTINGS)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        assert CREDENTIALS[name] not in caplog.text
