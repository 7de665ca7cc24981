"""What all sources have in common that are listed first and fetched later."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Final

import orjson

from engine.errors import SourceError, SourceUnavailable
from engine.settings import Settings
from indexing.decode import Reason
from indexing.sources import sidecars
from indexing.sources.items import BAD_SIDECAR, Item, Listed, Problem
from indexing.sources.listing import Listing, Part
from indexing.sources.retry import FetchError
from indexing.sources.sidecars import Words
from indexing.sources.stores import Sink, Stores

_PICTURES: Final = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or HEIC files"


class RemoteSource(ABC):
    """A source whose listing is made by `check` and kept until `close`, and whose pictures are brought by `fetch`."""

    in_one_place: ClassVar[bool] = True
    """Whether all pictures come from one place, so that none of them can be had while it does not answer."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._name = name
        self._stores = Stores(settings)
        self._settings = settings
        self._listing: Listing | None = None
        self._problems: list[Problem] = []
        self._busy = threading.Lock()

    @property
    def name(self) -> str:
        """What was typed, with absolute paths and without secrets."""
        return self._name

    def check(self) -> None:
        """Lists the source anew. Raises `SourceError` if that fails or nothing is there."""
        with self._busy:
            listing = Listing()
            try:
                problems = self._filled(listing)
            except BaseException:
                listing.close()
                raise
            if self._listing:
                self._listing.close()
            self._listing, self._problems = listing, problems

    def _filled(self, listing: Listing) -> list[Problem]:
        try:
            problems = sorted(self._fill(listing), key=lambda problem: problem.key)
        except FetchError as error:
            kind = SourceUnavailable if error.reason == Reason.UNREACHABLE else SourceError
            raise kind(
                f"{self.name} can't be listed: {error.detail}. Check the address, the credentials and the network, "
                "then run the same command again. The index is as it was."
            ) from error
        if listing.is_empty():
            unread = f" {problems[0].key}: {problems[0].sentence}" if problems else ""
            raise SourceError(f"No pictures in {self.name}. Name a place with {_PICTURES}.{unread}")
        return problems

    def scan(self) -> Iterator[Listed]:
        """Problems first, then everything that `check` found, sorted by key."""
        if self._listing is None:
            self.check()
        listing = self._opened()
        yield from self._problems
        worded = listing.has_words()
        for entry in listing.entries():
            parts = self._parts(listing, entry.key) if worded else ()
            words = Words(_identity(parts)) if parts else None
            yield Item(entry.key, entry.path, entry.size, entry.mtime_ns, words, entry.version, entry.remote)

    async def fetch(self, item: Item, sink: Sink) -> tuple[Item, list[Problem]]:
        """Brings a picture into a sink unless it lies on this machine, and its words into the item.

        To be awaited in the stores' loop. Raises `FetchError`; words that can't be used are a problem and no error.
        """
        listing = self._opened()
        entry = listing.entry(item.key)
        if entry is None:
            raise RuntimeError(f"{item.key} is not in the listing")
        if entry.remote:
            await self._stores.download(entry.address, entry.offset, entry.size, sink)
        if not isinstance(item.sidecar, Words):
            return item, []
        data, faults = self._combine({part.kind: await self._bytes(part) for part in self._parts(listing, item.key)})
        problems = [Problem(item.key, BAD_SIDECAR, f"Indexed without some of its words: {fault}.") for fault in faults]
        return replace(item, sidecar=replace(item.sidecar, data=data)), problems

    def close(self) -> None:
        """Ends what is under way, closes connections and drops the listing."""
        self._stores.close()
        with self._busy:
            if self._listing:
                self._listing.close()
                self._listing = None

    @abstractmethod
    def _fill(self, listing: Listing) -> Iterable[Problem]:
        """Lists the source. Runs in a thread. Raises `FetchError` or `SourceError` if it can't be listed completely."""

    @abstractmethod
    def _parts(self, listing: Listing, key: str) -> Sequence[Part]:
        """The words that belong to a picture, or what they are made of."""

    def _combine(self, parts: dict[str, bytes]) -> tuple[bytes, list[str]]:
        """A picture's words as JSON from its parts by kind, and what is wrong with them."""
        faults = []
        for kind, data in parts.items():
            try:
                sidecars.parse(data)
            except ValueError as error:
                faults.append(f"{kind}: {error}")
            else:
                return data, faults
        return b"", faults

    async def _bytes(self, part: Part) -> bytes:
        if part.data is not None:
            return part.data
        wanted = min(part.size, sidecars.LIMIT + 1)
        return await self._stores.read(part.address, part.offset, wanted) if wanted else b""

    def _opened(self) -> Listing:
        if self._listing is None:
            raise RuntimeError("the source was closed, or not checked")
        return self._listing


def as_json(words: dict[str, object]) -> bytes:
    """Words as they are kept; dates and the like become text."""
    return orjson.dumps(words, default=str, option=orjson.OPT_NON_STR_KEYS)


def _identity(parts: Sequence[Part]) -> str:
    """Changes when any part does: told by what is in it, else by its version in the store."""
    elsewhere = (f"{part.kind}-{part.size}-{part.version}".encode() for part in parts if part.data is None)
    return sidecars.digest(b"\0".join([*(part.data for part in parts if part.data is not None), *elsewhere]))
