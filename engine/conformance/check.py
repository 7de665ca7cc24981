"""Checks what the settings name: a part after the other, each check with a yes or a no and its reason.

A part that another program can serve is one `Part`: the engine's own are in `PARTS`, the ledger's in `indexing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from engine.conformance.expectation import Broken
from engine.errors import SightlineError
from engine.settings import Settings

Check = tuple[str, Callable[[], Awaitable[None]]]
"""What is checked, as a sentence, and the check, which raises `Broken` or one of our errors when it does not hold."""


@dataclass(frozen=True, slots=True)
class Part:
    """A program beside ours: its name, the setting that names it, what serves in its place without, and its checks.

    `checks` prepares what they need, in a place of its own that nothing else uses, and removes it again. It raises
    `Broken` or one of our errors when the part can't be reached. Only then is the part's client imported.
    """

    name: str
    setting: str
    embedded: str
    checks: Callable[[Settings], AbstractAsyncContextManager[Sequence[Check]]]

    def is_named(self, settings: Settings) -> bool:
        """Whether these settings name it."""
        return bool(getattr(settings, self.setting.lower()))


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check's result; `reason` is empty when it holds."""

    part: str
    check: str
    holds: bool
    reason: str = ""


def sentence(behaviour: Callable[..., Any]) -> str:
    """What a check asks, in words: the name of its function."""
    return behaviour.__name__.replace("_", " ")


async def verdicts(part: Part, settings: Settings) -> AsyncIterator[Verdict]:
    """Runs a part's checks one after the other. What cleaning up or reaching it meets is a verdict too."""
    try:
        async with part.checks(settings) as checks:
            for check, run in checks:
                yield await _verdict(part, check, run)
    except (Broken, SightlineError) as error:
        yield Verdict(part.name, "can be reached", holds=False, reason=str(error))


async def _verdict(part: Part, check: str, run: Callable[[], Awaitable[None]]) -> Verdict:
    try:
        await run()
    except (Broken, SightlineError) as error:
        return Verdict(part.name, check, holds=False, reason=str(error))
    except Exception as fault:  # noqa: BLE001 - a fault of ours in one check must not hide the other verdicts
        return Verdict(part.name, check, holds=False, reason=f"the check itself failed: {fault!r}")
    return Verdict(part.name, check, holds=True)


def _qdrant(settings: Settings) -> AbstractAsyncContextManager[Sequence[Check]]:
    from engine.conformance.qdrant import qdrant_checks  # noqa: PLC0415 - loads gRPC

    return qdrant_checks(settings)


def _redis(settings: Settings) -> AbstractAsyncContextManager[Sequence[Check]]:
    from engine.conformance.redis import redis_checks  # noqa: PLC0415 - loads the client of Redis

    return redis_checks(settings)


PARTS: Final = (
    Part("Qdrant", "QDRANT_URL", "vectors are in Qdrant Edge, on this machine", _qdrant),
    Part("Redis", "REDIS_URL", "answers are remembered in each server's memory alone", _redis),
)
"""The parts of a search that another program can serve."""
