"""Which caches the settings mean."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine.caches.choice import open_caches
from engine.caches.memory import MemoryCache
from engine.errors import BadUserInput
from engine.settings import Settings


def configured(**values: object) -> Settings:
    """Settings without an environment."""
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


async def test_without_redis_memory_is_all_there_is():
    """Lists and embeddings have a memory each, with bounds of their own."""
    caches = open_caches(configured(cache_max_bytes=3000, cache_embedding_bytes=0))
    assert isinstance(caches.lists, MemoryCache)
    for cache in (caches.lists, caches.embeddings):
        await cache.set("a", b"1", 60)
    assert (await caches.lists.get_many(["a"]), await caches.embeddings.get_many(["a"])) == ([b"1"], [None])
    assert await caches.ping()
    await caches.close()
    assert await caches.lists.get_many(["a"]) == [None]


def test_redis_is_imported_only_where_it_is_wanted():
    """Its client takes time to import, and a server on one machine needs none."""
    program = (
        "import sys\n"
        "from engine.caches.choice import open_caches\n"
        "from engine.settings import Settings\n"
        "open_caches(Settings(_env_file=None))\n"
        "assert 'redis' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize(
    ("url", "cluster"),
    [
        ("http://:hunter2@example.test:6379", False),
        ("hunter2", False),
        ("redis://:hunter2@example.test:port", False),
        ("redis://:hunter2@example.test:99999999", False),
        ("redis://:hunter2@example.test:6379/0?unheard_of=1", False),
        ("redis://:hunter2@example.test:6379/0?unheard_of=1", True),
        ("redis://:hunter2@example.test:6379/3", True),
    ],
)
def test_a_url_that_can_not_be_one_is_refused_without_its_password(url: str, *, cluster: bool):
    """When the server starts, with the name of the setting and what to write."""
    with pytest.raises(BadUserInput, match=r"REDIS_URL.*redis://HOST:PORT") as caught:
        open_caches(configured(redis_url=url, redis_cluster=cluster))
    fault: BaseException | None = caught.value
    while fault is not None:
        assert fault.__suppress_context__ or "hunter2" not in str(fault)
        assert "hunter2" not in str(fault)
        fault = None if fault.__suppress_context__ else fault.__context__


def test_the_password_is_shown_nowhere_but_to_children():
    """Neither where settings are printed nor where they are dumped."""
    settings = configured(redis_url="redis://:hunter2@example.test:6379/0")
    assert "hunter2" not in f"{settings} {settings!r} {settings.redis_url} {settings.model_dump(mode='json')}"
    assert settings.environment()["REDIS_URL"] == "redis://:hunter2@example.test:6379/0"
