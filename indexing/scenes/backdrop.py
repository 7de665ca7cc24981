"""Places, times of day and weather: everything in a picture that is not one of its things.

Scenery is kept duller and quieter than the things in front of it, so that a small network can tell the two apart,
and each place has a ground and a skyline of its own, so that it is known at 64 pixels, at night too. Nothing here
looks like a kind from the vocabulary: there is no moon in the sky, no cloud, no cactus in the desert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import skia

from indexing.scenes.paint import argb, fill, polygon, stroke

_Rgb = tuple[float, float, float]

_SKIES: Final[dict[str, tuple[_Rgb, ...]]] = {
    "day": ((112, 166, 214), (168, 204, 230), (216, 230, 236)),
    "sunset": ((88, 66, 118), (190, 112, 112), (246, 178, 106)),
    "night": ((10, 14, 36), (18, 26, 58), (34, 44, 82)),
}
"""From the zenith to the horizon."""

_LIGHT: Final[dict[str, tuple[_Rgb, _Rgb]]] = {
    "day": ((1.0, 1.0, 1.0), (0, 0, 0)),
    "sunset": ((0.78, 0.66, 0.64), (22, 8, 14)),
    "night": ((0.42, 0.43, 0.46), (4, 6, 18)),
}
"""What a time of day multiplies scenery's colours by, and then adds to them."""

_NIGHT_LIGHT: Final[dict[str, tuple[_Rgb, _Rgb]]] = {
    "room": ((0.60, 0.54, 0.48), (10, 4, 0)),
    "snow": ((0.56, 0.57, 0.62), (6, 8, 18)),
    "desert": ((0.48, 0.44, 0.42), (6, 4, 10)),
    "field": ((0.36, 0.46, 0.42), (2, 6, 14)),
}
"""Places with a light of their own at night: the lamp indoors, the glimmer of snow, sand and grass."""


class _Brush:
    """Draws scenery on one canvas, every colour lit by the time of day and shifted by one hue of the picture's own."""

    def __init__(self, canvas: skia.Canvas, background: str, time: str, rng: Random) -> None:
        self.canvas = canvas
        self.time = time
        self.rng = rng
        self._gain, self._lift = (_NIGHT_LIGHT if time == "night" else _LIGHT).get(background, _LIGHT[time])
        self._hue = tuple(rng.uniform(-9, 9) for _ in range(3))

    def color(self, rgb: _Rgb, alpha: float = 255) -> int:
        """A daylight colour as it looks in this picture."""
        red, green, blue = (
            (value + hue) * gain + lift
            for value, hue, gain, lift in zip(rgb, self._hue, self._gain, self._lift, strict=True)
        )
        return argb(red, green, blue, alpha)

    def band(self, top: float, bottom: float, colors: Sequence[int]) -> None:
        """Fills the full width between two heights with a vertical gradient."""
        self.canvas.drawRect(skia.Rect.MakeLTRB(-0.01, top, 1.01, bottom), _gradient(top, bottom, colors))

    def ground(self, horizon: float, far: _Rgb, near: _Rgb) -> None:
        """Fills everything below the horizon."""
        self.band(horizon, 1.01, (self.color(far), self.color(near)))

    def ridge(self, y: float, swing: float, waves: int, far: _Rgb, near: _Rgb) -> None:
        """Draws soft hills whose tops lie around `y`, down to the bottom edge."""
        path = _hills(self.rng, y, swing, waves)
        self.canvas.drawPath(path, _gradient(y - swing, 1, (self.color(far), self.color(near))))

    def sky(self, horizon: float) -> None:
        """Draws the sky down to the horizon: with a low glow at sunset, with stars at night."""
        rng = self.rng
        shift = [rng.uniform(-8, 8) for _ in range(3)]
        colors = [argb(*(value + d for value, d in zip(rgb, shift, strict=True))) for rgb in _SKIES[self.time]]
        self.band(-0.01, horizon + 0.08, colors)
        if self.time == "sunset":
            center, radius = (rng.uniform(0.1, 0.9), horizon), rng.uniform(0.35, 0.5)
            glow = skia.GradientShader.MakeRadial(center, radius, [argb(255, 226, 150, 190), argb(255, 190, 110, 0)])
            self.canvas.drawRect(skia.Rect.MakeLTRB(0, 0, 1, horizon + 0.08), skia.Paint(Shader=glow))
        if self.time == "night":
            _dots(self.canvas, rng, 26, (0, 0, 1, horizon), argb(226, 230, 246, 200), 0.010)


