from __future__ import annotations

import itertools
from collections.abc import Iterator

import fsspec
import pytest

from indexing.sources import retry
from tests.support.s3 import Bucket, s3_server, use_credentials
from tests.support.web import Web, web_server

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a local S3 server."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket that this process may use."""
    use_credentials(monkeypatch, s3)
    made = Bucket(s3, f"pictures-{next(_NUMBERS)}")
    yield made
    made.close()


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server that goes wrong on purpose."""
    with web_server() as made:
        yield made


@pytest.fixture
def memory_root() -> Iterator[str]:
    """An empty folder of fsspec's store in memory."""
    files = fsspec.filesystem("memory")
    root = f"memory://pictures-{next(_NUMBERS)}"
    yield root
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Pauses between attempts are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry, "FIRST_PAUSE_S", 0.001)
        yield
