"""A folder's pictures in a fixed order, with the words that lie beside them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from engine.errors import SourceError
from indexing.decode import HEAD_BYTES, Reason, looks_like_picture
from indexing.sources import sidecars
from indexing.sources.items import BAD_SIDECAR, Item, Listed, Problem
from indexing.sources.sidecars import Sidecar


class FolderSource:
    """All pictures in a folder and the folders in it.

    Hidden files and folders, sidecars (`.json`, `.jsonl`) and the litter of file managers are not listed. Links are
    followed, but no folder is entered twice.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    @property
    def name(self) -> str:
        """The folder's absolute path."""
        return str(self.path)

    def close(self) -> None:
        """Nothing is held."""

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
                    if looks_like_picture(file.read(HEAD_BYTES)):
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
        if sidecars.LINES in entries:
            known, problems = _read_lines(entries[sidecars.LINES].path, prefix)
            lines = (*lines, known)
            yield from problems
        for entry in sorted(entries.values(), key=_sort_name):
            name = _sort_name(entry)
            key = prefix + name
            if not is_utf8(key):
                yield Problem(printable(key), Reason.BAD_NAME, Reason.BAD_NAME.sentence)
            elif name.endswith("/"):
                yield from self._scan(entry.path, key, entered, lines)
            elif sidecars.is_listed(name):
                yield from _list_file(entry, key, entries, lines)


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
    for name in sidecars.names_for(entry.name):
        if name in entries:
            sidecar, problem = _read_file(entries[name].path, key)
            if problem:
                yield problem
            break
    yield Item(key, entry.path, about.st_size, about.st_mtime_ns, sidecar)


def _read_file(path: str, key: str) -> tuple[Sidecar | None, Problem | None]:
    """A picture's own sidecar. One that can't be used still has a digest, so that its repair is noticed."""
    try:
        data = sidecars.read_part(Sidecar(path, 0, -1, ""))
        sidecar = Sidecar(path, 0, -1, sidecars.digest(data))
        sidecars.parse(data)
    except ValueError as error:
        return sidecar, Problem(key, BAD_SIDECAR, f"Indexed without {PurePath(path).name}: {error}.")
    except OSError as error:
        return None, Problem(key, BAD_SIDECAR, f"Indexed without {PurePath(path).name}: {error.strerror}.")
    return sidecar, None


def _read_lines(path: str, prefix: str) -> tuple[dict[str, Sidecar], list[Problem]]:
    """What a `metadata.jsonl` says, by key."""
    known: dict[str, Sidecar] = {}
    problems = []
    try:
        with Path(path).open("rb") as file:
            for found in sidecars.read_lines(file, prefix):
                if isinstance(found, str):
                    problems.append(Problem(f"{prefix}{sidecars.LINES}", BAD_SIDECAR, found))
                else:
                    known[found.key] = Sidecar(path, found.offset, len(found.data), sidecars.digest(found.data))
    except OSError as error:
        problems.append(Problem(f"{prefix}{sidecars.LINES}", BAD_SIDECAR, f"It can't be read: {error.strerror}."))
    return known, problems


def _sort_name(entry: os.DirEntry[str]) -> str:
    """The name as it appears in keys: sorting these sorts the keys of the whole tree."""
    try:
        return f"{entry.name}/" if entry.is_dir() else entry.name
    except OSError:  # a link to itself; listing it as a file reports it
        return entry.name


def is_utf8(key: str) -> bool:
    """Whether a key can be written in JSON."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(key: str) -> str:
    """A key that is not UTF-8, with the bytes at fault written out."""
    return key.encode("utf-8", "backslashreplace").decode()
