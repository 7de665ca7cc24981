"""Running checks: each gets its verdict, and each is able to say no. `tests/test_check.py` has the command."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from engine.conformance.check import PARTS, Check, Part, verdicts
from engine.conformance.expectation import Broken, expect, refused
from engine.conformance.vector_index import DIMENSION, POINTS, READING, WRITING
from engine.errors import BadUserInput, IndexUnavailable
from engine.indexes.exact import ExactIndex
from engine.ports import Filter, Hit, Point, VectorIndex, VectorQuery
from engine.settings import Settings


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_is_named_by_its_setting(part: Part):
    """And by nothing else."""
    assert not part.is_named(Settings(_env_file=None))
    assert part.is_named(Settings(_env_file=None, **{part.setting.lower(): "http://127.0.0.1:9"}))


async def test_one_no_does_not_hide_the_other_verdicts():
    """Broken promises, our errors and faults in a check are each told, in order."""

    async def holds() -> None:
        expect(True, "never said")

    async def breaks() -> None:
        expect(False, "two and two are five")

    async def fails() -> None:
        raise IndexUnavailable("it went away")

    async def is_wrong() -> None:
        raise ZeroDivisionError

    @asynccontextmanager
    async def checks(_settings: Settings) -> AsyncIterator[Sequence[Check]]:
        yield [("adds", breaks), ("stays", fails), ("is right", is_wrong), ("holds", holds)]
        raise IndexUnavailable("something is left")

    part = Part("Engine", "ENGINE_URL", "it is here", checks)
    found = [verdict async for verdict in verdicts(part, Settings(_env_file=None))]
    assert [(verdict.check, verdict.holds, verdict.reason) for verdict in found] == [
        ("adds", False, "two and two are five"),
        ("stays", False, "it went away"),
        ("is right", False, "the check itself failed: ZeroDivisionError()"),
        ("holds", True, ""),
        ("can be reached", False, "something is left"),
    ]


async def test_a_part_that_can_not_be_reached_is_one_no():
    """Whether one of our errors says so or a check does."""

    @asynccontextmanager
    async def checks(_settings: Settings) -> AsyncIterator[Sequence[Check]]:
        expect(False, "nobody is there")
        yield []

    part = Part("Engine", "ENGINE_URL", "it is here", checks)
    [found] = [verdict async for verdict in verdicts(part, Settings(_env_file=None))]
    assert (found.check, found.holds, found.reason) == ("can be reached", False, "nobody is there")


# ---------------------------------------------------------------- the checks can fail


class Unsorted(ExactIndex):
    """Gives the worst hit first."""

    async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        return [hits[::-1] for hits in await super().search(queries)]


class Rough(ExactIndex):
    """Scores are a little wrong."""

    async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        return [[replace(hit, score=hit.score + 1e-4) for hit in hits] for hits in await super().search(queries)]


class Unfiltered(ExactIndex):
    """Takes no notice of filters."""

    async def count(self, filter: Filter | None = None) -> int:  # noqa: ARG002
        return await super().count(None)


class Forgetful(ExactIndex):
    """Drops the last point of every write."""

    async def upsert(self, points: Sequence[Point]) -> None:
        await super().upsert(points[:-1])


class Stubborn(ExactIndex):
    """Deletes nothing."""

    async def delete(self, ids: Sequence[str]) -> None:
        pass


class Rounding(ExactIndex):
    """Returns whole numbers for real ones."""

    async def retrieve(self, ids: Sequence[str], *, vectors: bool = False, payload: bool = True) -> list[Point]:
        found = await super().retrieve(ids, vectors=vectors, payload=payload)
        return [replace(point, payload={**point.payload, "real": 1}) for point in found]


@pytest.mark.parametrize(
    ("defective", "broken"),
    [
        (Unsorted, "searches_return_the_nearest_with_their_cosines"),
        (Rough, "random_searches_under_random_filters_agree_with_the_truth"),
        (Unfiltered, "filters_admit_what_the_reference_admits"),
        (Forgetful, "more_points_than_one_page_or_batch_holds_are_all_there"),
        (Stubborn, "deleted_points_are_gone"),
        (Rounding, "payloads_come_back_as_they_were"),
    ],
)
async def test_a_defect_breaks_the_behaviour_that_forbids_it(defective: type[ExactIndex], broken: str):
    """The checks are able to say no."""
    [behaviour] = [found for found in (*READING, *WRITING) if found.__name__ == broken]

    async def make(dimension: int) -> VectorIndex:
        return defective(dimension)

    index = defective(DIMENSION)
    await index.upsert(POINTS)
    check: Callable[..., Awaitable[None]] = behaviour
    with pytest.raises(Broken):
        await check(index if behaviour in READING else make)


async def test_a_refusal_of_another_kind_is_a_no():
    """The right error for the wrong reason, the wrong error and no error are told apart."""
    with pytest.raises(Broken, match="does not speak of 'shape'"), refused(BadUserInput, "shape", "a point"):
        raise BadUserInput("no")
    with pytest.raises(Broken, match="IndexUnavailable, not BadUserInput"), refused(BadUserInput, "shape", "a point"):
        raise IndexUnavailable("no")
    with pytest.raises(Broken, match="a point: it was accepted"), refused(BadUserInput, "shape", "a point"):
        pass
