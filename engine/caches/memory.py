"""A cache in this process: the fastest there is, bounded in bytes, forgetting the least recently used first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from observability import metrics

_ENTRY_OVERHEAD: Final = 256
"""Bytes that an entry costs beside its key and value: the dictionary's slot and three objects, rounded up."""


class MemoryCache:
    """An LRU with a time to live, at most `max_bytes` large; 0 remembers nothing. Used from the event loop only."""

    def __init__(self, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never run backwards."""
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._hits = metrics.cache_requests.labels(tier="memory", result="hit")
        self._misses = metrics.cache_requests.labels(tier="memory", result="miss")

    @property
    def used_bytes(self) -> int:
        """What the entries take, keys and bookkeeping included."""
        return self._bytes

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The bytes under each key, in their order; None where there are none or their time is over."""
        return [self._get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Stores bytes for `ttl_s` seconds; what is larger than the whole cache is not stored."""
        self._remove(key)
        size = _size(key, value)
        if size > self._max_bytes:
            return
        while self._bytes + size > self._max_bytes:
            self._remove(next(iter(self._entries)))
        self._entries[key] = (value, self._clock() + ttl_s)
        self._bytes += size

    async def ping(self) -> bool:
        """Always true: memory answers."""
        return True

    async def close(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self._bytes = 0

    def _get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is not None and entry[1] <= self._clock():
            self._remove(key)
            entry = None
        if entry is None:
            self._misses.inc()
            return None
        self._entries.move_to_end(key)
        self._hits.inc()
        return entry[0]

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(key, entry[0])


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_OVERHEAD
