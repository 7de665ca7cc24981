"""Draws a scene: lays its things out so that each can be counted and named by eye, and paints the picture.

A picture is a function of its scene alone. Everything that the scene leaves open is decided by the scene's seed, in
picture units, before any pixel is set, so the same scene at another size is the same picture. The backdrop, the layout
and each thing draw from random streams of their own: changing one group's colour changes nothing but that group.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
import skia
from numpy.typing import NDArray

from indexing.scenes import paint_animals, paint_buildings, paint_figures, paint_objects, paint_vehicles
from indexing.scenes.backdrop import paint_backdrop, paint_weather
from indexing.scenes.paint import Painter, Palette, argb
from indexing.scenes.scene import Group, Scene
from indexing.scenes.vocabulary import COLORS, KINDS

PAINTERS: Final[dict[str, Painter]] = {
    **paint_animals.PAINTERS,
    **paint_figures.PAINTERS,
    **paint_vehicles.PAINTERS,
    **paint_buildings.PAINTERS,
    **paint_objects.PAINTERS,
}
"""The painter of every kind in the vocabulary, by the kind's name."""

_CENTERS: Final = {"left": (0.22, 0.36), "center": (0.42, 0.58), "right": (0.64, 0.78)}
"""Where a group's centre may lie across the picture."""

_HEIGHTS: Final = {
    (1, "alone"): (0.50, 0.72),
    (2, "alone"): (0.36, 0.46),
    (3, "alone"): (0.29, 0.36),
    (1, "main"): (0.40, 0.52),
    (1, "other"): (0.34, 0.44),
    (2, "main"): (0.27, 0.33),
    (2, "other"): (0.27, 0.33),
}
"""The smallest and the largest height of one thing, by its group's count and role, in picture heights."""

_GROUND: Final = (0.86, 0.95)
"""Where the nearest thing of a group has its feet."""

_AIR: Final = (0.22, 0.50)
"""Where a floating thing has its middle."""


_SMALLEST: Final = min(kind.size for kind in KINDS.values())

_DARK: Final = frozenset({"black", "brown", "blue", "purple"})
"""Colours that are lost in the night without a glow behind them."""

_FOOTPRINT: Final = skia.Rect.MakeLTRB(-0.05, 0.93, 1.05, 1.07)
_AROUND: Final = skia.Rect.MakeLTRB(-0.12, -0.12, 1.12, 1.12)


def _halo(area: skia.Rect, color: int) -> skia.Paint:
    """A colour that is strongest in the middle of an area and fades to nothing at its edges."""
    fading = skia.GradientShader.MakeRadial((0, 0), 1, [color, color & 0xFFFFFF], [0.35, 1])
    matrix = skia.Matrix.Translate(area.centerX(), area.centerY()).preScale(area.width() / 2, area.height() / 2)
    return skia.Paint(Shader=fading.makeWithLocalMatrix(matrix))


_SHADOW: Final = _halo(_FOOTPRINT, argb(10, 10, 24, 110))
_GLOW: Final = _halo(_AROUND, argb(206, 214, 236, 105))
_SHADE: Final = _halo(_AROUND, argb(40, 60, 90, 80))

_Offsets = tuple[tuple[float, float], ...]
"""Places of a group's things from left to right: how far right of its centre and above its feet, in thing heights."""


@dataclass(frozen=True, slots=True)
class _Spot:
    """A thing's place: the middle of its feet (x, y) and its height, in picture units, and which way it faces."""

    x: float
    y: float
    height: float
    mirrored: bool


