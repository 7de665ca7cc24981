"""How vehicles are drawn.

Each kind has a silhouette of its own, since a picture of 64 pixels leaves little else to tell a bus from a train.
"""

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
    glass,
    outlined,
    oval,
    polygon,
    shaded,
    sketch,
    stroke,
)


def _soft(palette: Palette) -> skia.Paint:
    """The body paint at half its contrast, so that the named colour is plain from top to bottom."""
    return shaded(palette, -0.3, 1.6)


def _wheels(canvas: skia.Canvas, palette: Palette, centers: tuple[float, ...], radius: float) -> None:
    """Tyres with hubs in the thing's colour, standing on the ground."""
    tyres, hubs = skia.Path(), skia.Path()
    y = 0.99 - radius
    for x in centers:
        tyres.addPath(oval(x, y, radius, radius))
        hubs.addPath(oval(x, y, radius * 0.55, radius * 0.55))
    outlined(canvas, tyres, fill(blend(palette.accent, argb(16, 16, 20), 0.5)), palette.line)
    canvas.drawPath(hubs, fill(palette.base))


def _car(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    roof = rng.uniform(0.24, 0.31)
    belt = rng.uniform(0.5, 0.54)
    front = rng.uniform(0.56, 0.62)
    rear = rng.choice((0.07, 0.15, 0.2))
    radius = rng.uniform(0.12, 0.14)
    body = sketch(
        (0.02, 0.8),
        (0.02, belt + 0.1),
        (0.02, belt + 0.01, rear, belt - 0.01),
        (rear + 0.06, roof, rear + 0.16, roof),
        (front - 0.08, roof),
        (front + 0.02, roof, front + 0.15, belt),
        (0.97, belt + 0.03, 0.98, belt + 0.15),
        (0.98, 0.82),
        (0.98, 0.88, 0.92, 0.88),
        (0.08, 0.88),
        (0.02, 0.88, 0.02, 0.8),
    )
    outlined(canvas, body, shaded(palette, roof - 0.4, 1.5), palette.line)
    top, middle = roof + 0.065, (rear + front) / 2 + 0.07
    windows = sketch(
        (rear + 0.09, belt - 0.01),
        (rear + 0.12, top, rear + 0.18, top),
        (middle - 0.02, top),
        (middle - 0.02, belt - 0.01),
    )
    windows.addPath(
        sketch(
            (middle + 0.03, belt - 0.01),
            (middle + 0.03, top),
            (front - 0.09, top),
            (front - 0.01, top, front + 0.08, belt - 0.01),
        )
    )
    outlined(canvas, windows, fill(glass(palette)), palette.line, 0.012)
    seams = sketch((middle, belt + 0.02), (middle, 0.82), closed=False)
    seams.addPath(sketch((middle - 0.12, belt + 0.09), (middle - 0.06, belt + 0.09), closed=False))
    canvas.drawPath(seams, stroke(palette.line, 0.014))
    canvas.drawPath(oval(0.945, belt + 0.13, 0.03, 0.04), fill(argb(255, 240, 170)))
    canvas.drawPath(box(0.025, belt + 0.1, 0.06, belt + 0.17, 0.01), fill(argb(190, 40, 40)))
    _wheels(canvas, palette, (rng.uniform(0.21, 0.25), rng.uniform(0.75, 0.79)), radius)


def _bus(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    double = rng.random() < 0.3
    top = rng.uniform(0.06, 0.1) if double else rng.uniform(0.2, 0.26)
    count = rng.randint(3, 5)
    radius = rng.uniform(0.095, 0.115)
    outlined(canvas, box(0.02, top, 0.98, 0.92, rng.uniform(0.05, 0.1)), _soft(palette), palette.line)
    panes = skia.Path()
    step = 0.68 / count
    rows = (top + 0.08, top + 0.4) if double else (top + 0.1,)
    height = 0.13 if double else 0.17
    for y in rows:
        for i in range(count):
            panes.addPath(box(0.07 + i * step, y, 0.07 + (i + 0.74) * step, y + height, 0.02))
        panes.addPath(box(0.82, y, 0.95, y + height * 1.15, 0.03))
    outlined(canvas, panes, fill(glass(palette)), palette.line, 0.012)
    belt = rows[-1] + height + 0.07
    canvas.drawPath(box(0.03, belt, 0.97, belt + rng.uniform(0.02, 0.04)), fill(blend(palette.base, palette.line, 0.5)))
    if rng.random() < 0.6:
        canvas.drawPath(box(0.83, belt + 0.03, 0.93, 0.9, 0.01), stroke(palette.line, 0.012))
    canvas.drawPath(oval(0.955, 0.83, 0.02, 0.03), fill(argb(255, 240, 170)))
    _wheels(canvas, palette, (rng.uniform(0.2, 0.25), rng.uniform(0.7, 0.76)), radius)


def _bicycle(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    radius = rng.uniform(0.195, 0.215)
    rear, front, y = 0.05 + radius, 0.95 - radius, 0.95 - radius
    saddle, bar = rng.uniform(0.34, 0.4), rng.uniform(0.27, 0.33)
    pedal, seat, head = (rng.uniform(0.43, 0.47), y + 0.02), (0.38, saddle + 0.07), (0.68, bar + 0.12)
    spokes = skia.Path()
    turn = rng.uniform(0, pi)
    for x in (rear, front):
        for i in range(4):
            dx, dy = radius * cos(turn + i * pi / 4), radius * sin(turn + i * pi / 4)
            spokes.addPath(sketch((x - dx, y - dy), (x + dx, y + dy), closed=False))
    canvas.drawPath(spokes, stroke(blend(palette.accent, palette.light, 0.5), 0.008))
    rims = oval(rear, y, radius, radius)
    rims.addPath(oval(front, y, radius, radius))
    frame = sketch((rear, y), pedal, head, seat, (rear, y), closed=False)
    frame.addPath(sketch((seat[0] - 0.03, saddle), pedal, closed=False))
    stem = (0.655, bar)
    if rng.random() < 0.5:
        grips = sketch(stem, (0.6, bar - 0.01), closed=False)
        frame.addPath(sketch((front, y), head, stem, (0.76, bar - 0.03), closed=False))
    else:
        grips = sketch((0.78, bar + 0.03), (0.8, bar + 0.1, 0.73, bar + 0.1), closed=False)
        frame.addPath(sketch((front, y), head, stem, (0.75, bar - 0.04, 0.78, bar + 0.03), closed=False))
    both = skia.Path(rims)
    both.addPath(frame)
    canvas.drawPath(both, stroke(palette.line, 0.082))
    canvas.drawPath(both, stroke(palette.base, 0.062))
    canvas.drawPath(frame, stroke(palette.light, 0.014))
    canvas.drawPath(grips, stroke(palette.accent, 0.055))
    canvas.drawPath(oval(*pedal, 0.05, 0.05), fill(palette.accent))
    canvas.drawPath(box(0.25, saddle - 0.04, 0.44, saddle + 0.025, 0.03), fill(palette.accent))


def _boat(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    mast = rng.uniform(0.42, 0.5)
    deck = rng.uniform(0.7, 0.75)
    peak = rng.uniform(0.02, 0.08)
    canvas.drawPath(box(mast - 0.014, 0.015, mast + 0.014, deck + 0.04), fill(palette.accent))
    main = sketch(
        (mast + 0.03, peak + 0.03),
        (0.86, deck * 0.5, rng.uniform(0.86, 0.94), deck - 0.07),
        (0.7, deck - 0.03, mast + 0.03, deck - 0.07),
    )
    jib = sketch(
        (mast - 0.03, peak + 0.1),
        (mast - 0.06, deck * 0.6, mast - 0.03, deck - 0.07),
        (0.2, deck - 0.04, rng.uniform(0.06, 0.14), deck - 0.08),
        (0.25, deck * 0.6, mast - 0.03, peak + 0.1),
    )
    outlined(canvas, main, shaded(palette, -0.2, 1.2), palette.line)
    outlined(canvas, jib, fill(blend(palette.base, palette.light, 0.3)), palette.line)
    for share in (0.45, 0.65)[: rng.randint(0, 2)]:
        y = peak + (deck - peak) * share
        canvas.drawPath(
            sketch((mast + 0.04, y), (mast + 0.2, y + 0.03, mast + 0.42 * share, y), closed=False),
            stroke(palette.dark, 0.012),
        )
    hull = sketch(
        (0.02, deck),
        (0.5, deck + 0.05, 0.98, deck - 0.02),
        (0.93, 0.98, 0.78, 0.985),
        (0.24, 0.985),
        (0.08, 0.98, 0.02, deck),
    )
    outlined(canvas, hull, shaded(palette, deck - 0.25, 1.3), palette.line)
    canvas.drawPath(
        sketch((0.06, deck + 0.085), (0.5, deck + 0.125, 0.93, deck + 0.065), closed=False),
        stroke(palette.accent, 0.03),
    )


def _airplane(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    canvas.save()
    canvas.rotate(rng.uniform(-9, 2), 0.5, 0.55)
    y = rng.uniform(0.5, 0.54)
    girth = rng.uniform(0.085, 0.1)
    sweep = rng.uniform(0.2, 0.27)
    far = polygon((0.66, y), (0.46, y), (0.54 - sweep, y - 0.32), (0.62 - sweep, y - 0.32))
    outlined(canvas, far, fill(blend(palette.base, palette.dark, 0.5)), palette.line)
    fin = polygon((0.25, y - 0.04), (0.07, y - 0.03), (0.055, y - 0.29), (0.13, y - 0.29))
    outlined(canvas, fin, _soft(palette), palette.line)
    body = sketch(
        (0.05, y - girth * 0.75),
        (0.3, y - girth, 0.72, y - girth),
        (0.9, y - girth, 0.965, y + girth * 0.35),
        (0.93, y + girth, 0.7, y + girth),
        (0.36, y + girth, 0.05, y - girth * 0.75),
    )
    outlined(canvas, body, shaded(palette, y - girth * 2.6, y + girth * 3), palette.line)
    panes = sketch((0.81, y - girth * 0.62), (0.87, y - girth * 0.55, 0.905, y - girth * 0.1), (0.82, y - girth * 0.1))
    count = rng.randint(4, 7)
    for i in range(count):
        panes.addPath(oval(0.28 + 0.46 * i / (count - 1), y - girth * 0.3, 0.018, 0.022))
    canvas.drawPath(panes, fill(glass(palette)))
    near = polygon((0.64, y + 0.03), (0.42, y + 0.03), (0.47 - sweep, y + 0.39), (0.57 - sweep, y + 0.39))
    outlined(canvas, near, shaded(palette, y - 0.1, y + 0.7), palette.line)
    tail = polygon((0.2, y - 0.02), (0.1, y - 0.03), (0.05, y + 0.12), (0.1, y + 0.12))
    outlined(canvas, tail, fill(palette.base), palette.line)
    canvas.restore()


def _train(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    roof = rng.uniform(0.2, 0.25)
    boiler = rng.uniform(0.42, 0.47)
    cab = rng.uniform(0.36, 0.42)
    funnel = rng.uniform(0.74, 0.79)
    chimney = polygon(
        (funnel - 0.05, boiler + 0.02),
        (funnel - 0.05, 0.24),
        (funnel - 0.1, 0.13),
        (funnel + 0.1, 0.13),
        (funnel + 0.05, 0.24),
        (funnel + 0.05, boiler + 0.02),
    )
    outlined(canvas, chimney, _soft(palette), palette.line)
    dome = (cab + funnel) / 2
    outlined(canvas, oval(dome, boiler, 0.065, rng.uniform(0.07, 0.1)), fill(palette.base), palette.line)
    outlined(canvas, box(cab - 0.05, boiler, 0.93, 0.78, 0.07), shaded(palette, boiler - 0.25, 1.2), palette.line)
    outlined(canvas, box(0.06, roof, cab, 0.84, 0.01), _soft(palette), palette.line)
    outlined(canvas, box(0.015, roof - 0.06, cab + 0.05, roof + 0.025, 0.03), fill(palette.base), palette.line)
    outlined(canvas, box(0.115, roof + 0.09, cab - 0.06, roof + 0.26, 0.02), fill(glass(palette)), palette.line, 0.012)
    for x in (cab + 0.1, funnel + 0.07)[rng.randint(0, 1) :]:
        canvas.drawPath(sketch((x, boiler + 0.02), (x, 0.76), closed=False), stroke(palette.line, 0.018))
    catcher = polygon((0.04, 0.76), (0.9, 0.76), (0.985, 0.95), (0.84, 0.95), (0.8, 0.86), (0.04, 0.86))
    outlined(canvas, catcher, fill(blend(palette.base, palette.dark, 0.6)), palette.line)
    canvas.drawPath(oval(0.935, boiler + 0.12, 0.03, 0.045), fill(argb(255, 240, 170)))
    small = rng.choice(((0.45, 0.63), (0.44, 0.59, 0.74)))
    _wheels(canvas, palette, (0.2,), 0.14)
    _wheels(canvas, palette, small, 0.085 if len(small) == 2 else 0.068)
    canvas.drawPath(sketch((0.2, 0.89), (small[-1], 0.91), closed=False), stroke(palette.line, 0.024))


def _rocket(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    girth = rng.uniform(0.18, 0.22)
    spread = rng.uniform(0.3, 0.36)
    fins = rng.uniform(0.48, 0.56)
    flame = sketch((0.4, 0.82), (0.34, 0.9, 0.5, 0.985), (0.66, 0.9, 0.6, 0.82))
    canvas.drawPath(flame, fill(argb(250, 150, 40)))
    canvas.drawPath(sketch((0.45, 0.82), (0.42, 0.87, 0.5, 0.93), (0.58, 0.87, 0.55, 0.82)), fill(argb(255, 232, 120)))
    for side in (-1, 1):
        fin = sketch(
            (0.5 + side * girth * 0.8, fins),
            (0.5 + side * spread, fins + 0.12, 0.5 + side * spread, 0.92),
            (0.5 + side * spread * 0.7, 0.8, 0.5 + side * 0.1, 0.81),
        )
        outlined(canvas, fin, fill(blend(palette.base, palette.dark, 0.55)), palette.line)
    body = sketch(
        (0.5, 0.012),
        (0.5 + girth * 0.75, 0.14, 0.5 + girth, 0.33, 0.5 + girth, 0.48),
        (0.5 + girth, 0.66, 0.5 + girth * 0.6, 0.84),
        (0.5 - girth * 0.6, 0.84),
        (0.5 - girth, 0.66, 0.5 - girth, 0.48),
        (0.5 - girth, 0.33, 0.5 - girth * 0.75, 0.14, 0.5, 0.012),
    )
    outlined(canvas, body, _soft(palette), palette.line)
    glint = sketch((0.5 - girth * 0.62, 0.3), (0.5 - girth * 0.85, 0.5, 0.5 - girth * 0.6, 0.7), closed=False)
    canvas.drawPath(glint, stroke(palette.light, 0.03))
    nose = rng.uniform(0.2, 0.25)
    canvas.drawPath(
        sketch((0.5 - girth * 0.72, nose), (0.5, nose + 0.05, 0.5 + girth * 0.72, nose), closed=False),
        stroke(palette.line, 0.016),
    )
    radius = rng.uniform(0.075, 0.09)
    panes = oval(0.5, 0.39, radius, radius)
    if rng.random() < 0.5:
        panes.addPath(oval(0.5, 0.6, radius * 0.6, radius * 0.6))
    outlined(canvas, panes, fill(glass(palette)), palette.line, 0.024)
    outlined(canvas, box(0.475, fins + 0.16, 0.525, 0.93, 0.025), fill(palette.dark), palette.line, 0.014)


def _balloon(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    girth = rng.uniform(0.36, 0.42)
    mouth = rng.uniform(0.71, 0.75)
    basket = rng.uniform(0.08, 0.1)
    ropes = skia.Path()
    for side in (-1, 1):
        ropes.addPath(sketch((0.5 + side * 0.1, mouth), (0.5 + side * basket * 0.9, 0.88), closed=False))
    canvas.drawPath(ropes, stroke(palette.accent, 0.02))

    def gore(half: float) -> skia.Path:
        """The part of the envelope within `half` of its full breadth, from the crown to the mouth."""
        wide, narrow = girth * half, 0.115 * half
        return sketch(
            (0.5, 0.015),
            (0.5 + wide * 0.8, 0.015, 0.5 + wide * 1.04, 0.2, 0.5 + wide, 0.36),
            (0.5 + wide * 0.95, 0.52, 0.5 + narrow * 1.5, 0.6, 0.5 + narrow, mouth),
            (0.5 - narrow, mouth),
            (0.5 - narrow * 1.5, 0.6, 0.5 - wide * 0.95, 0.52, 0.5 - wide, 0.36),
            (0.5 - wide * 1.04, 0.2, 0.5 - wide * 0.8, 0.015, 0.5, 0.015),
        )

    outlined(canvas, gore(1), shaded(palette, -0.2, 1.0), palette.line)
    stripe = fill(blend(palette.base, palette.dark, 0.55))
    outer = rng.uniform(0.68, 0.76)
    canvas.drawPath(gore(outer), stripe)
    canvas.drawPath(gore(outer - 0.32), shaded(palette, -0.2, 1.0))
    if rng.random() < 0.5:
        canvas.drawPath(gore(0.13), stripe)
    canvas.drawPath(box(0.385, mouth - 0.015, 0.615, mouth + 0.015, 0.015), fill(palette.line))
    weave = blend(argb(150, 100, 56), palette.base, 0.15)
    outlined(canvas, box(0.5 - basket, 0.86, 0.5 + basket, 0.985, 0.025), fill(weave), palette.line)
    canvas.drawPath(sketch((0.5 - basket, 0.92), (0.5 + basket, 0.92), closed=False), stroke(palette.line, 0.012))


PAINTERS: Final[dict[str, Painter]] = {
    "car": _car,
    "bus": _bus,
    "bicycle": _bicycle,
    "boat": _boat,
    "airplane": _airplane,
    "train": _train,
    "rocket": _rocket,
    "balloon": _balloon,
}
"""The painter of each kind of vehicle."""
