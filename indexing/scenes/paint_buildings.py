"""Painters of buildings: walls, roofs and arches, told apart by their skylines."""

from __future__ import annotations

from math import cos, radians, sin
from random import Random
from typing import Final

import skia

from indexing.scenes.paint import (
    Painter,
    Palette,
    blend,
    box,
    fill,
    glass,
    outlined,
    oval,
    polygon,
    shaded,
    sketch,
    stroke,
)


def _wall(palette: Palette) -> skia.Paint:
    """The wall paint: half of the full shading, so that the named colour is plain from top to bottom."""
    return shaded(palette, -0.4, 1.7)


def _roof(palette: Palette) -> skia.Paint:
    """The roof paint, a little darker than the walls."""
    return fill(blend(palette.base, palette.dark, 0.5))


def _arch(left: float, top: float, right: float, bottom: float) -> skia.Path:
    """A round-headed opening: a door, a gate or a window."""
    half = (right - left) / 2
    return sketch(
        (left, bottom),
        (left, top + half),
        (left, top, left + half, top),
        (right, top, right, top + half),
        (right, bottom),
    )


def _battlement(left: float, top: float, right: float, bottom: float, merlons: int) -> skia.Path:
    """A wall with so many upright teeth on it; the teeth take the upper 0.07 of its height."""
    step = (right - left) / (2 * merlons - 1)
    points = [(left, bottom)]
    for i in range(merlons):
        x = left + 2 * i * step
        points += [(x, top + 0.07), (x, top), (x + step, top), (x + step, top + 0.07)]
    return polygon(*points, (right, bottom))


def _bricks(canvas: skia.Canvas, palette: Palette, rng: Random, area: tuple[float, float, float, float]) -> None:
    """A few short courses of brick here and there between (left, top) and (right, bottom)."""
    left, top, right, bottom = area
    courses = skia.Path()
    for _ in range(rng.randint(4, 7)):
        x, y = rng.uniform(left, right - 0.08), rng.uniform(top, bottom)
        courses.addPath(sketch((x, y), (x + 0.07, y), closed=False))
    canvas.drawPath(courses, stroke(palette.dark, 0.014))


