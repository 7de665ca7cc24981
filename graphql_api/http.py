"""The GraphQL endpoint over HTTP, as the GraphQL-over-HTTP specification asks for it.

One request is one operation: POST with a JSON body, or GET for queries. A client that accepts
`application/graphql-response+json` learns from the status whether the operation ran at all (400 when it is no valid
query); one that accepts `application/json` gets 200 with the errors in the body, as clients have always had it.
Whatever is wrong with the HTTP request itself (method, media types, size, JSON) has the status that says so under both.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
from graphql import GraphQLError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send
from strawberry import Schema
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types.execution import ExecutionResult, PreExecutionError
from strawberry.types.graphql import OperationType

from engine.errors import Overloaded
from engine.settings import Settings
from graphql_api import errors, graphiql
from graphql_api.context import Context
from graphql_api.limits import Documents
from graphql_api.media_types import GRAPHQL, HTML, JSON, preferred
from graphql_api.shedding import Shedder
from observability import metrics

MAX_RUNNING: Final = 1024
"""Operations that are executed at once: bounds their memory. How many searches the machine bears, `Admission` knows."""

_RETRY_AFTER_S: Final = 1
_ALLOWED: Final = {
    "GET": frozenset({OperationType.QUERY}),
    "POST": frozenset({OperationType.QUERY, OperationType.MUTATION}),
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a client asks for: one GraphQL document with its variables."""

    query: str
    variables: dict[str, Any] | None
    name: str | None


class Refused(Exception):
    """The HTTP request can't be answered as it stands; `status` and the message say why."""

    def __init__(self, status: int, message: str, code: str = errors.BAD_REQUEST, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.extensions: dict[str, str | int] = {"code": code}
        self.headers = headers


class GraphQLEndpoint:
    """An ASGI application that executes operations of a schema, each with a context of its own."""

    def __init__(
        self,
        schema: Schema,
        settings: Settings,
        documents: Documents,
        shedder: Shedder,
        new_context: Callable[[], Context],
    ) -> None:
        """`documents` remembers what the schema has read; `shedder` is told what was asked for and what was refused."""
        self._schema = schema
        self._settings = settings
        self._documents = documents
        self._new_context = new_context
        self._shedder = shedder
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request; never raises because of what the client sent."""
        context = self._new_context()
        try:
            response = await self._respond(Request(scope, receive), context)
        except ClientDisconnect:
            return
        response.raw_headers.append((b"server-timing", context.server_timing().encode()))
        await response(scope, receive, send)

    async def _respond(self, request: Request, context: Context) -> Response:
        media_type = JSON
        try:
            accepted = _negotiate(request)
            if accepted == HTML:
                return HTMLResponse(graphiql.page(), headers={"Vary": "Accept"})
            media_type = accepted
            async with asyncio.timeout(self._settings.api_request_timeout_s):
                operation = await self._read(request)
                return await self._perform(operation, request.method, context, media_type)
        except Refused as refused:
            body = {"errors": [{"message": str(refused), "extensions": refused.extensions}]}
            return encode(body, refused.status, media_type, refused.headers)
        except TimeoutError:
            message = (
                f"The request took longer than {self._settings.api_request_timeout_s:g} s and was given up. "
                "Ask for less, or try again later."
            )
            return encode({"errors": [{"message": message, "extensions": {"code": errors.TIMEOUT}}]}, 503, media_type)
        except ClientDisconnect:
            raise
        except Exception as fault:  # noqa: BLE001 - the last line: a client gets an id, never a traceback
            return encode({"errors": [errors.masked(fault)]}, 500, media_type)

    # ------------------------------------------------------------ reading

    async def _read(self, request: Request) -> Operation:
        if request.method == "GET":
            return _operation(_get_parameters(request.query_params))
        if request.method == "POST":
            _require_json(request)
            body = await self._body(request)
            self._shedder.saw(body)
            return _operation(_decode(body, "The request's body"))
        raise Refused(405, "Send GraphQL by POST, or queries by GET.", Allow="GET, POST")

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.api_max_body_bytes
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise Refused(
                    413, f"The request's body is larger than {limit} bytes.", "BODY_TOO_LARGE", Connection="close"
                )
        return bytes(body)

    # ------------------------------------------------------------ executing and answering

    async def _perform(self, operation: Operation, method: str, context: Context, media_type: str) -> Response:
        """The answer to an operation; what it was, how long it took and whether all of it went well is counted."""
        started, outcome = time.perf_counter(), "error"
        try:
            body = await self._plain(operation, context)
            if body is not None:
                outcome = "error" if "errors" in body else "ok"
                return encode(body, 200, media_type)
            result = await self._execute(operation, method, context)
            outcome = "error" if result.errors else "ok"
            return self._answer(result, media_type)
        finally:
            asked = self._documents.asked(operation.query, operation.name)
            metrics.graphql_duration.labels(asked, outcome).observe(time.perf_counter() - started)

    async def _plain(self, operation: Operation, context: Context) -> dict[str, Any] | None:
        """The answer to an operation that only searches and was executed before; None for every other."""
        document = self._documents.known(operation.query)
        outline = document.outline(operation.name) if document else None
        if document is None or outline is None:
            return None
        variables = operation.variables or {}
        requests = outline.requests(variables, self._settings.index_name)
        if requests is None or document.refusals(self._schema._schema, operation.name, variables, self._settings):  # noqa: SLF001 - see limits.py
            return None
        busy = context.services.busy_searcher
        if busy is not None and (refusal := await busy.refusal(requests)) is not None:
            self._shedder.refused()
            return outline.refused(refusal)
        plans = outline.plans()
        if plans is None:
            return None
        with self._place():
            answers = await context.searched(requests)
        with suppress(Exception):  # something unusual in a picture: the executor knows the words for it
            return outline.answered(plans, requests, answers)
        return None

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Counts an operation while it is executed, and refuses it where there are too many."""
        if self._running >= MAX_RUNNING:
            metrics.search_errors.labels(code=Overloaded.code).inc()  # as one search, whatever it asks for
            raise _overloaded()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _execute(self, operation: Operation, method: str, context: Context) -> ExecutionResult:
        try:
            with self._place():
                return await self._schema.execute(
                    operation.query,
                    variable_values=operation.variables,
                    context_value=context,
                    operation_name=operation.name,
                    allowed_operation_types=_ALLOWED[method],
                )
        except InvalidOperationTypeError as error:
            kind = error.operation_type.value
            if kind == OperationType.MUTATION.value:
                raise Refused(405, "Mutations can't be sent by GET. Send them by POST.", Allow="POST") from error
            raise Refused(400, f"A {kind} can't be answered over this connection.") from error
        except CannotGetOperationTypeError as error:
            return PreExecutionError(data=None, errors=[GraphQLError(error.as_http_error_reason())])

    def _answer(self, result: ExecutionResult, media_type: str) -> Response:
        body: dict[str, Any] = {}
        if result.errors:
            body["errors"] = [errors.present(error) for error in result.errors]
        if _is_request_error(result):
            return encode(body, 400 if media_type == GRAPHQL else 200, media_type)
        body["data"] = result.data
        return encode(body, 200, media_type)


def _overloaded() -> Refused:
    """What a search that is refused says, for the whole request."""
    error = Overloaded(_RETRY_AFTER_S * 1000)
    refused = Refused(503, str(error), error.code, **{"Retry-After": str(_RETRY_AFTER_S)})
    refused.extensions = errors.extensions(error)
    return refused


def _is_request_error(result: ExecutionResult) -> bool:
    """Whether nothing was executed: the query did not parse or validate, or its variables did not fit."""
    if isinstance(result, PreExecutionError):
        return True
    return result.data is None and all(error.path is None for error in result.errors or ())


# ---------------------------------------------------------------- media types


def _negotiate(request: Request) -> str:
    """The media type to answer with; `text/html` means that a browser wants the explorer."""
    media_type = preferred(request.headers.get("accept", ""), request.method)
    if media_type is None:
        raise Refused(406, f"Accept '{GRAPHQL}' or '{JSON}'.", "NOT_ACCEPTABLE")
    return media_type


def _require_json(request: Request) -> None:
    name, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    if name != JSON:
        raise Refused(415, f"Send the request as '{JSON}'.", "UNSUPPORTED_MEDIA_TYPE", Accept=JSON)
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "charset" and value.strip().strip('"') not in {"utf-8", "utf8"}:
            raise Refused(415, "Send the request in UTF-8.", "UNSUPPORTED_MEDIA_TYPE")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "Send the request without compression.", "UNSUPPORTED_MEDIA_TYPE")


