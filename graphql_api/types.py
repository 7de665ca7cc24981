"""What clients get: the output types of the schema, each made from what the engine answers."""

from __future__ import annotations

import datetime as dt
import enum
from functools import lru_cache
from pathlib import PurePath
from typing import Annotated, Any, Self
from urllib.parse import quote

import strawberry
from strawberry.scalars import JSON

from engine.encoders.loaded import LoadedModel
from engine.ports import Payload
from engine.requests import SearchRequest, Term
from engine.search import ResultEdge, SearchResult
from graphql_api.context import Info
from graphql_api.fields import field

_quoted = lru_cache(maxsize=64)(quote)
"""For the index's name, which is the same for all images of an answer. Their ids are UUIDs and need none."""

First = Annotated[int, strawberry.argument(description="How many answers, 1 to 100.")]


@strawberry.type(description="An image in an index.")
class Image:
    """Made of the payload that the index keeps beside the vector."""

    index: strawberry.Private[str]
    payload: strawberry.Private[Payload]
    id: strawberry.ID = strawberry.field(description="The same for the same image, however often it is indexed.")

    @field
    def file_path(self) -> str | None:
        """Where the original lies, as the source named it."""
        return self.payload.get("filePath")

    @field
    def file_name(self) -> str | None:
        """The file's name."""
        return self.payload.get("fileName")

    @field
    def object_key(self) -> str | None:
        """The path inside the source."""
        return self.payload.get("objectKey")

    @field
    def width(self) -> int | None:
        """Width in pixels, as the picture is seen."""
        return self.payload.get("width")

    @field
    def height(self) -> int | None:
        """Height in pixels, as the picture is seen."""
        return self.payload.get("height")

    @field
    def category(self) -> str | None:
        """The category, where the source names one."""
        return self.payload.get("category")

    @field
    def taken_at(self) -> dt.datetime | None:
        """When the picture was taken, where it is known."""
        value = self.payload.get("takenAt")
        return dt.datetime.fromisoformat(value) if value else None

    @field
    def content_hash(self) -> str | None:
        """A hash of the file's bytes: equal for exact copies."""
        return self.payload.get("contentHash")

    @field
    def url(self) -> str:
        """The original's path on this server."""
        return f"/images/{_quoted(self.index)}/{self.id}"

    @field
    def thumbnail_url(self) -> str | None:
        """The thumbnail's path on this server; it may be kept forever. Null if there is none."""
        if not self.payload.get("thumbnail"):
            return None
        return f"/thumbnails/{_quoted(self.index)}/{self.id}?v={(self.payload.get('contentHash') or '')[:16]}"

    @field
    def metadata(self) -> JSON | None:
        """Everything else that the source says about the image."""
        value: JSON | None = self.payload.get("metadata")
        return value

    @field
    async def similar(self, info: Info, first: First = 10) -> SearchConnection | None:
        """Images that look like this one, best first, without itself."""
        request = SearchRequest(index=self.index, terms=(Term(image_id=str(self.id)),), first=first)
        return SearchConnection.of(await info.context.search.load(request), self.index)


@strawberry.type(description="One answer of a search.")
class SearchEdge:
    """A hit and its place."""

    cursor: str = strawberry.field(description="Pass it as `after` for the answers that follow this one.")
    rank: int = strawberry.field(description="Place among all answers, from 1.")
    score: float = strawberry.field(description="Cosine similarity, -1 to 1. Compare it only within one search.")
    node: Image = strawberry.field(description="The image.")

    @classmethod
    def of(cls, edge: ResultEdge, index: str) -> Self:
        """Made of the engine's edge."""
        node = Image(index=index, payload=edge.hit.payload, id=strawberry.ID(edge.hit.id))
        return cls(cursor=edge.cursor, rank=edge.rank, score=float(edge.hit.score), node=node)


@strawberry.type(description="Where this page ends.")
class PageInfo:
    """Forward paging only."""

    has_next_page: bool = strawberry.field(description="Whether more answers follow.")
    end_cursor: str | None = strawberry.field(
        description="Pass it as `after` for the next page. Null on an empty page."
    )


@strawberry.enum(description="How a count relates to the truth.")
class CountRelation(enum.Enum):
    """Exact or a lower bound."""

    EXACT = strawberry.enum_value("EXACT", description="It is the number.")
    AT_LEAST = strawberry.enum_value("AT_LEAST", description="The number is this or greater.")


@strawberry.type(description="A number of answers.")
class Count:
    """A number and how far to trust it."""

    value: int = strawberry.field(description="The number.")
    relation: CountRelation = strawberry.field(description="Whether it is exact.")


@strawberry.type(description="One stage of a search.")
class Stage:
    """A name and a time."""

    name: str = strawberry.field(description="What was done.")
    ms: float = strawberry.field(description="How long it took, in milliseconds.")


@strawberry.type(description="How the answer came about.")
class Execution:
    """What explains an answer."""

    generation: str = strawberry.field(description="The build of the index that answered.")
    model: str = strawberry.field(description="The model whose embeddings were compared.")
    strategy: str = strawberry.field(description="How the index was searched.")
    stages: list[Stage] = strawberry.field(description="Where the time went.")