def _house(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    ridge = rng.uniform(0.04, 0.1)
    eaves = rng.uniform(0.44, 0.5)
    side = rng.uniform(0.1, 0.14)
    chimney = rng.choice((0.2, 0.7))
    outlined(canvas, box(chimney, ridge + 0.02, chimney + 0.11, eaves, 0.01), fill(palette.base), palette.line)
    outlined(canvas, box(side, eaves - 0.04, 1 - side, 0.985), _wall(palette), palette.line)
    roof = polygon(
        (0.5, ridge), (0.985, eaves + 0.02), (0.93, eaves + 0.08), (0.07, eaves + 0.08), (0.015, eaves + 0.02)
    )
    outlined(canvas, roof, _roof(palette), palette.line, 0.022)
    tiles = skia.Path()
    for share in (0.45, 0.72):
        y = ridge + (eaves - ridge) * share
        for column in range(-1, 2):
            at = 0.5 + (column + rng.uniform(-0.2, 0.2)) * 0.3 * share
            tiles.addPath(sketch((at - 0.04, y), (at, y + 0.035, at + 0.04, y), closed=False))
    canvas.drawPath(tiles, stroke(palette.line, 0.012))
    door = rng.choice((0.5, 0.3, 0.7))
    top = rng.uniform(0.68, 0.72)
    outlined(canvas, box(door - 0.075, top, door + 0.075, 0.985, 0.015), fill(palette.accent), palette.line, 0.014)
    canvas.drawPath(oval(door + 0.04, 0.85, 0.012, 0.012), fill(palette.light))
    panes, bars = skia.Path(), skia.Path()
    for x in {0.5: (0.26, 0.74), 0.3: (0.57, 0.76), 0.7: (0.24, 0.43)}[door]:
        panes.addPath(box(x - 0.07, 0.64, x + 0.07, 0.79, 0.01))
        bars.addPath(sketch((x, 0.64), (x, 0.79), closed=False))
        bars.addPath(sketch((x - 0.07, 0.715), (x + 0.07, 0.715), closed=False))
    if rng.random() < 0.5:
        panes.addPath(oval(0.5, ridge + 0.25, 0.055, 0.055))
    outlined(canvas, panes, fill(glass(palette)), palette.line, 0.018)
    canvas.drawPath(bars, stroke(palette.line, 0.012))


def _tower(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    foot = rng.uniform(0.2, 0.24)
    neck = foot - rng.uniform(0.03, 0.06)
    crown = rng.uniform(0.23, 0.27)
    gallery = rng.uniform(0.22, 0.28)
    shaft = polygon((0.5 - neck, gallery), (0.5 + neck, gallery), (0.5 + foot, 0.985), (0.5 - foot, 0.985))
    outlined(canvas, shaft, _wall(palette), palette.line)
    _bricks(canvas, palette, rng, (0.5 - neck + 0.03, gallery + 0.12, 0.5 + neck - 0.03, 0.9))
    corbel = polygon(
        (0.5 - crown, gallery - 0.06),
        (0.5 + crown, gallery - 0.06),
        (0.5 + neck, gallery + 0.06),
        (0.5 - neck, gallery + 0.06),
    )
    outlined(canvas, corbel, _roof(palette), palette.line)
    teeth = _battlement(0.5 - crown, 0.015, 0.5 + crown, gallery - 0.04, rng.choice((3, 4)))
    outlined(canvas, teeth, shaded(palette, -0.1, 0.6), palette.line)
    openings = _arch(0.43, 0.8, 0.57, 0.985)
    floors = rng.randint(1, 3)
    for i in range(floors):
        y = gallery + 0.13 + i * 0.42 / floors
        x = 0.5 + rng.uniform(-0.04, 0.04)
        openings.addPath(_arch(x - 0.035, y, x + 0.035, y + 0.12))
    outlined(canvas, openings, fill(palette.accent), palette.line, 0.014)


def _castle(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    wall = rng.uniform(0.52, 0.58)
    keep = rng.uniform(0.24, 0.3)
    turret = rng.uniform(0.34, 0.4)
    half = rng.uniform(0.15, 0.18)
    pole = sketch((0.5, keep), (0.5, 0.02), closed=False)
    canvas.drawPath(pole, stroke(palette.line, 0.018))
    flag = sketch((0.505, 0.02), (0.6, 0.03, 0.68, 0.07), (0.6, 0.1, 0.505, 0.13))
    outlined(canvas, flag, fill(palette.base), palette.line, 0.012)
    outlined(canvas, _battlement(0.5 - half, keep, 0.5 + half, 0.7, 3), shaded(palette, 0.0, 1.0), palette.line)
    outlined(canvas, _battlement(0.16, wall, 0.84, 0.985, rng.randint(5, 7)), _wall(palette), palette.line)
    width = rng.uniform(0.21, 0.24)
    walls, cones = skia.Path(), skia.Path()
    for x in (0.035, 0.965 - width):
        walls.addPath(box(x, turret, x + width, 0.985))
        cones.addPath(
            polygon((x + width / 2, turret - 0.26), (x + width + 0.02, turret + 0.02), (x - 0.02, turret + 0.02))
        )
    outlined(canvas, walls, _wall(palette), palette.line)
    outlined(canvas, cones, _roof(palette), palette.line)
    _bricks(canvas, palette, rng, (0.3, wall + 0.12, 0.7, 0.95))
    gate = rng.uniform(0.09, 0.11)
    openings = _arch(0.5 - gate, wall + 0.17, 0.5 + gate, 0.985)
    for x in (0.035 + width / 2, 0.5, 0.965 - width / 2):
        y = keep + 0.13 if x == 0.5 else turret + 0.1
        openings.addPath(_arch(x - 0.03, y, x + 0.03, y + 0.12))
    outlined(canvas, openings, fill(palette.accent), palette.line, 0.014)


def _tent(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    front, back = rng.uniform(0.32, 0.38), rng.uniform(0.66, 0.74)
    peak = rng.uniform(0.17, 0.23)
    corner = rng.uniform(0.62, 0.67)
    poles = sketch((front + 0.05, peak - 0.09), (front - 0.01, peak + 0.05), closed=False)
    poles.addPath(sketch((front - 0.05, peak - 0.09), (front + 0.01, peak + 0.05), closed=False))
    canvas.drawPath(poles, stroke(palette.accent, 0.03))
    side = sketch((front, peak), (0.52, peak + 0.1, back, peak + 0.07), (0.84, 0.55, 0.985, 0.93), (corner, 0.985))
    outlined(canvas, side, fill(blend(palette.base, palette.dark, 0.5)), palette.line)
    face = sketch((front, peak), (front + 0.13, 0.66, corner, 0.985), (0.015, 0.985), (front - 0.16, 0.68, front, peak))
    outlined(canvas, face, shaded(palette, -0.3, 1.5), palette.line)
    inside = polygon((front, peak + 0.22), (front + 0.13, 0.985), (front - 0.13, 0.985))
    canvas.drawPath(inside, fill(blend(palette.accent, palette.line, 0.5)))
    flap = sketch((front, peak + 0.22), (front - 0.12, 0.75), (front - 0.22, 0.985), (front - 0.06, 0.985))
    outlined(canvas, flap, fill(blend(palette.base, palette.light, 0.5)), palette.line, 0.012)
    seams = skia.Path()
    for share in (0.35, 0.68)[: rng.randint(1, 2)]:
        seams.addPath(
            sketch(
                (front + (back - front) * share, peak + 0.07 * share + 0.02),
                (corner + (0.985 - corner) * share, 0.97 - 0.05 * share),
                closed=False,
            )
        )
    canvas.drawPath(seams, stroke(palette.line, 0.014))


def _windmill(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    foot, neck = rng.uniform(0.21, 0.25), rng.uniform(0.12, 0.14)
    hub = rng.uniform(0.38, 0.395)
    body = polygon((0.5 - neck, hub), (0.5 + neck, hub), (0.5 + foot, 0.985), (0.5 - foot, 0.985))
    outlined(canvas, body, _wall(palette), palette.line)
    cap = sketch(
        (0.5 - neck - 0.03, hub + 0.04),
        (0.5 - neck, hub - 0.17, 0.5, hub - 0.17),
        (0.5 + neck, hub - 0.17, 0.53 + neck, hub + 0.04),
    )
    outlined(canvas, cap, _roof(palette), palette.line)
    openings = _arch(0.43, 0.8, 0.57, 0.985)
    for y in (0.56, 0.68)[: rng.randint(1, 2)]:
        openings.addPath(_arch(0.465, y, 0.535, y + 0.09))
    outlined(canvas, openings, fill(palette.accent), palette.line, 0.014)
    turn = rng.uniform(28, 62)
    length, breadth = rng.uniform(0.35, 0.365), rng.uniform(0.11, 0.13)
    sails, arms = skia.Path(), skia.Path()
    for quarter in range(4):
        angle = radians(turn + 90 * quarter)
        dx, dy = cos(angle), sin(angle)

        def at(along: float, aside: float, dx: float = dx, dy: float = dy) -> tuple[float, float]:
            """The point so far along the arm and to one side of it."""
            return 0.5 + along * dx - aside * dy, hub + along * dy + aside * dx

        sails.addPath(polygon(at(0.09, -0.02), at(length, -0.02), at(length, breadth), at(0.09, breadth)))
        arms.addPath(sketch((0.5, hub), at(length, 0.0), closed=False))
        arms.addPath(sketch(at(0.22, 0.0), at(0.22, breadth), closed=False))
    outlined(canvas, sails, shaded(palette, -0.3, 1.2), palette.line)
    canvas.drawPath(arms, stroke(palette.line, 0.014))
    canvas.drawPath(oval(0.5, hub, 0.04, 0.04), fill(palette.line))


def _bridge(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    arches = rng.randint(2, 3)
    rise = rng.uniform(0.08, 0.16)
    deck = rng.uniform(0.48, 0.52)
    pier = rng.uniform(0.05, 0.065)
    span = (0.97 - pier * (arches + 1)) / arches
    body = sketch((0.015, 0.985), (0.015, deck), (0.5, deck - 2 * rise, 0.985, deck), (0.985, 0.985))
    for i in range(arches):
        left = 0.985 - (i + 1) * (pier + span)
        body.lineTo(left + span, 0.985)
        crown = deck + (0.16 if arches == 2 else 0.12) - (rise * 0.5 if 0.2 < left + span / 2 < 0.8 else 0.0)
        reach = (0.985 - crown) * 4 / 3
        body.cubicTo(left + span, 0.985 - reach, left, 0.985 - reach, left, 0.985)
    body.close()
    rail = sketch((0.03, deck - 0.1), (0.5, deck - 0.1 - 2 * rise, 0.97, deck - 0.1), closed=False)
    posts = rng.randint(7, 10)
    for i in range(posts):
        t = i / (posts - 1)
        x, y = 0.03 + 0.94 * t, deck - 4 * rise * t * (1 - t)
        rail.moveTo(x, y - 0.1)
        rail.lineTo(x, y)
    canvas.drawPath(rail, stroke(palette.line, 0.05))
    canvas.drawPath(rail, stroke(palette.base, 0.032))
    outlined(canvas, body, shaded(palette, deck - rise - 0.3, 1.3), palette.line, 0.022)
    road = sketch((0.02, deck + 0.04), (0.5, deck + 0.04 - 2 * rise, 0.98, deck + 0.04), closed=False)
    canvas.drawPath(road, stroke(palette.line, 0.018))


PAINTERS: Final[dict[str, Painter]] = {
    "house": _house,
    "tower": _tower,
    "castle": _castle,
    "tent": _tent,
    "windmill": _windmill,
    "bridge": _bridge,
}
"""The painter of each kind of building."""
