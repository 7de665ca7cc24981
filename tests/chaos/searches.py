"""Searches that somebody makes all the while, and whether each answer is right for the generation that it names."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np

from tests.chaos.album import Expected
from tests.support.encoders import PALETTE, WordEncoder

QUERY = """
query($q: String!) {
  search(query: $q, first: 10) {
    cached totalCount { value relation } execution { generation }
    edges { score node { id objectKey contentHash category } }
  }
}
"""
REFUSALS = frozenset({"INDEX_UNAVAILABLE", "OVERLOADED"})
"""What a search may be told while servers die."""

PATIENCE_S = 60.0
"""A search that has no answer by then hangs: the server promises one within API_REQUEST_TIMEOUT_S, 10 s."""

_EVERY_S = 0.1
_NEAR = 1e-4


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search was told, and when (`time.monotonic`)."""

    query: str
    body: dict[str, Any]
    asked: float
    told: float


@dataclass
class Searches:
    """A steady stream of searches at `url`. Half of them are new, half were made before and may be remembered."""

    url: str
    random: Random
    answered: int = 0
    remembered: int = 0
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    longest_gap_s: float = 0.0
    _answers: list[Answer] = field(default_factory=list)
    _last_right: float = 0.0

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S, trust_env=False)
        self._last_right = time.monotonic()
        self._asking = asyncio.create_task(self._ask_on())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asking.cancel()
        await asyncio.gather(self._asking, return_exceptions=True)
        await self._client.aclose()

    def judge(self, generations: Mapping[str, Expected]) -> None:
        """Compares all answers since the last time with what their generations hold; fails at one that is wrong."""
        if self._asking.done():
            self._asking.result()
        books: dict[str, Book] = {}
        answers, self._answers = self._answers, []
        for answer in answers:
            self.slowest_s = max(self.slowest_s, answer.told - answer.asked)
            if "errors" in answer.body:
                (error,) = answer.body["errors"]
                code = error["extensions"]["code"]
                assert code in REFUSALS, f"the search {answer.query!r} was told {error}"
                self.refused[code] += 1
                continue
            found = answer.body["data"]["search"]
            generation = found["execution"]["generation"]
            assert generation in generations, f"the search {answer.query!r} was answered from {generation}"
            if generation not in books:
                books[generation] = Book(generations[generation])
            try:
                books[generation].check(answer.query, found)
            except AssertionError:
                self.wrong += 1
                raise
            self.answered += 1
            self.remembered += found["cached"]
            self.longest_gap_s = max(self.longest_gap_s, answer.told - self._last_right)
            self._last_right = max(self._last_right, answer.told)

    def figures(self) -> dict[str, Any]:
        """What a report says of them."""
        return {
            "answered": self.answered,
            "remembered": self.remembered,
            "refused": dict(self.refused),
            "wrong": self.wrong,
            "slowest_s": round(self.slowest_s, 2),
            "longest_gap_s": round(self.longest_gap_s, 2),
        }

    async def _ask_on(self) -> None:
        while True:
            new = f" {self.random.getrandbits(32):08x}" if self.random.random() < 0.5 else ""
            await self._ask(self.random.choice(list(PALETTE)) + new)
            await asyncio.sleep(_EVERY_S)

    async def _ask(self, query: str) -> None:
        asked = time.monotonic()
        try:
            response = await self._client.post("/graphql", json={"query": QUERY, "variables": {"q": query}})
        except httpx.TimeoutException as error:
            raise AssertionError(f"the search {query!r} had no answer in {PATIENCE_S} s") from error
        assert response.status_code == httpx.codes.OK, response.text
        self._answers.append(Answer(query, response.json(), asked, time.monotonic()))


class Book:
    """What a generation holds, ready to be searched by comparing everything."""

    def __init__(self, expected: Expected) -> None:
        self._pictures = {picture.id: (key, picture) for key, picture in expected.pictures.items()}
        self._ids = list(self._pictures)
        self._vectors = np.stack([picture.vector for _, picture in self._pictures.values()])
        self._encoder = WordEncoder()

    def check(self, query: str, found: dict[str, Any]) -> None:
        """Fails unless these are the nearest pictures, each as it is, in their order."""
        scores = dict(zip(self._ids, self._vectors @ self._encoder.encode_texts([query])[0], strict=True))
        told = []
        for edge in found["edges"]:
            node = edge["node"]
            assert node["id"] in self._pictures, f"{query!r} found {node}, which the generation does not hold"
            key, picture = self._pictures[node["id"]]
            assert (node["objectKey"], node["contentHash"], node["category"]) == (
                key,
                picture.content_hash,
                picture.category,
            ), f"{query!r} found {node} instead of {key}: {picture}"
            assert abs(edge["score"] - scores[node["id"]]) < _NEAR, f"{query!r}: {key} scores {scores[node['id']]}"
            told.append(edge["score"])
        assert len({edge["node"]["id"] for edge in found["edges"]}) == min(10, len(scores)), (query, found)
        assert told == sorted(told, reverse=True), (query, told)
        nearest = sorted(scores.values(), reverse=True)[: len(told)]
        assert np.allclose(told, nearest, atol=_NEAR), f"{query!r} missed nearer pictures: {told}, not {nearest}"
        assert found["totalCount"] == {"value": len(scores), "relation": "EXACT"}, (query, found["totalCount"])
