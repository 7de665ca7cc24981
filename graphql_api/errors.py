"""What a client is told when something goes wrong.

Three kinds of errors reach this module, and each is told differently:

- An expected one (`SightlineError`): its message as it is, with a stable `extensions.code`.
- One about the query itself (syntax, validation, variables): exactly what the GraphQL library says.
- Everything else is our fault: the client gets an id and nothing more, and the log has the id and the traceback.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

import structlog
from graphql import GraphQLError

from engine.errors import BadUserInput, Overloaded, SightlineError

log = structlog.get_logger(__name__)

Formatted = dict[str, Any]
"""One GraphQL error as JSON: message, and where known locations, path and extensions."""

DEEP: Final = "QUERY_TOO_DEEP"
ALIASES: Final = "TOO_MANY_ALIASES"
TOKENS: Final = "QUERY_TOO_LONG"
COMPLEX: Final = "QUERY_TOO_COMPLEX"
TIMEOUT: Final = "TIMEOUT"
BAD_REQUEST: Final = "BAD_REQUEST"
INTERNAL: Final = "INTERNAL"


def present(error: GraphQLError) -> Formatted:
    """The error as its client may see it; an internal one is logged here, once, under the id that the client gets."""
    formatted: Formatted = {"message": error.message}
    if error.locations:
        formatted["locations"] = [{"line": place.line, "column": place.column} for place in error.locations]
    if error.path:
        formatted["path"] = error.path
    cause = error.original_error
    if isinstance(cause, SightlineError):
        formatted["extensions"] = extensions(cause)
    elif _is_about_the_query(error):
        if error.extensions:
            formatted["extensions"] = error.extensions
    else:
        formatted |= masked(cause or error, path=error.path)
    return formatted


def extensions(error: SightlineError) -> Formatted:
    """The machine-readable part of an expected error."""
    if isinstance(error, Overloaded):
        return {"code": error.code, "retryAfterMs": error.retry_after_ms}
    return {"code": error.code}


def masked(cause: BaseException, **context: Any) -> Formatted:
    """Logs an internal fault and gives the message and extensions that stand for it."""
    error_id = secrets.token_hex(6)
    log.error("internal error", error_id=error_id, exc_info=cause, **context)
    return {
        "message": f"Internal error; quote id {error_id} to your operator.",
        "extensions": {"code": INTERNAL, "errorId": error_id},
    }


def argument(name: str, problem: str) -> BadUserInput:
    """An error about one argument of a field, which says what the argument may be."""
    return BadUserInput(f"Argument '{name}': {problem}")


def _is_about_the_query(error: GraphQLError) -> bool:
    """Whether the GraphQL library found it in the query or its variables, so that no code of ours had run yet."""
    cause = error.original_error
    if cause is None or isinstance(cause, GraphQLError):
        return True
    return error.path is None and bool(error.nodes)
