"""Generations on disk and on a Qdrant server: the same calls, the same answers. `sightline check` runs them too."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from engine.conformance.generations import GENERATIONS, MODEL, Make
from engine.errors import BadUserInput
from engine.generations import Generations, index_names, open_generations
from engine.settings import Settings


@pytest.fixture
async def make(settings: Settings) -> AsyncIterator[Make]:
    """Opens generations of indexes that no other test names, and closes them."""
    opened: list[Generations] = []
    prefix = f"test-{secrets.token_hex(4)}"

    def make(index: str) -> Generations:
        opened.append(open_generations(settings, f"{prefix}-{index}"))
        return opened[-1]

    yield make
    for store in opened:
        await store.close()


@pytest.mark.parametrize("behaviour", GENERATIONS, ids=lambda behaviour: behaviour.__name__)
async def test_contract(behaviour: Callable[[Make], Awaitable[None]], make: Make):
    """Each behaviour says by its name what holds."""
    await behaviour(make)


async def test_indexes_are_listed_by_name(make: Make, settings: Settings):
    """Those that have a generation, in whatever state, and no others."""
    before = await index_names(settings)
    stores = [make("zoo"), make("art"), make("art-20240101")]
    make("absent")
    for store in stores:
        await store.begin(MODEL)
    assert [name for name in await index_names(settings) if name not in before] == sorted(s.index for s in stores)


@pytest.mark.parametrize("name", ["", "..", "a/b", "Upper", "-a", "a" * 64, "ä", "a\n"])
def test_names_that_could_leave_the_folder_are_refused(settings: Settings, name: str):
    """Only lower-case letters, digits, _ and -."""
    with pytest.raises(BadUserInput, match="index"):
        open_generations(settings, name)