# ---------------------------------------------------------------- parameters


def _get_parameters(query: Mapping[str, str]) -> dict[str, Any]:
    parameters: dict[str, Any] = dict(query)
    for name in ("variables", "extensions"):
        if parameters.get(name):
            parameters[name] = _decode(parameters[name].encode(), f"Parameter '{name}'")
        else:
            parameters.pop(name, None)
    return parameters


def _decode(text: bytes, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"{what} is no valid JSON: {error}.") from error


def _operation(parameters: Any) -> Operation:
    if isinstance(parameters, list):
        raise Refused(400, "Send one operation a request. Several searches fit in one query, under aliases.")
    if not isinstance(parameters, dict):
        raise Refused(400, "The request's body must be a JSON object with the key 'query'.")
    query = parameters.get("query")
    if not isinstance(query, str) or not query.strip():
        raise Refused(400, "'query' must be a string that holds a GraphQL operation.")
    name = parameters.get("operationName")
    if not isinstance(name, str | None):
        raise Refused(400, "'operationName' must be a string or null.")
    for key in ("variables", "extensions"):
        if not isinstance(parameters.get(key), dict | None):
            raise Refused(400, f"'{key}' must be an object or null.")
    return Operation(query, parameters.get("variables"), name or None)


def encode(body: dict[str, Any], status: int, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of that body, with the headers that every one has."""
    try:
        content = orjson.dumps(body)
    except TypeError:  # metadata of a picture may hold integers beyond 64 bits, which orjson refuses
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(
        content,
        status,
        {"Vary": "Accept", "Cache-Control": "no-store", **(headers or {})},
        f"{media_type}; charset=utf-8",
    )
