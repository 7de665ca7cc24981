"""What a ledger must do, as checks that anybody can run against a real database: `sightline check`, and the tests.

Each check is given two ledgers of different, new indexes in one database and raises `Broken` with a sentence if the
database does something else. Its name says what is checked.

    for check in CHECKS:
        with scratch(settings) as ledgers:
            check(*ledgers)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sqlalchemy.exc import IntegrityError

from engine.conformance.expectation import Broken, expect, expect_equal
from engine.settings import Settings
from indexing.database import Database
from indexing.ledger import FILE, Build, Ledger, Row
from indexing.sources.items import Problem

Check = Callable[[Ledger, Ledger], None]

_FIRST: Final = "20260101-000000-000000-0000"
_SECOND: Final = "20260102-000000-000000-0000"
_WORKERS: Final = 4
# Sorted by code point, and otherwise by every language; above a page of a listing with the numbered ones.
_KEYS: Final = ["A.png", "Z/a.png", "a b.png", "a-b.png", "a.png", "a/b.png", "aB.png", "ab.png", "b.png", "z.png"]
_FOREIGN: Final = ["\u00e4.png", "\u00e9.png", "\u65e5.png", "\uff21.png", "\U0001f600.png"]


@contextmanager
def scratch(settings: Settings) -> Iterator[tuple[Ledger, Ledger]]:
    """Two ledgers with nothing in them in the database that the settings name; afterwards nothing is left of them.

    Without one it is a SQLite file in a temporary folder. Raises what `Ledger.open` does.
    """
    with TemporaryDirectory() as folder:
        database = Database.named(settings, Path(folder) / FILE)
        names = [f"check-{secrets.token_hex(8)}" for _ in range(2)]
        try:
            ledgers = Ledger(database, names[0]), Ledger(database, names[1])
            try:
                yield ledgers
            finally:
                for ledger in ledgers:
                    ledger.erase()
        finally:
            database.close()


def a_record_comes_back_whole(ledger: Ledger, _: Ledger) -> None:
    """Every fact of a picture and of a skipped file comes back as it was recorded, the words beside it included."""
    words = {"category": "cat", "n": [1, 2.5, None, True, {"\u65e5\u672c": "\U0001f600"}], "empty": {}}
    picture = replace(_picture("a.png"), size=2**40, taken_at="2026-01-02T03:04:05Z", metadata=words)
    bad = Row("b.png", 0, -1, "stamp", "id", "skipped", reason="corrupt", detail="why", path="/in/b.png")
    _adopt(ledger, _FIRST)
    ledger.record(_FIRST, [bad, picture])
    expect_equal(list(ledger.rows(_FIRST, whole=True)), [picture, bad], "the rows that were recorded")
    expect_equal(list(ledger.rows(_FIRST)), [replace(picture, metadata=None), bad], "the rows without their metadata")


def what_the_database_cannot_hold_is_replaced(ledger: Ledger, _: Ledger) -> None:
    """NUL characters and lone surrogates in words and messages cost a character, never the batch."""
    odd = replace(_picture("a.png"), path="/in/\udcff/a.png", metadata={"a\0": ["\0b", {"c": "\ud800"}]})
    bad = Row("b.png", 1, 1, "stamp", "id", "skipped", reason="corrupt", detail="at \0 byte")
    _adopt(ledger, _FIRST)
    ledger.record(_FIRST, [odd, bad])
    found = list(ledger.rows(_FIRST, whole=True))
    expect_equal([row.key for row in found], ["a.png", "b.png"], "the keys of both rows")
    expect_equal(found[0].metadata, {"a\ufffd": ["\ufffdb", {"c": "?"}]}, "the words with replacements")
    expect_equal((found[0].path, found[1].detail), ("/in/?/a.png", "at \ufffd byte"), "the texts with replacements")


def rows_are_listed_by_code_point(ledger: Ledger, _: Ledger) -> None:
    """Listings are sorted as Python sorts strings, whatever language the database speaks, over many pages."""
    keys = [*_KEYS, *_FOREIGN, *(f"n{number}.png" for number in range(2500))]
    _adopt(ledger, _FIRST)
    ledger.record(_FIRST, [_picture(key) for key in keys])
    expect_equal([row.key for row in ledger.rows(_FIRST)], sorted(keys), "the keys in the order of their code points")
    pages = list(ledger.indexed(_FIRST))
    expect(max(map(len, pages)) < len(keys), f"all of {len(keys)} ids are on one page")
    named = [(id_, key) for page in pages for id_, key in page.items()]
    expect_equal(named, [(f"id of {key}", key) for key in sorted(keys)], "the id of every picture")


def contents_are_looked_up_by_key(ledger: Ledger, _: Ledger) -> None:
    """Those of pictures that are indexed, by id; other files and unknown ones are left out, however many are asked."""
    keys = [f"{number:04}.png" for number in range(1200)]
    _adopt(ledger, _FIRST)
    ledger.record(_FIRST, [_picture(key) for key in keys])
    ledger.record(_FIRST, [Row("0001.png", 2, 2, "other", "id of 0001.png", "skipped", reason="truncated")])
    wanted = {f"id of {key}": _picture(key).content_hash for key in keys if key != "0001.png"}
    expect_equal(ledger.contents(_FIRST, [*keys, "unknown.png"]), wanted, "the contents of all pictures")
    expect_equal(ledger.contents(_FIRST, []), {}, "the contents of none")
    expect_equal(ledger.contents(_SECOND, keys), {}, "the contents of another generation")


def recording_again_replaces(ledger: Ledger, _: Ledger) -> None:
    """A file has one row: the last that was recorded of it, with nothing left of the one before."""
    _adopt(ledger, _FIRST)
    ledger.record(_FIRST, [_picture("a.png"), _picture("b.png")])
    now_bad = Row("a.png", 2, 2, "other", "id of a.png", "skipped", reason="truncated")
    for _again in range(2):
        ledger.record(_FIRST, [now_bad])
    expect_equal(list(ledger.rows(_FIRST, whole=True)), [now_bad, _picture("b.png")], "the last rows")
    expect_equal(ledger.counts(_FIRST), {"indexed": 1, "skipped": 1}, "the counts of the last rows")
    expect_equal(ledger.skipped(_FIRST), {"truncated": ["a.png"]}, "the skipped files by reason")


def touching_changes_the_time_alone(ledger: Ledger, _: Ledger) -> None:
    """A file with a new time and its old content keeps all that is known of it; one with another content is left."""
    _adopt(ledger, _FIRST)
    ledger.record(_FIRST, [_picture("a.png"), _picture("b.png")])
    other = replace(_picture("b.png"), content_hash="ff" * 32, mtime_ns=9)
    ledger.touch(_FIRST, [replace(_picture("a.png"), mtime_ns=9, metadata=None), other])
    wanted = [replace(_picture("a.png"), mtime_ns=9), _picture("b.png")]
    expect_equal(list(ledger.rows(_FIRST, whole=True)), wanted, "the rows with one new time")


def a_failed_batch_leaves_nothing(ledger: Ledger, _: Ledger) -> None:
    """When one row of a batch is refused, no row of it is written."""
    _adopt(ledger, _FIRST)
    ledger.record(_FIRST, [_picture("a.png")])
    refused = replace(_picture("c.png"), stamp=None)  # type: ignore[arg-type]  # what must not be
    try:
        ledger.record(_FIRST, [replace(_picture("a.png"), size=7), _picture("b.png"), refused])
    except IntegrityError:
        pass
    else:
        raise Broken("a row without a stamp was accepted")
    expect_equal(list(ledger.rows(_FIRST, whole=True)), [_picture("a.png")], "the rows from before the batch")


def a_generation_starts_with_the_rows_of_its_base(ledger: Ledger, _: Ledger) -> None:
    """It has them once, however many workers begin it, and what was removed from it since does not come back."""
    _adopt(ledger, _FIRST)
    ledger.record(_FIRST, [_picture("a.png"), _picture("b.png")])
    with ThreadPoolExecutor(_WORKERS) as workers:
        list(workers.map(lambda _: _adopt(ledger, _SECOND, _FIRST), range(_WORKERS)))
    expect_equal(list(ledger.rows(_SECOND, whole=True)), list(ledger.rows(_FIRST, whole=True)), "the rows of the base")
    ledger.remove(_SECOND, ["a.png", "never.png"])
    _adopt(ledger, _SECOND, _FIRST)
    expect_equal([row.key for row in ledger.rows(_SECOND)], ["b.png"], "the rows that were left")
    expect_equal([row.key for row in ledger.rows(_FIRST)], ["a.png", "b.png"], "the base as it was")


def workers_at_the_same_files_leave_each_once(ledger: Ledger, _: Ledger) -> None:
    """Several workers record and remove the same files at once, in different orders: no error, and no file twice."""
    keys = [f"{number:04}.png" for number in range(300)]
    _adopt(ledger, _FIRST)

    def work(number: int) -> None:
        mine = keys[number:] + keys[:number] if number % 2 else list(reversed(keys))
        for start in range(0, len(mine), 50):
            part = mine[start : start + 50]
            ledger.record(_FIRST, [_picture(key) for key in part])
            ledger.remove(_FIRST, part[:10])
            ledger.record(_FIRST, [_picture(key) for key in part[:10]])

    with ThreadPoolExecutor(_WORKERS) as workers:
        list(workers.map(work, range(_WORKERS)))
    ledger.record(_FIRST, [_picture(key) for key in keys])  # what a slower worker removed last
    expect_equal(list(ledger.rows(_FIRST, whole=True)), [_picture(key) for key in keys], "every file once")


def forgotten_generations_leave_what_others_share(ledger: Ledger, _: Ledger) -> None:
    """The contents that only they had are named, their rows go, and those of other generations stay."""
    _adopt(ledger, _FIRST)
    ledger.record(_FIRST, [_picture("a.png"), _picture("b.png"), replace(_picture("c.png"), content_hash=None)])
    _adopt(ledger, _SECOND, _FIRST)
    ledger.record(_SECOND, [replace(_picture("a.png"), content_hash="aa" * 32)])
    expect_equal(_only_in(ledger, _FIRST), [_picture("a.png").content_hash], "the content that only the first has")
    known = {"aa" * 32, *(f"hash of {key}" for key in ("a.png", "b.png"))}
    expect_equal(ledger.named([*known, "hash of c.png"]), known, "the contents that some file has")
    ledger.forget([_FIRST])
    expect_equal(ledger.named(known), known - {"hash of a.png"}, "the contents that some file has still")
    expect_equal([build.generation for build in ledger.builds()], [_SECOND], "the generation that was kept")
    expect_equal(list(ledger.rows(_FIRST)), [], "no rows of the other")
    expect_equal(len(list(ledger.rows(_SECOND))), 3, "the rows that were kept")


def indexes_do_not_see_each_other(ledger: Ledger, other: Ledger) -> None:
    """Two indexes in one database have nothing in common, not even contents or generations of one name."""
    _adopt(ledger, _FIRST)
    _adopt(other, _FIRST)
    ledger.record(_FIRST, [_picture("a.png")])
    other.record(_FIRST, [_picture("a.png"), _picture("b.png")])
    run = other.start_run("/in")
    expect_equal(_only_in(ledger, _FIRST), [_picture("a.png").content_hash], "contents that no generation here shares")
    ledger.forget([_FIRST])
    ledger.erase()
    expect_equal(other.counts(_FIRST), {"indexed": 2, "skipped": 0}, "the counts of the other index")
    expect_equal([build.generation for build in other.builds()], [_FIRST], "the generations of the other index")
    expect_equal([found.id for found in other.runs()], [run], "the runs of the other index")


def runs_are_kept(ledger: Ledger, _: Ledger) -> None:
    """Every run is on record with what it did, one that was killed without an outcome."""
    killed = ledger.start_run("/in", generation=_FIRST, shard_index=1, shard_count=4)
    done = ledger.start_run("/in")
    ledger.end_run(done, "done", generation=_FIRST, indexed=3, unchanged=2, skipped=1, deleted=0)
    runs = {run.id: run for run in ledger.runs()}
    expect_equal(set(runs), {killed, done}, "both runs")
    expect_equal(
        (runs[killed].outcome, runs[killed].shard_index, runs[killed].shard_count), (None, 1, 4), "the killed run"
    )
    expect_equal((runs[done].outcome, runs[done].indexed, runs[done].skipped), ("done", 3, 1), "the run that was done")


def generations_keep_what_was_noted(ledger: Ledger, _: Ledger) -> None:
    """A generation's model and promotion are noted once, however often that is said."""
    expect_equal(ledger.build(_FIRST), None, "no generation before it is begun")
    _adopt(ledger, _FIRST)
    for _again in range(2):
        ledger.name_model(_FIRST, "another")
        ledger.mark_promoted(_FIRST)
    expect_equal(ledger.build(_FIRST), Build(_FIRST, None, "another", "/in", promoted=True), "the generation as noted")


