"""What machines ask a server: are you alive, may traffic come, how are you doing."""

from __future__ import annotations

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from graphql_api.services import Services


class Probes:
    """The routes `/livez`, `/readyz` and `/metrics`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def live(self, _request: Request) -> Response:
        """200 as long as the event loop turns."""
        return _state(200, "alive")

    async def ready(self, _request: Request) -> Response:
        """200 once a real query has run and until the server shuts down; otherwise 503 and the reason."""
        reason = await self._services.not_ready()
        return _state(200, "ready") if reason is None else _state(503, "not ready", reason)

    async def metrics(self, _request: Request) -> Response:
        """Every metric in Prometheus' text format."""
        return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _state(status: int, state: str, reason: str | None = None) -> Response:
    body = {"status": state} if reason is None else {"status": state, "reason": reason}
    return Response(orjson.dumps(body), status, {"Cache-Control": "no-store"}, "application/json")
