from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import SourceError
from engine.settings import Settings
from indexing.sources import FolderSource, open_source
from indexing.sources.lists import ListSource
from indexing.sources.objects import ObjectSource
from indexing.sources.tars import TarSource
from tests.support.s3 import Bucket


def test_what_was_typed_tells_the_kind(tmp_path: Path, bucket: Bucket):
    """By its end, then by whether it is an address."""
    kinds = {
        str(tmp_path): FolderSource,
        f"file://{tmp_path}": FolderSource,
        f"{tmp_path}/x.tar": TarSource,
        f"{tmp_path}/x-{{000..009}}.tar": TarSource,
        f"{tmp_path}/*.tar": TarSource,
        "s3://bucket/x.tar": TarSource,
        f"{tmp_path}/x.csv": ListSource,
        "https://host/x.parquet?X-Amz-Signature=1": ListSource,
        f"{bucket.address}/prefix": ObjectSource,
    }
    for text, kind in kinds.items():
        source = open_source(text, Settings(index_path=tmp_path))
        assert type(source) is kind, text
        source.close()


def test_a_folder_of_shards_means_the_shards(tmp_path: Path, bucket: Bucket):
    """If nothing lies beside them but what describes them; a picture beside them makes it a folder."""
    for name in ("0.tar", "1.tar", "1.json", "1.parquet", ".hidden"):
        (tmp_path / name).touch()
        bucket.put(f"shards/{name}", b"")
    for text in (str(tmp_path), f"{bucket.address}/shards"):
        source = open_source(text, Settings())
        assert isinstance(source, TarSource)
        assert source.name == f"{text}/*.tar"
        source.close()
    (tmp_path / "a.jpg").touch()
    bucket.put("shards/a.jpg", b"")
    assert isinstance(open_source(str(tmp_path), Settings()), FolderSource)
    source = open_source(f"{bucket.address}/shards", Settings())
    assert isinstance(source, ObjectSource)
    source.close()


def test_names_have_no_secrets(tmp_path: Path):
    """They end in ledger, manifest and reports."""
    source = open_source("https://user:pass@host/x.csv?X-Amz-Signature=1", Settings(index_path=tmp_path))
    assert source.name == "https://host/x.csv"


@pytest.mark.parametrize(
    ("text", "says"), [("nonsense://x/y", "can't be read"), ("https://host/folder", "Name a list")]
)
def test_what_nothing_reads_is_an_error(text: str, says: str):
    """It says what can be done instead."""
    with pytest.raises(SourceError, match=says):
        open_source(text, Settings()).check()


def test_a_folder_needs_nothing_of_the_others(tmp_path: Path):
    """Their libraries take a second to import."""
    heavy = {"fsspec", "s3fs", "pyarrow", "httpx", "botocore", "aiohttp"}
    code = f"""
import sys
from engine.settings import Settings
import indexing.pipeline
from indexing.sources import open_source
open_source({str(tmp_path)!r}, Settings())
print(*sorted({heavy!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
