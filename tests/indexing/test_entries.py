"""What is kept of one file: ids, rows, points, thumbnails."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest

from indexing.decode import Decoded, Failure, Reason
from indexing.entries import Entry, image_id, remove_drafts, remove_thumbnails, write_thumbnails
from indexing.ledger import Row
from indexing.plan import Work
from indexing.sources import Item

HASH = "ab" * 32
PICTURE = Decoded(HASH, 4, 3, None, np.zeros((8, 8, 3), dtype=np.uint8), b"a thumbnail")


def entry(outcome: Decoded | Failure = PICTURE, known: Row | None = None) -> Entry:
    """A file of the source with what became of it."""
    return Entry(Work(Item("in/a.jpg", "/pictures/in/a.jpg", 5, 6), known), outcome)


def test_ids_never_change():
    """The id follows from the index's name and the key, on every machine and in every version."""
    namespace = uuid.uuid5(uuid.NAMESPACE_URL, "sightline:pets")
    assert image_id("pets", "in/a.jpg") == str(uuid.uuid5(namespace, "in/a.jpg"))
    assert image_id("cars", "in/a.jpg") != image_id("pets", "in/a.jpg")


def test_row_and_point_of_a_picture_have_one_id():
    """The ledger and the index speak of the same thing."""
    encoded = entry().encoded(np.ones(4, dtype=np.float32) / 2)
    point = encoded.point("pets")
    assert point
    row = encoded.row("pets", point)
    assert row.id == point.id
    assert row.content_hash == point.payload["contentHash"] == HASH
    assert (row.path, row.metadata) == (point.payload["filePath"], point.payload["metadata"])
    assert point.vector is encoded.vector


def test_what_is_no_picture_has_a_reason_and_no_point():
    """A bad file is in the ledger only."""
    bad = entry(Failure(Reason.CORRUPT, "why"))
    assert bad.point("pets") is None
    row = bad.row("pets", None)
    assert (row.reason, row.detail, row.path) == ("corrupt", "why", "/pictures/in/a.jpg")


def test_a_picture_that_became_bad_names_what_has_to_go():
    """Only if it was in the index before."""
    known = entry().row("pets", entry().point("pets"))
    assert entry(Failure(Reason.CORRUPT), known).lost_id == known.id
    assert entry(Failure(Reason.CORRUPT)).lost_id is None
    assert entry(PICTURE, known).lost_id is None


def test_thumbnails_are_written_and_removed(tmp_path: Path):
    """One file for each content, nothing half written beside it; of an older format too nothing is left."""
    write_thumbnails(tmp_path, [entry(), entry(Failure(Reason.EMPTY))])
    write_thumbnails(tmp_path, [entry()])
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file.read_bytes() == b"a thumbnail"
    file.with_suffix(".webp").touch()
    remove_thumbnails(tmp_path, [HASH, "cd" * 32])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_thumbnail_half_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process killed before the last step leaves a draft elsewhere, which goes without what others wrote."""
    monkeypatch.setattr(Path, "replace", _die)
    with pytest.raises(InterruptedError):
        write_thumbnails(tmp_path, [entry()])
    monkeypatch.undo()
    (draft,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not (tmp_path / "thumbnails" / HASH[:2] / f"{HASH}.jpg").exists()
    write_thumbnails(tmp_path, [entry()])
    remove_drafts(tmp_path)
    assert not draft.exists()
    assert (tmp_path / "thumbnails" / HASH[:2] / f"{HASH}.jpg").read_bytes() == b"a thumbnail"


def _die(*_: object) -> None:
    raise InterruptedError
