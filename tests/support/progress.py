"""A progress display of indexing for tests."""

from __future__ import annotations

from indexing.decode import Reason


class Silent:
    """A progress display for nobody; it remembers which files were decoded."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def stage(self, name: str) -> None:
        """Ignored."""

    def start(self, total: int) -> None:
        """Ignored."""

    def advance(self, key: str, reason: Reason | None) -> None:  # noqa: ARG002 - the protocol's
        """Notes a file."""
        self.seen.append(key)
