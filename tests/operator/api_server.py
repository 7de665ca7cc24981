"""An API server over HTTP as kopf and the operator see it: kinds, lists, watches and a Lease; it fails when told to."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer
from imageindex_operator.api import KINDS, Kind
from imageindex_operator.names import KIND

from tests.operator.world import image_index

Fault = Literal["cut", "broken", "silent"]
_NOT_THERE = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}


class ApiServer:
    """One ImageIndex and a Lease are all that it holds. `streamed` are the events of the next watches, by kind.

    The first of `tokens` is good until an event is told and another follows it; "" asks for none.
    With a `fault` it cuts connections, breaks with 500, or says nothing for ever; `held` keeps lists of children.
    """

    def __init__(self) -> None:
        self.index = image_index()
        self.lease: dict[str, Any] | None = None
        self.fault: Fault | None = None
        self.held = asyncio.Event()
        self.children_asked = asyncio.Event()
        self.lease_asked = asyncio.Event()
        self.streamed: dict[str, list[dict[str, Any]]] = {}
        self.watched: Counter[str] = Counter()
        self.tokens = [""]
        self._over = asyncio.Event()

    @asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator[Path]:
        """Answers while the context lasts; the path of a kubeconfig that leads here."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        async with TestServer(app) as server:
            config = folder / "kubeconfig"
            config.write_text(json.dumps(_kubeconfig(f"http://127.0.0.1:{server.port}")))
            try:
                yield config
            finally:
                self._over.set()
                self.held.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        *_, last = request.path.split("/")
        if (token := self.tokens[0]) and request.headers.get("Authorization") != f"Bearer {token}":
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        if request.query.get("watch") == "true":
            return await self._stream(request, last)
        if "leases" in request.path:
            self.lease_asked.set()
        if "labelSelector" in request.query and "limit" in request.query:  # the operator's: kopf asks for whole lists
            self.children_asked.set()
            await self.held.wait()
        match self.fault:
            case "cut":
                assert request.transport
                request.transport.abort()
            case "broken":
                return web.json_response({"message": "a fault that was asked for"}, status=500)
            case "silent":
                await self._over.wait()
        return await self._answer(request, last)

    async def _answer(self, request: web.Request, last: str) -> web.Response:
        if "leases" in request.path:
            if request.method != "GET":
                self.lease = orjson.loads(await request.read())
                self.lease["metadata"]["resourceVersion"] = str(id(self.lease))
            return web.json_response(self.lease or _NOT_THERE, status=200 if self.lease else 404)
        if (found := _kinds_at(request.path)) is not None:
            return web.json_response(found)
        if last == self.index["metadata"]["name"]:
            return web.json_response(self.index)
        items = [self.index] if last == KINDS[KIND].plural else []
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    async def _stream(self, request: web.Request, kind: str) -> web.StreamResponse:
        """What is to be told, and then nothing."""
        self.watched[kind] += 1
        response = web.StreamResponse()
        await response.prepare(request)
        for event in self.streamed.pop(kind, []):
            if len(self.tokens) > 1:
                self.tokens.pop(0)
            await response.write(orjson.dumps(event) + b"\n")
        await self._over.wait()
        return response


def _kinds_at(path: str) -> dict[str, Any] | None:
    """What discovery says there; None for other paths."""
    groups = {kind.api_version.partition("/")[0] for kind in KINDS.values() if "/" in kind.api_version}
    match path.strip("/").split("/"):
        case ["api"]:
            return {"versions": ["v1"]}
        case ["apis"]:
            return {"groups": [_group(name) for name in sorted(groups)]}
        case ["api", version] | ["apis", version, _] if _of(path):
            return {"version": version, "resources": [_resource(name, kind) for name, kind in _of(path).items()]}
    return None


def _of(path: str) -> dict[str, Kind]:
    version = path.strip("/").partition("/")[2]
    return {name: kind for name, kind in KINDS.items() if kind.api_version == version}


def _group(name: str) -> dict[str, Any]:
    versions = [kind.api_version for kind in KINDS.values() if kind.api_version.startswith(f"{name}/")]
    version = {"version": versions[0].partition("/")[2]}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resource(name: str, kind: Kind) -> dict[str, Any]:
    verbs = ["get", "list", "watch", "create", "patch", "delete"]
    return {"name": kind.plural, "singularName": "", "kind": name, "namespaced": True, "verbs": verbs}


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "plain", "cluster": {"server": server}}],
        "users": [{"name": "anybody", "user": {}}],
        "contexts": [{"name": "plain", "context": {"cluster": "plain", "user": "anybody"}}],
        "current-context": "plain",
    }
