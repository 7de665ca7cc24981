"""Painters of furniture, food and the things of the sky."""

from __future__ import annotations

from math import cos, pi, sin
from random import Random
from typing import Final

import skia

from indexing.scenes.paint import (
    Painter,
    Palette,
    argb,
    blend,
    box,
    fill,
    outlined,
    oval,
    polygon,
    shaded,
    sketch,
    stroke,
)

_LEAF: Final = argb(76, 148, 62)
_STALK: Final = argb(96, 72, 44)


def _soft(palette: Palette) -> skia.Paint:
    """The body paint at half its contrast, so that the named colour is plain from top to bottom."""
    return shaded(palette, -0.3, 1.6)


def _dim(palette: Palette) -> skia.Paint:
    """The paint of parts that lie in the shade."""
    return fill(blend(palette.base, palette.dark, 0.6))


def _lit(palette: Palette) -> skia.Paint:
    """The paint of parts that face the light."""
    return fill(blend(palette.base, palette.light, 0.35))


def _chair(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    seat = rng.uniform(0.53, 0.58)
    leg = rng.uniform(0.085, 0.1)
    half, crown = rng.uniform(0.25, 0.31), rng.uniform(0.015, 0.07)
    legs = box(0.27, seat, 0.27 + leg * 0.9, 0.92)
    legs.addPath(box(0.73 - leg * 0.9, seat, 0.73, 0.92))
    outlined(canvas, legs, _dim(palette), palette.line)
    posts = box(0.5 - half, crown, 0.5 - half + leg, seat + 0.04, 0.03)
    posts.addPath(box(0.5 + half - leg, crown, 0.5 + half, seat + 0.04, 0.03))
    slats = skia.Path()
    style = rng.randint(0, 2)
    if style == 0:
        slats.addPath(box(0.53 - half, crown + 0.035, 0.47 + half, seat - 0.12, 0.02))
    elif style == 1:
        for y in (crown + 0.04, crown + 0.22):
            slats.addPath(box(0.53 - half, y, 0.47 + half, y + 0.12, 0.02))
    else:
        slats.addPath(box(0.53 - half, crown + 0.035, 0.47 + half, crown + 0.145, 0.02))
        for x in (0.37, 0.54):
            slats.addPath(box(x, crown + 0.1, x + 0.09, seat + 0.02))
    outlined(canvas, slats, shaded(palette, -0.6, 1.3), palette.line)
    outlined(canvas, posts, _soft(palette), palette.line)
    front = box(0.14, seat + 0.1, 0.14 + leg, 0.985, 0.015)
    front.addPath(box(0.86 - leg, seat + 0.1, 0.86, 0.985, 0.015))
    outlined(canvas, front, shaded(palette, 0.2, 1.4), palette.line)
    outlined(
        canvas,
        polygon((0.5 - half, seat), (0.5 + half, seat), (0.88, seat + 0.1), (0.12, seat + 0.1)),
        _lit(palette),
        palette.line,
    )
    outlined(canvas, box(0.11, seat + 0.1, 0.89, seat + 0.17, 0.02), _soft(palette), palette.line)


def _table(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    top = rng.uniform(0.3, 0.36)
    depth = rng.uniform(0.1, 0.14)
    leg = rng.uniform(0.08, 0.1)
    edge = top + depth
    back = box(0.19, edge, 0.19 + leg * 0.8, 0.9)
    back.addPath(box(0.81 - leg * 0.8, edge, 0.81, 0.9))
    outlined(canvas, back, _dim(palette), palette.line)
    taper = rng.uniform(0.0, 0.03)
    front = polygon((0.06, edge), (0.06 + leg, edge), (0.06 + leg - taper, 0.985), (0.06, 0.985))
    front.addPath(polygon((0.94 - leg, edge), (0.94, edge), (0.94, 0.985), (0.94 - leg + taper, 0.985)))
    outlined(canvas, front, _soft(palette), palette.line)
    apron = edge + rng.uniform(0.15, 0.18)
    outlined(canvas, box(0.05, edge, 0.95, apron, 0.01), _soft(palette), palette.line)
    outlined(canvas, polygon((0.13, top), (0.87, top), (0.985, edge), (0.015, edge)), _lit(palette), palette.line)
    outlined(canvas, box(0.015, edge, 0.985, edge + 0.06, 0.02), fill(palette.base), palette.line)
    drawers = rng.randint(0, 2)
    knobs = skia.Path()
    for i in range(drawers):
        x = (i + 0.5) / drawers
        middle = 0.18 + 0.64 * x
        canvas.drawPath(
            box(middle - 0.13, edge + 0.075, middle + 0.13, apron - 0.01, 0.01), stroke(palette.line, 0.012)
        )
        knobs.addPath(oval(middle, (edge + apron) / 2 + 0.035, 0.018, 0.018))
    canvas.drawPath(knobs, fill(palette.line))


def _lamp(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    rim = rng.uniform(0.44, 0.5)
    crown = rng.uniform(0.16, 0.21)
    brim = rng.uniform(0.36, 0.4)
    foot = rng.uniform(0.2, 0.24)
    if rng.random() < 0.5:
        stand = sketch(
            (0.46, rim), (0.54, rim), (0.56, 0.62), (0.66, 0.74, 0.55, 0.92), (0.45, 0.92), (0.34, 0.74, 0.44, 0.62)
        )
    else:
        stand = box(0.465, rim, 0.535, 0.95)
    outlined(canvas, stand, shaded(palette, 0.2, 1.3), palette.line)
    base = sketch((0.5 - foot, 0.985), (0.5 - foot, 0.9, 0.5, 0.89), (0.5 + foot, 0.9, 0.5 + foot, 0.985))
    outlined(canvas, base, _soft(palette), palette.line)
    canvas.drawPath(oval(0.5, rim + 0.01, 0.09, 0.055), fill(argb(255, 244, 190)))
    shade = sketch(
        (0.5 - crown, 0.03), (0.5, 0.005, 0.5 + crown, 0.03), (0.5 + brim, rim), (0.5, rim + 0.05, 0.5 - brim, rim)
    )
    outlined(canvas, shade, shaded(palette, -0.35, 0.8), palette.line)
    pleats = skia.Path()
    count = rng.randint(2, 5)
    for i in range(1, count):
        share = 2 * i / count - 1
        pleats.addPath(sketch((0.5 + crown * share, 0.03), (0.5 + brim * share, rim + 0.01), closed=False))
    pleats.addPath(sketch((0.51 - brim, rim - 0.04), (0.5, rim + 0.01, 0.49 + brim, rim - 0.04), closed=False))
    canvas.drawPath(pleats, stroke(palette.dark, 0.014))
    if rng.random() < 0.6:
        x = 0.5 + brim * 0.6
        canvas.drawPath(sketch((x, rim + 0.02), (x, rim + 0.16), closed=False), stroke(palette.accent, 0.014))
        canvas.drawPath(oval(x, rim + 0.17, 0.022, 0.022), fill(palette.accent))


def _bed(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    head = rng.uniform(0.26, 0.33)
    foot = rng.uniform(0.47, 0.54)
    mattress = rng.uniform(0.55, 0.59)
    board = 0.11
    pillow_paint = fill(blend(palette.light, argb(255, 255, 255), 0.2))
    outlined(canvas, box(0.06, mattress + 0.2, 0.94, 0.9), _dim(palette), palette.line)
    outlined(canvas, box(0.02, head, 0.02 + board, 0.985, 0.05), _soft(palette), palette.line)
    outlined(canvas, box(0.12, mattress + 0.02, 0.9, mattress + 0.2, 0.03), pillow_paint, palette.line)
    outlined(canvas, box(0.13, mattress - 0.1, 0.36, mattress + 0.05, 0.06), pillow_paint, palette.line)
    fold = rng.uniform(0.3, 0.36)
    quilt = sketch(
        (fold, mattress + 0.02),
        (fold + 0.02, mattress - 0.09, fold + 0.14, mattress - 0.08),
        (0.7, mattress - 0.11, 0.9, mattress - 0.03),
        (0.9, mattress + 0.26),
        (0.75, mattress + 0.3, 0.6, mattress + 0.26),
        (0.45, mattress + 0.22, fold - 0.02, mattress + 0.26),
    )
    outlined(canvas, quilt, shaded(palette, 0.2, 1.4), palette.line)
    seams = skia.Path()
    count = rng.randint(2, 4)
    for i in range(1, count):
        x = fold + 0.06 + (0.88 - fold) * i / count
        seams.addPath(sketch((x, mattress - 0.07), (x + 0.02, mattress + 0.1, x, mattress + 0.25), closed=False))
    canvas.drawPath(seams, stroke(palette.dark, 0.014))
    outlined(canvas, box(0.98 - board, foot, 0.98, 0.985, 0.05), _soft(palette), palette.line)


def _clock(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    radius = rng.uniform(0.37, 0.39)
    y = 0.96 - radius
    feet = sketch((0.3, y + radius * 0.7), (0.22, 0.97), closed=False)
    feet.addPath(sketch((0.7, y + radius * 0.7), (0.78, 0.97), closed=False))
    canvas.drawPath(feet, stroke(palette.line, 0.05))
    hammer = sketch((0.5, y - radius), (0.5, 0.06), closed=False)
    hammer.addPath(sketch((0.44, 0.06), (0.56, 0.06), closed=False))
    canvas.drawPath(hammer, stroke(palette.line, 0.035))
    for side in (-1, 1):
        canvas.save()
        canvas.rotate(side * rng.uniform(33, 38), 0.5, y)
        bell = sketch(
            (0.34, y - radius),
            (0.35, y - radius - 0.17, 0.5, y - radius - 0.17),
            (0.65, y - radius - 0.17, 0.66, y - radius),
        )
        outlined(canvas, bell, _soft(palette), palette.line)
        canvas.restore()
    outlined(canvas, oval(0.5, y, radius, radius), shaded(palette, 0.0, 1.3), palette.line, 0.022)
    face = _lit(palette)
    outlined(canvas, oval(0.5, y, radius * 0.8, radius * 0.8), face, palette.line, 0.018)
    ticks = skia.Path()
    for i in range(12):
        dx, dy = cos(i * pi / 6), sin(i * pi / 6)
        inner = 0.62 if i % 3 == 0 else 0.7
        ticks.addPath(
            sketch(
                (0.5 + radius * inner * dx, y + radius * inner * dy),
                (0.5 + radius * 0.72 * dx, y + radius * 0.72 * dy),
                closed=False,
            )
        )
    canvas.drawPath(ticks, stroke(palette.line, 0.016))
    hour, minute = rng.uniform(0, 2 * pi), rng.uniform(0, 2 * pi)
    short = sketch((0.5, y), (0.5 + 0.16 * sin(hour), y - 0.16 * cos(hour)), closed=False)
    canvas.drawPath(short, stroke(palette.line, 0.045))
    long = sketch((0.5, y), (0.5 + 0.23 * sin(minute), y - 0.23 * cos(minute)), closed=False)
    canvas.drawPath(long, stroke(palette.line, 0.032))
    canvas.drawPath(oval(0.5, y, 0.03, 0.03), fill(palette.line))


def _leaf(canvas: skia.Canvas, x: float, y: float, reach: float, drop: float) -> None:
    """A pointed leaf from its stalk at (x, y) to a tip `reach` away and `drop` below."""
    tip = (x + reach, y + drop)
    leaf = sketch((x, y), (x + reach * 0.3, y - 0.11, *tip), (x + reach * 0.6, y + 0.09, x, y))
    outlined(canvas, leaf, fill(_LEAF), argb(40, 84, 38), 0.014)


def _apple(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    wide = rng.uniform(0.42, 0.46)
    waist = rng.uniform(0.24, 0.3)
    dip = rng.uniform(0.27, 0.31)
    body = sketch(
        (0.5, dip),
        (0.5 + wide * 0.5, 0.14, 0.5 + wide * 1.08, 0.2, 0.5 + wide, 0.54),
        (0.5 + wide * 0.95, 0.78, 0.5 + waist, 1.06, 0.5, 0.94),
        (0.5 - waist, 1.06, 0.5 - wide * 0.95, 0.78, 0.5 - wide, 0.54),
        (0.5 - wide * 1.08, 0.2, 0.5 - wide * 0.5, 0.14, 0.5, dip),
    )
    outlined(canvas, body, shaded(palette, 0.0, 1.3), palette.line, 0.022)
    lean = rng.uniform(-0.06, 0.08)
    stalk = sketch((0.5, dip + 0.05), (0.5, 0.14, 0.5 + lean, 0.04), closed=False)
    canvas.drawPath(stalk, stroke(_STALK, 0.045))
    side = rng.choice((-1, 1))
    _leaf(canvas, 0.51, 0.17, side * rng.uniform(0.22, 0.28), rng.uniform(-0.1, -0.05))
    shine = sketch((0.5 - wide * 0.72, 0.52), (0.5 - wide * 0.72, 0.37, 0.5 - wide * 0.4, 0.32), closed=False)
    canvas.drawPath(shine, stroke(blend(palette.light, argb(255, 255, 255), 0.4), 0.045))


def _cake(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    tier = rng.uniform(0.54, 0.59)
    upper = rng.uniform(0.27, 0.31)
    inset = rng.uniform(0.19, 0.23)
    icing = fill(blend(palette.base, palette.light, 0.45))
    candles, flames = skia.Path(), skia.Path()
    count = rng.randint(1, 4)
    for i in range(count):
        x = 0.5 + (i - (count - 1) / 2) * 0.13
        candles.addPath(box(x - 0.022, 0.12, x + 0.022, upper + 0.02))
        flames.addPath(sketch((x, 0.015), (x + 0.05, 0.09, x, 0.12), (x - 0.05, 0.09, x, 0.015)))
    outlined(canvas, candles, fill(palette.accent), palette.line, 0.012)
    canvas.drawPath(flames, fill(argb(255, 190, 60)))
    outlined(canvas, box(0.015, 0.93, 0.985, 0.985, 0.027), _dim(palette), palette.line)
    for left, top, bottom in ((0.07, tier, 0.93), (inset, upper, tier)):
        right = 1 - left
        outlined(canvas, box(left, top, right, bottom, 0.03), shaded(palette, top - 0.3, bottom + 0.4), palette.line)
        drips = skia.Path()
        drips.moveTo(left, top + 0.06)
        drips.lineTo(left, top + 0.03)
        drips.quadTo(left, top, left + 0.03, top)
        drips.lineTo(right - 0.03, top)
        drips.quadTo(right, top, right, top + 0.03)
        drips.lineTo(right, top + 0.06)
        waves = round((right - left) / 0.14)
        for i in range(waves):
            x = right - (right - left) * (i + 1) / waves
            drips.quadTo(x + 0.07, top + rng.uniform(0.1, 0.18), x, top + 0.06)
        drips.close()
        outlined(canvas, drips, icing, palette.line, 0.012)
    dots = skia.Path()
    for i in range(rng.randint(4, 6)):
        dots.addPath(oval(0.15 + i * 0.14, 0.87, 0.02, 0.02))
    canvas.drawPath(dots, icing)


def _banana(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    canvas.save()
    canvas.translate(0, -0.035)
    canvas.rotate(rng.uniform(-9, 6), 0.5, 0.7)
    belly = rng.uniform(1.12, 1.2)
    inner = belly - rng.uniform(0.38, 0.44)
    skin = sketch(
        (0.05, 0.42),
        (0.12, belly, 0.72, belly + 0.02, 0.93, 0.42),
        (0.935, 0.3),
        (0.86, 0.28),
        (0.84, 0.4),
        (0.68, inner, 0.34, inner, 0.13, 0.39),
        (0.09, 0.36, 0.05, 0.42),
    )
    outlined(canvas, skin, shaded(palette, 0.1, 1.25), palette.line, 0.022)
    ridge = sketch((0.1, 0.46), (0.28, inner + 0.17, 0.68, inner + 0.19, 0.885, 0.41), closed=False)
    canvas.drawPath(ridge, stroke(palette.dark, 0.018))
    canvas.drawPath(polygon((0.84, 0.4), (0.86, 0.28), (0.935, 0.3), (0.925, 0.41)), fill(_STALK))
    canvas.drawPath(oval(0.085, 0.405, 0.045, 0.035), fill(_STALK))
    freckles = skia.Path()
    for _ in range(rng.randint(2, 6)):
        freckles.addPath(oval(rng.uniform(0.3, 0.65), rng.uniform(0.84, 0.88), rng.uniform(0.01, 0.02), 0.008))
    canvas.drawPath(freckles, fill(palette.line))
    canvas.restore()


def _carrot(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    canvas.save()
    canvas.rotate(rng.uniform(-9, 9), 0.5, 0.55)
    girth = rng.uniform(0.19, 0.23)
    shoulder = rng.uniform(0.26, 0.3)
    for reach in (-0.17, 0.17, 0.0):
        height = 0.1 if reach else 0.04
        x = 0.5 + reach + rng.uniform(-0.02, 0.02)
        frond = sketch(
            (0.48, shoulder + 0.02),
            (x - 0.13, height + 0.1, x, height),
            (x + 0.13, height + 0.1, 0.52, shoulder + 0.02),
        )
        outlined(canvas, frond, fill(_LEAF), argb(40, 84, 38), 0.014)
    root = sketch(
        (0.5, 0.965),
        (0.5 - girth * 0.55, 0.85, 0.5 - girth * 1.25, shoulder + 0.12, 0.5 - girth * 0.9, shoulder + 0.02),
        (0.5 - girth * 0.6, shoulder - 0.06, 0.5, shoulder - 0.02),
        (0.5 + girth * 0.6, shoulder - 0.06, 0.5 + girth * 0.9, shoulder + 0.02),
        (0.5 + girth * 1.25, shoulder + 0.12, 0.5 + girth * 0.55, 0.85, 0.5, 0.965),
    )
    outlined(canvas, root, shaded(palette, 0.05, 1.3), palette.line, 0.022)
    rings = skia.Path()
    for _ in range(rng.randint(4, 6)):
        y = rng.uniform(shoulder + 0.08, 0.8)
        half = girth * (0.95 - 0.75 * (y - shoulder) / 0.65)
        side = rng.choice((-1, 1))
        rings.addPath(
            sketch(
                (0.5 + side * half, y), (0.5 + side * half * 0.5, y + 0.02, 0.5 + side * half * 0.3, y), closed=False
            )
        )
    canvas.drawPath(rings, stroke(palette.dark, 0.018))
    canvas.restore()


def _cherry(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    knot = (rng.uniform(0.52, 0.6), 0.06)
    left = rng.uniform(0.22, 0.245)
    right = rng.uniform(0.22, 0.245)
    fruits = (
        (0.02 + left, 0.98 - left - rng.uniform(0, 0.04), left),
        (0.98 - right, 0.98 - right - rng.uniform(0, 0.1), right),
    )
    stalks = skia.Path()
    for x, y, radius in fruits:
        stalks.addPath(sketch((x, y - radius * 0.8), ((x + knot[0]) / 2 + (x - 0.5) * 0.2, 0.3, *knot), closed=False))
    canvas.drawPath(stalks, stroke(blend(_LEAF, _STALK, 0.5), 0.035))
    _leaf(canvas, *knot, rng.choice((-1, 1)) * rng.uniform(0.24, 0.3), rng.uniform(0.04, 0.1))
    for x, y, radius in fruits:
        outlined(
            canvas, oval(x, y, radius, radius), shaded(palette, y - radius * 2.2, y + radius * 2.6), palette.line, 0.022
        )
        canvas.drawPath(
            sketch((x - 0.1, y - 0.13), (x, y - 0.07, x + 0.1, y - 0.13), closed=False), stroke(palette.dark, 0.018)
        )
        shine = oval(x - radius * 0.42, y - radius * 0.1, radius * 0.15, radius * 0.24)
        canvas.drawPath(shine, fill(blend(palette.light, argb(255, 255, 255), 0.4)))


def _moon(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    canvas.save()
    canvas.translate(0.06, 0)
    canvas.rotate(rng.uniform(-12, 12), 0.44, 0.5)
    depth = rng.uniform(0.2, 0.28)
    crescent = sketch(
        (0.66, 0.05),
        (0.3, -0.06, 0.0, 0.18, 0.0, 0.5),
        (0.0, 0.82, 0.3, 1.06, 0.66, 0.95),
        (depth + 0.06, 0.86, depth + 0.06, 0.14, 0.66, 0.05),
    )
    outlined(canvas, crescent, _soft(palette), palette.line, 0.022)
    if rng.random() < 0.5:
        craters = oval(0.13, 0.42, 0.045, 0.05)
        craters.addPath(oval(0.22, 0.67, 0.06, 0.05))
        craters.addPath(oval(0.27, 0.27, 0.03, 0.035))
        canvas.drawPath(craters, fill(blend(palette.base, palette.dark, 0.7)))
    else:
        face = sketch((0.19, 0.42), (0.24, 0.47, 0.29, 0.42), closed=False)
        face.addPath(sketch((0.2, 0.66), (0.28, 0.7, 0.32, 0.63), closed=False))
        canvas.drawPath(face, stroke(palette.line, 0.022))
        canvas.drawPath(oval(0.16, 0.56, 0.04, 0.03), fill(blend(palette.base, palette.dark, 0.7)))
    canvas.restore()


def _cloud(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    bank = box(0.025, 0.58, 0.975, 0.88, 0.15)
    middle = rng.uniform(0.38, 0.46)
    puffs = [(middle, 0.5, rng.uniform(0.22, 0.25)), (middle + 0.24, 0.57, rng.uniform(0.16, 0.19))]
    puffs += [(middle - 0.2, 0.63, rng.uniform(0.13, 0.15)), (middle + 0.36, 0.69, 0.13)]
    flip = rng.random() < 0.5
    for x, y, radius in puffs:
        bank.addPath(oval(1 - x if flip else x, y, radius, radius))
    canvas.drawPath(bank, stroke(palette.line, 0.036))
    canvas.drawPath(bank, shaded(palette, 0.0, 1.4))
    curls = sketch((0.24, 0.68), (0.3, 0.6, 0.39, 0.66), closed=False)
    curls.addPath(sketch((0.55, 0.62), (0.62, 0.53, 0.72, 0.61), closed=False))
    canvas.drawPath(curls, stroke(palette.dark, 0.022))


def _star(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    turn = rng.uniform(-0.2, 0.2) - pi / 2
    notch = rng.uniform(0.2, 0.24)
    points, shades = [], skia.Path()
    for i in range(10):
        reach = 0.475 if i % 2 == 0 else notch
        points.append((0.5 + reach * cos(turn + i * pi / 5), 0.53 + reach * sin(turn + i * pi / 5)))
    outlined(canvas, polygon(*points), shaded(palette, -0.2, 1.5), palette.line, 0.03)
    for i in range(0, 10, 2):
        shades.addPath(polygon(points[i], points[i + 1], (0.5, 0.53)))
    canvas.drawPath(shades, fill(blend(palette.base, palette.dark, 0.45)))
    if rng.random() < 0.5:
        eyes = oval(0.43, 0.49, 0.022, 0.032)
        eyes.addPath(oval(0.57, 0.49, 0.022, 0.032))
        canvas.drawPath(eyes, fill(palette.line))
        canvas.drawPath(sketch((0.43, 0.58), (0.5, 0.65, 0.57, 0.58), closed=False), stroke(palette.line, 0.02))


def _kite(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    half = rng.uniform(0.33, 0.39)
    spar = rng.uniform(0.26, 0.31)
    tip = rng.uniform(0.66, 0.7)
    canvas.save()
    canvas.rotate(rng.uniform(3, 11), 0.5, 0.5)
    top, right, bottom, left = (0.5, 0.015), (0.5 + half, spar), (0.5, tip), (0.5 - half, spar)
    sway = rng.choice((-1, 1)) * rng.uniform(0.09, 0.13)
    tail = sketch(bottom, (0.5 + sway, 0.8, 0.5, 0.86), (0.5 - sway, 0.91, 0.5 - sway * 0.2, 0.96), closed=False)
    canvas.drawPath(tail, stroke(palette.line, 0.02))
    bows = skia.Path()
    for x, y in ((0.5 + sway * 0.5, 0.8), (0.5 - sway * 0.35, 0.9)):
        bows.addPath(polygon((x, y), (x - 0.075, y - 0.045), (x - 0.075, y + 0.045)))
        bows.addPath(polygon((x, y), (x + 0.075, y - 0.045), (x + 0.075, y + 0.045)))
    outlined(canvas, bows, fill(palette.base), palette.line, 0.012)
    sail = polygon(top, right, bottom, left)
    outlined(canvas, sail, shaded(palette, -0.2, 1.1), palette.line, 0.022)
    panels = polygon(top, right, (0.5, spar))
    panels.addPath(polygon(left, bottom, (0.5, spar)))
    canvas.drawPath(panels, fill(blend(palette.base, palette.dark, 0.5)))
    spars = sketch(top, bottom, closed=False)
    spars.addPath(sketch(left, right, closed=False))
    canvas.drawPath(spars, stroke(palette.line, 0.018))
    canvas.restore()


PAINTERS: Final[dict[str, Painter]] = {
    "chair": _chair,
    "table": _table,
    "lamp": _lamp,
    "bed": _bed,
    "clock": _clock,
    "apple": _apple,
    "cake": _cake,
    "banana": _banana,
    "carrot": _carrot,
    "cherry": _cherry,
    "moon": _moon,
    "cloud": _cloud,
    "star": _star,
    "kite": _kite,
}
"""The painter of each kind of furniture, food and thing of the sky."""
