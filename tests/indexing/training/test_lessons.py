"""Lessons: the same at every call, and true of the pictures as they are shown."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray

from indexing.scenes.scene import sample
from indexing.scenes.truth import fits, scene_table
from indexing.training.lessons import IMAGE_PX, Lesson, Lessons
from indexing.training.pool import PICTURE_PX
from indexing.training.words import Words

BATCH = 20


@pytest.fixture(scope="module")
def lessons(pixels: NDArray[np.uint8], words: Words) -> Lessons:
    """Three lessons an epoch, four epochs."""
    return Lessons(pixels, words, batch=BATCH, steps=12, seed=3)


def shown(lesson: Lesson) -> NDArray[np.int64]:
    """Which pictures a lesson shows, from their pixels."""
    return lesson.pictures[:, 0, 0, 0].astype(np.int64)


def is_mirrored(lesson: Lesson) -> NDArray[np.bool_]:
    """Which of them are shown mirrored."""
    return lesson.pictures[:, 2, 0, 0] > lesson.pictures[:, 2, 0, -1]


def same(first: Lesson, second: Lesson) -> bool:
    """Whether two lessons are equal in everything."""
    ones, others = asdict(first), asdict(second)
    return all(np.array_equal(ones[name], others[name]) for name in ones)


def test_lesson_depends_on_its_step_alone(lessons: Lessons, pixels: NDArray[np.uint8], words: Words):
    """Asked again, in another order, of another object, a step's lesson is the same."""
    again = Lessons(pixels, words, batch=BATCH, steps=12, seed=3)
    for step in (7, 0, 3):
        assert same(again[step], lessons[step])


def test_another_seed_teaches_other_lessons(lessons: Lessons, pixels: NDArray[np.uint8], words: Words):
    """Seeds and steps differ."""
    assert not same(Lessons(pixels, words, batch=BATCH, steps=12, seed=4)[0], lessons[0])
    assert not same(lessons[0], lessons[3])


def test_every_picture_once_an_epoch(lessons: Lessons):
    """An epoch shows each picture once, in an order of its own."""
    epochs = [np.concatenate([shown(lessons[step]) for step in range(start, start + 3)]) for start in (0, 3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(60))
    assert list(epochs[0]) != list(epochs[1])
    assert len(lessons) == 12


def test_shapes(lessons: Lessons):
    """Four texts a picture: two long ones and then two short ones, each with who it was made for."""
    lesson = lessons[0]
    assert lesson.pictures.shape == (BATCH, 3, IMAGE_PX, IMAGE_PX)
    assert lesson.pictures.dtype == np.uint8
    assert lesson.pictures.flags.c_contiguous
    assert len(lesson.long) == len(lesson.short) == 2 * BATCH
    assert lesson.short.shape[1] <= lesson.long.shape[1] <= 32
    assert lesson.truth.shape == (4 * BATCH, BATCH)
    assert lesson.owner.tolist() == [row for _ in range(2) for row in range(BATCH) for _ in range(2)]
    assert lesson.queries.shape == (4 * BATCH, 13)
    assert lesson.scenes.shape == (BATCH, 9)
    assert lesson.alike.shape == (BATCH, BATCH)


def test_truth_is_of_the_pictures_as_shown(lessons: Lessons):
    """A mirrored picture has its left and right exchanged in the truth, another one has not; both are shown."""
    seen = set()
    for step in range(12):
        lesson = lessons[step]
        drawn = scene_table([sample(int(number), training=True) for number in shown(lesson)])
        for scene, before, mirrored in zip(lesson.scenes, drawn, is_mirrored(lesson), strict=True):
            two = before[3] != -2
            turned = before[[3, 4, 5, 0, 1, 2, 6, 7, 8]] if mirrored and two else before
            assert scene.tolist() == turned.tolist()
            seen.add((bool(two), bool(mirrored)))
        assert np.array_equal(lesson.truth, fits(lesson.queries, lesson.scenes))
    assert len(seen) == 4


def test_pictures_are_shifted_a_little(lessons: Lessons):
    """Every picture is a window of its own onto the kept one, whole rows and columns side by side."""
    tops, lefts = set(), set()
    for step in range(12):
        for picture in lessons[step].pictures.astype(int):
            across = picture[2] if picture[2, 0, 0] < picture[2, 0, -1] else picture[2, :, ::-1]
            tops.add(picture[1, 0, 0])
            lefts.add(across[0, 0])
            assert (np.diff(picture[1], axis=0) == 1).all()
            assert (np.diff(across, axis=1) == 1).all()
    assert tops == lefts == set(range(PICTURE_PX - IMAGE_PX + 1))


def test_texts_fit_their_own_picture_except_near_misses(lessons: Lessons):
    """The first of each two texts is true of its picture; the second is most often a near miss, which is not."""
    fitting = []
    for step in range(12):
        lesson = lessons[step]
        own = lesson.truth[np.arange(4 * BATCH), lesson.owner]
        assert own[::2].all()
        fitting.append(own[1::2])
    assert 0.1 < np.mean(fitting) < 0.5


def test_alike_pictures_share_the_main_thing(lessons: Lessons):
    """A picture is alike to one that shows the main kind of its scene, in whatever place; each is alike to itself."""
    for step in range(6):
        lesson = lessons[step]
        scenes = [sample(int(number), training=True) for number in shown(lesson)]
        expected = [[one.groups[0].kind in {g.kind for g in other.groups} for other in scenes] for one in scenes]
        assert lesson.alike.tolist() == expected
        assert lesson.alike.diagonal().all()
