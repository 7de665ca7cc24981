"""Where pictures come from: a folder, listed in a fixed order, with the words that lie beside its pictures.

Nothing here opens a picture. A source only says which files could be one; `indexing.decode` judges them by content.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import orjson

from engine.errors import SourceError
from indexing.decode import Reason, looks_like_picture

_SIDECAR_SUFFIXES: Final = (".json", ".jsonl")
_LINES: Final = "metadata.jsonl"
_LITTER: Final = frozenset(("thumbs.db", "desktop.ini", "ehthumbs.db"))
_SIDECAR_LIMIT: Final = 2**20
_HEAD_BYTES: Final = 64

BAD_SIDECAR: Final = "bad_sidecar"
"""The reason of a `Problem` whose picture is indexed all the same."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Where the words about one picture are: a file, or a part of one (`offset`, `length` in bytes; length -1: all)."""

    file: str
    offset: int
    length: int
    digest: str


@dataclass(frozen=True, slots=True)
class Item:
    """One file that could be a picture. `key` is its path inside the source, with slashes; `size` is in bytes."""

    key: str
    path: str
    size: int
    mtime_ns: int
    sidecar: Sidecar | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something the listing could not use: a folder, a name, or a sidecar (whose picture is indexed without it)."""

    key: str
    reason: str
    sentence: str


Listed = Item | Problem


class FolderSource:
    """All pictures in a folder and the folders in it.

    Hidden files and folders, sidecars (`.json`, `.jsonl`) and the litter of file managers are not listed. Links are
    followed, but no folder is entered twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def check(self) -> None:
        """Raises `SourceError` unless this is a folder with at least one file that begins like a picture."""
        if not self.path.exists():
            raise SourceError(f"There is no folder {self.path}. Check the path, or whether its disk is mounted.")
        if not self.path.is_dir():
            raise SourceError(f"{self.path} is a file, not a folder. Name the folder that holds it.")
        files = 0
        problems = []
        for listed in self.scan():
            if isinstance(listed, Problem):
                problems.append(listed)
                continue
            files += 1
            try:
                with Path(listed.path).open("rb") as file:
                    if looks_like_picture(file.read(_HEAD_BYTES)):
                        return
            except OSError:
                continue
        unread = f" {problems[0].key or 'It'}: {problems[0].sentence}" if problems else ""
        raise SourceError(
            f"No pictures in {self.path} ({files} other files). Name a folder with JPEG, PNG, WebP, BMP, TIFF, "
            f"GIF, AVIF or HEIC files.{unread}"
        )

    def scan(self) -> Iterator[Listed]:
        """Everything in the folder, sorted by key by code points, read from disk as it is asked for."""
        yield from self._scan(str(self.path), "", set(), ())

    def _scan(
        self, folder: str, prefix: str, entered: set[tuple[int, int]], lines: Sequence[Mapping[str, Sidecar]]
    ) -> Iterator[Listed]:
        try:
            at = Path(folder).stat()
            if (at.st_dev, at.st_ino) in entered:
                return
            entered.add((at.st_dev, at.st_ino))
            with os.scandir(folder) as found:
                entries = {entry.name: entry for entry in found if not entry.name.startswith(".")}
        except OSError as error:
            yield Problem(prefix, Reason.UNREADABLE, f"The folder can't be read: {error.strerror}.")
            return
        if _LINES in entries:
            known, problems = _read_lines(entries[_LINES].path, prefix)
            lines = (*lines, known)
            yield from problems
        for entry in sorted(entries.values(), key=_sort_name):
            name = _sort_name(entry)
            key = prefix + name
            if not _is_utf8(key):
                yield Problem(_printable(key), Reason.BAD_NAME, Reason.BAD_NAME.sentence)
            elif name.endswith("/"):
                yield from self._scan(entry.path, key, entered, lines)
            elif not name.lower().endswith(_SIDECAR_SUFFIXES) and name.lower() not in _LITTER:
                yield from _list_file(entry, key, entries, lines)


def read_metadata(sidecar: Sidecar) -> dict[str, Any]:
    """The words about a picture. Empty if the sidecar has changed into something else since the listing."""
    try:
        data = _read_part(sidecar)
        return _parse(data) if _digest(data) == sidecar.digest else {}
    except (OSError, ValueError):
        return {}


def _list_file(
    entry: os.DirEntry[str], key: str, entries: Mapping[str, os.DirEntry[str]], lines: Sequence[Mapping[str, Sidecar]]
) -> Iterator[Listed]:
    try:
        about = entry.stat()
    except OSError as error:
        yield Problem(key, Reason.UNREADABLE, f"The file can't be read: {error.strerror}.")
        return
    if not stat.S_ISREG(about.st_mode):
        return
    sidecar = next((known[key] for known in reversed(lines) if key in known), None)
    for name in (f"{entry.name}.json", f"{PurePath(entry.name).stem}.json"):
        if name in entries:
            sidecar, problem = _read_file(entries[name].path, key)
            if problem:
                yield problem
            break
    yield Item(key, entry.path, about.st_size, about.st_mtime_ns, sidecar)


def _read_file(path: str, key: str) -> tuple[Sidecar | None, Problem | None]:
    """A picture's own sidecar. One that can't be used still has a digest, so that its repair is noticed."""
    try:
        data = _read_part(Sidecar(path, 0, -1, ""))
        sidecar = Sidecar(path, 0, -1, _digest(data))
        _parse(data)
    except ValueError as error:
        return sidecar, Problem(key, BAD_SIDECAR, f"Indexed without {PurePath(path).name}: {error}.")
    except OSError as error:
        return None, Problem(key, BAD_SIDECAR, f"Indexed without {PurePath(path).name}: {error.strerror}.")
    return sidecar, None


def _read_lines(path: str, prefix: str) -> tuple[dict[str, Sidecar], list[Problem]]:
    """What a `metadata.jsonl` says, by key; each line names its picture, relative to the folder, as "file"."""
    known: dict[str, Sidecar] = {}
    problems = []
    offset = 0
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                begin, offset = offset, offset + len(line)
                if not line.strip():
                    continue
                try:
                    name = _parse(line).get("file")
                    if not isinstance(name, str):
                        raise ValueError('it has no "file"')  # noqa: TRY004, TRY301 - one of several faults of a line
                    known[posixpath.normpath(prefix + name)] = Sidecar(path, begin, len(line), _digest(line))
                except ValueError as error:
                    problems.append(Problem(f"{prefix}{_LINES}", BAD_SIDECAR, f"Line {number} is left out: {error}."))
    except OSError as error:
        problems.append(Problem(f"{prefix}{_LINES}", BAD_SIDECAR, f"It can't be read: {error.strerror}."))
    return known, problems


def _read_part(sidecar: Sidecar) -> bytes:
    with Path(sidecar.file).open("rb") as file:
        file.seek(sidecar.offset)
        return file.read(_SIDECAR_LIMIT + 1 if sidecar.length < 0 else sidecar.length)


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > _SIDECAR_LIMIT:
        raise ValueError(f"it is larger than {_SIDECAR_LIMIT} bytes")
    parsed = orjson.loads(data)
    if not isinstance(parsed, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - callers treat it like any other malformed JSON
    return parsed


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _sort_name(entry: os.DirEntry[str]) -> str:
    """The name as it appears in keys: sorting these sorts the keys of the whole tree."""
    try:
        return f"{entry.name}/" if entry.is_dir() else entry.name
    except OSError:  # a link to itself; listing it as a file reports it
        return entry.name


def _is_utf8(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(key: str) -> str:
    return key.encode("utf-8", "backslashreplace").decode()
