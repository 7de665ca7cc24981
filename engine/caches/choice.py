"""Which caches the settings mean: memory, and Redis behind it where there is one."""

from __future__ import annotations

from dataclasses import dataclass

from engine.caches.memory import MemoryCache
from engine.caches.tiered import TieredCache
from engine.ports import Cache
from engine.settings import Settings


@dataclass(frozen=True, slots=True)
class Caches:
    """What a search remembers, apart so that neither pushes the other out: ranked lists, and embeddings of texts."""

    lists: Cache
    embeddings: Cache

    async def ping(self) -> bool:
        """Whether they answer; they share what can be lost."""
        return await self.lists.ping()

    async def close(self) -> None:
        """Closes both."""
        await self.lists.close()
        await self.embeddings.close()


def in_memory(lists_bytes: int, embeddings_bytes: int) -> Caches:
    """Caches in this process of at most so many bytes; 0 remembers nothing."""
    return Caches(MemoryCache(lists_bytes), MemoryCache(embeddings_bytes))


def open_caches(settings: Settings) -> Caches:
    """Memory, in front of Redis if `REDIS_URL` names one. Raises `BadUserInput` when it can't be a URL of Redis."""
    near = in_memory(settings.cache_max_bytes, settings.cache_embedding_bytes)
    if not settings.redis_url.get_secret_value():
        return near
    from engine.caches.redis import RedisCache  # noqa: PLC0415 - a library that only this setting needs

    far = RedisCache(settings)
    return Caches(TieredCache(near.lists, far), TieredCache(near.embeddings, far))
