"""Conditions: all set on the first visit, and their transition times move only when their status does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, Literal

from imageindex_operator.resource import Condition

Truth = Literal["True", "False", "Unknown"]

TYPES: Final = (
    "Ready",
    "Indexed",
    "Promoted",
    "ServingAvailable",
    "Suspended",
    "ReconciliationPaused",
    "Degraded",
)
"""In the order in which they are shown."""

_LONGEST: Final = 1000


class Conditions:
    """The conditions of one visit. What is not set stays as it was, or is Unknown on the first visit."""

    def __init__(self, before: Iterable[Condition], generation: int, now: datetime) -> None:
        self._before = {condition.type: condition for condition in before}
        self._generation = generation
        self._now = timestamp(now)
        self._set: dict[str, Condition] = {}

    def set(self, type_: str, status: Truth, reason: str, message: str) -> None:
        """Sets one; a later call wins. `reason` is CamelCase, `message` a sentence for people."""
        before = self._before.get(type_)
        moved = before is None or before.status != status
        self._set[type_] = Condition(
            type=type_,
            status=status,
            reason=reason,
            message=message if len(message) <= _LONGEST else f"{message[: _LONGEST - 3]}...",
            last_transition_time=self._now if moved or before is None else before.last_transition_time,
            observed_generation=self._generation,
        )

    def get(self, type_: str) -> Condition | None:
        """What was set in this visit."""
        return self._set.get(type_)

    def all(self) -> tuple[Condition, ...]:
        """Every condition, in order."""
        for type_ in TYPES:
            if type_ not in self._set:
                before = self._before.get(type_)
                if before is None:
                    self.set(type_, "Unknown", "NotLookedAt", "This was not looked at yet.")
                else:
                    self._set[type_] = before
        return tuple(self._set[type_] for type_ in TYPES)


def timestamp(moment: datetime) -> str:
    """A time as Kubernetes writes it, in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(text: str | None) -> datetime | None:
    """The time that was written so; None without one."""
    return datetime.fromisoformat(text) if text else None
