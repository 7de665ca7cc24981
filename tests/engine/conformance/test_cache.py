"""The checks of a cache are able to say no."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from engine.caches.memory import MemoryCache
from engine.conformance import cache as conformance
from engine.conformance.cache import CACHE, Subject
from engine.conformance.expectation import Broken


async def nothing() -> None:
    """Memory has stored what was set."""


class Forgetful(MemoryCache):
    """Stores nothing, as a cache does behind which Redis is away."""

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        pass


class Stubborn(MemoryCache):
    """Keeps the first value."""

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        if await super().get_many([key]) == [None]:
            await super().set(key, value, ttl_s)


class Shuffling(MemoryCache):
    """Answers in the order of the keys."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return await super().get_many(sorted(keys))


class Small(MemoryCache):
    """Has no room for a large value."""

    def __init__(self, _max_bytes: int) -> None:
        super().__init__(1_000_000)


class Careless(MemoryCache):
    """Takes no notice of spaces and of what comes after a line's end."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return await super().get_many([key.splitlines()[0].replace("!", "") for key in keys])


class Immortal(MemoryCache):
    """Forgets nothing."""

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        await super().set(key, value, 1000 + ttl_s)


class Rash(MemoryCache):
    """Keeps the time of the first value under a key."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self._times: dict[str, float] = {}

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        await super().set(key, value, self._times.setdefault(key, ttl_s))


class Crossed(MemoryCache):
    """Gives every second caller the value of another."""

    _calls = 0

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self._calls += 1
        values = await super().get_many(keys)
        return [b"another" for _ in values] if self._calls % 2 == 0 else values


class Silent(MemoryCache):
    """Does not answer a ping."""

    async def ping(self) -> bool:
        return False


class Open(MemoryCache):
    """Can't be closed."""

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("defective", "broken"),
    [
        (Stubborn, "what_was_stored_is_found"),
        (Shuffling, "many_keys_are_found_in_their_order"),
        (Small, "values_of_any_bytes_and_size_are_kept"),
        (Careless, "keys_of_any_characters_are_kept_apart"),
        (Immortal, "entries_live_for_their_time"),
        (Rash, "a_new_value_brings_its_own_time"),
        (Crossed, "many_ask_at_once"),
        (Silent, "it_says_that_it_answers"),
        (Open, "a_closed_cache_has_nothing_and_is_no_error"),
    ],
)
async def test_a_defect_breaks_the_behaviour_that_forbids_it(
    defective: type[MemoryCache], broken: str, monkeypatch: pytest.MonkeyPatch
):
    """Each of them can fail."""
    monkeypatch.setattr(conformance, "_GONE_S", 0.1)
    [behaviour] = [found for found in CACHE if found.__name__ == broken]
    with pytest.raises(Broken):
        await behaviour(Subject(defective(10_000_000), nothing))


@pytest.mark.parametrize("behaviour", CACHE, ids=lambda behaviour: behaviour.__name__)
async def test_a_cache_without_entries_passes_no_check_but_the_ping(behaviour: Callable[[Subject], Awaitable[None]]):
    """A cache never raises; so what it lacks must be a no."""
    subject = Subject(Forgetful(10_000_000), nothing)
    if behaviour.__name__ == "it_says_that_it_answers":
        await behaviour(subject)
        return
    with pytest.raises(Broken):
        await behaviour(subject)
