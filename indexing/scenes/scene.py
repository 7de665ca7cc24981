"""A scene: what one picture holds, sampled from a seed before anything is drawn.

The scene is the ground truth. The picture and its captions are both made from it, never the other way round.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random
from typing import Any

from indexing.scenes.vocabulary import BACKGROUNDS, COLORS, KINDS, TIMES, WEATHERS


@dataclass(frozen=True, slots=True)
class Group:
    """One to three things of one kind and colour, standing together.

    `position` is where the group's centre lies: "left", "center" or "right" of the picture.
    """

    kind: str
    color: str
    count: int
    position: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture's contents: one group, or two of different kinds, the one left of the other.

    `seed` decides whatever the other fields leave open: sizes, shades, poses, the details of the background.
    The first group is the main one: it is the larger, and gives the scene its category.
    """

    seed: int
    groups: tuple[Group, ...]
    background: str
    time: str
    weather: str

    @property
    def category(self) -> str:
        """The category of the main group's kind."""
        return KINDS[self.groups[0].kind].category

    @property
    def left_to_right(self) -> tuple[Group, ...]:
        """The groups as they stand: of two, the left one first."""
        return tuple(sorted(self.groups, key=lambda group: group.position != "left"))

    def metadata(self, caption: str) -> dict[str, Any]:
        """The ground truth as it is written beside the picture, with a caption."""
        return {
            "objects": [
                {"kind": g.kind, "color": g.color, "count": g.count, "position": g.position} for g in self.groups
            ],
            "background": self.background,
            "time": self.time,
            "weather": self.weather,
            "category": self.category,
            "caption": caption,
        }


def held_out(kind: str, color: str) -> bool:
    """Whether a kind in this colour never appears in training, so that evaluation can ask for it unseen.

    One of each kind's natural colours and, on average, one of the others is held out.
    """
    natural = KINDS[kind].natural
    digest = int.from_bytes(hashlib.sha256(f"{kind}/{color}".encode()).digest()[:4], "big")
    return color == natural[2] if color in natural else digest % 7 == 0


def _color(kind: str, rng: Random, *, training: bool) -> str:
    while True:
        color = rng.choice(KINDS[kind].natural if rng.random() < 0.6 else tuple(COLORS))
        if not (training and held_out(kind, color)):
            return color


def sample(seed: int, *, training: bool = False) -> Scene:
    """The scene of a seed, the same on every machine.

    With `training` the held-out pairs of kind and colour are left out. Half of the scenes hold one group (one, two or
    three things), half hold two groups of different kinds, one left and one right.
    """
    rng = Random(f"scene/{seed}/{training}")
    double = rng.random() < 0.5
    kinds = rng.sample(tuple(KINDS), 2 if double else 1)
    counts: tuple[int, ...]
    positions: tuple[str, ...]
    if double:
        counts = rng.choices(((1, 1), (2, 1), (1, 2)), (0.7, 0.15, 0.15))[0]
        positions = rng.choice((("left", "right"), ("right", "left")))
    else:
        counts = (rng.choices((1, 2, 3), (0.4, 0.3, 0.3))[0],)
        positions = (rng.choice(("left", "center", "right")) if counts == (1,) else "center",)
    groups = tuple(
        Group(kind, _color(kind, rng, training=training), count, position)
        for kind, count, position in zip(kinds, counts, positions, strict=True)
    )
    return Scene(
        seed=seed,
        groups=groups,
        background=rng.choice(BACKGROUNDS),
        time=rng.choices(TIMES, (0.5, 0.2, 0.3))[0],
        weather=rng.choices(WEATHERS, (0.55, 0.15, 0.15, 0.15))[0],
    )
