"""People who search without a pause, and what they were told."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Self

import httpx

QUERY = """
query Find($query: String!, $index: String) {
  search(query: $query, first: 10, index: $index) { edges { node { fileName } } execution { generation } }
}
"""
PATIENCE_S = 30


class TooMany(ValueError):
    """A search that was refused for now."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__(f"Come back in {retry_after_ms} ms.")
        self.retry_after_s = retry_after_ms / 1000


class Crowd:
    """A context: inside it people search, several at once. `failures` are the answers that were none.

    Who is refused comes back when he is told to, as clients should; `refused` is how often that was.
    """

    def __init__(
        self, url: str, queries: Sequence[str], *, steady: int = 2, new: int = 1, pause_s: float = 0.1
    ) -> None:
        """So many `steady` people who keep their connection, and `new` ones who make another for each search."""
        self._url = f"{url}/graphql"
        self._queries = queries
        self._pause_s = pause_s
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._people = [
            threading.Thread(target=self._search, args=(number * len(queries) // (steady + new), number < steady))
            for number in range(steady + new)
        ]
        self.failures: list[str] = []
        self.answered = self.refused = 0
        self.generations: list[str] = []
        """Each that answered, in the order of their first answers."""
        self._answers: dict[tuple[str, str], set[tuple[str, ...]]] = defaultdict(set)

    def __enter__(self) -> Self:
        for person in self._people:
            person.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        for person in self._people:
            person.join()

    def contradictions(self) -> list[tuple[str, str]]:
        """Queries to which one generation gave several answers."""
        return [asked for asked, answers in self._answers.items() if len(answers) > 1]

    def answer(self, query: str, generation: str) -> tuple[str, ...]:
        """The pictures that a generation found for a query."""
        (found,) = self._answers[query, generation]
        return found

    def _search(self, turn: int, keep: bool) -> None:  # noqa: FBT001 - a thread's target
        client = httpx.Client(timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=int(keep)))
        while not self._over.wait(self._pause_s):
            query = self._queries[turn % len(self._queries)]
            turn += 1
            try:
                self._note(query, self._ask(client, query))
            except (httpx.HTTPError, ValueError) as error:
                with self._lock:
                    self.failures.append(f"{query}: {error!r}")
        client.close()

    def _ask(self, client: httpx.Client, query: str) -> dict[str, Any]:
        while True:
            try:
                return ask(client, self._url, query)
            except TooMany as refusal:
                with self._lock:
                    self.refused += 1
                self._over.wait(refusal.retry_after_s)

    def _note(self, query: str, found: dict[str, Any]) -> None:
        generation = found["execution"]["generation"]
        with self._lock:
            self.answered += 1
            if generation not in self.generations:
                self.generations.append(generation)
            self._answers[query, generation].add(tuple(edge["node"]["fileName"] for edge in found["edges"]))


def ask(client: httpx.Client, url: str, query: str, index: str | None = None) -> dict[str, Any]:
    """One search.

    Raises `httpx.HTTPError` when it has no answer, `TooMany` when it is refused, and `ValueError` with other errors.
    """
    told = client.post(url, json={"query": QUERY, "variables": {"query": query, "index": index}})
    body = told.json()
    for error in body.get("errors", []):
        if error.get("extensions", {}).get("code") == "OVERLOADED":
            raise TooMany(error["extensions"]["retryAfterMs"])
        raise ValueError(body["errors"])
    told.raise_for_status()
    return dict(body["data"]["search"])
