"""Checks what the settings name: a part after the other, each check with a yes or a no and its reason.

A part that is served by another program joins with one line in `parts`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from engine.conformance.expectation import Broken
from engine.errors import SightlineError
from engine.settings import Settings

Check = tuple[str, Callable[[], Awaitable[None]]]
"""What is checked, as a sentence, and the check, which raises `Broken` or one of our errors when it does not hold."""


@dataclass(frozen=True, slots=True)
class Part:
    """A program beside ours: its name, what the settings say of it, and its checks.

    `checks` prepares what they need, in a place of its own that nothing else uses, and removes it again. It raises one
    of our errors when the part can't be reached.
    """

    name: str
    where: str
    checks: Callable[[Settings], AbstractAsyncContextManager[Sequence[Check]]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check's result; `reason` is empty when it holds."""

    part: str
    check: str
    holds: bool
    reason: str = ""


def parts(settings: Settings) -> list[Part]:
    """The parts that these settings name. Only theirs are imported: each loads a client that others don't need."""
    named: list[Part] = []
    if settings.qdrant_url:
        from engine.conformance.qdrant import qdrant_checks  # noqa: PLC0415 - loads gRPC

        named.append(Part("Qdrant", settings.qdrant_url, qdrant_checks))
    return named


async def verdicts(part: Part, settings: Settings) -> AsyncIterator[Verdict]:
    """Runs a part's checks one after the other. What cleaning up or reaching it meets is a verdict too."""
    try:
        async with part.checks(settings) as checks:
            for sentence, run in checks:
                yield await _verdict(part, sentence, run)
    except SightlineError as error:
        yield Verdict(part.name, "can be reached", holds=False, reason=str(error))


async def _verdict(part: Part, sentence: str, run: Callable[[], Awaitable[None]]) -> Verdict:
    try:
        await run()
    except (Broken, SightlineError) as error:
        return Verdict(part.name, sentence, holds=False, reason=str(error))
    except Exception as fault:  # noqa: BLE001 - a fault of ours in one check must not hide the other verdicts
        return Verdict(part.name, sentence, holds=False, reason=f"the check itself failed: {fault!r}")
    return Verdict(part.name, sentence, holds=True)
