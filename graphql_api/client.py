"""A search from outside the server: through the running server if there is one, else in the index itself.

A running server has the model warm and the index open (an index has one reader), so it is asked first. PyTorch takes
seconds to import, so that happens only where a text or picture is encoded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from engine.caches.choice import in_memory
from engine.encoders.loaded import LoadedEncoders
from engine.errors import BadUserInput, IndexNotFound, IndexUnavailable, SightlineError
from engine.generations import generations_of
from engine.requests import SearchRequest, Term
from engine.search import Searcher
from engine.serving import IndexRegistry
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.ports import Encoder

_QUERY: Final = """
query Find($index: String, $query: String, $terms: [SearchTerm!], $first: Int!) {
  search(index: $index, query: $query, terms: $terms, first: $first) {
    edges { rank score node { id filePath metadata } }
    totalCount { value }
    latencyMs
    cached
    execution { generation }
  }
}
"""
_CONNECT_S: Final = 2.0


async def find(settings: Settings, query: str, image: Path | None, first: int, index: str | None) -> dict[str, Any]:
    """The best `first` images for words, a picture or both, as plain data: hits, total, latencyMs, cached.

    Raises the engine's errors, and `BadUserInput` for a picture that can't be read.
    """
    encoder = await _encoder(settings, index) if image is not None else None
    vector = _vector(encoder, image) if encoder is not None and image is not None else None
    answer = await _ask_server(settings, query, vector, first, index)
    if answer is None:
        answer = await _ask_index(settings, encoder, query, vector, first, index)
    return answer


async def _encoder(settings: Settings, index: str | None) -> Encoder:
    """The encoder of the index's own model; the settings' one where no generation of it is here."""
    from engine.encoders.choice import load_encoder, load_encoder_of  # noqa: PLC0415 - takes a second

    async with generations_of(settings, index or settings.index_name) as store:
        serving = await store.current()
    return load_encoder(settings) if serving is None else load_encoder_of(serving.model, settings, load_encoder)


def _vector(encoder: Encoder, path: Path) -> list[float]:
    register_heif_opener()
    try:
        with Image.open(path) as picture:
            ImageOps.exif_transpose(picture, in_place=True)  # as it is indexed
            pixels = encoder.preprocess(picture)
    except (UnidentifiedImageError, OSError) as error:
        raise BadUserInput(f"{path} can't be read as a picture: {error}. Give a JPEG, PNG or WebP file.") from error
    return [float(number) for number in encoder.encode_images(pixels[None])[0]]


async def _ask_server(
    settings: Settings, query: str, vector: list[float] | None, first: int, index: str | None
) -> dict[str, Any] | None:
    """The answer of the server at API_HOST and API_PORT; None where none runs, or one that serves another folder."""
    variables = {
        "index": index,
        "query": query or None,
        "terms": [{"source": {"vector": vector}}] if vector else None,
        "first": first,
    }
    host = "127.0.0.1" if settings.api_host in {"0.0.0.0", "::"} else settings.api_host  # noqa: S104 - compared only
    timeout = httpx.Timeout(settings.api_request_timeout_s, connect=_CONNECT_S)
    try:
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as http:
            url = f"http://{host}:{settings.api_port}/graphql"
            body = (await http.post(url, json={"query": _QUERY, "variables": variables})).json()
    except (httpx.ConnectError, httpx.ConnectTimeout, ValueError):
        return None
    except httpx.TransportError as error:
        raise SightlineError(
            f"The server at {host}:{settings.api_port} did not answer ({type(error).__name__}). Try again, or stop it."
        ) from error
    if not isinstance(body, dict) or not body.keys() & {"data", "errors"}:
        return None
    if body.get("errors"):
        _refuse(body["errors"][0])
        return None
    found = body["data"]["search"]
    if await _is_foreign(settings, index, found["execution"]["generation"]):
        return None
    return {
        "query": query,
        "hits": [{"rank": edge["rank"], "score": edge["score"], **edge["node"]} for edge in found["edges"]],
        "total": found["totalCount"]["value"],
        "latencyMs": found["latencyMs"],
        "cached": found["cached"],
    }


def _refuse(error: dict[str, Any]) -> None:
    """Raises what the server says, unless it only lacks the index, which may lie here."""
    code = (error.get("extensions") or {}).get("code", "")
    if code == IndexNotFound.code:
        return
    known = {kind.code: kind for kind in (BadUserInput, IndexUnavailable)}
    raise known.get(code, SightlineError)(f"The running server answered: {error['message']}")


async def _is_foreign(settings: Settings, index: str | None, generation: str) -> bool:
    """Whether the answer came from another place than the settings name, though the index is there too."""
    async with generations_of(settings, index or settings.index_name) as store:
        here = {known.id for known in await store.list()}
    return bool(here) and generation not in here


async def _ask_index(
    settings: Settings,
    encoder: Encoder | None,
    query: str,
    vector: list[float] | None,
    first: int,
    index: str | None,
) -> dict[str, Any]:
    from engine.encoders.choice import load_encoder  # noqa: PLC0415 - takes a second

    encoders = LoadedEncoders(settings, load_encoder if encoder is None else lambda _settings: encoder)
    registry = IndexRegistry(settings, encoders)
    try:
        terms = (Term(vector=tuple(vector)),) if vector else ()
        request = SearchRequest(index=index, query=query or None, terms=terms, first=first)
        async with registry.acquire(index) as serving:
            if query:
                await serving.claim.encoder()  # however long it takes: a search waits for SEARCH_TIMEOUT_S only
            (answer,) = await Searcher(registry, in_memory(0, 0), settings).search_many([request])
        if isinstance(answer, SightlineError):
            raise answer
    finally:
        await registry.close()
        await encoders.close()
    return {
        "query": query,
        "hits": [
            {
                "rank": edge.rank,
                "score": edge.hit.score,
                "id": edge.hit.id,
                "filePath": edge.hit.payload.get("filePath"),
                "metadata": edge.hit.payload.get("metadata"),
            }
            for edge in answer.edges
        ],
        "total": answer.total,
        "latencyMs": answer.latency_ms,
        "cached": answer.cached,
    }
