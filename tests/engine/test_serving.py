"""Serving generations: opened when needed, swapped under running searches, closed when nobody needs them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.encoders.loaded import LoadedEncoders
from engine.errors import BadUserInput, IndexCorrupt, IndexNotFound, IndexNotReady, IndexUnavailable
from engine.generations import Generation, GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.serving import IndexRegistry
from engine.settings import Settings
from tests.support.encoders import WordEncoder, loading

ENCODER = WordEncoder(16)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings for an empty data folder."""
    return Settings(_env_file=None, index_path=tmp_path)


@pytest.fixture
def generations(settings: Settings, build: Callable[..., Generation]) -> list[Generation]:
    """Two generations of the default index, one picture and two pictures; the first serves."""
    captions = ["red car", "blue car"]
    return [build(settings.index_path, captions[: n + 1], ENCODER, promote=n == 0) for n in range(2)]


@pytest.fixture
def store(settings: Settings) -> GenerationStore:
    """The default index's generations."""
    return GenerationStore(settings.index_path, "default")


@pytest.fixture
async def registry(settings: Settings) -> AsyncIterator[IndexRegistry]:
    """A registry that is closed at the end."""
    encoders = LoadedEncoders(settings, loading(ENCODER))
    registry = IndexRegistry(settings, encoders)
    yield registry
    await registry.close()
    await encoders.close()


async def test_the_default_index_is_served_without_a_name(registry: IndexRegistry, generations: list[Generation]):
    """With and without its name it is the same open index, also for many at once."""

    async def ask(name: str | None) -> tuple[str, int, int]:
        async with registry.acquire(name) as serving:
            return serving.generation.id, id(serving.index), await serving.index.count()

    answers = await asyncio.gather(*(ask(name) for name in (None, "default", None)))
    assert len(set(answers)) == 1
    assert answers[0][0] == generations[0].id
    assert answers[0][2] == 1


async def test_unknown_indexes_are_not_found(registry: IndexRegistry, settings: Settings):
    """The message lists those there are, or says how to make the first."""
    with pytest.raises(IndexNotFound, match="none yet: run `sightline index"):
        async with registry.acquire("zoo"):
            pass
    GenerationStore(settings.index_path, "art").begin(ENCODER.model)
    with pytest.raises(IndexNotFound, match=r"'zoo'.*art"):
        async with registry.acquire("zoo"):
            pass
    with pytest.raises(BadUserInput, match="index"):
        async with registry.acquire("../art"):
            pass
    assert await registry.names() == ["art"]


async def test_an_index_that_is_being_built_is_not_ready(registry: IndexRegistry, store: GenerationStore):
    """The message says what to run."""
    store.begin(ENCODER.model)
    with pytest.raises(IndexNotReady, match="sightline index"):
        async with registry.acquire():
            pass


async def test_a_promotion_swaps_at_the_next_refresh(
    registry: IndexRegistry, store: GenerationStore, generations: list[Generation]
):
    """Who searches keeps the old generation to the end; later ones get the new one; then the old one is closed."""
    async with registry.acquire() as before:
        store.promote(generations[1].id)
        async with registry.acquire() as still:
            assert still is before
        await registry.refresh()
        async with registry.acquire() as after:
            assert after.generation.id == generations[1].id
            assert await after.index.count() == 2
        assert await before.index.count() == 1
    with pytest.raises(IndexUnavailable, match="closed"):
        await before.index.count()


async def test_a_rollback_to_a_generation_still_in_use_takes_it_back(
    registry: IndexRegistry, store: GenerationStore, generations: list[Generation]
):
    """Its files are open and can't be opened twice; it goes on as it is, and is not closed when its user leaves."""
    async with registry.acquire() as first:
        store.promote(generations[1].id)
        await registry.refresh()
        store.rollback()
        await registry.refresh()
        async with registry.acquire() as again:
            assert again is first
    async with registry.acquire() as later:
        assert await later.index.count() == 1


async def test_a_generation_that_can_not_be_opened_does_not_serve(
    registry: IndexRegistry, store: GenerationStore, generations: list[Generation]
):
    """The one before it goes on, and a later good promotion is taken."""
    async with registry.acquire() as before:
        pass
    blocker = EdgeIndex.open(generations[1].shard, Settings(_env_file=None))
    store.promote(generations[1].id)
    await registry.refresh()
    async with registry.acquire() as still:
        assert still is before
    await blocker.close()
    await registry.refresh()
    async with registry.acquire() as after:
        assert after.generation.id == generations[1].id


async def test_an_index_with_other_points_than_recorded_is_corrupt(
    registry: IndexRegistry, store: GenerationStore, generations: list[Generation]
):
    """Files that open but are not all there are not served as if they were."""
    store.finish(replace(generations[0]), points=5)
    with pytest.raises(IndexCorrupt, match="should hold 5 vectors"):
        async with registry.acquire():
            pass


async def test_cut_files_are_corrupt(registry: IndexRegistry, generations: list[Generation]):
    """They are found before anything is mapped into memory."""
    for file in generations[0].shard.glob("segments/*/vector_storage/**/*.mmap"):
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(IndexCorrupt, match="bytes"):
        async with registry.acquire():
            pass


async def test_closing_frees_the_files(registry: IndexRegistry, generations: list[Generation]):
    """Another opener can have them at once."""
    async with registry.acquire():
        pass
    await registry.close()
    index = EdgeIndex.open(generations[0].shard, Settings(_env_file=None))
    assert await index.count() == 1
    await index.close()
