"""Steps that several stories of an ImageIndex have in common, and a record of what its alias stood for."""

from __future__ import annotations

import asyncio
import threading
from typing import Self

from imageindex_operator.names import GENERATION

from engine.generations.qdrant import QdrantGenerations
from tests.e2e.operator.conftest import Shop, eventually
from tests.support.qdrant import QdrantServer

ID_LENGTH = 27


def begun(shop: Shop) -> str:
    """The generation that is being built, once there is one."""
    eventually(lambda: len(shop.pending()), ID_LENGTH)
    return shop.pending()


def built_by_jobs(shop: Shop) -> list[str]:
    """The generations of all Jobs that are there, one for each Job."""
    return [job["metadata"]["labels"][GENERATION] for job in shop.children("jobs")]


def look(shop: Shop) -> None:
    """Has the operator look again: nobody tells it what happens at Qdrant."""
    version = shop.get()["metadata"]["resourceVersion"]
    shop.kubectl("annotate", "imageindex/shop", f"test/look={version}", "--overwrite")


def served(shop: Shop, model: str = "ViT-B-32") -> str:
    """Builds what is pending, and waits until it serves; its generation."""
    generation = begun(shop)
    eventually(lambda: generation in built_by_jobs(shop), True)
    shop.build(generation, model)
    look(shop)
    eventually(shop.serves, generation)
    eventually(lambda: shop.condition("Ready"), "True Serving")
    return generation


class AliasHistory:
    """As a context: every generation that the alias of `shop` stood for meanwhile, looked at all the time."""

    def __init__(self, qdrant: QdrantServer, index: str = "shop") -> None:
        self.values: list[str | None] = []
        self._settings = qdrant.settings()
        self._index = index
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()

    async def _follow(self) -> None:
        store = QdrantGenerations(self._settings, self._index)
        try:
            while not self._over.is_set():
                found = await store.current_id()
                if self.values[-1:] != [found]:
                    self.values.append(found)
                await asyncio.sleep(0.02)
        finally:
            await store.close()
