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
STEADY, NEW = 2, 1
"""People who keep their connection, and people who make a new one for each search."""
PAUSE_S = 0.1
PATIENCE_S = 30


class Crowd:
    """A context: inside it people search, several at once. `failures` are the answers that were none."""

    def __init__(self, url: str, queries: Sequence[str]) -> None:
        self._url = f"{url}/graphql"
        self._queries = queries
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._people = [
            threading.Thread(target=self._search, kwargs={"keep": keep}) for keep in (True,) * STEADY + (False,) * NEW
        ]
        self.failures: list[str] = []
        self.answered = 0
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

    def _search(self, *, keep: bool) -> None:
        client = httpx.Client(timeout=PATIENCE_S)
        turn = 0
        while not self._over.wait(PAUSE_S):
            query = self._queries[turn % len(self._queries)]
            turn += 1
            if not keep:
                client.close()
                client = httpx.Client(timeout=PATIENCE_S)
            try:
                self._note(query, ask(client, self._url, query))
            except (httpx.HTTPError, ValueError) as error:
                with self._lock:
                    self.failures.append(f"{query}: {error!r}")
        client.close()

    def _note(self, query: str, found: dict[str, Any]) -> None:
        generation = found["execution"]["generation"]
        with self._lock:
            self.answered += 1
            if generation not in self.generations:
                self.generations.append(generation)
            self._answers[query, generation].add(tuple(edge["node"]["fileName"] for edge in found["edges"]))


def ask(client: httpx.Client, url: str, query: str, index: str | None = None) -> dict[str, Any]:
    """One search. Raises `httpx.HTTPError` when it has no answer, and `ValueError` with the errors that it has."""
    told = client.post(url, json={"query": QUERY, "variables": {"query": query, "index": index}})
    body = told.raise_for_status().json()
    if "errors" in body:
        raise ValueError(body["errors"])
    return dict(body["data"]["search"])
