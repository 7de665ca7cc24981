"""What the builders need to know of the operator's own surroundings, taken from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from engine.settings import Settings


@dataclass(frozen=True, slots=True)
class Config:
    """The image of workers and replicas, and where in a namespace they find their stores.

    `stores_secret` is a Secret whose keys are variables (INDEX_DATABASE_URL, QDRANT_API_KEY, REDIS_URL); `data_claim`
    a PersistentVolumeClaim for thumbnails and manifests, or empty for none that outlast a pod.
    """

    image: str
    qdrant_url: str
    stores_secret: str = "sightline-stores"  # noqa: S105 - the name of one
    data_claim: str = ""
    prometheus_url: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Config:
        """As the settings say."""
        return cls(
            image=settings.operator_image,
            qdrant_url=settings.qdrant_url,
            stores_secret=settings.operator_stores_secret,
            data_claim=settings.operator_data_claim,
            prometheus_url=settings.operator_prometheus_url,
        )