@strawberry.type(description="One page of answers, best first.")
class SearchConnection:
    """Made of the engine's result."""

    query: str | None = strawberry.field(description="The words that were searched for.")
    edges: list[SearchEdge] = strawberry.field(description="The answers of this page.")
    page_info: PageInfo = strawberry.field(description="Where this page ends.")
    total_count: Count = strawberry.field(description="How many answers there are on all pages.")
    latency_ms: float = strawberry.field(description="Time the server took, in milliseconds.")
    cached: bool = strawberry.field(description="Whether the answer was remembered from before.")
    execution: Execution = strawberry.field(description="How the answer came about.")

    @classmethod
    def of(cls, result: SearchResult, index: str) -> Self:
        """Made of the engine's result."""
        return cls(
            query=result.request.query,
            edges=[SearchEdge.of(edge, index) for edge in result.edges],
            page_info=PageInfo(has_next_page=result.has_next_page, end_cursor=result.end_cursor),
            total_count=Count(
                value=result.total, relation=CountRelation.EXACT if result.total_exact else CountRelation.AT_LEAST
            ),
            latency_ms=result.latency_ms,
            cached=result.cached,
            execution=Execution(
                generation=result.generation,
                model=result.model,
                strategy=result.strategy,
                stages=[Stage(name=name, ms=ms) for name, ms in result.stages_ms.items()],
            ),
        )


@strawberry.type(description="A value of a field and how many images have it.")
class FacetValue:
    """One row of a facet."""

    value: str = strawberry.field(description="The value.")
    count: int = strawberry.field(description="How many images have it.")


@strawberry.type(description="The values of one field, most frequent first.")
class Facet:
    """Counts over a field."""

    path: str = strawberry.field(description="The field that was counted.")
    values: list[FacetValue] = strawberry.field(description="Its values.")


@strawberry.type(description="An index: a set of images that are searched together.")
class ImageIndex:
    """An index by name, and its serving generation where it has one."""

    name: str = strawberry.field(description="Pass it as `index`.")
    ready: bool = strawberry.field(description="Whether a generation of it serves.")
    reason: str | None = strawberry.field(description="Why it is not ready. Null when it is.")
    generation: str | None = strawberry.field(description="The build that serves.")
    points: int | None = strawberry.field(description="How many images it holds.")
    indexed: int | None = strawberry.field(description="How many of them the nearest-neighbour graph reaches.")
    dimension: int | None = strawberry.field(description="Numbers in one embedding.")
    model: str | None = strawberry.field(description="The model that made its embeddings.")


@strawberry.enum(description="Whether the server can do its work.")
class HealthStatus(enum.Enum):
    """Two states: all parts work, or not all do."""

    HEALTHY = strawberry.enum_value("HEALTHY", description="Every part works.")
    DEGRADED = strawberry.enum_value("DEGRADED", description="A part does not work; the other fields say which.")


@strawberry.type(description="A model in memory.")
class Model:
    """Which one, and how it computes."""

    name: str = strawberry.field(description="Its architecture.")
    pretrained: str = strawberry.field(description="The tag or file of its weights. Empty for a shipped model.")
    dimension: int = strawberry.field(description="Numbers in one embedding.")
    fingerprint: str = strawberry.field(description="Of its weights: embeddings of different ones can't be compared.")
    device: str = strawberry.field(description="Where it computes: cuda, mps or cpu.")
    runtime: str = strawberry.field(description="What computes it, in which precision.")

    @classmethod
    def of(cls, model: LoadedModel) -> Model:
        """The output type of a loaded model."""
        info = model.info
        return cls(
            name=info.name,
            pretrained=PurePath(info.pretrained).name,  # where its file lies is nobody's business
            dimension=info.dimension,
            fingerprint=info.fingerprint,
            device=model.device,
            runtime=model.runtime,
        )


@strawberry.type(description="Which parts of the server work.")
class Health:
    """One look at each part."""

    status: HealthStatus = strawberry.field(description="All of it in one word.")
    encoder_loaded: bool = strawberry.field(description="Whether the default index's model is in memory.")
    index_reachable: bool = strawberry.field(description="Whether the default index answers.")
    cache_reachable: bool = strawberry.field(description="Whether the cache answers. Searches work without it.")
    device: str | None = strawberry.field(
        description="Where the model computes: cuda, mps or cpu. Null while it loads."
    )
    model: str | None = strawberry.field(
        description="The model that the default index is searched with. Null while it loads."
    )
    runtime: str | None = strawberry.field(
        description="What computes it, in which precision, as measured to be best here. Null while it loads."
    )
    models: list[Model] = strawberry.field(
        description="The models in memory: one for each that an open index was built with."
    )
    problems: list[str] = strawberry.field(
        description="What keeps a promoted generation from being served, or an index from being searched in words, and "
        "what to do about it. Empty when all is well."
    )


@strawberry.type(description="Latencies over the window, in milliseconds.")
class LatencyStats:
    """Null where there are too few samples to say."""

    count: int = strawberry.field(description="How many samples the window holds, at most 10,000.")
    mean: float | None = strawberry.field(description="Mean; null without samples.")
    min: float | None = strawberry.field(description="Least; null without samples.")
    max: float | None = strawberry.field(description="Greatest; null without samples.")
    p50: float | None = strawberry.field(description="Median; null without samples.")
    p95: float | None = strawberry.field(description="95th percentile; null under 20 samples.")
    p99: float | None = strawberry.field(description="99th percentile; null under 100 samples.")


@strawberry.type(description="The last 10,000 searches.")
class StatsWindow:
    """Stages of a search."""

    embedding: LatencyStats = strawberry.field(description="Turning words into embeddings.")
    search: LatencyStats = strawberry.field(description="Finding the nearest images.")
    total: LatencyStats = strawberry.field(description="The whole search in the server.")


@strawberry.type(description="What the server has done since it started.")
class Stats:
    """Figures of this process."""

    uptime_seconds: float = strawberry.field(description="Seconds since the server started.")
    window: StatsWindow = strawberry.field(description="Latencies of the last 10,000 searches.")
    collections: list[ImageIndex] = strawberry.field(description="The indexes.")


def as_fields(kind: type, values: Any) -> Any:
    """An output type made of an object that has the same attributes."""
    return kind(**{name: getattr(values, name) for name in kind.__annotations__})
