"""What resolvers may reach while they answer one request."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import strawberry

from engine.search import Searcher
from graphql_api.loaders import SearchLoader, search_loader
from graphql_api.services import Services


class Context:
    """The server's parts, and this request's own loader."""

    def __init__(self, services: Services) -> None:
        self.services = services

    @property
    def searcher(self) -> Searcher:
        """The engine; raises `EncoderUnavailable` while it starts."""
        return self.services.searcher

    @cached_property
    def search(self) -> SearchLoader:
        """This request's searches, gathered."""
        return search_loader(self.searcher)


Info = strawberry.Info[Context, Any]
