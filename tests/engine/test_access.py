from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.access import IndexAccess
from engine.encoders.loaded import LoadedEncoders
from engine.errors import IndexNotFound, IndexUnavailable
from engine.generations import Generation
from engine.indexes.exact import ExactIndex
from engine.serving import IndexRegistry, Serving, _Slot
from engine.settings import Settings
from tests.support.encoders import WordEncoder

SETTINGS = Settings(_env_file=None)
ENCODERS = LoadedEncoders(SETTINGS)
MODEL = WordEncoder(8).model
SERVING = Serving(Generation("1", "default", Path(), "ready", MODEL, "", 0), ExactIndex(8), ENCODERS.claim(MODEL))


class Slow(IndexRegistry):
    """A registry that opens when it is told to, counts how often, and knows no index of the name "nowhere"."""

    def __init__(self) -> None:
        super().__init__(SETTINGS, ENCODERS)
        self.gate = asyncio.Event()
        self.opened = 0

    @property
    def users(self) -> int:
        return sum(slot.users for slot in self._slots.values())

    async def _open_first(self, name: str) -> None:
        if name == "nowhere":
            raise IndexNotFound("There is no index 'nowhere'.")
        await self.gate.wait()
        self.opened += 1
        self._slots[name] = _Slot(SERVING)


async def use(access: IndexAccess, name: str | None = None) -> Serving:
    """Opens and leaves."""
    async with access.acquire(name) as serving:
        return serving


async def test_an_index_that_opens_slowly_is_opened_all_the_same():
    """Who can't wait so long is told; it is opened once, for those who come later."""
    registry = Slow()
    access = IndexAccess(registry, 0.05)
    outcomes = await asyncio.gather(*(use(access) for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {IndexUnavailable}
    assert registry._opening
    registry.gate.set()
    await asyncio.gather(*registry._opening.values())
    assert await use(access) is SERVING
    assert (registry.opened, registry.users, registry._opening) == (1, 0, {})


async def test_what_the_registry_says_is_passed_on():
    """And forgotten: the next call asks again."""
    registry = Slow()
    access = IndexAccess(registry, 5)
    for _ in range(2):
        with pytest.raises(IndexNotFound, match="nowhere"):
            await use(access, "nowhere")
        assert not registry._opening


async def test_only_its_own_deadline_becomes_an_error_of_the_index():
    """It names the index; another's time running out inside is not its business."""
    access = IndexAccess(Slow(), 0.01)
    with pytest.raises(IndexUnavailable, match=r"'pictures' did not answer within 0\.01 s.*SEARCH_TIMEOUT_S"):
        async with access.deadline("pictures"):
            await asyncio.Event().wait()
    patient = IndexAccess(Slow(), 60)
    with pytest.raises(TimeoutError):
        async with patient.deadline("pictures"), asyncio.timeout(0.01):
            await asyncio.Event().wait()
