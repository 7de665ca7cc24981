"""Batching within one request: all searches of a level become one call of the engine.

GraphQL resolves fields one by one; asked one by one, ten searches in a request would be ten passes of the encoder. A
DataLoader gathers what is asked for in one turn of the event loop. It lives as long as the request, no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from strawberry.dataloader import DataLoader

from engine.errors import SightlineError
from engine.requests import SearchRequest
from engine.search import Searcher, SearchResult

SearchLoader = DataLoader[SearchRequest, SearchResult]

Answers = Sequence[SearchResult | SightlineError]


def search_loader(searcher: Searcher, answered: Callable[[Answers], None]) -> SearchLoader:
    """A loader for one request; an error among the results is raised only where that search was asked for.

    `answered` is told the answers of each batch.
    """

    async def load(requests: list[SearchRequest]) -> Answers:
        answers = await searcher.search_many(requests)
        answered(answers)
        return answers

    return DataLoader(load, cache=False)
