"""Steps that several stories of an ImageIndex have in common."""

from __future__ import annotations

from imageindex_operator.names import GENERATION

from tests.e2e.operator.conftest import Shop, eventually

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
