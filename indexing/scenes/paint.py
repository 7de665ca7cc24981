"""Brushes shared by everything that is drawn: a palette made from one colour, and shaded shapes.

A painter draws one thing into the unit square (x to the right, y down, the ground at y = 1), facing
right. Where it stands, how large it is and which way it faces is the renderer's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Self

import skia


def argb(red: float, green: float, blue: float, alpha: float = 255) -> int:
    """Packs 8-bit channels, clamped to 0-255, into Skia's colour integer."""
    return int(skia.Color(*(max(0, min(255, round(v))) for v in (red, green, blue, alpha))))


def blend(first: int, second: int, share: float) -> int:
    """The colour `share` (0 to 1) of the way from `first` to `second`, alpha included."""
    ends = [(skia.ColorGetR(c), skia.ColorGetG(c), skia.ColorGetB(c), skia.ColorGetA(c)) for c in (first, second)]
    return argb(*(a + (b - a) * share for a, b in zip(*ends, strict=True)))


@dataclass(frozen=True, slots=True)
class Palette:
    """The shades in which one thing is drawn, all made from its named colour.

    `base` covers most of the thing; `light` and `dark` shade it; `line` contrasts with `base` for outlines and small
    details; `accent` is a quiet neutral for parts that are not of the thing's colour (tyres, trunks, windows).
    """

    base: int
    light: int
    dark: int
    line: int
    accent: int

    @classmethod
    def of(cls, rgb: tuple[int, int, int], rng: Random) -> Self:
        """A palette around an sRGB colour, varied a little so that no two things have the same paint."""
        shift = rng.uniform(-6, 10)
        red, green, blue = (channel + shift + rng.uniform(-3, 3) for channel in rgb)
        base = argb(red, green, blue)
        black, white = argb(0, 0, 0), argb(255, 255, 255)
        luma = 0.30 * red + 0.59 * green + 0.11 * blue
        line = blend(base, black, 0.62) if luma > 70 else blend(base, white, 0.45)
        accent = blend(argb(92, 88, 86), base, 0.12)
        return cls(base, blend(base, white, 0.32), blend(base, black, 0.28), line, accent)


Painter = Callable[[skia.Canvas, Palette, Random], None]
"""Draws one thing into the unit square of the canvas, in the palette's colours."""


def fill(color: int) -> skia.Paint:
    """A flat antialiased fill."""
    return skia.Paint(AntiAlias=True, Color=color)


def stroke(color: int, width: float) -> skia.Paint:
    """An antialiased round-ended line, `width` in unit-square lengths."""
    return skia.Paint(
        AntiAlias=True,
        Color=color,
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


def shaded(palette: Palette, top: float = 0.0, bottom: float = 1.0) -> skia.Paint:
    """The body paint: light above, dark below, between two heights of the unit square."""
    shader = skia.GradientShader.MakeLinear(
        points=[(0.35, top), (0.65, bottom)], colors=[palette.light, palette.base, palette.dark], positions=[0, 0.4, 1]
    )
    return skia.Paint(AntiAlias=True, Shader=shader)


def outlined(canvas: skia.Canvas, path: skia.Path, paint: skia.Paint, line: int, width: float = 0.018) -> None:
    """Fills a path and draws its contour, so that the thing stands out from any background."""
    canvas.drawPath(path, paint)
    canvas.drawPath(path, stroke(line, width))


def polygon(*points: tuple[float, float]) -> skia.Path:
    """A closed straight-edged path."""
    path = skia.Path()
    path.addPoly([skia.Point(x, y) for x, y in points], True)
    return path


def oval(x: float, y: float, rx: float, ry: float) -> skia.Path:
    """An ellipse around (x, y)."""
    path = skia.Path()
    path.addOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry))
    return path


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> skia.Path:
    """A rectangle, its corners rounded by `radius`."""
    path = skia.Path()
    path.addRoundRect(skia.Rect.MakeLTRB(left, top, right, bottom), radius, radius)
    return path


def sketch(start: tuple[float, float], *segments: tuple[float, ...], closed: bool = True) -> skia.Path:
    """A freely drawn path: a segment of 2 numbers is a line to that point, of 4 a quadratic and of 6 a cubic curve.

    Raises:
        ValueError: for a segment of any other length.
    """
    path = skia.Path()
    path.moveTo(*start)
    for segment in segments:
        match segment:
            case (_, _):
                path.lineTo(*segment)
            case (_, _, _, _):
                path.quadTo(*segment)
            case (_, _, _, _, _, _):
                path.cubicTo(*segment)
            case _:
                raise ValueError(f"a segment has 2, 4 or 6 numbers, not {len(segment)}: split it into points")
    if closed:
        path.close()
    return path


def glass(palette: Palette) -> int:
    """A window pane's colour: pale on most paints, slate on the bright ones."""
    return argb(96, 112, 130) if skia.ColorGetG(palette.base) > 180 else argb(214, 232, 242)
