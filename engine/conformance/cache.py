"""What every cache does: each behaviour is one function, whose name is the sentence.

Each takes a new cache, because one of them closes it. A cache may store what was set a moment later, so a `Subject`
knows how to wait for that.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from engine.conformance.expectation import Broken, expect, expect_equal
from engine.ports import Cache

_LONG_S: Final = 60.0
_SHORT_S: Final = 0.02
_GONE_S: Final = 10.0
"""Seconds after its time in which an entry must be gone."""

_VALUES: Final = (b"", b"\0", bytes(range(256)), b"\r\n$-1\r\n", bytes(2_000_000))
_KEYS: Final = ("", " ", "ключ 猫", "{a}b", "a\r\nGET b", "*", "x" * 10_000)


@dataclass(frozen=True, slots=True)
class Subject:
    """A cache, a way to wait until all that was set is stored, and keys of it that nothing else uses."""

    cache: Cache
    settle: Callable[[], Awaitable[None]]
    prefix: str = field(default_factory=lambda: f"check:{secrets.token_hex(8)}:")
    keys: set[str] = field(default_factory=set)
    """Every key that was set, for whoever removes them."""

    async def set(self, key: str, value: bytes, ttl_s: float = _LONG_S) -> None:
        """Stores, and waits until it can be read."""
        self.keys.add(self.prefix + key)
        await self.cache.set(self.prefix + key, value, ttl_s)
        await self.settle()

    async def get(self, *keys: str) -> list[bytes | None]:
        """Reads."""
        return await self.cache.get_many([self.prefix + key for key in keys])


async def what_was_stored_is_found(subject: Subject) -> None:
    """Bytes come back as they were; another key is a miss; storing again replaces."""
    await subject.set("a", b"1")
    expect_equal(await subject.get("a", "b"), [b"1", None], "a key that was set and one that was not")
    await subject.set("a", b"22")
    expect_equal(await subject.get("a"), [b"22"], "a key that was set again")


async def many_keys_are_found_in_their_order(subject: Subject) -> None:
    """Those that are missing leave their places empty, and a key may be asked for twice."""
    for number in range(0, 60, 2):
        await subject.set(str(number), b"%d" % number)
    keys = [*map(str, range(59, -1, -1)), "0", "1"]
    wanted = [b"%d" % int(key) if int(key) % 2 == 0 else None for key in keys]
    expect_equal(await subject.get(*keys), wanted, "62 keys, of which every second was set")
    expect_equal(await subject.get(), [], "no keys")


async def values_of_any_bytes_and_size_are_kept(subject: Subject) -> None:
    """An empty value is not a missing one, and 2 MB are not too many."""
    for value in _VALUES:
        await subject.set("a", value)
        expect_equal(await subject.get("a"), [value], f"a value of {len(value):,} bytes")


async def keys_of_any_characters_are_kept_apart(subject: Subject) -> None:
    """Nothing in a key means anything."""
    for key in _KEYS:
        await subject.set(key, b"1")
        expect_equal(await subject.get(key, key + "!"), [b"1", None], f"the key {key[:20]!r} and a longer one")


async def entries_live_for_their_time(subject: Subject) -> None:
    """What is over is gone, and what is not is there."""
    await subject.set("long", b"1")
    await subject.set("short", b"1", ttl_s=_SHORT_S)
    await _until_gone(subject, "short")
    expect_equal(await subject.get("long"), [b"1"], "an entry whose time is not over")


async def a_new_value_brings_its_own_time(subject: Subject) -> None:
    """The time of the value that it replaces is forgotten."""
    await subject.set("a", b"1", ttl_s=_SHORT_S)
    await subject.set("a", b"2")
    await subject.set("b", b"1", ttl_s=_SHORT_S)
    await _until_gone(subject, "b")
    expect_equal(await subject.get("a"), [b"2"], "an entry that was set again with more time")


async def many_ask_at_once(subject: Subject) -> None:
    """More than there are connections; every one gets its own answer."""
    for number in range(50):
        await subject.set(str(number), b"%d" % number)
    answers = await asyncio.gather(*(subject.get(str(number % 50)) for number in range(300)))
    wrong = sum(answer != [b"%d" % (number % 50)] for number, answer in enumerate(answers))
    expect(wrong == 0, f"{wrong} of 300 look-ups at once got a wrong answer or none")


async def it_says_that_it_answers(subject: Subject) -> None:
    """A cache that works says so."""
    expect(await subject.cache.ping(), "it does not answer a ping")


async def a_closed_cache_has_nothing_and_is_no_error(subject: Subject) -> None:
    """For those who still search when a server stops; and closing again does nothing."""
    await subject.set("a", b"1")
    expect_equal(await subject.get("a"), [b"1"], "an entry before closing")
    for _ in range(2):
        await subject.cache.close()
        expect_equal(await subject.get("a"), [None], "an entry after closing")
        await subject.set("b", b"1")


CACHE: Final[tuple[Callable[[Subject], Awaitable[None]], ...]] = (
    what_was_stored_is_found,
    many_keys_are_found_in_their_order,
    values_of_any_bytes_and_size_are_kept,
    keys_of_any_characters_are_kept_apart,
    entries_live_for_their_time,
    a_new_value_brings_its_own_time,
    many_ask_at_once,
    it_says_that_it_answers,
    a_closed_cache_has_nothing_and_is_no_error,
)


async def _until_gone(subject: Subject, key: str) -> None:
    """Waits until an entry of a short time is a miss.

    Its time passes before the first look: memory in front of another cache keeps a copy of what it still finds there.
    """
    await asyncio.sleep(2 * _SHORT_S)
    try:
        async with asyncio.timeout(_GONE_S):
            while await subject.get(key) != [None]:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(_SHORT_S)
    except TimeoutError:
        raise Broken(f"an entry of {_SHORT_S * 1000:.0f} ms is still there after {_GONE_S:.0f} s") from None
