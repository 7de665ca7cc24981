"""What is kept of one file: a row in the ledger and, of a picture, a point in the index and a thumbnail on the disk."""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.ports import Pixels, Point, Vectors
from indexing.decode import Decoded, Failure, Outcome, Reason
from indexing.ledger import Row
from indexing.plan import Work, stamp
from indexing.sources import Problem, read_metadata
from indexing.sources.addresses import file_name

THUMBNAILS: Final = "thumbnails"
_DRAFTS: Final = f"{THUMBNAILS}/.drafts"
_TOGETHER: Final = 500
_NO_PIXELS: Final[Pixels] = np.empty((0, 0, 3), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that was decoded and, if it is a picture, has been or will be encoded to a (d,) vector."""

    work: Work
    outcome: Outcome
    vector: Vectors | None = None

    def encoded(self, vector: Vectors) -> Entry:
        """The picture with its vector, and without the pixels, which nothing needs from then on."""
        assert isinstance(self.outcome, Decoded)  # noqa: S101 - nothing else is encoded
        return Entry(self.work, replace(self.outcome, pixels=_NO_PIXELS), vector)

    def row(self, index_name: str, point: Point | None) -> Row:
        """What the ledger will say of the file, and of the point that is made of it."""
        item, outcome = self.work.item, self.outcome
        if isinstance(outcome, Decoded):
            facts: dict[str, Any] = {
                "state": "indexed",
                "content_hash": outcome.content_hash,
                "width": outcome.width,
                "height": outcome.height,
                "taken_at": outcome.taken_at,
                "metadata": point.payload["metadata"] if point else None,
            }
        else:
            facts = {"state": "skipped", "reason": str(outcome.reason), "detail": outcome.detail or None}
        facts["path"] = self.file_path
        return Row(item.key, item.size, item.mtime_ns, stamp(item), image_id(index_name, item.key), **facts)

    def point(self, index_name: str) -> Point | None:
        """The encoded picture as the index stores it, with the words that lie beside it; None if it is no picture."""
        item, picture = self.work.item, self.outcome
        if not isinstance(picture, Decoded):
            return None
        metadata = read_metadata(item.sidecar) if item.sidecar else {}
        category = metadata.get("category")
        payload = {
            "filePath": self.file_path,
            "fileName": file_name(item.path),
            "objectKey": item.key,
            "width": picture.width,
            "height": picture.height,
            "category": category if isinstance(category, str) else None,
            "takenAt": picture.taken_at,
            "contentHash": picture.content_hash,
            "thumbnail": _thumbnail(picture.content_hash),
            "metadata": metadata,
        }
        return Point(image_id(index_name, item.key), self.vector, payload)

    @property
    def file_path(self) -> str:
        """Where the file lies, as index and catalogue tell it."""
        return self.work.item.path

    @property
    def lost_id(self) -> str | None:
        """The id that has to leave the index, because the file was a picture and is none any more."""
        known = self.work.known
        gone = not isinstance(self.outcome, Decoded) and known is not None and known.state == "indexed"
        return known.id if gone and known and not self.stays else None

    @property
    def stays(self) -> Problem | None:
        """Why the index keeps what it has of a picture whose new version could not be fetched; None if it does not."""
        known, outcome = self.work.known, self.outcome
        if not (isinstance(outcome, Failure) and outcome.reason == Reason.UNREACHABLE):
            return None
        if known is None or known.state != "indexed":
            return None
        sentence = f"What it is now could not be fetched ({outcome.detail}), so the index keeps what it was."
        return Problem(self.work.item.key, Reason.UNREACHABLE, sentence)


def image_id(index_name: str, key: str) -> str:
    """The id of a picture: the same for the same index and key, on every machine, for ever."""
    return str(uuid.uuid5(_namespace(index_name), key))


def write_thumbnails(folder: Path, entries: Iterable[Entry]) -> None:
    """Writes the pictures' thumbnails under an index's folder, each complete or not at all."""
    draft = folder / _DRAFTS / secrets.token_hex(8)  # its own: another worker may write the same picture
    for entry in entries:
        if isinstance(entry.outcome, Decoded):
            path = folder / _thumbnail(entry.outcome.content_hash)
            try:
                _write(draft, path, entry.outcome.thumbnail)
            except FileNotFoundError:
                draft.parent.mkdir(parents=True, exist_ok=True)
                path.parent.mkdir(exist_ok=True)
                _write(draft, path, entry.outcome.thumbnail)


def remove_drafts(folder: Path) -> None:
    """Removes what processes that were killed have left half written; none may be writing."""
    for draft in (folder / _DRAFTS).glob("*"):
        draft.unlink(missing_ok=True)


def remove_thumbnails(folder: Path, content_hashes: Iterable[str]) -> None:
    """Removes what was written of pictures with these contents, in whatever format an earlier version wrote it."""
    for content_hash in content_hashes:
        for file in (folder / _thumbnail(content_hash)).parent.glob(f"{content_hash}.*"):
            file.unlink(missing_ok=True)


def stored_contents(folder: Path) -> Iterator[set[str]]:
    """The hashes of the contents that have a thumbnail under an index's folder, some hundred at a time."""
    for drawer in sorted((folder / THUMBNAILS).glob("[0-9a-f][0-9a-f]")):
        with os.scandir(drawer) as files:
            while page := {file.name.partition(".")[0] for file in islice(files, _TOGETHER)}:
                yield page


@cache
def _namespace(index_name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"sightline:{index_name}")


def _write(draft: Path, path: Path, content: bytes) -> None:
    draft.write_bytes(content)
    draft.replace(path)


def _thumbnail(content_hash: str) -> str:
    return f"{THUMBNAILS}/{content_hash[:2]}/{content_hash}.jpg"