def paint_backdrop(canvas: skia.Canvas, background: str, time: str, rng: Random) -> None:
    """Draws a place at a time of day over the whole unit square.

    `background` is one of `vocabulary.BACKGROUNDS` and `time` one of `vocabulary.TIMES`; anything else raises
    `KeyError`. `rng` decides the lie of the land, so that no two pictures of a place are alike.
    """
    _PLACES[background](_Brush(canvas, background, time, rng))


def paint_weather(canvas: skia.Canvas, weather: str, time: str, rng: Random) -> None:
    """Draws the weather over a finished picture in the unit square, without hiding what is in it.

    `weather` is one of `vocabulary.WEATHERS`: "clear" draws nothing, "rain" slanted streaks, "fog" pale bands and
    "snowfall" flakes.
    """
    night = time == "night"
    if weather == "rain":
        _rain(canvas, argb(176, 194, 222, 190) if night else argb(236, 242, 252, 205), rng)
    elif weather == "fog":
        _fog(canvas, (128, 136, 152) if night else (226, 224, 222), rng)
    elif weather == "snowfall":
        color = argb(214, 220, 232, 240) if night else argb(255, 255, 255, 245)
        _dots(canvas, rng, 34, (0, 0, 1, 1), argb(120, 130, 150, 110), 0.030, color)
        _dots(canvas, rng, 30, (0, 0, 1, 1), argb(120, 130, 150, 110), 0.020, color)


def _gradient(top: float, bottom: float, colors: Sequence[int]) -> skia.Paint:
    shader = skia.GradientShader.MakeLinear(points=[(0, top), (0, bottom)], colors=list(colors))
    return skia.Paint(AntiAlias=True, Shader=shader)


def _hills(rng: Random, y: float, swing: float, waves: int) -> skia.Path:
    """A smooth line of hills between `y - swing` and `y + swing`, closed below the picture."""
    path = skia.Path()
    start = rng.uniform(-0.6, 0) / waves
    step = 1.2 / waves
    rising = rng.random() < 0.5
    path.moveTo(-0.3, 1.02)
    path.lineTo(-0.3, y)
    path.lineTo(start, y)
    for index in range(waves + 1):
        height = rng.uniform(0.4, 2.0) * swing * (1 if (index % 2 == 0) == rising else -1)
        path.quadTo(start + step * (index + 0.5), y + height, start + step * (index + 1), y)
    path.lineTo(1.3, 1.02)
    path.close()
    return path


def _dots(
    canvas: skia.Canvas,
    rng: Random,
    count: int,
    area: tuple[float, float, float, float],
    color: int,
    width: float,
    inner: int | None = None,
) -> None:
    """Round dots over an area (left, top, right, bottom), all in one draw; with `inner`, `color` is only their rim."""
    left, top, right, bottom = area
    random = rng.random
    points = [skia.Point(left + random() * (right - left), top + random() * (bottom - top)) for _ in range(count)]
    canvas.drawPoints(skia.Canvas.kPoints_PointMode, points, stroke(color, width))
    if inner is not None:
        canvas.drawPoints(skia.Canvas.kPoints_PointMode, points, stroke(inner, width * 0.72))


def _rain(canvas: skia.Canvas, color: int, rng: Random) -> None:
    slant = rng.choice((-1, 1)) * rng.uniform(0.25, 0.45)
    points = []
    for _ in range(50):
        x, y, length = rng.uniform(-0.05, 1.05), rng.uniform(-0.08, 1), rng.uniform(0.06, 0.12)
        points += [skia.Point(x, y), skia.Point(x + slant * length, y + length)]
    canvas.drawPoints(skia.Canvas.kLines_PointMode, points, stroke(color, 0.0075))


def _fog(canvas: skia.Canvas, rgb: _Rgb, rng: Random) -> None:
    """One gradient from top to bottom, whose thick and thin layers are the bands."""
    layers = rng.randint(3, 5)
    colors, positions = [], []
    for index in range(2 * layers + 1):
        alpha = rng.uniform(120, 142) if index % 2 else rng.uniform(54, 74)
        colors.append(argb(*rgb, alpha))
        nudge = 0 if index in (0, 2 * layers) else rng.uniform(-0.2, 0.2)
        positions.append((index + nudge) / (2 * layers))
    lean = rng.uniform(-0.08, 0.08)
    shader = skia.GradientShader.MakeLinear(points=[(0.5, 0), (0.5 + lean, 1)], colors=colors, positions=positions)
    canvas.drawRect(skia.Rect.MakeLTRB(0, 0, 1, 1), skia.Paint(Shader=shader))


