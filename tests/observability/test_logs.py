"""What a log tells, and what it keeps to itself."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from observability.logs import configure

ADDRESS = "postgresql://sightline:hunter2@localhost"


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    """Structlog's own is the whole process's."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def logged_failure(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    configure()
    try:
        fail(ADDRESS)
    except ConnectionError:
        structlog.get_logger().exception("failed")
    return stream.getvalue()


def fail(address: str) -> None:
    raise ConnectionError(f"no answer from {address.rpartition('@')[2]}")


def test_a_traceback_is_an_object_without_values_of_variables(monkeypatch: pytest.MonkeyPatch):
    """A line of JSON says what went wrong and where, and never a password that a variable held."""
    line = logged_failure(io.StringIO(), monkeypatch)
    (exception,) = json.loads(line)["exception"]
    assert (exception["exc_type"], exception["exc_value"]) == ("ConnectionError", "no answer from localhost")
    assert {frame["name"] for frame in exception["frames"]} == {"logged_failure", "fail"}
    assert "hunter2" not in line


def test_a_terminal_gets_pythons_own_traceback(monkeypatch: pytest.MonkeyPatch):
    """Without values of variables there too."""
    shown = logged_failure(Terminal(), monkeypatch)
    assert "failed" in shown
    assert "Traceback (most recent call last)" in shown
    assert "hunter2" not in shown
