"""The ASGI application: the routes, and what every answer has in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.caches.choice import Caches
from engine.ports import Encoder
from engine.settings import Settings
from graphql_api import graphiql
from graphql_api.context import Context
from graphql_api.http import GraphQLEndpoint
from graphql_api.limits import Documents
from graphql_api.media import Media, internal_problem, problem
from graphql_api.probes import Probes
from graphql_api.schema import create_schema
from graphql_api.services import Services
from graphql_api.shedding import Shedder

STATIC: Final = Path(__file__).parent / "static"

SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)

PAGE_POLICY: Final = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def create_app(
    settings: Settings,
    encoder: Encoder | None = None,
    caches: Caches | None = None,
    services: Services | None = None,
) -> Starlette:
    """The application. An `encoder` or `caches` given replaces the settings' own; `services` replaces all."""
    load = None if encoder is None else lambda _settings: encoder
    services = services or Services(settings, load, caches)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        services.start()
        try:
            yield {"shedder": shedder}
        finally:
            services.draining = True
            await services.close()

    media, probes = Media(services), Probes(services)
    documents = Documents(settings)
    shedder = Shedder(services, documents)
    schema = create_schema(settings, documents)
    endpoint = GraphQLEndpoint(schema, settings, documents, shedder, lambda: Context(services))
    app = Application(
        endpoint,
        routes=[
            Route("/graphql", endpoint),  # for who asks at /graphql/, and is sent there
            Route("/", _page),
            Route("/livez", probes.live),
            Route("/readyz", probes.ready),
            Route("/metrics", probes.metrics),
            Route("/images/{index}/{id}", media.image),
            Route("/thumbnails/{index}/{id}", media.thumbnail),
            Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
            Mount("/graphiql_assets", StaticFiles(directory=graphiql.ASSETS, check_dir=False)),
        ],
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={HTTPException: _http_problem, Exception: _internal_problem},
        lifespan=lifespan,
    )
    app.state.services = services
    return app


class Application(Starlette):
    """Starlette, with one way past its routes and middleware: that of GraphQL, where each microsecond is a search's."""

    def __init__(self, graphql: ASGIApp, **parts: Any) -> None:
        super().__init__(**parts)
        self._graphql = SecurityHeaders(graphql)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["path"] == "/graphql":
            await self._graphql(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class SecurityHeaders:
    """Adds the headers that keep a browser from guessing types, framing pages and telling others where it was."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything through; a header that a route has set stays."""

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                there = {name for name, _ in headers}
                headers += [(name, value) for name, value in SECURITY_HEADERS if name not in there]
                if b"cache-control" not in there and scope["path"].startswith(("/static/", "/graphiql_assets/")):
                    headers.append((b"cache-control", b"no-cache"))
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


async def _page(_request: Request) -> Response:
    return FileResponse(
        STATIC / "index.html", headers={"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
    )


async def _http_problem(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    messages = {404: "Nothing is here. The API is at /graphql, the page at /.", 405: "This address only answers GET."}
    codes = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    message = messages.get(status, "The request can't be answered.")
    return problem(status, codes.get(status, "BAD_REQUEST"), message, **headers)


async def _internal_problem(_request: Request, fault: Exception) -> Response:
    return internal_problem(fault)