def _sea(brush: _Brush) -> None:
    rng, horizon = brush.rng, brush.rng.uniform(0.44, 0.56)
    brush.sky(horizon)
    brush.ground(horizon, (112, 158, 176), (44, 96, 124))
    for share in (0.12, 0.36, 0.68):
        y = horizon + (1 - horizon) * share
        brush.canvas.drawPath(_ripples(rng, y, 0.012 + 0.028 * share), fill(brush.color((30, 88, 122), 70)))
    crests = skia.Path()
    for _ in range(20):
        depth = rng.random()
        x, y = rng.random(), horizon + 0.02 + (0.97 - horizon) * depth
        width = 0.03 + 0.06 * depth
        crests.moveTo(x - width, y)
        crests.quadTo(x - width / 2, y - width * 0.35, x, y)
        crests.quadTo(x + width / 2, y - width * 0.35, x + width, y)
    brush.canvas.drawPath(crests, stroke(brush.color((206, 226, 232), 190), 0.0075))


def _ripples(rng: Random, y: float, height: float) -> skia.Path:
    """A wavy water line, filled down to the bottom edge."""
    path = skia.Path()
    x = -rng.uniform(0.1, 0.3)
    path.moveTo(x, 1.02)
    path.lineTo(x, y)
    while x < 1:
        step = rng.uniform(0.12, 0.2)
        path.quadTo(x + step / 2, y + height, x + step, y)
        x += step
    path.lineTo(x, 1.02)
    path.close()
    return path


def _street(brush: _Brush) -> None:
    rng, curb = brush.rng, brush.rng.uniform(0.58, 0.66)
    brush.sky(curb)
    windows, x = skia.Path(), -rng.uniform(0, 0.15)
    while x < 1:
        width, top, shade = rng.uniform(0.14, 0.24), rng.uniform(0.10, 0.34), rng.uniform(124, 172)
        wall = brush.color((shade + 6, shade, shade - 4))
        brush.canvas.drawRect(skia.Rect.MakeLTRB(x, top, x + width, curb), fill(wall))
        columns, row = rng.randint(2, 3), top + 0.05
        pane = width / (2 * columns + 1)
        while row < curb - 0.10:
            for column in range(columns):
                if rng.random() < 0.8:
                    left = x + pane * (2 * column + 1)
                    windows.addRect(skia.Rect.MakeLTRB(left, row, left + pane, row + 0.055))
            row += 0.10
        x += width + 0.006
    lit = {"day": argb(96, 106, 118), "sunset": argb(206, 150, 104), "night": argb(190, 168, 108)}
    brush.canvas.drawPath(windows, fill(lit[brush.time]))
    brush.band(curb, curb + 0.05, (brush.color((186, 182, 176)), brush.color((164, 160, 156))))
    brush.ground(curb + 0.05, (104, 104, 108), (82, 82, 88))
    lane, slope = rng.uniform(0.80, 0.86), rng.uniform(-0.06, 0.06)
    dashes, x = skia.Path(), rng.uniform(-0.2, 0)
    while x < 1:
        dashes.addPoly(
            [
                skia.Point(x, lane),
                skia.Point(x + 0.13, lane),
                skia.Point(x + 0.13 + slope, lane + 0.026),
                skia.Point(x + slope, lane + 0.026),
            ],
            True,
        )
        x += 0.24
    brush.canvas.drawPath(dashes, fill(brush.color((226, 222, 206))))


def _firs(rng: Random, y: float, height: float, spacing: float) -> skia.Path:
    """A row of conifers with their feet around `y`, as one path."""
    path, x = skia.Path(), -rng.uniform(0, spacing)
    while x < 1 + spacing:
        tall, foot = height * rng.uniform(0.75, 1.2), y + rng.uniform(-0.01, 0.02)
        half = tall * rng.uniform(0.19, 0.25)
        top, waist = foot - tall, foot - tall * 0.48
        outline = (
            (x, top),
            (x + half * 0.72, waist),
            (x + half * 0.4, waist),
            (x + half, foot),
            (x - half, foot),
            (x - half * 0.4, waist),
            (x - half * 0.72, waist),
        )
        path.addPoly([skia.Point(*point) for point in outline], True)
        x += spacing * rng.uniform(0.7, 1.3)
    return path


