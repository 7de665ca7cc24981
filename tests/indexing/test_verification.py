"""Before a generation serves: is all of it there, does the graph find the nearest, do canaries sing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadUserInput
from engine.indexes.exact import ExactIndex
from engine.ports import Hit, Point, VectorQuery, Vectors
from engine.settings import Settings
from indexing.verification import TEXTS, Canary, read_canaries, verify
from tests.support.encoders import PALETTE, WordEncoder

ENCODER = WordEncoder(32)


class Forgetful(ExactIndex):
    """A graph that finds only every second neighbour, as a bad one does."""

    async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
        """All of them to who compares everything."""
        answers = await super().search(queries)
        return [hits if query.exact else hits[::2] for query, hits in zip(queries, answers, strict=True)]


async def filled(index: ExactIndex, captions: Sequence[str]) -> ExactIndex:
    """An index with a picture for each caption, named after its number."""
    vectors = ENCODER.encode_texts(captions)
    await index.upsert(
        [
            Point(str(uuid.UUID(int=n + 1)), vector, {"objectKey": f"{n}.jpg", "metadata": {"caption": captions[n]}})
            for n, vector in enumerate(vectors)
        ]
    )
    return index


@pytest.fixture
async def index() -> ExactIndex:
    """A picture of each colour, and many trees."""
    return await filled(ExactIndex(32), [*PALETTE, *(f"tree {n}" for n in range(200))])


def canaries(folder: Path, *wanted: dict[str, object]) -> Settings:
    """Settings with a file of these searches."""
    file = folder / "canaries.json"
    file.write_text(json.dumps(wanted))
    return Settings(_env_file=None, index_canaries=file)


async def test_a_good_index_is_fit_to_serve(index: ExactIndex):
    """Everything is there and found; texts that suit any pictures and captions of its own are asked."""
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> Vectors:
        asked.extend(texts)
        return ENCODER.encode_texts(texts)

    found = await verify(index, 210, encode, Settings(_env_file=None))
    assert (found.holds, found.failures, found.recall, found.points, found.by) == (True, [], 1.0, 210, "texts")
    assert found.asked == len(asked) > len(TEXTS) + 50
    assert any(text.startswith("tree ") for text in asked)


async def test_a_graph_that_finds_too_little_is_not(tmp_path: Path):
    """The sentence has the figure, the setting that asks for more, and what raises it."""
    index = await filled(Forgetful(32), [f"tree {n}" for n in range(100)])
    found = await verify(index, 100, ENCODER.encode_texts, Settings(_env_file=None))
    assert found.recall == pytest.approx(0.5)
    assert not found.holds
    assert "is 0.500, less than INDEX_MIN_RECALL (0.95)" in found.failures[0]
    assert "SEARCH_EF" in found.failures[0]
    lenient = Settings(_env_file=None, index_min_recall=0.4, index_path=tmp_path)
    assert (await verify(index, 100, ENCODER.encode_texts, lenient)).holds


async def test_equal_pictures_may_be_found_in_each_others_place():
    """Of 40 copies any ten are the nearest ten."""

    class OtherCopies(ExactIndex):
        async def search(self, queries: Sequence[VectorQuery]) -> list[list[Hit]]:
            answers = await super().search([VectorQuery(q.vector, 40, exact=q.exact) for q in queries])
            return [hits[:10] if query.exact else hits[::-1][:10] for query, hits in zip(queries, answers, strict=True)]

    index = await filled(OtherCopies(32), ["red car"] * 40)
    assert (await verify(index, 40, ENCODER.encode_texts, Settings(_env_file=None))).recall == 1.0


async def test_missing_pictures_are_counted(index: ExactIndex):
    """Against what the ledger names."""
    found = await verify(index, 211, ENCODER.encode_texts, Settings(_env_file=None))
    assert found.failures == ["it holds 210 vectors for 211 pictures"]


async def test_without_words_pictures_are_asked(tmp_path: Path):
    """A run that encodes nothing loads no model for this; canaries need one."""
    index = await filled(Forgetful(32), [f"tree {n}" for n in range(100)])
    found = await verify(index, 100, None, canaries(tmp_path, {"query": "x", "expect": ["nothing.jpg"]}))
    assert (found.by, found.asked, found.canaries, len(found.failures)) == ("pictures", 60, 0, 1)
    assert found.recall == pytest.approx(0.5)


async def test_canaries_name_what_they_miss(index: ExactIndex, tmp_path: Path):
    """Each that sings is silent here; a picture counts among as many hits as the canary says."""
    keys = {colour: f"{n}.jpg" for n, colour in enumerate(PALETTE)}
    settings = canaries(
        tmp_path,
        {"query": "red", "expect": [keys["red"]], "within": 1},
        {"query": "blue", "expect": [keys["blue"], "lost.jpg"]},
        {"query": "tree", "expect": [keys["pink"]], "within": 100},
    )
    found = await verify(index, 210, ENCODER.encode_texts, settings)
    assert found.canaries == 3
    assert found.failures == [
        "'blue' does not find lost.jpg among its first 10 hits",
        f"'tree' does not find {keys['pink']} among its first 100 hits",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read"),
        ("{", "no list of searches"),
        ('[{"query": "red"}]', "0.expect"),
        ('[{"query": "", "expect": ["a"]}]', "0.query"),
        ('[{"query": "red", "expect": ["a"], "within": 101}]', "0.within"),
        ('[{"query": "red", "expect": ["a"], "first": 3}]', "0.first"),
    ],
)
def test_a_file_that_is_no_list_of_canaries_is_refused(tmp_path: Path, content: str | None, said: str):
    """The message names the setting, the file and the place, and shows how to write it."""
    file = tmp_path / "canaries.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadUserInput, match="INDEX_CANARIES") as refused:
        read_canaries(file)
    assert said in str(refused.value)
    assert str(file) in str(refused.value)


def test_canaries_are_read(tmp_path: Path):
    """Ten hits are looked at when nothing is said; no file means none."""
    settings = canaries(tmp_path, {"query": "red", "expect": ["a.jpg", "b.jpg"]})
    assert read_canaries(settings.index_canaries) == [Canary(query="red", expect=("a.jpg", "b.jpg"), within=10)]
    assert read_canaries(None) == []


def test_the_texts_are_all_different():
    """Each is a question of its own."""
    assert len(set(TEXTS)) == len(TEXTS) > 30
    assert np.isfinite(ENCODER.encode_texts(TEXTS)).all()