def shards_are_done_when_their_runs_are(ledger: Ledger, _: Ledger) -> None:
    """Counted by the newest division of the source, until they are opened again or their generation is begun anew."""
    expect_equal(ledger.shards(_FIRST), (0, set()), "the shards before a run began")
    _adopt(ledger, _FIRST)
    ledger.end_run(ledger.start_run("/in", generation=_FIRST, shard_count=2), "done")
    runs = [ledger.start_run("/in", generation=_FIRST, shard_index=index, shard_count=3) for index in (0, 1, 1)]
    expect_equal(ledger.shards(_FIRST), (3, {0, 1, 2}), "the shards while their runs go on")
    ledger.end_run(runs[0], "done")
    ledger.end_run(runs[1], "failed")
    ledger.end_run(runs[2], "done")
    ledger.end_run(ledger.start_run("/in", generation=_SECOND, shard_index=2, shard_count=3), "done")
    expect_equal(ledger.shards(_FIRST), (3, {2}), "the shards that are not done")
    ledger.reopen(_FIRST, {1})
    expect_equal(ledger.shards(_FIRST), (3, {1, 2}), "the shards after one was opened again")
    ledger.forget([_FIRST])
    _adopt(ledger, _FIRST)
    expect_equal(ledger.shards(_FIRST), (3, {0, 1, 2}), "the shards of a generation that was begun anew")


