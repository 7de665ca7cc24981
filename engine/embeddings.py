"""Embeddings of texts, remembered apart from results: they outlive every re-index with the same model.

What people search for repeats, under other filters and in new generations. Encoding is the dearest part of a search,
and its result depends on nothing but the text and the model.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from engine.ports import Cache, ModelInfo, Vectors
from engine.requests import digest
from observability import metrics

_SCHEMA: Final = 1  # raise it when texts are tokenized or embeddings stored otherwise
_TTL_S: Final = 7 * 24 * 3600.0  # nothing makes them wrong; this only lets go of what nobody asks for
_SOURCES: Final = {source: metrics.query_embeddings.labels(source=source) for source in ("cache", "encoder")}


class TextEncoder(Protocol):
    """What a search needs of the encoder."""

    @property
    def model(self) -> ModelInfo:
        """The model behind the vectors."""
        ...

    @property
    def runtime(self) -> str:
        """How it computes."""
        ...

    async def encode_texts(self, texts: list[str]) -> Vectors:
        """Embeddings of texts, (n, d)."""
        ...


class CachedEncoder:
    """A `TextEncoder` that encodes only the texts whose embeddings `cache` does not have."""

    def __init__(self, encoder: TextEncoder, cache: Cache) -> None:
        self._encoder = encoder
        self._cache = cache

    @property
    def model(self) -> ModelInfo:
        """The model behind the vectors."""
        return self._encoder.model

    @property
    def runtime(self) -> str:
        """How it computes."""
        return self._encoder.runtime

    async def encode_texts(self, texts: list[str]) -> Vectors:
        """Embeddings of texts, (n, d). Raises what the encoder raises."""
        keys = {text: self._key(text) for text in texts}
        stored = await self._cache.get_many(list(keys.values()))
        found = {text: value for text, value in zip(keys, map(self._vector, stored), strict=True) if value is not None}
        missing = [text for text in keys if text not in found]
        _SOURCES["cache"].inc(len(found))
        _SOURCES["encoder"].inc(len(missing))
        if missing:
            fresh = await self._encoder.encode_texts(missing)
            for text, vector in zip(missing, fresh, strict=True):
                found[text] = vector
                await self._cache.set(keys[text], vector.astype("<f4").tobytes(), _TTL_S)
        return np.stack([found[text] for text in texts]) if texts else np.empty((0, self.model.dimension), np.float32)

    def _key(self, text: str) -> str:
        """The cache key of an embedding: everything that changes it.

        The model's fingerprint covers its weights and preprocessing, `runtime` the precision in which it computes,
        `_SCHEMA` our tokenizer. What `engine.requests` makes of a text is done before.
        """
        return "embedding:" + digest([_SCHEMA, self.model.fingerprint, self.runtime, text])

    def _vector(self, stored: bytes | None) -> Vectors | None:
        """The embedding (d,), or None when there is none or its length is not the model's."""
        if stored is None or len(stored) != 4 * self.model.dimension:
            return None
        vector: Vectors = np.frombuffer(stored, dtype="<f4").astype(np.float32, copy=False)
        return vector
