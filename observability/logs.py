"""Structured logs: readable lines on a terminal, one JSON object a line everywhere else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog


def configure(level: str = "info") -> None:
    """Sets up structlog for this process. Logs go to standard error; `level` is a name such as "info".

    Tracebacks have no values of local variables, which both of structlog's forms would add: a password may be one.
    """
    renderers: list[Any]
    if sys.stderr.isatty():
        renderers = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderers = [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=_from(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextmanager
def only(level: str) -> Iterator[None]:
    """Meanwhile, lines less severe than `level` are not written: for what tells by itself how it went."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=_from(level))
    try:
        yield
    finally:
        structlog.configure(**before)


def _from(level: str) -> Any:
    """A logger that writes lines of this level and of more severe ones."""
    return structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()])