def _forest(brush: _Brush) -> None:
    rng, floor = brush.rng, brush.rng.uniform(0.58, 0.66)
    brush.sky(floor)
    brush.band(floor - 0.22, floor + 0.01, (brush.color((112, 138, 120), 0), brush.color((100, 126, 108))))
    brush.canvas.drawPath(_firs(rng, floor - 0.02, rng.uniform(0.40, 0.48), 0.10), fill(brush.color((104, 130, 112))))
    brush.canvas.drawPath(_firs(rng, floor, rng.uniform(0.42, 0.52), 0.15), fill(brush.color((70, 98, 80))))
    brush.ground(floor, (84, 92, 66), (76, 74, 50))
    brush.canvas.drawPath(_firs(rng, floor + 0.03, rng.uniform(0.50, 0.60), 0.27), fill(brush.color((46, 72, 56))))
    brush.ridge(floor + 0.08, 0.015, 5, (88, 98, 66), (72, 72, 50))
    _tufts(brush, floor + 0.14, 12, (60, 74, 48))


def _tufts(brush: _Brush, top: float, count: int, rgb: _Rgb) -> None:
    """Blades of grass here and there below `top`."""
    path = skia.Path()
    for _ in range(count):
        x, y = brush.rng.random(), brush.rng.uniform(top, 1)
        for lean in (-0.014, 0, 0.014):
            path.moveTo(x, y)
            path.lineTo(x + lean, y - 0.028)
    brush.canvas.drawPath(path, stroke(brush.color(rgb, 170), 0.007))


def _room(brush: _Brush) -> None:
    rng, canvas, floor = brush.rng, brush.canvas, brush.rng.uniform(0.57, 0.63)
    wall = rng.choice(((206, 190, 168), (188, 192, 180), (198, 184, 186), (186, 190, 200)))
    brush.band(-0.01, floor, (brush.color((wall[0] - 14, wall[1] - 14, wall[2] - 14)), brush.color(wall)))
    left, width = rng.uniform(0.04, 0.30), rng.uniform(0.22, 0.28)
    second = left + width + rng.uniform(0.10, 0.16)
    for x in (left, second):
        _window(brush, x, rng.uniform(0.09, 0.11), x + width, 0.46)
    brush.ground(floor, (152, 122, 94), (128, 98, 72))
    boards = skia.Path()
    for index in range(-9, 10):
        boards.moveTo(0.5 + index * 0.10, floor)
        boards.lineTo(0.5 + index * 0.19, 1)
    canvas.drawPath(boards, stroke(brush.color((92, 68, 48), 190), 0.006))
    canvas.drawRect(skia.Rect.MakeLTRB(-0.01, floor - 0.03, 1.01, floor), fill(brush.color((232, 226, 216))))


def _window(brush: _Brush, left: float, top: float, right: float, bottom: float) -> None:
    """A framed window with the sky behind it."""
    canvas, pane = brush.canvas, skia.Rect.MakeLTRB(left, top, right, bottom)
    canvas.save()
    canvas.clipRect(pane)
    brush.sky(bottom - 0.08)
    canvas.restore()
    bars = skia.Path()
    bars.addRect(pane)
    bars.moveTo((left + right) / 2, top)
    bars.lineTo((left + right) / 2, bottom)
    bars.moveTo(left, top + (bottom - top) * 0.4)
    bars.lineTo(right, top + (bottom - top) * 0.4)
    canvas.drawPath(bars, stroke(brush.color((236, 230, 220)), 0.016))


def _desert(brush: _Brush) -> None:
    rng, horizon = brush.rng, brush.rng.uniform(0.46, 0.56)
    brush.sky(horizon)
    brush.ridge(horizon, 0.05, 3, (206, 180, 138), (196, 166, 120))
    brush.ridge(horizon + 0.12, 0.06, 2, (226, 200, 152), (206, 174, 124))
    brush.ridge(horizon + 0.26, 0.05, 2, (214, 184, 134), (190, 154, 104))
    ripples = skia.Path()
    for _ in range(12):
        x, y, width = rng.random(), rng.uniform(horizon + 0.22, 0.99), rng.uniform(0.05, 0.12)
        ripples.moveTo(x - width, y)
        ripples.quadTo(x, y - 0.02, x + width, y)
    brush.canvas.drawPath(ripples, stroke(brush.color((160, 126, 84), 130), 0.006))


