"""Worlds for tests of the operator."""

from __future__ import annotations

import pytest

from tests.operator.world import World


@pytest.fixture
async def serving() -> World:
    """A world in which the first generation serves, long after its promotion."""
    world = World()
    await world.settle()
    world.pass_time(600)
    await world.settle()
    world.notes.clear()
    world.cluster.writes.clear()
    return world
