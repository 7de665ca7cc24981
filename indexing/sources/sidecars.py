"""The words that lie beside pictures: which file has them, what counts as well-formed, when they have changed."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

SUFFIXES: Final = (".json", ".jsonl")
LINES: Final = "metadata.jsonl"
LIMIT: Final = 2**20
"""Bytes of one picture's words."""
_LITTER: Final = frozenset(("thumbs.db", "desktop.ini", "ehthumbs.db"))


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Where the words about one picture are on this disk: a file, or a part of one.

    `offset` and `length` are in bytes; length -1 means all of it.
    """

    file: str
    offset: int
    length: int
    digest: str


@dataclass(frozen=True, slots=True)
class Words:
    """The words about a picture of a remote source: a JSON object, empty until they are fetched with the picture."""

    digest: str
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Line:
    """One usable line of a `metadata.jsonl`: the key that it is about, and where it lies in the file, in bytes."""

    key: str
    offset: int
    data: bytes


def is_listed(name: str) -> bool:
    """Whether a file of this name could be a picture: it is neither words nor what file managers leave behind."""
    return not name.lower().endswith(SUFFIXES) and name.lower() not in _LITTER


def names_for(name: str) -> tuple[str, str]:
    """The names of the files that may have a picture's words, the nearer first; `name` may have folders before it."""
    folder, slash, last = name.rpartition("/")
    return f"{name}.json", f"{folder}{slash}{stem(last)}.json"


def stem(name: str) -> str:
    """A file's name without its last suffix."""
    head, _, suffix = name.rpartition(".")
    return head if head and suffix else name


def read_lines(file: Iterable[bytes], prefix: str) -> Iterator[Line | str]:
    """What a `metadata.jsonl` in the folder `prefix` says: its lines, and a sentence for each that can't be used.

    Each line names its picture, relative to the folder, as "file".
    """
    offset = 0
    for number, line in enumerate(file, start=1):
        begin, offset = offset, offset + len(line)
        if not line.strip():
            continue
        try:
            name = parse(line).get("file")
            if not isinstance(name, str):
                raise ValueError('it has no "file"')  # noqa: TRY004, TRY301 - one of several faults of a line
            yield Line(posixpath.normpath(prefix + name), begin, line)
        except ValueError as error:
            yield f"Line {number} is left out: {error}."


def read_metadata(sidecar: Sidecar | Words) -> dict[str, Any]:
    """The words about a picture. Empty if the sidecar has changed into something else since the listing."""
    try:
        if isinstance(sidecar, Words):
            return parse(sidecar.data) if sidecar.data else {}
        data = read_part(sidecar)
        return parse(data) if digest(data) == sidecar.digest else {}
    except (OSError, ValueError):
        return {}


def read_part(sidecar: Sidecar) -> bytes:
    """The bytes of a sidecar on this disk. Raises `OSError`."""
    with Path(sidecar.file).open("rb") as file:
        file.seek(sidecar.offset)
        return file.read(LIMIT + 1 if sidecar.length < 0 else sidecar.length)


def parse(data: bytes) -> dict[str, Any]:
    """A JSON object of at most `LIMIT` bytes. Raises `ValueError` with half a sentence that begins with "it"."""
    if len(data) > LIMIT:
        raise ValueError(f"it is larger than {LIMIT} bytes")
    parsed = orjson.loads(data)
    if not isinstance(parsed, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - callers treat it like any other malformed JSON
    return parsed


def digest(data: bytes) -> str:
    """What tells words apart: 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def sample_words(parts: Mapping[str, bytes]) -> tuple[dict[str, Any], list[str]]:
    """The words of a tar sample from its members by suffix: `json`, `txt` (its caption), `cls` (its class).

    Also a sentence for each that could not be used.
    """
    words: dict[str, Any] = {}
    faults = []
    for suffix, data in sorted(parts.items()):
        try:
            if suffix == "json":
                words = {**parse(data), **words}
            elif len(data) > LIMIT:
                raise ValueError(f"it is larger than {LIMIT} bytes")  # noqa: TRY301 - one of several faults of a part
            else:
                text = data.decode().strip()
                words["caption" if suffix == "txt" else "cls"] = int(text) if text.isdecimal() else text
        except ValueError as error:
            faults.append(f".{suffix}: {error}")
    return words, faults
