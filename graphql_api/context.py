"""What resolvers may reach while they answer one request, and where the request's time went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import strawberry

from engine.requests import SearchRequest
from engine.search import Searcher, SearchResult
from graphql_api.loaders import Answers, SearchLoader, search_loader
from graphql_api.services import Services


class Context:
    """The server's parts, this request's own loader, and its clock, which runs from the moment it is made."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._started = time.perf_counter()
        self._times: dict[str, float] = {}

    @property
    def searcher(self) -> Searcher:
        """The engine; raises `EncoderUnavailable` while it starts."""
        return self.services.searcher

    @cached_property
    def search(self) -> SearchLoader:
        """This request's searches, gathered."""
        return search_loader(self.searcher, self._note)

    async def searched(self, requests: Sequence[SearchRequest]) -> Sequence[SearchResult | BaseException]:
        """Answers to searches that are all known at once; where they fail together, the same error for each."""
        try:
            answers = await self.searcher.search_many(requests)
        except Exception as error:  # noqa: BLE001 - told, or masked, as that of a resolver
            return [error] * len(requests)
        self._note(answers)
        return answers

    def server_timing(self) -> str:
        """The value of the header `Server-Timing`: milliseconds until now, in the engine, and in each of its stages.

        Searches of one batch run at once, so the longest counts; batches follow each other and are added up.
        """
        total = (time.perf_counter() - self._started) * 1000
        return ", ".join(f"{name};dur={ms:.3f}" for name, ms in {"total": total, **self._times}.items())

    def _note(self, answers: Answers) -> None:
        longest: dict[str, float] = {}
        for answer in answers:
            if isinstance(answer, SearchResult):
                for name, ms in {"engine": answer.latency_ms, **answer.stages_ms}.items():
                    longest[name] = max(ms, longest.get(name, 0.0))
        for name, ms in longest.items():
            self._times[name] = self._times.get(name, 0.0) + ms


Info = strawberry.Info[Context, Any]