def render(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The picture of a scene: sRGB of shape (size, size, 3), the same bytes on every call."""
    pixels = np.zeros((size, size, 4), np.uint8)
    surface = skia.Surface(pixels)
    canvas = surface.getCanvas()
    canvas.scale(size, size)
    paint_backdrop(canvas, scene.background, scene.time, _stream(scene, "backdrop"))
    things = [
        (spot, group, _stream(scene, f"thing/{number}/{index}"))
        for number, (group, spots) in enumerate(zip(scene.groups, _layout(scene), strict=True))
        for index, spot in enumerate(spots)
    ]
    for spot, group, rng in sorted(things, key=lambda thing: thing[0].y):
        _paint_thing(canvas, spot, group, scene, rng)
    paint_weather(canvas, scene.weather, scene.time, _stream(scene, "weather"))
    return np.ascontiguousarray(pixels[:, :, :3])


def _stream(scene: Scene, part: str) -> Random:
    """The random numbers of one part of a scene's picture."""
    return Random(f"render/{scene.seed}/{part}")


def _layout(scene: Scene) -> list[list[_Spot]]:
    """Where each group's things stand, in the order of the scene's groups. Groups side by side do not overlap."""
    rng = _stream(scene, "layout")
    if len(scene.groups) == 1:
        group = scene.groups[0]
        height = _height(group, "alone", rng)
        if group.count > 1:
            return [_spots(group, 0.5, height, _spread(group.count, height, rng), rng)]
        low, high = _CENTERS[group.position]
        center = _between(rng, max(low, min(height / 2, high)), min(high, 1 - height / 2))
        return [_spots(group, center, height, ((0, 0),), rng)]
    heights = [_height(group, role, rng) for group, role in zip(scene.groups, ("main", "other"), strict=True)]
    offsets = [_huddle(group.count, rng) for group in scene.groups]
    halves = [height * (1 + places[-1][0] - places[0][0]) / 2 for height, places in zip(heights, offsets, strict=True)]
    fit = min(1.0, 0.5 / sum(halves))
    left, right = sorted((0, 1), key=lambda index: scene.groups[index].position != "left")
    near, far = halves[left] * fit, halves[right] * fit
    low, high = _CENTERS["left"]
    low_right, high_right = _CENTERS["right"]
    high_right = min(high_right, 1 - far)
    centers = {left: _between(rng, max(low, near), min(high, high_right - far - near))}
    centers[right] = _between(rng, max(low_right, centers[left] + near + far), high_right)
    return [
        _spots(group, centers[index], heights[index] * fit, offsets[index], rng)
        for index, group in enumerate(scene.groups)
    ]


def _between(rng: Random, low: float, high: float) -> float:
    """A number between two bounds, the lower one where they leave no room."""
    return rng.uniform(low, max(low, high))


def _height(group: Group, role: str, rng: Random) -> float:
    """The height of a group's things: mostly by their kind, a little by chance."""
    low, high = _HEIGHTS[group.count, role]
    tall = (KINDS[group.kind].size - _SMALLEST) / (1 - _SMALLEST)
    return low + (high - low) * (0.7 * tall + 0.3 * rng.random())


def _spread(count: int, height: float, rng: Random) -> _Offsets:
    """Places for two or three things with the picture to themselves: a row, a zigzag or a triangle."""
    room = (1.01 / height - 1) / (count - 1)
    lift = rng.uniform(0, 0.35) if count == 2 else rng.uniform(0.15, 0.6)
    step = min(room, rng.uniform(1.0, 1.15))
    raised = rng.randrange(2)
    return tuple((step * (index - (count - 1) / 2), lift * ((index + raised) % 2)) for index in range(count))


def _huddle(count: int, rng: Random) -> _Offsets:
    """Places for one or two things in half of a picture: two stand one behind the other, diagonally."""
    if count == 1:
        return ((0, 0),)
    step, lift = rng.uniform(0.60, 0.66), rng.uniform(0.80, 0.90)
    return ((-step / 2, 0), (step / 2, lift)) if rng.random() < 0.5 else ((-step / 2, lift), (step / 2, 0))


def _spots(group: Group, center: float, height: float, offsets: _Offsets, rng: Random) -> list[_Spot]:
    """A group's things around the horizontal `center`, on the ground or in the air, all facing the same way."""
    lift = max(offset[1] for offset in offsets) * height
    if KINDS[group.kind].floats:
        feet = max(_between(rng, *_AIR) + lift / 2, height / 2 + lift) + height / 2
    else:
        feet = _between(rng, _GROUND[0] + lift / 4, _GROUND[1])
    mirrored = rng.random() < 0.5
    return [_Spot(center + x * height, feet - y * height, height, mirrored) for x, y in offsets]


def _paint_thing(canvas: skia.Canvas, spot: _Spot, group: Group, scene: Scene, rng: Random) -> None:
    """Draws one thing of a group on its spot, over its shadow and, where it would be lost, a glow."""
    canvas.save()
    canvas.translate(spot.x - spot.height / 2, spot.y - spot.height)
    canvas.scale(spot.height, spot.height)
    if not KINDS[group.kind].floats:
        canvas.drawRect(_FOOTPRINT, _SHADOW)
    if scene.time == "night" and group.color in _DARK:
        canvas.drawRect(_AROUND, _GLOW)
    if scene.time != "night" and group.color == "white":
        canvas.drawRect(_AROUND, _SHADE)
    if spot.mirrored:
        canvas.translate(1, 0)
        canvas.scale(-1, 1)
    PAINTERS[group.kind](canvas, Palette.of(COLORS[group.color], rng), rng)
    canvas.restore()
