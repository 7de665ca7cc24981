"""Embeddings of texts are remembered by model and text, and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.batcher import AsyncEncoder
from engine.caches.choice import in_memory
from engine.caches.memory import MemoryCache
from engine.embeddings import CachedEncoder
from engine.encoders.loaded import LoadedEncoders
from engine.errors import SightlineError
from engine.generations import Generation
from engine.ports import ModelInfo, Vectors
from engine.requests import SearchRequest
from engine.search import Searcher
from engine.serving import IndexRegistry
from engine.settings import Settings
from tests.support.encoders import WordEncoder, loading


class Words:
    """The tests' encoder for the event loop, with a name and a runtime to choose; it notes its batches."""

    def __init__(self, name: str = "words", runtime: str = "NumPy", dimension: int = 48) -> None:
        self._words = WordEncoder(dimension, name=name)
        self.runtime = runtime
        self.batches: list[list[str]] = []

    @property
    def model(self) -> ModelInfo:
        """The model behind the vectors."""
        return self._words.model

    async def encode_texts(self, texts: list[str]) -> Vectors:
        """Vectors of texts, (n, d)."""
        self.batches.append(texts)
        return self._words.encode_texts(texts)


class Noting(WordEncoder):
    """The tests' encoder; it notes its texts, but those of its warm-up."""

    def __init__(self) -> None:
        super().__init__(48)
        self.texts: list[str] = []

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, (n, d)."""
        self.texts += texts
        return super().encode_texts(texts)


@pytest.fixture
def cache() -> MemoryCache:
    """An empty cache."""
    return MemoryCache(1_000_000)


async def test_each_text_is_encoded_once(cache: MemoryCache):
    """In one batch with others that are new; vectors are the encoder's to the bit, in the order of the texts."""
    words = Words()
    encoder = CachedEncoder(words, cache)
    await encoder.encode_texts(["red car", "blue dog"])
    vectors = await encoder.encode_texts(["green boat", "blue dog", "red car", "green boat", "pink house"])
    assert words.batches == [["red car", "blue dog"], ["green boat", "pink house"]]
    plain = await words.encode_texts(["green boat", "blue dog", "red car", "green boat", "pink house"])
    assert np.array_equal(vectors, plain)
    assert vectors.dtype == np.float32


async def test_vectors_belong_to_who_asked(cache: MemoryCache):
    """They can be written to, and that changes nobody else's."""
    encoder = CachedEncoder(Words(), cache)
    for _ in range(2):
        vectors = await encoder.encode_texts(["red car"])
        vectors += 1
    assert np.linalg.norm((await encoder.encode_texts(["red car"]))[0]) == pytest.approx(1)


async def test_no_texts_have_no_vectors(cache: MemoryCache):
    """Of the model's dimension."""
    words = Words()
    assert (await CachedEncoder(words, cache).encode_texts([])).shape == (0, 48)
    assert words.batches == []


@pytest.mark.parametrize(
    "other",
    [Words(name="other"), Words(runtime="OpenVINO int8"), Words(dimension=24)],
    ids=["model", "runtime", "size"],
)
async def test_another_model_has_embeddings_of_its_own(cache: MemoryCache, other: Words):
    """Also the same weights in another precision."""
    await CachedEncoder(Words(), cache).encode_texts(["red car"])
    vectors = await CachedEncoder(other, cache).encode_texts(["red car"])
    assert other.batches == [["red car"]]
    assert vectors.shape == (1, other.model.dimension)


@pytest.mark.parametrize("damage", [b"", b"x", bytes(4 * 47), bytes(4 * 49)], ids=len)
async def test_embeddings_of_another_length_are_made_anew(cache: MemoryCache, damage: bytes):
    """And replaced."""
    words = Words()
    encoder = CachedEncoder(words, cache)
    plain = await encoder.encode_texts(["red car"])
    for key in list(cache._entries):
        await cache.set(key, damage, 60)
    for _ in range(2):
        assert np.array_equal(await encoder.encode_texts(["red car"]), plain)
    assert len(words.batches) == 2


async def test_errors_are_not_remembered(cache: MemoryCache):
    """The encoder's error is the caller's, and the next one tries again."""

    class Failing(Words):
        async def encode_texts(self, texts: list[str]) -> Vectors:
            if not self.batches:
                self.batches.append(texts)
                raise SightlineError("not now")
            return await super().encode_texts(texts)

    words = Failing()
    encoder = CachedEncoder(words, cache)
    with pytest.raises(SightlineError, match="not now"):
        await encoder.encode_texts(["red car"])
    await encoder.encode_texts(["red car"])
    assert len(words.batches) == 2


async def test_embeddings_outlive_a_new_generation(tmp_path: Path, build: Callable[..., Generation]):
    """After a re-index with the same model lists are made anew, and nothing is encoded again."""
    captions = ["red car", "blue car"]
    await asyncio.to_thread(build, tmp_path, captions, WordEncoder(48))
    settings, words = Settings(_env_file=None, index_path=tmp_path), Noting()
    encoders = LoadedEncoders(settings, loading(words))
    registry = IndexRegistry(settings, encoders)
    searcher = Searcher(registry, in_memory(100_000, 100_000), settings)
    generations, found = set(), []
    for _ in range(2):
        [answer] = await searcher.search_many([SearchRequest(query="red car")])
        assert not isinstance(answer, SightlineError)
        assert not answer.cached
        generations.add(answer.generation)
        found.append([edge.hit.id for edge in answer.edges])
        await asyncio.to_thread(build, tmp_path, captions, WordEncoder(48))
        await registry.refresh()
    assert len(generations) == 2
    assert found[0] == found[1]
    assert words.texts == ["red car"]
    await registry.close()
    await encoders.close()


async def test_equal_texts_at_once_are_encoded_once():
    """When both find nothing remembered, the batcher in front of the encoder has them share."""
    slow = Noting()
    batched = AsyncEncoder(slow, Settings(_env_file=None))
    encoder = CachedEncoder(batched, MemoryCache(100_000))
    await asyncio.gather(*(encoder.encode_texts(["red car"]) for _ in range(20)))
    assert slow.texts == ["red car"]
    await batched.close()
