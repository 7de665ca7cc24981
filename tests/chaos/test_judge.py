"""Whoever judges must be able to say no: answers and folders that are a little wrong."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.chaos.album import Album, Expected
from tests.chaos.searches import Book
from tests.support.encoders import WordEncoder


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    """What an index of a small folder holds."""
    return Album(tmp_path / "pictures", "default", Random(5), 30).expected()


def right_answer(expected: Expected, query: str) -> dict[str, Any]:
    """What a search has to answer."""
    words = WordEncoder().encode_texts([query])[0]
    scored = [(float(picture.vector @ words), key) for key, picture in expected.pictures.items()]
    edges = []
    for score, key in sorted(scored, reverse=True)[:10]:
        picture = expected.pictures[key]
        node = {"id": picture.id, "objectKey": key, "contentHash": picture.content_hash, "category": picture.category}
        edges.append({"score": score, "node": node})
    return {"edges": edges, "totalCount": {"value": len(expected.pictures), "relation": "EXACT"}}


def test_a_right_answer_is_right(expected: Expected):
    """The nearest ten, in their order, with what belongs to them."""
    Book(expected).check("red", right_answer(expected, "red"))


@pytest.mark.parametrize("wrong", ["missing", "twice", "swapped", "stale", "stranger", "score", "count"])
def test_a_wrong_answer_is_found_out(expected: Expected, wrong: str):
    """Whatever it is that is wrong with it."""
    answer = right_answer(expected, "red")
    edges = answer["edges"]
    match wrong:
        case "missing":
            del edges[3]
        case "twice":
            edges[4] = edges[3]
        case "swapped":
            edges[0], edges[9] = edges[9], edges[0]
        case "stale":
            edges[2]["node"]["contentHash"] = "0" * 64
        case "stranger":
            edges[2]["node"]["id"] = "00000000-0000-0000-0000-000000000000"
        case "score":
            edges[2]["score"] += 0.01
        case "count":
            answer["totalCount"]["value"] += 1
    with pytest.raises(AssertionError):
        Book(expected).check("red", answer)


def test_what_is_expected_follows_the_folder(tmp_path: Path):
    """Every file is a picture or has a reason, through all ways to change it."""
    album = Album(tmp_path / "pictures", "default", Random(6), 60)
    before = album.expected()
    album.change(200)
    after = album.expected()
    assert before.pictures.keys() != after.pictures.keys()
    assert {"empty", "not_an_image", "unreadable", "bad_name"} == set(after.reasons.values())
    hashes = [picture.content_hash for picture in after.pictures.values()]
    assert len(hashes) > len(set(hashes)), "no picture is there twice"
