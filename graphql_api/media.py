"""Originals and thumbnails of indexed images, and of nothing else.

A client names an index and an id; the path comes from the index's payload, never from the request. So the only files
that can be asked for are those that somebody indexed.
"""

from __future__ import annotations

import asyncio
import re
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from engine.errors import ImageNotFound, IndexNotFound, SightlineError
from engine.ports import Payload
from graphql_api import errors
from graphql_api.services import Services

_INDEX_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_FOREVER: Final = "public, max-age=31536000, immutable"
_ASK_AGAIN: Final = "no-cache"
_INERT: Final = "default-src 'none'; sandbox"
"""Content security policy: a file opened as a page runs nothing."""

_ELSEWHERE: Final = ("://", ".tar/")
"""What the path of an original has in it that is no file of this machine: one in a store, on the web, or in a shard."""

SHOWN: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "image/avif"})
"""What every current browser shows."""

_SIGNATURES: Final = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"II+\0": "image/tiff",
    b"MM\0+": "image/tiff",
}


@dataclass(frozen=True, slots=True)
class File:
    """A picture on disk."""

    path: Path
    media_type: str


class Media:
    """The two routes that answer pictures."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def image(self, request: Request) -> Response:
        """The original; the thumbnail where browsers can't show it, or it lies elsewhere; 410 when the file is gone."""
        payload = await self._payload(request)
        if isinstance(payload, Response):
            return payload
        path = str(payload.get("filePath") or "")
        if any(mark in path for mark in _ELSEWHERE):
            return await self._thumbnail(request, payload)
        original = await asyncio.to_thread(_picture, Path(path))
        if original is None:
            return problem(
                410,
                "IMAGE_GONE",
                f"The file of image {request.path_params['id']} is no longer there. Index its source again.",
            )
        if original.media_type not in SHOWN:
            return await self._thumbnail(request, payload)
        return _file(request, original, payload, _ASK_AGAIN)

    async def thumbnail(self, request: Request) -> Response:
        """The thumbnail that was made when the image was indexed."""
        payload = await self._payload(request)
        return payload if isinstance(payload, Response) else await self._thumbnail(request, payload)

    async def _thumbnail(self, request: Request, payload: Payload) -> Response:
        folder = self._services.settings.index_path / request.path_params["index"]
        file = await asyncio.to_thread(_inside, folder, str(payload.get("thumbnail") or ""))
        if file is None:
            return problem(
                404, "NO_THUMBNAIL", f"Image {request.path_params['id']} has no thumbnail. Index its source again."
            )
        version = request.query_params.get("v")
        pinned = bool(version) and str(payload.get("contentHash") or "").startswith(version or "")
        return _file(request, file, payload, _FOREVER if pinned else _ASK_AGAIN)

    async def _payload(self, request: Request) -> Payload | Response:
        """What the index knows of the image that the path names, or the answer that says why nothing."""
        index, image_id = request.path_params["index"], request.path_params["id"]
        if not _INDEX_NAME.fullmatch(index) or not _is_uuid(image_id):
            return problem(404, ImageNotFound.code, "No image has this address.")
        try:
            point = await self._services.searcher.image(index, image_id)
        except (ImageNotFound, IndexNotFound) as error:
            return problem(404, error.code, str(error))
        except SightlineError as error:
            return problem(503, error.code, str(error))
        return point.payload


def problem(status: int, code: str, message: str, **headers: str) -> Response:
    """An error as JSON, in the form that GraphQL errors have."""
    body: dict[str, Any] = {"errors": [{"message": message, "extensions": {"code": code}}]}
    return Response(orjson.dumps(body), status, headers, "application/json")


def internal_problem(fault: Exception) -> Response:
    """An internal fault as JSON: an id for the operator, nothing else."""
    return Response(orjson.dumps({"errors": [errors.masked(fault)]}), 500, None, "application/json")


def media_type(head: bytes) -> str | None:
    """The type of a picture by its first 16 bytes, whatever its name says; None when it is none that is known."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        return "image/avif" if head[8:12] in {b"avif", b"avis"} else "image/heic"
    return next((found for start, found in _SIGNATURES.items() if head.startswith(start)), None)


def _picture(path: Path) -> File | None:
    """The file if it is there and still a picture."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as stream:
            found = media_type(stream.read(16))
    except (OSError, ValueError):
        return None
    return File(path, found) if found else None


def _inside(folder: Path, name: str) -> File | None:
    """A picture by its path under a folder; None when it lies elsewhere."""
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return None
    return _picture(path) if name and inside else None


def _file(request: Request, file: File, payload: Payload, cache_control: str) -> Response:
    etag = f'"{payload.get("contentHash", "")}-{file.media_type.removeprefix("image/")}"'
    headers = {"ETag": etag, "Cache-Control": cache_control, "Content-Security-Policy": _INERT}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in known:
        return Response(None, 304, headers)
    name = str(payload.get("fileName") or file.path.name)
    return FileResponse(
        file.path, headers=headers, media_type=file.media_type, filename=name, content_disposition_type="inline"
    )


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
