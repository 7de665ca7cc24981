"""What a sentence asks for, without its words, and which scenes it fits: the judge of every answer.

A `Query` is a conjunction: things mentioned (kind, colour and number each optional), an order between two of them, a
place, a time and a weather. Whatever it leaves open fits anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexing.scenes.scene import Scene
from indexing.scenes.vocabulary import BACKGROUNDS, CATEGORIES, COLORS, KINDS, TIMES, WEATHERS

KIND_NUMBER: Final = {name: number for number, name in enumerate(KINDS)}
COLOR_NUMBER: Final = {name: number for number, name in enumerate(COLORS)}
CATEGORY_NUMBER: Final = {name: number for number, name in enumerate(CATEGORIES)}
_CATEGORY_OF_KIND: Final = np.array([CATEGORY_NUMBER[kind.category] for kind in KINDS.values()] + [-2])

ANY: Final = -1


@dataclass(frozen=True, slots=True)
class Mention:
    """One thing asked for: `what` is a kind or a category, and None asks for anything of the colour.

    `count` None fits any number; otherwise exactly that many stand together.
    """

    what: str | None = None
    color: str | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What a sentence asks for. With `ordered`, the first of two mentions is left of the second."""

    mentions: tuple[Mention, ...] = ()
    ordered: bool = False
    background: str | None = None
    time: str | None = None
    weather: str | None = None


def scene_table(scenes: Sequence[Scene]) -> NDArray[np.int64]:
    """Scenes as numbers, (n, 9): kind, colour, count of the left and of the right group, then place, time, weather.

    A scene with one group has it on the left, and -2 where the right group's numbers would be.
    """
    rows = []
    for scene in scenes:
        numbers = [n for g in scene.left_to_right for n in (KIND_NUMBER[g.kind], COLOR_NUMBER[g.color], g.count)]
        numbers += [-2] * (6 - len(numbers))
        place = (BACKGROUNDS.index(scene.background), TIMES.index(scene.time), WEATHERS.index(scene.weather))
        rows.append((*numbers, *place))
    return np.array(rows, dtype=np.int64).reshape(len(scenes), 9)


def query_table(queries: Sequence[Query]) -> NDArray[np.int64]:
    """Queries as numbers, (n, 13); -1 stands for anything.

    Kind, category, colour and count of two mentions, then how many mentions, whether ordered, place, time and weather.
    """
    rows = []
    for query in queries:
        row: list[int] = []
        for mention in (*query.mentions, Mention(), Mention())[:2]:
            row += (
                KIND_NUMBER.get(mention.what or "", ANY),
                CATEGORY_NUMBER.get(mention.what or "", ANY),
                COLOR_NUMBER.get(mention.color or "", ANY),
                mention.count or ANY,
            )
        row += (len(query.mentions), query.ordered)
        row.append(BACKGROUNDS.index(query.background) if query.background else ANY)
        row.append(TIMES.index(query.time) if query.time else ANY)
        row.append(WEATHERS.index(query.weather) if query.weather else ANY)
        rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(len(queries), 13)


def fits(queries: NDArray[np.int64], scenes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which queries fit which scenes, (queries, scenes), from `query_table` and `scene_table`."""

    def agrees(asked: NDArray[np.int64], is_so: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray((asked[:, None] == ANY) | (asked[:, None] == is_so[None, :]), dtype=np.bool_)

    def mention_fits(mention: int, group: int) -> NDArray[np.bool_]:
        asked, so = queries[:, 4 * mention : 4 * mention + 4].T, scenes[:, 3 * group : 3 * group + 3].T
        there = so[0] != -2
        category = _CATEGORY_OF_KIND[np.where(there, so[0], -1)]
        thing = agrees(asked[0], so[0]) & agrees(asked[1], category)
        return np.asarray(thing & agrees(asked[2], so[1]) & agrees(asked[3], so[2]) & there, dtype=np.bool_)

    first_left, first_right = mention_fits(0, 0), mention_fits(0, 1)
    second_left, second_right = mention_fits(1, 0), mention_fits(1, 1)
    mentioned, ordered = queries[:, 8][:, None], queries[:, 9][:, None].astype(bool)
    both = (first_left & second_right) | (first_right & second_left & ~ordered)
    things = np.where(mentioned == 0, True, np.where(mentioned == 1, first_left | first_right, both))
    place = (
        agrees(queries[:, 10], scenes[:, 6])
        & agrees(queries[:, 11], scenes[:, 7])
        & agrees(queries[:, 12], scenes[:, 8])
    )
    return np.asarray(things & place, dtype=np.bool_)


def shows_main_kind(scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """Whether the scene of a column shows the main kind of thing of the scene of a row, (n, n)."""
    kinds = np.zeros((len(scenes), len(KINDS)), dtype=np.bool_)
    for row, scene in enumerate(scenes):
        kinds[row, [KIND_NUMBER[group.kind] for group in scene.groups]] = True
    mains = [KIND_NUMBER[scene.groups[0].kind] for scene in scenes]
    return kinds[:, mains].T
