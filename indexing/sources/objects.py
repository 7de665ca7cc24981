"""A prefix of a store: S3 and whatever else fsspec lists."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence

from engine.settings import Settings
from indexing.decode import Reason
from indexing.sources import addresses, sidecars
from indexing.sources.items import BAD_SIDECAR, Problem
from indexing.sources.listing import Entry, Listing, Part
from indexing.sources.remote import RemoteSource
from indexing.sources.retry import FetchError
from indexing.sources.stores import Closed, Object

_FILE = "sidecar"
_LINE = "metadata.jsonl"


class ObjectSource(RemoteSource):
    """Every object below a prefix, with the same rules as a folder: what is hidden, what is words, what is litter."""

    def __init__(self, address: str, settings: Settings) -> None:
        self._address = address.rstrip("/")
        super().__init__(addresses.redact(self._address), settings)

    def first_names(self) -> list[str]:
        """The names of some objects of the first ones, none if they can't be listed: `check` will say why."""
        pages = self._stores.pages(self._address)
        try:
            page = self._stores.wait(_next(pages)) or []
        except FetchError:
            return []
        return [found.key for found in page if isinstance(found, Object)]

    def _fill(self, listing: Listing) -> Iterable[Problem]:
        problems: list[Problem] = []
        lines: list[Object] = []
        pages = self._stores.pages(self._address)
        while (page := self._stores.wait(_next(pages))) is not None:
            problems += [_unread(found) for found in page if isinstance(found, Closed)]
            objects = [found for found in page if isinstance(found, Object) and _is_visible(found.key)]
            listing.add(_entry(found) for found in objects if sidecars.is_listed(_name(found.key)))
            listing.add_words(_sidecar(found) for found in objects if _name(found.key).endswith(".json"))
            lines += [found for found in objects if _name(found.key) == sidecars.LINES]
        for found in sorted(lines, key=lambda found: found.key.count("/")):  # the nearest to a picture comes last
            problems += self._read_lines(found, listing)
        return problems

    def _read_lines(self, found: Object, listing: Listing) -> Iterator[Problem]:
        prefix = found.key.removesuffix(sidecars.LINES)
        with tempfile.TemporaryFile() as file:
            try:
                self._stores.wait(self._stores.save(found.address, file))
            except FetchError as error:
                if error.again:
                    raise
                yield Problem(found.key, BAD_SIDECAR, f"It can't be read: {error.detail}.")
                return
            file.seek(0)
            for line in sidecars.read_lines(file, prefix):
                if isinstance(line, str):
                    yield Problem(found.key, BAD_SIDECAR, line)
                else:
                    listing.add_words([Part(line.key, _LINE, data=line.data)])

    def _parts(self, listing: Listing, key: str) -> Sequence[Part]:
        for name in sidecars.names_for(key):
            found = [part for part in listing.words(name) if part.kind == _FILE]
            if found:
                return found
        return [part for part in listing.words(key) if part.kind == _LINE]


async def _next(pages: object) -> list[Object | Closed] | None:
    return await anext(pages, None)  # type: ignore[call-overload, no-any-return]


def _entry(found: Object) -> Entry:
    about = found.about
    path = addresses.redact(found.address)
    return Entry(found.key, path, found.address, 0, about.size, about.mtime_ns, about.version)


def _sidecar(found: Object) -> Part:
    version = found.about.version or str(found.about.mtime_ns)
    return Part(found.key, _FILE, found.address, 0, found.about.size, version)


def _unread(found: Closed) -> Problem:
    return Problem(found.key, Reason.UNREADABLE, f"The folder can't be read: {addresses.redact(found.why)}.")


def _is_visible(key: str) -> bool:
    """Whether nothing on the way to it is hidden, and it is no mark that a console made for an empty folder."""
    return bool(key) and not key.endswith("/") and not any(part.startswith(".") for part in key.split("/"))


def _name(key: str) -> str:
    return key.rpartition("/")[2]