def problems_are_kept_by_shard(ledger: Ledger, other: Ledger) -> None:
    """What a shard's listing met replaces what it met before, and all that older divisions of the source met."""
    _adopt(ledger, _FIRST)
    met = [Problem(key, "unreadable", f"{key} can't be read") for key in ("b", "a", "a/", "c\0\ud800")]
    ledger.note_problems(_FIRST, met)
    for shard, told in ((0, met[:1]), (1, met[1:]), (1, met[1:3]), (1, met[1:3])):
        ledger.note_problems(_FIRST, told, shard_index=shard, shard_count=2)
    expect_equal(ledger.problems(_FIRST), [met[1], met[2], met[0]], "the problems of both shards")
    other.note_problems(_FIRST, met)
    expect_equal(other.problems(_FIRST)[-1].key, "c\ufffd?", "a key that a database can't store")
    ledger.note_problems(_FIRST, [])
    expect_equal(ledger.problems(_FIRST), [], "the problems after an undivided listing without any")
    expect_equal(len(other.problems(_FIRST)), 4, "the problems of the other index")
    other.forget([_FIRST])
    expect_equal(other.problems(_FIRST), [], "the problems of a generation that is gone")


CHECKS: Final[tuple[Check, ...]] = (
    a_record_comes_back_whole,
    what_the_database_cannot_hold_is_replaced,
    rows_are_listed_by_code_point,
    contents_are_looked_up_by_key,
    recording_again_replaces,
    touching_changes_the_time_alone,
    a_failed_batch_leaves_nothing,
    a_generation_starts_with_the_rows_of_its_base,
    workers_at_the_same_files_leave_each_once,
    forgotten_generations_leave_what_others_share,
    indexes_do_not_see_each_other,
    runs_are_kept,
    generations_keep_what_was_noted,
    shards_are_done_when_their_runs_are,
    problems_are_kept_by_shard,
)
"""All of them; none needs another to have run."""


def _picture(key: str) -> Row:
    return Row(
        key,
        1,
        2,
        "stamp",
        f"id of {key}",
        "indexed",
        f"hash of {key}",
        None,
        None,
        4,
        3,
        None,
        f"/in/{key}",
        {"k": key},
    )


def _only_in(ledger: Ledger, generation: str) -> list[str]:
    return [content for page in ledger.only_in([generation]) for content in page]


def _adopt(ledger: Ledger, generation: str, base: str | None = None) -> None:
    ledger.adopt(Build(generation, base, "model", "/in", promoted=False))
