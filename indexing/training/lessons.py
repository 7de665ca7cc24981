"""What the model sees at one step: pictures, sentences about them, and the truth of each about each.

A lesson is a pure function of the seed and the step, so that a resumed training goes on exactly where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from indexing.scenes import captions
from indexing.scenes.scene import Scene, sample
from indexing.scenes.truth import Query, fits, query_table, scene_table, shows_main_kind
from indexing.training.pool import PICTURE_PX
from indexing.training.words import Words

IMAGE_PX: Final = 96


@dataclass(frozen=True, slots=True)
class Lesson:
    """One batch of b pictures and m texts.

    `pictures` is (b, 3, 96, 96) uint8; `long` and `short` are token numbers, whose texts follow each other; `truth`
    is (m, b); `owner` (m,) is the picture a text was made for; `queries` (m, 13) and `scenes` (b, 9) as in `truth`;
    `alike` (b, b) says whether the picture of a column shows the main kind of thing of the picture of a row.
    """

    pictures: NDArray[np.uint8]
    long: NDArray[np.int64]
    short: NDArray[np.int64]
    truth: NDArray[np.bool_]
    owner: NDArray[np.int64]
    queries: NDArray[np.int64]
    scenes: NDArray[np.int64]
    alike: NDArray[np.bool_]


def _mirrored(scene: Scene) -> Scene:
    turn = {"left": "right", "right": "left", "center": "center"}
    return replace(scene, groups=tuple(replace(g, position=turn[g.position]) for g in scene.groups))


class Lessons(Dataset[Lesson]):
    """Every lesson of a training, by step."""

    def __init__(self, pictures: NDArray[np.uint8], words: Words, batch: int, steps: int, seed: int) -> None:
        self._pictures, self._words, self._batch, self._steps, self._seed = pictures, words, batch, steps, seed

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Lesson:
        """The lesson of a step."""
        rng = Random(f"lesson/{self._seed}/{step}")
        numbers = self._numbers(step)
        scenes, shown = [], np.empty((self._batch, IMAGE_PX, IMAGE_PX, 3), np.uint8)
        room = PICTURE_PX - IMAGE_PX
        for row, number in enumerate(numbers):
            scene, top, left = sample(int(number), training=True), rng.randint(0, room), rng.randint(0, room)
            picture = self._pictures[number, top : top + IMAGE_PX, left : left + IMAGE_PX]
            if rng.random() < 0.5:  # noqa: PLR2004
                scene, picture = _mirrored(scene), picture[:, ::-1]
            scenes.append(scene)
            shown[row] = picture
        long: list[tuple[Query, int]] = []
        short: list[tuple[Query, int]] = []
        for row, scene in enumerate(scenes):
            said = captions.full(scene, rng) if rng.random() < 0.5 else captions.partial(scene, rng)  # noqa: PLR2004
            long += [(said, row), (captions.near_miss(said, rng) or captions.partial(scene, rng), row)]
            brief = captions.short(scene, rng)
            short += [(brief, row), (captions.near_miss(brief, rng) or captions.short(scene, rng), row)]
        asked = [query for query, _ in long + short]
        texts = [captions.phrase(query, rng) for query in asked]
        queries, table = query_table(asked), scene_table(scenes)
        return Lesson(
            pictures=np.ascontiguousarray(shown.transpose(0, 3, 1, 2)),
            long=self._words.encode(texts[: len(long)], rng),
            short=self._words.encode(texts[len(long) :], rng),
            truth=fits(queries, table),
            owner=np.array([row for _, row in long + short]),
            queries=queries,
            scenes=table,
            alike=shows_main_kind(scenes),
        )

    def _numbers(self, step: int) -> NDArray[np.int64]:
        """Which pictures: every one once an epoch, in an order of the epoch's own."""
        each = len(self._pictures) // self._batch
        order = np.random.default_rng((self._seed, step // each)).permutation(len(self._pictures))
        start = step % each * self._batch
        return order[start : start + self._batch]
