"""Brushes for living things: soft curves, limbs, coats and eyes, shared by animals, people and plants."""

from __future__ import annotations

from math import hypot
from random import Random
from typing import Final

import skia

from indexing.scenes.paint import Palette, argb, blend, fill, stroke

INK: Final = argb(30, 28, 34)
SNOW: Final = argb(252, 252, 250)
TONGUE: Final = argb(232, 104, 120)


def smooth(*points: tuple[float, float], closed: bool = True) -> skia.Path:
    """A soft curve through every point; closed ones run clockwise, whichever way the points do."""
    count = len(points)
    turn = sum(x * points[i - 1][1] - points[i - 1][0] * y for i, (x, y) in enumerate(points))
    if closed and turn > 0:
        points = points[::-1]
    chain = (points[-1], *points, *points[:2]) if closed else (points[0], *points, points[-1])
    path = skia.Path()
    path.moveTo(*chain[1])
    for i in range(1, count + 1 if closed else count):
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = chain[i - 1 : i + 3]
        path.cubicTo(bx + (cx - ax) / 6, by + (cy - ay) / 6, cx - (dx - bx) / 6, cy - (dy - by) / 6, cx, cy)
    if closed:
        path.close()
    return path


def limb(*stations: tuple[float, float, float]) -> skia.Path:
    """A leg, neck, tail or trunk: a tapered band through stations of (x, y, width)."""
    left, right = [], []
    for i, (x, y, width) in enumerate(stations):
        (ax, ay, _), (bx, by, _) = stations[max(0, i - 1)], stations[min(len(stations) - 1, i + 1)]
        scale = width / 2 / hypot(bx - ax, by - ay)
        across, down = (by - ay) * scale, (ax - bx) * scale
        left.append((x + across, y + down))
        right.append((x - across, y - down))
    return smooth(*left, *reversed(right))


def joined(*paths: skia.Path) -> skia.Path:
    """Clockwise closed paths as one, to be filled and outlined as if they had grown together."""
    whole = skia.Path()
    for path in paths:
        whole.addPath(path)
    return whole


def silhouette(canvas: skia.Canvas, path: skia.Path, paint: skia.Paint, line: int, width: float = 0.034) -> None:
    """Draws a joined path with an outline around the whole and none where its parts overlap."""
    canvas.drawPath(path, stroke(line, width))
    canvas.drawPath(path, paint)


def coat(palette: Palette, top: float = 0.0, bottom: float = 1.0) -> skia.Paint:
    """The body paint: gentler than `shaded`, so that the named colour stays the nearest, and of two stops for speed."""
    shader = skia.GradientShader.MakeLinear(
        points=[(0.35, top), (0.65, bottom)],
        colors=[blend(palette.base, palette.light, 0.42), blend(palette.base, palette.dark, 0.28)],
    )
    return skia.Paint(AntiAlias=True, Shader=shader)


def behind(palette: Palette) -> skia.Paint:
    """The paint of limbs on the far side, a little darker than the body."""
    return fill(blend(palette.base, palette.dark, 0.38))


def eye(canvas: skia.Canvas, x: float, y: float, radius: float) -> None:
    """A round eye that looks to the right, visible on every colour."""
    canvas.drawCircle(x, y, radius, fill(SNOW))
    canvas.drawCircle(x + radius * 0.2, y, radius * 0.68, fill(INK))
    canvas.drawCircle(x + radius * 0.38, y - radius * 0.28, radius * 0.24, fill(SNOW))


def spots(
    canvas: skia.Canvas, color: int, rng: Random, area: tuple[float, float, float, float], count: int, size: float
) -> None:
    """Scatters round spots of about `size` over `area` (left, top, right, bottom), one a column."""
    left, top, right, bottom = area
    paint = fill(color)
    for i in range(count):
        x = left + (right - left) * (i + rng.uniform(0.25, 0.75)) / count
        canvas.drawCircle(x, rng.uniform(top, bottom), size * rng.uniform(0.6, 1.1), paint)
