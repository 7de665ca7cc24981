"""The queries that clients can send. `schema.graphql` is this file's printed form, kept equal by a test."""

from __future__ import annotations

from typing import Annotated

import strawberry
from graphql import GraphQLError
from strawberry.types import ExecutionContext

from engine.errors import ImageNotFound
from engine.requests import SearchRequest
from engine.settings import Settings
from graphql_api import limits
from graphql_api.context import Context, Info
from graphql_api.errors import argument
from graphql_api.execution import PlanningExecutor
from graphql_api.fields import field
from graphql_api.inputs import FacetField, ImageFilter, SearchTerm, filter_of, terms_of
from graphql_api.types import (
    Facet,
    FacetValue,
    First,
    Health,
    HealthStatus,
    Image,
    ImageIndex,
    LatencyStats,
    Model,
    SearchConnection,
    Stats,
    StatsWindow,
    as_fields,
)

MAX_FACETS = 10

IndexName = Annotated[
    str | None, strawberry.argument(name="index", description="Which index; the server's default when left out.")
]
FilterArgument = Annotated[
    ImageFilter | None, strawberry.argument(name="filter", description="Only images that meet these conditions.")
]


@strawberry.type(description="Everything that can be asked.")
class Query:
    """The root of all queries."""

    @field
    async def search(
        self,
        info: Info,
        index: IndexName = None,
        query: Annotated[
            str | None, strawberry.argument(description="What to look for, in words: 1 to 512 characters.")
        ] = None,
        terms: Annotated[
            list[SearchTerm] | None,
            strawberry.argument(description="What to look for, in several weighted parts: words, images, vectors."),
        ] = None,
        where: FilterArgument = None,
        score_threshold: Annotated[
            float, strawberry.argument(description="Least score of an answer, 0 to 1. 0 leaves nothing out.")
        ] = 0.0,
        first: First = 10,
        after: Annotated[
            str | None, strawberry.argument(description="A cursor of an earlier page of this very search.")
        ] = None,
    ) -> SearchConnection | None:
        """The images that fit best, best first.

        Null beside an error, so that other searches of the same request keep their answers.
        """
        name = _index(info.context, index)
        request = SearchRequest(
            index=name,
            query=query,
            terms=terms_of(terms),
            filter=filter_of(where),
            score_threshold=score_threshold,
            first=first,
            after=after,
        )
        return SearchConnection.of(await info.context.search.load(request), name)

    @field
    async def image(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The image's id.")],
        index: IndexName = None,
    ) -> Image | None:
        """One image by its id; null if the index has none of that id."""
        name = _index(info.context, index)
        try:
            point = await info.context.searcher.image(name, str(id))
        except ImageNotFound:
            return None
        return Image(index=name, payload=point.payload, id=strawberry.ID(point.id))

    @field
    async def facets(
        self,
        info: Info,
        fields: Annotated[list[FacetField], strawberry.argument(description="The fields to count, at most 10.")],
        index: IndexName = None,
        where: FilterArgument = None,
    ) -> list[Facet]:
        """How many images have which value, for each of the fields."""
        if len(fields) > MAX_FACETS:
            raise argument("fields", f"it may name at most {MAX_FACETS} fields, not {len(fields)}.")
        for wanted in fields:
            if not 1 <= wanted.first <= limits.MAX_PAGE:
                raise argument("fields.first", f"it must be between 1 and {limits.MAX_PAGE}, not {wanted.first}.")
        name, condition = _index(info.context, index), filter_of(where)
        asked = [(wanted.path, wanted.first) for wanted in fields]
        counted = await info.context.searcher.facets(name, condition, asked)
        return [
            Facet(path=wanted.path, values=[FacetValue(value=value, count=count) for value, count in values])
            for wanted, values in zip(fields, counted, strict=True)
        ]

    @field
    async def indexes(self, info: Info) -> list[ImageIndex]:
        """Every index there is, ready or not."""
        return [as_fields(ImageIndex, status) for status in await info.context.services.indexes()]

    @field
    async def health(self, info: Info) -> Health:
        """Which parts of the server work."""
        parts = await info.context.services.health()
        return Health(
            status=HealthStatus.HEALTHY if parts.healthy else HealthStatus.DEGRADED,
            encoder_loaded=parts.model is not None,
            index_reachable=parts.index_reachable,
            cache_reachable=parts.cache_reachable,
            device=parts.model.device if parts.model else None,
            model=parts.model.info.name if parts.model else None,
            runtime=parts.model.runtime if parts.model else None,
            models=[Model.of(model) for model in parts.models],
            problems=parts.problems,
        )

    @field
    async def stats(self, info: Info) -> Stats:
        """What the server has done since it started."""
        services = info.context.services
        window = services.searcher.stats.snapshot()
        return Stats(
            uptime_seconds=services.uptime_s,
            window=StatsWindow(
                embedding=as_fields(LatencyStats, window.embedding),
                search=as_fields(LatencyStats, window.search),
                total=as_fields(LatencyStats, window.total),
            ),
            collections=[as_fields(ImageIndex, status) for status in await services.indexes()],
        )


class QuietSchema(strawberry.Schema):
    """A schema that leaves logging errors to `errors.present`, which knows which are anyone's fault."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Does nothing: the answer's errors are logged where they are masked."""


def create_schema(settings: Settings, documents: limits.Documents | None = None) -> strawberry.Schema:
    """The schema with its limits; `documents` is where the queries that it has read are remembered."""
    extensions = limits.extensions(settings, limits.Documents(settings) if documents is None else documents)
    return QuietSchema(query=Query, extensions=extensions, execution_context_class=PlanningExecutor)


def _index(context: Context, name: str | None) -> str:
    return context.services.settings.index_name if name is None else name


if __name__ == "__main__":
    print(create_schema(Settings()).as_str())  # noqa: T201 - the command that updates the snapshot
