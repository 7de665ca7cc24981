"""Is a new generation fit to serve? Asked before it is promoted, and by `sightline generations verify`.

Three questions: are the pictures there that the ledger names; does the graph find what comparing every vector finds,
for searches in words; and do searches that somebody wrote down find the pictures that they must.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from engine.errors import BadUserInput
from engine.indexes.pages import pages_of_ids
from engine.ports import Hit, Point, VectorIndex, VectorQuery, Vectors
from engine.settings import Settings

EncodeTexts = Callable[[Sequence[str]], Vectors]
"""Texts to unit vectors, (n, d)."""

TEXTS: Final = (
    "a dog",
    "a cat playing",
    "a bird in flight",
    "a horse in a field",
    "fish under water",
    "a butterfly on a flower",
    "a red car",
    "a train at a station",
    "a bicycle against a wall",
    "a ship at sea",
    "a plane in the sky",
    "people at a table",
    "a child laughing",
    "a crowd in the street",
    "a portrait of a woman",
    "a man with a hat",
    "a house with a garden",
    "a city at night",
    "a bridge over a river",
    "an old church",
    "a tall building",
    "mountains with snow",
    "a beach at sunset",
    "a forest in autumn",
    "a waterfall",
    "rain on a window",
    "the moon",
    "a plate of food",
    "a cup of coffee",
    "fruit in a bowl",
    "a birthday cake",
    "a bottle of wine",
    "a book on a desk",
    "a computer screen",
    "a musical instrument",
    "shoes on the floor",
    "a painting on a wall",
    "a black and white photograph",
    "something blue",
    "a document with text",
)
"""Searches in words that suit most collections of pictures."""

_CAPTIONS: Final = 60  # of the index's own pictures, asked for beside the texts
_DEPTH: Final = 10
_TOGETHER: Final = 16  # queries in one call
_COMPARED: Final = 4_000_000  # vectors that one call may compare one by one, so that it stays far from any deadline
_NEAR: Final = 1e-5  # scores that differ by less are equal: another picture as near is no worse an answer


class Canary(BaseModel):
    """A search and the pictures, by `objectKey`, that must be among its first hits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str = Field(min_length=1, max_length=512)
    expect: tuple[str, ...] = Field(min_length=1)
    within: int = Field(10, ge=1, le=100)


@dataclass(slots=True)
class Verification:
    """What was found. `recall` is of the true nearest ten over `asked` queries, None for an index without pictures.

    `by` says what was asked, "texts" or "pictures"; `failures` has a sentence for everything that does not hold.
    """

    points: int
    expected: int
    recall: float | None = None
    asked: int = 0
    by: str = "texts"
    canaries: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether it is fit to serve."""
        return not self.failures


def read_canaries(file: Path | None) -> list[Canary]:
    """The searches in a JSON file; none without a file. Raises `BadUserInput` when it can't be read as such."""
    if file is None:
        return []
    try:
        return TypeAdapter(list[Canary]).validate_json(file.read_bytes())
    except OSError as error:
        raise BadUserInput(f"INDEX_CANARIES: {file} can't be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadUserInput(
            f"INDEX_CANARIES: {file} is no list of searches ({where}: {first['msg']}). Write "
            '[{"query": "a red car", "expect": ["cars/1.jpg"], "within": 10}].'
        ) from error


async def verify(index: VectorIndex, expected: int, encode: EncodeTexts | None, settings: Settings) -> Verification:
    """Asks an index that is built and that nobody changes; `expected` is how many pictures it should hold.

    Without `encode` there are no words: the vectors of its own pictures are asked for then, and no canaries.
    """
    found = Verification((await index.info()).points, expected)
    if found.points != expected:
        found.failures.append(f"it holds {found.points} vectors for {expected} pictures")
    if found.points:
        vectors = await questions(index, encode)
        found.by, found.asked = "texts" if encode else "pictures", len(vectors)
        found.recall = recall(*[await answers(index, vectors, exact=exact) for exact in (True, False)])
        if found.recall < settings.index_min_recall:
            found.failures.append(
                f"recall@{_DEPTH} of {found.asked} {found.by} is {found.recall:.3f}, less than INDEX_MIN_RECALL "
                f"({settings.index_min_recall:g}); a higher SEARCH_EF or SEARCH_EF_CONSTRUCT raises it"
            )
    if encode:
        canaries = read_canaries(settings.index_canaries)
        found.canaries = len(canaries)
        found.failures += await _missed(index, canaries, encode)
    return found


async def questions(index: VectorIndex, encode: EncodeTexts | None) -> Vectors:
    """What to ask an index to measure its recall: a hundred texts and its own captions, or its pictures, (n, d)."""
    return await _queries(await _sample(index), encode)


async def answers(index: VectorIndex, vectors: Vectors, *, exact: bool) -> list[list[Hit]]:
    """The ten nearest to each of (n, d) vectors, by comparing all or by the graph; so many at once as memory allows."""
    together = max(min(_COMPARED // max((await index.info()).points, 1), _TOGETHER), 1)
    found: list[list[Hit]] = []
    for start in range(0, len(vectors), together):
        part = vectors[start : start + together]
        found += await index.search([VectorQuery(vector, _DEPTH, exact=exact, payload=False) for vector in part])
    return found


def recall(exact: Sequence[Sequence[Hit]], found: Sequence[Sequence[Hit]]) -> float:
    """The share of the true nearest ten that was found, on average; what is as near as the tenth counts."""
    shares = [
        min(sum(hit.score >= true[-1].score - _NEAR for hit in got), len(true)) / len(true)
        for true, got in zip(exact, found, strict=True)
    ]
    return float(np.mean(shares))


async def _sample(index: VectorIndex) -> list[Point]:
    """Some of its pictures, spread over all: ids are hashes, so their order is no order."""
    every = max((await index.info()).points // _CAPTIONS, 1)
    taken: list[str] = []
    seen = 0
    async for ids in pages_of_ids(index):
        taken += ids[-seen % every :: every]
        seen += len(ids)
    return await index.retrieve(taken[:_CAPTIONS], vectors=True)


async def _queries(sample: Sequence[Point], encode: EncodeTexts | None) -> Vectors:
    if encode is None:
        return np.stack([point.vector for point in sample if point.vector is not None])
    captions = [caption for point in sample if (caption := _caption(point.payload))]
    return await asyncio.to_thread(encode, [*TEXTS, *captions])


def _caption(payload: Any) -> str:
    metadata = payload.get("metadata")
    caption = metadata.get("caption") if isinstance(metadata, dict) else None
    return caption[:512] if isinstance(caption, str) else ""


async def _missed(index: VectorIndex, canaries: Sequence[Canary], encode: EncodeTexts) -> list[str]:
    if not canaries:
        return []
    vectors = await asyncio.to_thread(encode, [canary.query for canary in canaries])
    queries = [VectorQuery(vector, canary.within) for vector, canary in zip(vectors, canaries, strict=True)]
    failures = []
    for canary, hits in zip(canaries, await index.search(queries), strict=True):
        there = {hit.payload.get("objectKey") for hit in hits}
        missing = [key for key in canary.expect if key not in there]
        if missing:
            failures.append(f"{canary.query!r} does not find {', '.join(missing)} among its first {canary.within} hits")
    return failures
