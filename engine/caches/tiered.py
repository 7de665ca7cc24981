"""Two caches as one: a near one that is fast, and a far one that is shared by many servers and survives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.ports import Cache

NEAR_TTL_S: Final = 60.0
"""Seconds that a copy of what was found afar is kept near. So much longer than its time can an entry live."""


class TieredCache:
    """Reads `near` and, for what it lacks, `far`; writes both. Closing it closes both."""

    def __init__(self, near: Cache, far: Cache) -> None:
        self._near = near
        self._far = far

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """What is under each key, in their order; the far cache is asked only for what is not near."""
        found = await self._near.get_many(keys)
        missing = [at for at, value in enumerate(found) if value is None]
        if missing:
            brought = await self._far.get_many([keys[at] for at in missing])
            for at, value in zip(missing, brought, strict=True):
                if value is not None:
                    found[at] = value
                    await self._near.set(keys[at], value, NEAR_TTL_S)
        return found

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Stores bytes in both for `ttl_s` seconds."""
        await self._near.set(key, value, ttl_s)
        await self._far.set(key, value, ttl_s)

    async def ping(self) -> bool:
        """Whether the far cache answers: it is the one that can be lost."""
        return await self._far.ping()

    async def close(self) -> None:
        """Closes both."""
        await self._near.close()
        await self._far.close()
