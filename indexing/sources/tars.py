"""Tar shards in WebDataset's layout: members of one name, suffix by suffix, are a sample's picture and its words.

A shard is read once for its headers, in blocks, and what they say is kept beside the index for as long as the shard
stays as it is: a run that finds it unchanged asks for nothing but its size and ETag. Pictures are then read where they
lie in the shard, those that are wanted, many at once.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from engine.errors import SourceError
from engine.settings import Settings
from indexing.decode import Reason
from indexing.sources import addresses, sidecars
from indexing.sources.folder import is_utf8, printable
from indexing.sources.items import UNKNOWN_SIZE, Problem
from indexing.sources.listing import Entry, Listing, Part
from indexing.sources.remote import RemoteSource, as_json
from indexing.sources.retry import FetchError
from indexing.sources.stores import BLOCK, About, Stores

FOLDER: Final = ".tars"
"""Where headers are kept, under INDEX_PATH; no index can have this name."""
_WORDS: Final = ("json", "txt", "cls")
_AT_ONCE: Final = 8
_VERSION: Final = 1
_HEADER: Final = 512


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a shard: `size` bytes at `offset`."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Shard:
    """What was read of a shard; `fault` says why that is not all of it."""

    address: str
    identity: str
    members: list[Member]
    fault: str = ""


class TarSource(RemoteSource):
    """The shards that a pattern stands for: an address or a path with braces or wildcards, or of one shard."""

    def __init__(self, pattern: str, settings: Settings) -> None:
        super().__init__(addresses.redact(pattern), settings)
        self._pattern = pattern
        self._root = addresses.folder_of(pattern)
        self._kept = settings.index_path / FOLDER

    def _fill(self, listing: Listing) -> Iterable[Problem]:
        problems: list[Problem] = []
        shards = self._shards()
        faults = 0
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="shards") as pool:
            for shard in pool.map(self._read, shards):
                prefix = f"{addresses.redact(shard.address)[len(addresses.redact(self._root)) :]}/"
                problems += _add(listing, shard, prefix)
                if shard.fault:
                    faults += 1
                    sentence = f"The shard is not read to its end: {shard.fault}."
                    problems.append(Problem(prefix, Reason.UNREADABLE, sentence))
        if faults == len(shards) and listing.is_empty():
            raise SourceError(f"None of the {faults} shards of {self.name} can be read: {problems[-1].sentence}")
        return problems

    def _shards(self) -> list[str]:
        try:
            patterns = list(addresses.expand_braces(self._pattern))
        except ValueError as error:
            raise SourceError(f"{self.name}: {error}") from error
        found: set[str] = set()
        for pattern in patterns:
            found.update(
                self._stores.wait(self._stores.matching(pattern)) if addresses.has_wildcards(pattern) else [pattern]
            )
        if not found:
            raise SourceError(f"No tar shards match {self.name}. Check the pattern.")
        return sorted(found)

    def _read(self, address: str) -> _Shard:
        try:
            about = self._stores.wait(self._stores.about(address))
            kept = self._recall(address, about)
            return kept or self._keep(self._scan(address, about))
        except FetchError as error:
            if error.again:
                raise
            return _Shard(address, "", [], error.detail)

    def _scan(self, address: str, about: About) -> _Shard:
        if about.size == UNKNOWN_SIZE:
            return _Shard(address, "", [], "its server does not tell its size")
        members: list[Member] = []
        with _opened(address, about.size, self._stores) as file:
            fault = ""
            try:
                members.extend(read_members(file))
            except tarfile.TarError as error:
                fault = str(error)
        return _Shard(address, about.identity, members, fault)

    # ---------------------------------------------------------------- headers that were read before

    def _recall(self, address: str, about: About) -> _Shard | None:
        try:
            with self._file(address).open("rb") as file:
                if orjson.loads(file.readline()) != [_VERSION, about.identity]:
                    return None
                return _Shard(address, about.identity, [Member(*orjson.loads(line)) for line in file])
        except (OSError, ValueError, TypeError):
            return None

    def _keep(self, shard: _Shard) -> _Shard:
        if shard.fault or not all(is_utf8(member.name) for member in shard.members):
            return shard
        file = self._file(shard.address)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".part")
        with draft.open("wb") as kept:
            kept.write(orjson.dumps([_VERSION, shard.identity]) + b"\n")
            kept.writelines(orjson.dumps([each.name, each.offset, each.size]) + b"\n" for each in shard.members)
        draft.replace(file)
        return shard

    def _file(self, address: str) -> Path:
        return self._kept / f"{sidecars.digest(addresses.redact(address).encode())}.jsonl"

    # ---------------------------------------------------------------- words

    def _parts(self, listing: Listing, key: str) -> Sequence[Part]:
        return listing.words(_sample(key))

    def _combine(self, parts: dict[str, bytes]) -> tuple[bytes, list[str]]:
        words, faults = sidecars.sample_words(parts)
        return as_json(words), faults


def read_members(file: io.BufferedIOBase | io.RawIOBase) -> Iterator[Member]:
    """The regular files in a tar, from its headers alone.

    Raises `tarfile.TarError` where it is damaged, and when it ends without the mark that ends a tar: what is missing
    then must not look like removed.
    """
    archive: Any = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closes with its file
    while (member := archive.next()) is not None:
        archive.members.clear()  # tarfile remembers them all
        if member.isreg() and not member.issparse():
            yield Member(_clean(member.name), member.offset_data, member.size)
    file.seek(archive.offset)
    if file.read(_HEADER) != bytes(_HEADER):
        raise tarfile.ReadError("it ends too early, or is damaged")


class Ranged(io.RawIOBase):
    """A file elsewhere that is read block by block, for somebody who goes through it from its begin to its end."""

    def __init__(self, address: str, size: int, stores: Stores) -> None:
        self._address = address
        self._size = size
        self._stores = stores
        self._at = 0
        self._start = 0
        self._block = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place in bytes; nothing is read yet."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Where it is, in bytes."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Reads from the block at hand, or from the next one."""
        if not self._start <= self._at < self._start + len(self._block):
            wanted = min(BLOCK, self._size - self._at)
            self._start = self._at
            self._block = self._stores.wait(self._stores.read(self._address, self._at, wanted)) if wanted > 0 else b""
        from_ = self._at - self._start
        part = self._block[from_ : from_ + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def _opened(address: str, size: int, stores: Stores) -> io.BufferedIOBase | io.RawIOBase:
    if addresses.is_address(address):
        return io.BufferedReader(Ranged(address, size, stores), _HEADER)
    return Path(address).open("rb")


def _add(listing: Listing, shard: _Shard, prefix: str) -> Iterator[Problem]:
    entries, parts = [], []
    shown = addresses.redact(shard.address)
    for member in shard.members:
        key = prefix + member.name
        version = f"{shard.identity}@{member.offset}"
        suffix = _suffix(member.name)
        if any(part.startswith(".") for part in member.name.split("/")):
            continue
        if not is_utf8(key):
            yield Problem(printable(key), Reason.BAD_NAME, Reason.BAD_NAME.sentence)
        elif suffix in _WORDS:
            parts.append(Part(_sample(key), suffix, shard.address, member.offset, member.size, version))
        elif sidecars.is_listed(member.name.rpartition("/")[2]):
            path = f"{shown}/{member.name}"
            entries.append(Entry(key, path, shard.address, member.offset, member.size, 0, version))
    listing.add(entries)
    listing.add_words(parts)


def _clean(name: str) -> str:
    """A member's name as a path in the shard."""
    return "/".join(part for part in name.split("/") if part not in {"", ".", ".."})


def _sample(key: str) -> str:
    """What the names of all members of a sample begin with: up to the first dot of the last part."""
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()
