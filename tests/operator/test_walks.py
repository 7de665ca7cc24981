"""Random walks: people, faults and crashes in any order; what must never be, never is, and in the end all is well."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from engine.errors import SightlineError
from engine.generations.record import WAITS
from tests.operator.test_rollout import B32, H14, SIGLIP
from tests.operator.world import Crashed, World

STEPS = 20


class Walk:
    """One walk through the world. A failure names its seed, with which it can be repeated."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World()
        self.count = 0

    def choose(self) -> None:
        """Somebody does something, or something breaks."""
        self.count += 1
        self.random.choice(self.deeds())()

    def deeds(self) -> list[Callable[[], None]]:
        """All that may happen next."""
        world, any_of = self.world, self.random.choice
        rollout = world.body["spec"]["rollout"]
        unpinned = {name: value for name, value in rollout.items() if name != "generation"}
        known = sorted(world.qdrant.generations)
        ready = [id_ for id_ in known if world.qdrant.generations[id_].state == "ready"]
        children = [key for key in world.cluster.objects if key[0] != "ImageIndex"]
        shape = {"shards": 2, "parallelism": any_of([1, 2]), "batchSize": any_of([64, 256])}
        year = any_of([2026, 2027])
        return [
            lambda: None,
            lambda: None,
            lambda: world.set_spec(model=any_of([B32, H14, SIGLIP])),
            lambda: world.set_spec(source={"s3": {"url": f"s3://pictures/{year}"}}),
            lambda: world.set_spec(indexing=shape),
            lambda: world.set_spec(suspend=any_of([True, False, False])),
            lambda: world.set_spec(rollout=unpinned),
            lambda: world.set_spec(rollout={**unpinned, **({"generation": any_of(known)} if known else {})}),
            lambda: world.annotate(retry=str(self.count)),
            lambda: world.annotate(paused=any_of(["true", "false", "false"])),
            lambda: world.cluster.objects.pop(any_of(children), None) if children else None,
            lambda: world.pass_time(any_of([5, 60, 700])),
            lambda: setattr(world.cluster, "crash_at", world.cluster.steps + self.random.randint(1, 4)),
            lambda: setattr(world.qdrant, "down", any_of([True, False, False])),
            lambda: setattr(world.qdrant, "current", any_of(ready) if ready else world.qdrant.current),
            lambda: setattr(world, "poisoned", any_of([set(), {0}])),
            lambda: setattr(world, "held", any_of([{}, {"ViT-H-14": "a canary is silent"}])),
            lambda: setattr(world, "broken", any_of([set(), {"ViT-B-16-SigLIP"}])),
        ]

    async def visits(self) -> None:
        """A few visits, by whoever is alive."""
        for _ in range(self.random.randint(1, 4)):
            before = len(self.world.qdrant.flips)
            with contextlib.suppress(SightlineError):
                try:
                    await self.world.visit()
                except Crashed:
                    self.world.start()
            self.check(before)
            self.world.controllers()
            self.world.pass_time(1)

    def check(self, before: int) -> None:
        """What must hold after every visit."""
        qdrant, pinned = self.world.qdrant, self.world.index.spec.rollout.generation
        if qdrant.current is not None:
            assert qdrant.generations[qdrant.current].state == "ready"
        for flipped in qdrant.flips[before:]:
            served = flipped in qdrant.flips[:before] or flipped == pinned
            assert served or qdrant.generations[flipped].held in {None, WAITS}
        assert len(qdrant.flips) - before <= 1

    async def heal(self) -> None:
        """All faults end, and nobody stands in the way any more."""
        world = self.world
        world.qdrant.down, world.cluster.crash_at = False, None
        world.poisoned, world.held, world.broken = set(), {}, set()
        rollout = {name: value for name, value in world.body["spec"]["rollout"].items() if name != "generation"}
        world.set_spec(suspend=False, rollout=rollout)
        world.annotate(paused="false")
        for attempt in range(3):  # what was judged before the faults ended is judged again
            world.annotate(retry=f"heal-{attempt}")
            await world.settle(120)
            world.pass_time(700)
        await world.settle()


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_only_whole_generations_serve_and_in_the_end_the_spec_does(seed: int):
    """The invariants at every visit, and the spec fulfilled when the faults have ended, with nothing left over."""
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.choose()
        await walk.visits()
    await walk.heal()
    world = walk.world
    spec, current = world.index.spec, world.qdrant.generations[str(world.qdrant.current)]
    assert current.model.name == spec.model.name
    assert world.condition("Ready") == ("True", "Serving")
    assert world.condition("Degraded") == ("False", "AsExpected")
    assert world.condition("Indexed") == ("True", "Complete")
    assert len(world.cluster.names("Deployment")) == 1
    assert len(world.qdrant.generations) <= 2
    writes = len(world.cluster.writes)
    assert await world.visit() is None
    assert len(world.cluster.writes) == writes
