"""Scenes: what a seed holds, on every machine, and what training never sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain

import pytest

from indexing.scenes.scene import Group, Scene, held_out, sample
from indexing.scenes.vocabulary import BACKGROUNDS, CATEGORIES, COLORS, KINDS, POSITIONS, TIMES, WEATHERS

PRINT_SCENES = """
from indexing.scenes.scene import sample
print([sample(seed, training=training) for seed in range(300) for training in (False, True)])
"""


@pytest.fixture(scope="module")
def open_scenes() -> list[Scene]:
    """The first 5,000 scenes of the open sampling."""
    return [sample(seed) for seed in range(5_000)]


@pytest.fixture(scope="module")
def training_scenes() -> list[Scene]:
    """The first 5,000 scenes of training."""
    return [sample(seed, training=True) for seed in range(5_000)]


def pairs(scenes: list[Scene]) -> set[tuple[str, str]]:
    """The kinds and colours that occur together."""
    return {(group.kind, group.color) for scene in scenes for group in scene.groups}


# ---------------------------------------------------------------- vocabulary


def test_vocabulary_is_rich():
    """There are at least 40 kinds, ten colours and eight categories, and no category is empty."""
    assert len(KINDS) >= 40
    assert len(COLORS) == 10
    assert len(CATEGORIES) == 8
    assert {kind.category for kind in KINDS.values()} == set(CATEGORIES)


def test_kinds_are_well_formed():
    """Every kind has three different known colours of its own, and a size between 0 and 1."""
    for kind in KINDS.values():
        assert len(set(kind.natural)) == 3, kind
        assert set(kind.natural) <= set(COLORS), kind
        assert 0 < kind.size <= 1, kind


def test_words_mean_one_kind():
    """No name, plural or synonym belongs to two kinds, and none is a colour."""
    words = [{kind.name, kind.plural, *kind.synonyms} for kind in KINDS.values()]
    assert len(set().union(*words)) == sum(map(len, words))
    assert not set().union(*words) & set(COLORS)


# ---------------------------------------------------------------- seeds


def test_scenes_do_not_depend_on_process():
    """A seed has the same scene in every process, however Python hashes strings there."""
    printed = {
        subprocess.run(
            [sys.executable, "-c", PRINT_SCENES],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    }
    here = [sample(seed, training=training) for seed in range(300) for training in (False, True)]
    assert printed == {str(here)}


def test_scenes_differ():
    """Hardly any two of 1,000 seeds hold the same things in the same place."""
    held = {(scene.groups, scene.background, scene.time, scene.weather) for scene in map(sample, range(1_000))}
    assert len(held) > 980


# ---------------------------------------------------------------- held out


def test_training_never_shows_held_out(training_scenes: list[Scene]):
    """No training scene holds a kind in a colour that is held out."""
    assert not [pair for pair in pairs(training_scenes) if held_out(*pair)]


def test_training_shows_all_others(training_scenes: list[Scene]):
    """Training shows every kind in each of its two other natural colours, and every colour."""
    shown = pairs(training_scenes)
    assert {(kind.name, color) for kind in KINDS.values() for color in kind.natural[:2]} <= shown
    assert {color for _, color in shown} == set(COLORS)


def test_open_sampling_shows_held_out(open_scenes: list[Scene]):
    """The open sampling shows most held-out pairs."""
    kept_back = {(kind, color) for kind in KINDS for color in COLORS if held_out(kind, color)}
    assert len(pairs(open_scenes) & kept_back) > 0.8 * len(kept_back)


def test_held_out_share():
    """One natural colour of each kind is held out, and about a seventh of its others."""
    others = [
        held_out(kind.name, color) for kind in KINDS.values() for color in COLORS if color not in set(kind.natural)
    ]
    assert all([held_out(kind.name, c) for c in kind.natural] == [False, False, True] for kind in KINDS.values())
    assert 0.08 < sum(others) / len(others) < 0.22


# ---------------------------------------------------------------- what a scene holds


def test_everything_occurs(open_scenes: list[Scene]):
    """Every kind, colour, number, position, place, time and weather occurs."""
    groups = list(chain.from_iterable(scene.groups for scene in open_scenes))
    assert {group.kind for group in groups} == set(KINDS)
    assert {group.color for group in groups} == set(COLORS)
    assert {group.count for group in groups} == {1, 2, 3}
    assert {group.position for group in groups} == set(POSITIONS)
    assert {scene.background for scene in open_scenes} == set(BACKGROUNDS)
    assert {scene.time for scene in open_scenes} == set(TIMES)
    assert {scene.weather for scene in open_scenes} == set(WEATHERS)


def test_half_of_scenes_hold_two_groups(open_scenes: list[Scene]):
    """About half of the scenes hold one group, the others two."""
    counts = [len(scene.groups) for scene in open_scenes]
    assert set(counts) == {1, 2}
    assert 0.47 < counts.count(2) / len(counts) < 0.53


def test_two_groups_stand_side_by_side(open_scenes: list[Scene]):
    """Two groups are of different kinds, one left and one right, the main one on either side, at most three things."""
    doubles = [scene.groups for scene in open_scenes if len(scene.groups) == 2]
    assert all(main.kind != other.kind for main, other in doubles)
    assert {(main.position, other.position) for main, other in doubles} == {("left", "right"), ("right", "left")}
    assert max(main.count + other.count for main, other in doubles) == 3


def test_several_things_alone_stand_in_the_center(open_scenes: list[Scene]):
    """A lone group of two or three stands in the center; one thing stands anywhere."""
    alone = [scene.groups[0] for scene in open_scenes if len(scene.groups) == 1]
    assert {group.position for group in alone if group.count > 1} == {"center"}
    assert {group.position for group in alone if group.count == 1} == set(POSITIONS)


# ---------------------------------------------------------------- metadata


def test_metadata_is_complete():
    """The ground truth names every group, the place, time and weather, the main group's category and the caption."""
    scene = Scene(3, (Group("cat", "black", 2, "right"), Group("boat", "red", 1, "left")), "sea", "night", "fog")
    assert scene.metadata("two black cats and a boat") == {
        "objects": [
            {"kind": "cat", "color": "black", "count": 2, "position": "right"},
            {"kind": "boat", "color": "red", "count": 1, "position": "left"},
        ],
        "background": "sea",
        "time": "night",
        "weather": "fog",
        "category": "animals",
        "caption": "two black cats and a boat",
    }


def test_metadata_is_json(open_scenes: list[Scene]):
    """The ground truth comes back from JSON unchanged."""
    for scene in open_scenes[:200]:
        metadata = scene.metadata("a caption")
        assert json.loads(json.dumps(metadata)) == metadata
