"""Pictures of scenes: deterministic, the same at every size, and laid out as the scene says."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from indexing.scenes.render import PAINTERS, render
from indexing.scenes.scene import Group, Scene, sample
from indexing.scenes.vocabulary import BACKGROUNDS, KINDS, TIMES, WEATHERS


def scene_of(
    *groups: Group, seed: int = 1, background: str = "field", time: str = "day", weather: str = "clear"
) -> Scene:
    """A scene that holds these groups."""
    return Scene(seed, groups, background, time, weather)


def covered(scene: Scene, group: int, size: int = 128) -> NDArray[np.bool_]:
    """The pixels on which the colour of one of the scene's groups shows, shape (size, size)."""
    pictures = []
    for color in ("red", "green"):
        groups = list(scene.groups)
        groups[group] = replace(groups[group], color=color)
        pictures.append(render(replace(scene, groups=tuple(groups)), size).astype(int))
    return np.asarray(np.abs(pictures[0] - pictures[1]).max(axis=2) > 8)


def columns(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Where across the picture, 0 to 1, the mask's pixels lie."""
    return np.asarray((np.nonzero(mask)[1] + 0.5) / mask.shape[1])


def blobs(mask: NDArray[np.bool_]) -> int:
    """The number of connected regions larger than a twentieth of the mask's pixels."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    smallest, found = 0.05 * len(left), 0
    while left:
        frontier, area = [left.pop()], 0
        while frontier:
            y, x = frontier.pop()
            area += 1
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            frontier.extend(near)
        found += area > smallest
    return found


def contrast(scene: Scene) -> float:
    """How much the brightness around and on a scene's thing varies: the range between its 5th and 95th percentile."""
    shown = covered(scene, 0)
    brightness = render(scene, 128).mean(axis=2)
    rows, across = np.nonzero(shown)
    around = brightness[max(rows.min() - 6, 0) : rows.max() + 6, max(across.min() - 6, 0) : across.max() + 6]
    low, high = np.percentile(around, (5, 95))
    return float(high - low)


def test_every_kind_has_a_painter() -> None:
    """Whatever the vocabulary names can be drawn."""
    assert set(PAINTERS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_in_its_color(kind: str) -> None:
    """A thing's named colour covers a good part of the place it takes."""
    shown = covered(scene_of(Group(kind, "red", 1, "center")), 0)
    assert 0.02 < shown.mean() < 0.6


def test_same_scene_gives_same_bytes() -> None:
    """A scene is drawn the same every time."""
    assert np.array_equal(render(sample(7), 96), render(sample(7), 96))


def test_picture_is_rgb_of_the_asked_size() -> None:
    """The shape and the type are those of an 8-bit RGB picture."""
    picture = render(sample(3), 80)
    assert picture.shape == (80, 80, 3)
    assert picture.dtype == np.uint8


def test_seed_decides_what_the_scene_leaves_open() -> None:
    """The same contents under another seed are another picture."""
    scene = scene_of(Group("dog", "brown", 1, "left"))
    assert not np.array_equal(render(scene, 64), render(replace(scene, seed=2), 64))


def test_sampled_scenes_are_distinct_pictures() -> None:
    """Five hundred sampled scenes are five hundred different pictures."""
    assert len({render(sample(seed), 48).tobytes() for seed in range(500)}) == 500


@pytest.mark.parametrize("seed", range(12))
def test_size_does_not_change_the_picture(seed: int) -> None:
    """A scene drawn at 256 pixels and shrunk is the scene drawn at 64."""
    small = render(sample(seed), 64).astype(float)
    shrunk = render(sample(seed), 256).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - shrunk).mean() < 4


def test_every_place_time_and_weather_is_a_picture_of_its_own() -> None:
    """All backgrounds at all times in all weathers can be drawn, and no two look the same."""
    dog = Group("dog", "brown", 1, "center")
    pictures = [
        render(scene_of(dog, background=background, time=time, weather=weather), 32).astype(float)
        for background, time, weather in product(BACKGROUNDS, TIMES, WEATHERS)
    ]
    flat = np.stack(pictures).reshape(len(pictures), -1)
    distances = np.abs(flat[:, None] - flat[None]).mean(axis=2) + 255 * np.eye(len(flat))
    assert distances.min() > 1


@pytest.mark.parametrize("time", TIMES)
def test_weather_does_not_hide_things(time: str) -> None:
    """A thing covers about as many pixels in any weather as it does in the clear."""
    scene = scene_of(Group("car", "red", 1, "center"), time=time)
    clear = covered(scene, 0).sum()
    for weather in ("rain", "fog", "snowfall"):
        assert covered(replace(scene, weather=weather), 0).sum() > 0.85 * clear


@pytest.mark.parametrize(("position", "low", "high"), [("left", 0, 0.4), ("center", 0.4, 0.6), ("right", 0.6, 1)])
def test_single_thing_lies_at_its_position(position: str, low: float, high: float) -> None:
    """The middle of a thing alone is where the scene says."""
    for seed in range(8):
        shown = columns(covered(scene_of(Group("cake", "pink", 1, position), seed=seed), 0))
        assert low < (shown.min() + shown.max()) / 2 < high


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kinds", [("house", "bed"), ("balloon", "star"), ("castle", "kite")])
def test_two_groups_keep_to_their_sides(kinds: tuple[str, str], counts: tuple[int, int]) -> None:
    """The left group lies left of the right one, whichever is the main one, and they hardly overlap across."""
    for seed, positions in product(range(3), (("left", "right"), ("right", "left"))):
        groups = (Group(kinds[0], "red", counts[0], positions[0]), Group(kinds[1], "red", counts[1], positions[1]))
        scene = scene_of(*groups, seed=seed)
        sides = {group.position: columns(covered(scene, index)) for index, group in enumerate(groups)}
        assert np.median(sides["left"]) < 0.5 < np.median(sides["right"])
        assert sides["left"].max() < sides["right"].min() + 0.05


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", ["apple", "star"])
def test_things_can_be_counted(kind: str, count: int) -> None:
    """The things of a group alone do not run into each other: gaps between columns or rows keep them apart."""
    for seed in range(8):
        assert blobs(covered(scene_of(Group(kind, "red", count, "center"), seed=seed), 0)) == count


@pytest.mark.parametrize("kind", ["cloud", "airplane"])
def test_floating_things_are_in_the_air(kind: str) -> None:
    """Kinds that float have their middle in the upper half of the picture."""
    for seed in range(8):
        rows = np.nonzero(covered(scene_of(Group(kind, "red", 1, "center"), seed=seed), 0))[0] / 128
        assert 0.2 < (rows.min() + rows.max()) / 2 < 0.55


@pytest.mark.parametrize("kind", ["dog", "table"])
def test_other_things_stand_on_the_ground(kind: str) -> None:
    """Kinds that do not float have their feet in the lower part of the picture, and inside it."""
    for seed in range(8):
        rows = np.nonzero(covered(scene_of(Group(kind, "red", 1, "center"), seed=seed), 0))[0] / 128
        assert 0.7 < rows.max() < 0.98


def test_black_thing_shows_at_night() -> None:
    """A black thing stands out from the night around it: its glow and contour are lighter than either."""
    scene = scene_of(Group("cat", "black", 1, "center"), background="forest", time="night")
    assert contrast(scene) > 25
