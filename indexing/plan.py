"""What a run has to do: the source's files beside what the ledger knows of them.

Both come sorted by key, so they are compared like two decks of cards, without holding either in memory, nor what is to
be done if that is much.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from indexing.decode import Reason
from indexing.ledger import Row
from indexing.sources import Item, Listed, Problem
from indexing.spool import Spool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """A file to decode, and what is known of it from before; `path` is where it lies, unless it is to be fetched."""

    item: Item
    known: Row | None

    @property
    def path(self) -> str:
        """Where the file lies."""
        return self.item.path


@dataclass(slots=True)
class Plan:
    """What to do: files to decode, rows whose files are only touched, rows whose files are gone.

    `unchanged` counts pictures; `problems` are what the listing could not use.
    """

    work: Spool[Work] = field(default_factory=Spool)
    touched: Spool[Row] = field(default_factory=Spool)
    gone: Spool[Row] = field(default_factory=Spool)
    unchanged: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def nothing_to_do(self) -> bool:
        """Whether the index is what the source is."""
        return not (self.work or self.touched or self.gone)


def make_plan(listed: Iterable[Listed], rows: Iterable[Row]) -> Plan:
    """Compares a listing with rows, both sorted by key.

    A file is unchanged if size, time and stamp are; with another time it is read, if it lies on this machine, and
    touched if its content is the same. A skipped file is tried again if its reason may have passed. Files in a folder
    that can't be read are not gone: nothing is known of them.
    """
    plan = Plan()
    closed: list[str] = []
    for item, row in _pair(_items(listed, plan.problems, closed), rows):
        if item is None:
            if row is not None:
                plan.gone.append(row)
        elif row is None:
            plan.work.append(Work(item, None))
        elif _is_unchanged(item, row):
            plan.unchanged += row.state == "indexed"
        elif _is_touched(item, row):
            plan.touched.append(replace(row, mtime_ns=item.mtime_ns))
        else:
            plan.work.append(Work(item, row))
    if closed:
        missing, plan.gone = plan.gone, Spool()
        for row in missing:
            if row.key.startswith(tuple(closed)):
                plan.unchanged += row.state == "indexed"
            else:
                plan.gone.append(row)
    return plan


def stamp(item: Item) -> str:
    """Changes with the file's path, its sidecar and its version."""
    told = f"{item.path}\0{item.sidecar.digest if item.sidecar else ''}"
    if item.version:
        told += f"\0{item.version}"
    return hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _items(listed: Iterable[Listed], problems: list[Problem], closed: list[str]) -> Iterator[Item]:
    for found in listed:
        if isinstance(found, Item):
            yield found
            continue
        problems.append(found)
        if found.key.endswith("/"):
            closed.append(found.key)


def _pair(items: Iterable[Item], rows: Iterable[Row]) -> Iterator[tuple[Item | None, Row | None]]:
    """Items and rows of the same key side by side, None where one has no other."""
    left, right = iter(items), iter(rows)
    item, row = next(left, None), next(right, None)
    while item or row:
        if row is None or (item is not None and item.key < row.key):
            yield item, None
            item = next(left, None)
        elif item is None or row.key < item.key:
            yield None, row
            row = next(right, None)
        else:
            yield item, row
            item, row = next(left, None), next(right, None)


def _is_unchanged(item: Item, row: Row) -> bool:
    if (item.size, item.mtime_ns, stamp(item)) != (row.size, row.mtime_ns, row.stamp):
        return False
    if row.reason is None or Reason(row.reason).lies_in_file:
        return True
    return row.reason == Reason.UNREADABLE and not item.remote and not os.access(item.path, os.R_OK)


def _is_touched(item: Item, row: Row) -> bool:
    if item.remote or row.state != "indexed" or (item.size, stamp(item)) != (row.size, row.stamp):
        return False
    try:
        with Path(item.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == row.content_hash
    except OSError:
        return False
