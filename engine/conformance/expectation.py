"""How a check says no: in a sentence that names what was asked and what came instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import SightlineError


class Broken(AssertionError):
    """Something that was promised does not hold; the message says what."""


def expect(holds: bool, sentence: str) -> None:  # noqa: FBT001 - it is what is expected
    """Raises `Broken` with the sentence, which says what is wrong, unless it holds."""
    if not holds:
        raise Broken(sentence)


def expect_equal(got: object, wanted: object, what: str) -> None:
    """Raises `Broken` unless both are equal."""
    if got != wanted:
        raise Broken(f"{what}: expected {_short(wanted)}, got {_short(got)}")


@contextmanager
def refused(kind: type[SightlineError], word: str, what: str) -> Iterator[None]:
    """Raises `Broken` unless the block raises an error of this kind whose message holds the word."""
    try:
        yield
    except kind as error:
        if word not in str(error):
            raise Broken(f"{what}: refused, but the message does not speak of {word!r}: {error}") from error
        return
    except SightlineError as error:
        raise Broken(f"{what}: refused with {type(error).__name__}, not {kind.__name__}: {error}") from error
    raise Broken(f"{what}: it was accepted")


def _short(value: object, most: int = 300) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"
