"""The operator killed right before each of its steps, and another one that goes on."""

from __future__ import annotations

import contextlib

import pytest

from tests.operator.test_rollout import H14
from tests.operator.world import Crashed, World


async def survive(world: World) -> None:
    """Visits and controllers until nothing moves; whoever is killed is started again."""
    for _ in range(3):
        with contextlib.suppress(Crashed):
            await world.settle()
            return
        world.start()
    raise AssertionError("killed more than once")


async def steps_of_a_rollout() -> int:
    """How many steps change the world from one model to the next."""
    world = World()
    await world.settle()
    world.pass_time(600)
    await world.settle()
    before = world.cluster.steps
    world.set_spec(model=H14)
    await world.settle()
    world.pass_time(600)
    await world.settle()
    return world.cluster.steps - before


async def test_a_rollout_has_steps_to_be_killed_at():
    """So that the next test does not prove nothing."""
    assert await steps_of_a_rollout() >= 12


@pytest.mark.parametrize("step", range(1, 21))
async def test_killed_at_any_step_the_alias_moves_once_and_to_a_whole_generation(step: int):
    """Each step of a rollout and of what tidies up behind it: in the end all is as if nothing had happened."""
    world = World()
    await world.settle()
    world.pass_time(600)
    await world.settle()
    (first,) = world.qdrant.flips
    world.cluster.crash_at = world.cluster.steps + step
    world.set_spec(model=H14)
    await survive(world)
    world.pass_time(600)
    await survive(world)
    assert len(world.qdrant.flips) == 2
    assert world.qdrant.flips[0] == first
    assert world.qdrant.generations[world.qdrant.current].state == "ready"
    assert set(world.qdrant.generations) == set(world.qdrant.flips)
    assert world.condition("Ready") == ("True", "Serving")
    assert world.condition("Promoted") == ("True", "Serving")
    assert len(world.cluster.names("Deployment")) == 1
    assert world.index.status.previous_collection == f"sightline-shop-{first}"


@pytest.mark.parametrize("step", range(1, 13))
async def test_killed_at_any_step_of_the_first_rollout_it_comes_to_the_same_end(step: int):
    """Also where there is nothing yet."""
    world = World()
    world.cluster.crash_at = step
    await survive(world)
    assert len(world.qdrant.flips) == 1
    assert list(world.qdrant.generations) == world.qdrant.flips
    assert world.condition("Ready") == ("True", "Serving")


async def test_without_the_lease_nothing_is_written():
    """Another operator works by now."""
    world = World()
    world.leading = False
    with pytest.raises(Exception, match="lease is lost"):
        await world.visit()
    assert world.cluster.writes == []
