"""What a source lists and brings, and places with the same content for sources of different kinds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.settings import Settings
from indexing.decode import Failure
from indexing.fetching import Fetcher
from indexing.ledger import Row
from indexing.plan import Plan, Work, make_plan, stamp
from indexing.sources import Item, Problem, Source, read_metadata
from indexing.sources.remote import RemoteSource

PICTURE = b"\xff\xd8\xff" + bytes(100)
"""What begins like a picture: enough for a source, not for a decoder."""


@dataclass(frozen=True, slots=True)
class Brought:
    """A file as a decoder would get it, or why it would not, and the words with it."""

    data: bytes | Failure
    words: dict[str, Any] | None


def items(source: Source) -> list[Item]:
    """The items of a source that was checked."""
    return [found for found in source.scan() if isinstance(found, Item)]


def problems(source: Source) -> list[Problem]:
    """The problems of a source that was checked."""
    return [found for found in source.scan() if isinstance(found, Problem)]


def rows(source: Source) -> list[Row]:
    """What a ledger would say after all was indexed."""
    return [Row(item.key, item.size, item.mtime_ns, stamp(item), item.key, "indexed") for item in items(source)]


def plan(source: Source, known: list[Row]) -> Plan:
    """What a run would have to do."""
    return make_plan(source.scan(), known)


async def bring(source: Source, settings: Settings, complaints: list[Problem] | None = None) -> dict[str, Brought]:
    """Everything that a source lists, fetched, by key."""
    works = [Work(item, None) for item in items(source)]
    if not isinstance(source, RemoteSource):
        return {work.item.key: Brought(_read(work.path), _words(work.item)) for work in works}
    found = {}
    fetcher = Fetcher(source, settings)
    async with aclosing(fetcher.fetch(works)) as arriving:
        async for each in arriving:
            data = each.file if isinstance(each.file, Failure) else _read(each.file)
            found[each.task.item.key] = Brought(data, _words(each.task.item))
            each.done()
    if complaints is not None:
        complaints += fetcher.problems
    return found


def tar_of(files: Mapping[str, bytes], *, end: bool = True) -> bytes:
    """A tar of these files, with or without the mark at its end."""
    buffer = io.BytesIO()
    archive = tarfile.open(fileobj=buffer, mode="w")  # noqa: SIM115 - closed below, or left without an end
    for name, data in files.items():
        about = tarfile.TarInfo(name)
        about.size = len(data)
        archive.addfile(about, io.BytesIO(data))
    if end:
        archive.close()
    return buffer.getvalue()


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _words(item: Item) -> dict[str, Any] | None:
    return read_metadata(item.sidecar) if item.sidecar else None