def _snow(brush: _Brush) -> None:
    rng, horizon = brush.rng, brush.rng.uniform(0.46, 0.56)
    white, shade = (232, 238, 246), (192, 206, 224)
    brush.sky(horizon)
    brush.ridge(horizon, 0.05, 3, white, shade)
    firs = _firs(rng, horizon + 0.05, 0.10, 0.11)
    brush.canvas.drawPath(firs, fill(brush.color((112, 134, 134))))
    brush.ridge(horizon + 0.09, 0.05, 2, white, shade)
    brush.ridge(horizon + 0.25, 0.05, 2, (240, 243, 248), shade)


def _field(brush: _Brush) -> None:
    rng, horizon = brush.rng, brush.rng.uniform(0.48, 0.58)
    brush.sky(horizon)
    brush.ridge(horizon - 0.02, 0.03, 3, (142, 166, 120), (130, 158, 100))
    brush.ground(horizon + 0.02, (150, 178, 102), (104, 142, 70))
    brush.ridge(horizon + 0.16, 0.03, 2, (134, 168, 88), (98, 136, 66))
    top, gap = horizon + rng.uniform(-0.02, 0.03), rng.uniform(0.11, 0.15)
    fence, x = skia.Path(), rng.uniform(-gap, 0)
    for rail in (0.025, 0.065):
        fence.addRect(skia.Rect.MakeLTRB(-0.01, top + rail, 1.01, top + rail + 0.016))
    while x < 1:
        fence.addRect(skia.Rect.MakeLTRB(x, top, x + 0.022, top + 0.115))
        x += gap
    brush.canvas.drawPath(fence, fill(brush.color((206, 196, 176))))
    _tufts(brush, horizon + 0.2, 22, (78, 114, 50))


def _mountains(brush: _Brush) -> None:
    rng, foot = brush.rng, brush.rng.uniform(0.58, 0.66)
    brush.sky(foot)
    for tops, rock, caps in ((0.24, (146, 156, 176), False), (0.16, (112, 116, 130), True)):
        _peaks(brush, foot, tops, rock, caps=caps)
    brush.ridge(foot, 0.03, 3, (124, 130, 112), (98, 104, 92))
    brush.ridge(foot + 0.13, 0.03, 2, (112, 114, 100), (88, 90, 82))
    stones = skia.Path()
    for _ in range(9):
        x, y, r = rng.random(), rng.uniform(foot + 0.12, 0.98), rng.uniform(0.012, 0.03)
        stones.addPath(polygon((x - r, y), (x - r * 0.5, y - r), (x + r * 0.5, y - r * 0.8), (x + r, y)))
    brush.canvas.drawPath(stones, fill(brush.color((146, 146, 142))))


def _peaks(brush: _Brush, foot: float, top: float, rock: _Rgb, *, caps: bool) -> None:
    """A row of pointed peaks, each with a shaded side and, where `caps`, with snow on it."""
    rng = brush.rng
    sunny, shaded, snow = skia.Path(), skia.Path(), skia.Path()
    x = rng.uniform(-0.15, 0.1)
    while x < 1.1:
        peak, half = top + rng.uniform(-0.05, 0.12), rng.uniform(0.24, 0.34)
        slope = (foot + 0.05 - peak) / half
        sunny.addPath(polygon((x - half, foot + 0.05), (x, peak), (x + half, foot + 0.05)))
        shaded.addPath(
            polygon((x, peak), (x + half, foot + 0.05), (x + half * 0.2, foot + 0.05), (x - 0.02, peak + 0.2))
        )
        if caps:
            w = rng.uniform(0.06, 0.08)
            low = peak + w * slope
            snow.addPath(
                polygon(
                    (x, peak),
                    (x + w, low),
                    (x + w * 0.4, low - 0.03),
                    (x, low),
                    (x - w * 0.5, low - 0.035),
                    (x - w, low),
                )
            )
        x += half * rng.uniform(1.0, 1.5)
    brush.canvas.drawPath(sunny, fill(brush.color(rock)))
    brush.canvas.drawPath(shaded, fill(brush.color((rock[0] - 24, rock[1] - 24, rock[2] - 18))))
    brush.canvas.drawPath(snow, fill(brush.color((238, 242, 248))))


_PLACES: Final[dict[str, Callable[[_Brush], None]]] = {
    "sea": _sea,
    "street": _street,
    "forest": _forest,
    "room": _room,
    "desert": _desert,
    "snow": _snow,
    "field": _field,
    "mountains": _mountains,
}
