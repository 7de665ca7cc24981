"""How animals are drawn.

Every animal is told apart by its outline alone: a picture is often so small that one animal is twenty pixels wide.
"""

from __future__ import annotations

from math import cos, hypot, pi, sin
from random import Random
from typing import Final

import skia

from indexing.scenes.paint import Painter, Palette, argb, blend, fill, outlined, oval, polygon, stroke
from indexing.scenes.paint_living import SNOW, TONGUE, behind, coat, eye, joined, limb, silhouette, smooth, spots

BEAK: Final = argb(240, 160, 40)


def dog(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Standing, with a long snout, a floppy ear and a raised tail."""
    step, wag, fat = rng.uniform(-0.05, 0.05), rng.uniform(-0.025, 0.07), rng.uniform(-0.02, 0.03)
    nod = rng.uniform(-0.03, 0.04)
    far = joined(
        limb((0.29, 0.6, 0.14), (0.31 + step, 0.8, 0.1), (0.33 + step, 0.955, 0.11)),
        limb((0.58, 0.6, 0.13), (0.55 - step, 0.8, 0.1), (0.56 - step, 0.955, 0.11)),
    )
    silhouette(canvas, far, behind(palette), palette.line)
    body = joined(
        limb((0.22, 0.54, 0.12), (0.12, 0.44, 0.09), (0.07 + wag / 2, 0.3, 0.07), (0.09 + wag, 0.16, 0.045)),
        limb((0.22, 0.58, 0.2), (0.18 - step, 0.78, 0.11), (0.21 - step, 0.955, 0.12)),
        limb((0.64, 0.58, 0.18), (0.65 + step, 0.78, 0.11), (0.68 + step, 0.955, 0.12)),
        smooth((0.12, 0.56), (0.2, 0.44), (0.44, 0.44), (0.64, 0.38), (0.74, 0.5), (0.7, 0.66), (0.44, 0.67 + fat),
               (0.22, 0.7)),
        limb((0.62, 0.52, 0.26), (0.67, 0.3 + nod, 0.22)),
        oval(0.68, 0.26 + nod, 0.155, 0.15),
        smooth((0.7, 0.14 + nod), (0.82, 0.2 + nod), (0.93, 0.23 + nod), (0.965, 0.3 + nod), (0.92, 0.38 + nod),
               (0.8, 0.4 + nod), (0.7, 0.4 + nod)),
    )  # fmt: skip
    silhouette(canvas, body, coat(palette, 0.1), palette.line)
    if rng.random() < 0.6:
        spots(canvas, rng.choice((palette.light, palette.dark)), rng, (0.22, 0.5, 0.56, 0.6), 3, 0.06)
    canvas.drawPath(limb((0.565, 0.46, 0.05), (0.66, 0.51, 0.05), (0.765, 0.46, 0.05)), fill(palette.accent))
    ear = smooth((0.58, 0.13 + nod), (0.67, 0.14 + nod), (0.685, 0.28 + nod), (0.64, 0.44 + nod), (0.55, 0.45 + nod),
                 (0.51, 0.32 + nod))  # fmt: skip
    outlined(canvas, ear, fill(palette.dark), palette.line)
    canvas.drawPath(
        smooth((0.8, 0.36 + nod), (0.86, 0.35 + nod), (0.93, 0.32 + nod), closed=False), stroke(palette.line, 0.016)
    )
    canvas.drawPath(oval(0.94, 0.255 + nod, 0.04, 0.035), fill(palette.line))
    eye(canvas, 0.765, 0.225 + nod, 0.034)


def cat(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Sitting, with two pointed ears and a tail that curls up."""
    curl, ear, fat = rng.uniform(-0.04, 0.04), rng.uniform(-0.02, 0.03), rng.uniform(-0.03, 0.03)
    tilt = rng.uniform(-0.02, 0.02)
    tail = limb((0.42, 0.9, 0.11), (0.22, 0.91, 0.1), (0.12, 0.78, 0.09), (0.16 + curl, 0.6, 0.085),
                (0.17 + curl, 0.44, 0.08), (0.08 + curl, 0.37, 0.06))  # fmt: skip
    silhouette(canvas, tail, behind(palette), palette.line)
    body = joined(
        smooth((0.5, 0.46), (0.38, 0.58), (0.3 - fat, 0.8), (0.36 - fat, 0.95), (0.6, 0.97), (0.84, 0.96), (0.79, 0.88),
               (0.76, 0.7), (0.76, 0.46)),
        smooth((0.4, 0.3 + tilt), (0.47, 0.19 + tilt), (0.63, 0.16), (0.79, 0.19 - tilt), (0.87, 0.3 - tilt),
               (0.86, 0.42), (0.76, 0.51), (0.63, 0.53), (0.5, 0.51), (0.41, 0.42)),
        polygon((0.41, 0.3 + tilt), (0.415 - ear, 0.045 + tilt), (0.6, 0.18)),
        polygon((0.67, 0.18), (0.85 + ear, 0.045 - tilt), (0.86, 0.3 - tilt)),
    )  # fmt: skip
    silhouette(canvas, body, coat(palette), palette.line)
    inner = joined(
        polygon((0.44, 0.23 + tilt), (0.44 - ear * 0.6, 0.1 + tilt), (0.53, 0.19)),
        polygon((0.74, 0.19), (0.83 + ear * 0.6, 0.1 - tilt), (0.83, 0.23 - tilt)),
    )
    canvas.drawPath(inner, fill(palette.dark))
    if rng.random() < 0.65:
        stripes = skia.Path()
        for i in range(3):
            x, y = 0.585 + 0.05 * i, 0.19 + tilt * 0.3
            stripes.addPath(limb((x, y, 0.022), (x, y + (0.08 if i == 1 else 0.055), 0.012)))
        for y in (0.66, 0.75, 0.84):
            left = 0.42 - (y - 0.5) * 0.32
            stripes.addPath(limb((left, y, 0.02), (left + 0.09, y + 0.02, 0.03), (left + 0.17, y + 0.01, 0.012)))
        canvas.drawPath(stripes, fill(palette.dark))
    else:
        canvas.drawPath(
            smooth((0.66, 0.57), (0.72, 0.66), (0.7, 0.78), (0.63, 0.78), (0.58, 0.66)), fill(palette.light)
        )
    canvas.drawPath(smooth((0.64, 0.74), (0.655, 0.84), (0.65, 0.945), closed=False), stroke(palette.line, 0.016))
    whiskers = skia.Path()
    for side in (-1, 1):
        for drop in (-0.02, 0.035):
            whiskers.moveTo(0.635 + side * 0.1, 0.425 + drop * 0.4)
            whiskers.lineTo(0.635 + side * 0.25, 0.42 + drop * 1.6)
    canvas.drawPath(whiskers, stroke(palette.line, 0.01))
    eye(canvas, 0.545, 0.34 + tilt, 0.043)
    eye(canvas, 0.725, 0.34 - tilt, 0.043)
    canvas.drawPath(polygon((0.605, 0.4), (0.665, 0.4), (0.635, 0.435)), fill(TONGUE))


def rabbit(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Crouching, with a ball of a tail and two ears as long as its body is high."""
    lean, spread, fat = rng.uniform(-0.05, 0.03), rng.uniform(0.07, 0.14), rng.uniform(-0.02, 0.03)
    ear = limb((0.68, 0.42, 0.08), (0.67 + spread / 2 + lean, 0.22, 0.13), (0.67 + spread + lean, 0.045, 0.07))
    silhouette(canvas, ear, behind(palette), palette.line)
    outlined(canvas, oval(0.13, 0.76, 0.095, 0.095), fill(blend(palette.base, palette.light, 0.8)), palette.line)
    body = joined(
        smooth((0.15, 0.8), (0.18, 0.62 - fat), (0.36, 0.5 - fat), (0.55, 0.54), (0.7, 0.6), (0.76, 0.74), (0.74, 0.88),
               (0.6, 0.95), (0.3, 0.955), (0.18, 0.91)),
        smooth((0.56, 0.5), (0.6, 0.38), (0.73, 0.34), (0.86, 0.4), (0.93, 0.51), (0.87, 0.61), (0.74, 0.65),
               (0.61, 0.62)),
        limb((0.63, 0.42, 0.08), (0.58 + lean, 0.22, 0.135), (0.55 + lean - spread / 3, 0.045, 0.075)),
        limb((0.68, 0.78, 0.13), (0.72, 0.93, 0.08), (0.82, 0.935, 0.07)),
        limb((0.34, 0.925, 0.08), (0.56, 0.93, 0.08)),
    )  # fmt: skip
    silhouette(canvas, body, coat(palette, 0.1), palette.line)
    canvas.drawPath(
        limb((0.625, 0.36, 0.03), (0.58 + lean, 0.22, 0.065), (0.555 + lean - spread / 3, 0.09, 0.03)),
        fill(palette.dark if rng.random() < 0.5 else palette.light),
    )
    haunch = smooth((0.3, 0.92), (0.24, 0.76), (0.36, 0.65), (0.5, 0.72), (0.52, 0.88), closed=False)
    canvas.drawPath(haunch, stroke(palette.line, 0.018))
    if rng.random() < 0.5:
        spots(canvas, palette.light, rng, (0.26, 0.6, 0.52, 0.68), 2, 0.05)
    eye(canvas, 0.78, 0.465, 0.04)
    canvas.drawCircle(0.922, 0.505, 0.026, fill(TONGUE))


def bird(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Flying, both wings up, with a beak and a forked tail."""
    lift, sweep, fork = rng.uniform(0, 0.12), rng.uniform(-0.06, 0.06), rng.uniform(-0.03, 0.03)
    far = smooth((0.5, 0.58), (0.56, 0.36), (0.68 + sweep, 0.14 + lift), (0.83 + sweep, 0.06 + lift),
                 (0.82 + sweep, 0.28 + lift), (0.76, 0.44), (0.66, 0.6))  # fmt: skip
    silhouette(canvas, far, behind(palette), palette.line)
    body = joined(
        smooth((0.3, 0.74), (0.44, 0.62), (0.6, 0.57), (0.7, 0.49), (0.81, 0.48), (0.88, 0.56), (0.86, 0.68),
               (0.76, 0.81), (0.58, 0.89), (0.4, 0.86)),
        polygon((0.44, 0.84), (0.07, 0.92 + fork), (0.14, 0.8), (0.05, 0.72 + fork), (0.42, 0.7)),
    )  # fmt: skip
    beak = polygon((0.86, 0.54), (0.98, 0.61), (0.86, 0.645))
    outlined(canvas, beak, fill(BEAK), palette.line)
    silhouette(canvas, body, coat(palette, 0.4), palette.line)
    if rng.random() < 0.6:
        breast = smooth((0.84, 0.67), (0.74, 0.71), (0.58, 0.8), (0.5, 0.86), (0.6, 0.875), (0.74, 0.81))
        canvas.drawPath(breast, fill(palette.light))
    top = 0.04 + lift
    wing = smooth((0.66, 0.6), (0.62, 0.38), (0.48 + sweep, 0.18 + lift / 2), (0.28 + sweep, top), (0.16 + sweep, top),
                  (0.19 + sweep, 0.19 + lift), (0.25, 0.36), (0.36, 0.56), (0.48, 0.71), (0.6, 0.72))  # fmt: skip
    outlined(canvas, wing, coat(palette, 0.1, 0.8), palette.line, 0.02)
    feathers = skia.Path()
    for i in range(3):
        x, y = 0.27 + 0.09 * i + sweep * (0.8 - 0.3 * i), 0.2 + 0.13 * i + lift * (0.8 - 0.3 * i)
        feathers.addPath(limb((x, y, 0.02), (x + 0.09, y + 0.05, 0.03), (x + 0.16, y + 0.13, 0.012)))
    canvas.drawPath(feathers, fill(palette.dark))
    eye(canvas, 0.795, 0.57, 0.036)


def fish(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """From the side, with a wide tail fin."""
    tall, tail, flip = rng.uniform(0.22, 0.28), rng.uniform(0.2, 0.27), rng.uniform(-0.03, 0.03)
    y = 0.65
    fins = joined(
        smooth((0.42, y - tall * 0.75), (0.4, y - tall - 0.1), (0.5, y - tall - 0.15), (0.66, y - tall - 0.08),
               (0.74, y - tall * 0.75), (0.58, y - tall * 0.4)),
        smooth((0.46, y + tall * 0.7), (0.4, y + tall + 0.04), (0.46, y + tall + 0.035), (0.58, y + tall * 0.9),
               (0.6, y + tall * 0.6)),
        smooth((0.34, y), (0.2, y - tail * 0.6), (0.06, y - tail + flip), (0.05, y - tail * 0.7 + flip), (0.13, y),
               (0.05, y + tail * 0.7 + flip), (0.06, y + tail + flip), (0.2, y + tail * 0.6)),
    )  # fmt: skip
    silhouette(canvas, fins, behind(palette), palette.line)
    body = smooth((0.24, y), (0.36, y - tall * 0.6), (0.58, y - tall), (0.8, y - tall * 0.75), (0.93, y - tall * 0.2),
                  (0.94, y + tall * 0.15), (0.8, y + tall * 0.75), (0.58, y + tall),
                  (0.36, y + tall * 0.6))  # fmt: skip
    silhouette(canvas, body, coat(palette, y - tall, y + tall), palette.line)
    if rng.random() < 0.5:
        for x in (0.4, 0.53):
            reach = tall * (x + 0.2) * rng.uniform(0.85, 1.0)
            canvas.drawPath(limb((x, y - reach, 0.03), (x + 0.05, y, 0.06), (x, y + reach, 0.03)), fill(palette.light))
    else:
        scales = skia.Path()
        for column in range(3):
            for row in range(-1, 2 - column % 2):
                x, middle = 0.36 + 0.1 * column, y + 0.12 * row + 0.06 * (column % 2)
                scales.addPath(smooth((x, middle - 0.05), (x + 0.05, middle), (x, middle + 0.05), closed=False))
        canvas.drawPath(scales, stroke(palette.dark, 0.02))
    gill = smooth((0.7, y - tall * 0.6), (0.66, y), (0.7, y + tall * 0.6), closed=False)
    canvas.drawPath(gill, stroke(palette.line, 0.016))
    fin = smooth((0.62, y + 0.02), (0.5, y + 0.03 - flip), (0.46, y + 0.12), (0.54, y + 0.14), (0.63, y + 0.08))
    outlined(canvas, fin, fill(palette.dark), palette.line, 0.014)
    canvas.drawPath(
        smooth((0.925, y + 0.07), (0.88, y + 0.085), (0.85, y + 0.07), closed=False), stroke(palette.line, 0.016)
    )
    eye(canvas, 0.805, y - 0.06, 0.048)


def horse(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Standing tall on long legs, with an arched neck, a mane and a flowing tail."""
    step, swish, nod = rng.uniform(-0.05, 0.05), rng.uniform(-0.01, 0.06), rng.uniform(0.0, 0.04)
    mane = fill(palette.dark)
    tail = limb((0.2, 0.43, 0.07), (0.1, 0.47, 0.09), (0.07 + swish / 2, 0.62, 0.1), (0.06 + swish, 0.78, 0.04))
    outlined(canvas, tail, mane, palette.line)
    hooves = [(0.33 + step, 0.955), (0.56 - step, 0.955), (0.2 - step, 0.955), (0.66 + step, 0.955)]
    far = joined(
        limb((0.28, 0.54, 0.14), (0.34 + step / 2, 0.74, 0.075), (0.33 + step, 0.94, 0.075)),
        limb((0.58, 0.54, 0.12), (0.57 - step / 2, 0.74, 0.075), (0.56 - step, 0.94, 0.075)),
    )
    silhouette(canvas, far, behind(palette), palette.line)
    body = joined(
        limb((0.22, 0.5, 0.2), (0.2 - step / 2, 0.73, 0.085), (0.2 - step, 0.94, 0.08)),
        limb((0.65, 0.52, 0.17), (0.66 + step / 2, 0.73, 0.085), (0.66 + step, 0.94, 0.08)),
        smooth((0.12, 0.48), (0.2, 0.38), (0.42, 0.4), (0.62, 0.36), (0.74, 0.46), (0.7, 0.6), (0.45, 0.62),
               (0.2, 0.62)),
        limb((0.6, 0.52, 0.3), (0.67, 0.34 + nod / 2, 0.22), (0.74, 0.15 + nod, 0.16)),
        smooth((0.68, 0.14 + nod), (0.75, 0.08 + nod), (0.84, 0.13 + nod), (0.96, 0.28 + nod), (0.965, 0.35 + nod),
               (0.9, 0.375 + nod), (0.82, 0.32 + nod), (0.74, 0.28 + nod)),
        polygon((0.7, 0.14 + nod), (0.735, 0.025 + nod), (0.79, 0.12 + nod)),
    )  # fmt: skip
    silhouette(canvas, body, coat(palette, 0.1), palette.line)
    if rng.random() < 0.5:
        spots(canvas, palette.light, rng, (0.22, 0.44, 0.58, 0.54), 3, 0.05)
    hair = smooth((0.75, 0.07 + nod), (0.68, 0.09 + nod), (0.6, 0.18 + nod), (0.53, 0.27), (0.49, 0.38), (0.53, 0.43),
                  (0.6, 0.39), (0.65, 0.3), (0.7, 0.2 + nod), (0.79, 0.16 + nod))  # fmt: skip
    outlined(canvas, hair, mane, palette.line, 0.014)
    for x, y in hooves:
        canvas.drawPath(
            polygon((x - 0.035, y - 0.03), (x + 0.035, y - 0.03), (x + 0.048, y + 0.03), (x - 0.048, y + 0.03)),
            fill(palette.accent),
        )
    canvas.drawCircle(0.94, 0.315 + nod, 0.013, fill(palette.line))
    eye(canvas, 0.81, 0.185 + nod, 0.03)


def elephant(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Huge, with a fan of an ear, a trunk and a tusk."""
    step, swing, flap = rng.uniform(-0.03, 0.03), rng.uniform(-0.06, 0.01), rng.uniform(-0.02, 0.02)
    tail = smooth((0.1, 0.42), (0.04, 0.52), (0.06 + swing / 3, 0.66), closed=False)
    canvas.drawPath(tail, stroke(palette.line, 0.04))
    far = joined(
        limb((0.3, 0.64, 0.18), (0.31 + step, 0.94, 0.16)),
        limb((0.54, 0.64, 0.17), (0.5 - step, 0.94, 0.16)),
    )
    silhouette(canvas, far, behind(palette), palette.line)
    trunk = limb((0.82, 0.4, 0.26), (0.9, 0.58, 0.14), (0.9 + swing, 0.75, 0.105), (0.92 + swing * 2, 0.88, 0.08))
    body = joined(
        limb((0.18, 0.6, 0.2), (0.17 - step, 0.94, 0.17)),
        limb((0.6, 0.6, 0.19), (0.62 + step, 0.94, 0.17)),
        smooth((0.07, 0.5), (0.13, 0.27), (0.35, 0.16), (0.58, 0.2), (0.72, 0.35), (0.71, 0.68), (0.6, 0.77),
               (0.35, 0.79), (0.12, 0.74)),
        smooth((0.58, 0.3), (0.66, 0.15), (0.79, 0.13), (0.9, 0.23), (0.93, 0.42), (0.84, 0.55), (0.68, 0.56)),
        trunk,
    )  # fmt: skip
    silhouette(canvas, body, coat(palette, 0.1), palette.line)
    toes = skia.Path()
    for foot in (0.17 - step, 0.62 + step):
        for toe in (-0.045, 0.0, 0.045):
            toes.addPath(oval(foot + toe, 0.955, 0.018, 0.014))
    canvas.drawPath(toes, fill(blend(palette.light, SNOW, 0.5)))
    ear = smooth((0.68, 0.22 + flap), (0.56, 0.15 + flap), (0.42, 0.2), (0.38, 0.38), (0.44, 0.55), (0.54, 0.62 - flap),
                 (0.62, 0.54), (0.69, 0.42))  # fmt: skip
    outlined(canvas, ear, fill(blend(palette.base, palette.dark, 0.7)), palette.line, 0.02)
    inner = smooth(
        (0.63, 0.27 + flap), (0.55, 0.22 + flap), (0.46, 0.27), (0.45, 0.4), (0.5, 0.5), (0.58, 0.5), (0.63, 0.4)
    )
    canvas.drawPath(inner, fill(palette.base))
    outlined(
        canvas, limb((0.79, 0.52, 0.05), (0.82, 0.62, 0.04), (0.88, 0.655, 0.015)), fill(SNOW), palette.line, 0.014
    )
    eye(canvas, 0.79, 0.31, 0.034)


def snake(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """One thick letter S with a head, a forked tongue and bands."""
    wave, thick = rng.uniform(-0.04, 0.04), rng.uniform(0.155, 0.185)
    way = [
        (0.05, 0.75 - wave, 0.03), (0.13, 0.87, 0.3), (0.35, 0.89, 0.75), (0.6, 0.88, 1.0), (0.79, 0.8, 1.0),
        (0.79 + wave / 2, 0.65, 1.0), (0.62, 0.565, 1.0), (0.38, 0.515, 1.0), (0.215, 0.42, 1.0),
        (0.22 - wave / 2, 0.25, 1.0), (0.36, 0.155, 1.0), (0.52, 0.14, 0.9), (0.66, 0.16, 0.85),
    ]  # fmt: skip
    stations = [(x, y, max(0.02, share * thick)) for x, y, share in way]
    tongue = skia.Path()
    tongue.moveTo(0.84, 0.2)
    tongue.lineTo(0.93, 0.22)
    tongue.lineTo(0.975, 0.19)
    tongue.moveTo(0.93, 0.22)
    tongue.lineTo(0.97, 0.26)
    canvas.drawPath(tongue, stroke(argb(206, 44, 60), 0.022))
    head = smooth((0.6, 0.09), (0.7, 0.06), (0.82, 0.1), (0.89, 0.18), (0.85, 0.25), (0.72, 0.28), (0.6, 0.23))
    silhouette(canvas, joined(limb(*stations), head), coat(palette), palette.line)
    marks = fill(rng.choice((palette.light, palette.dark)))
    bands = rng.random() < 0.5
    for i in range(2, 11):
        (ax, ay, _), (bx, by, width) = stations[i], stations[i + 1]
        x, y, long = (ax + bx) / 2, (ay + by) / 2, hypot(bx - ax, by - ay)
        across, down = (by - ay) / long * width * 0.42, (ax - bx) / long * width * 0.42
        if bands:
            canvas.drawPath(limb((x - across, y - down, 0.03), (x, y, 0.05), (x + across, y + down, 0.03)), marks)
        else:
            canvas.drawCircle(x, y, width * 0.26, marks)
    eye(canvas, 0.765, 0.145, 0.038)


def butterfly(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Four wings from above around a thin body, with feelers."""
    wide, rise, low = rng.uniform(0.4, 0.45), rng.uniform(0.08, 0.14), rng.uniform(0.9, 0.96)
    feelers = skia.Path()
    for side in (-1, 1):
        feelers.moveTo(0.5, 0.3)
        feelers.quadTo(0.5 + side * 0.03, 0.12, 0.5 + side * 0.12, 0.05)
    canvas.drawPath(feelers, stroke(palette.line, 0.022))
    upper, lower = skia.Path(), skia.Path()
    edge, dots = skia.Path(), skia.Path()
    dot = rng.uniform(0.035, 0.055)
    for side in (-1, 1):

        def at(x: float, y: float, side: int = side) -> tuple[float, float]:
            return 0.5 + side * x * wide / 0.45, y

        lower.addPath(smooth(at(0.02, 0.5), at(0.2, 0.54), at(0.36, 0.62), at(0.35, 0.8), at(0.22, low), at(0.1, 0.85),
                             at(0.04, 0.66)))  # fmt: skip
        upper.addPath(smooth(at(0.02, 0.5), at(0.06, 0.36), at(0.2, 0.18), at(0.38, rise), at(0.45, 0.18),
                             at(0.43, 0.38), at(0.34, 0.52), at(0.18, 0.57)))  # fmt: skip
        edge.addPath(smooth(at(0.1, 0.47), at(0.2, 0.28), at(0.34, 0.2), at(0.36, 0.34), at(0.27, 0.47)))
        for x, y in ((0.4, 0.22), (0.395, 0.32), (0.355, 0.42)):
            dots.addCircle(*at(x, y), dot * 0.55)
        dots.addCircle(*at(0.22, 0.72), dot * 1.3)
    silhouette(canvas, lower, behind(palette), palette.line)
    silhouette(canvas, upper, coat(palette, 0.1, 0.7), palette.line)
    if rng.random() < 0.6:
        canvas.drawPath(edge, fill(blend(palette.base, palette.light, 0.3)))
    canvas.drawPath(dots, fill(blend(palette.light, SNOW, 0.35)))
    canvas.drawPath(limb((0.5, 0.28, 0.07), (0.5, 0.45, 0.08), (0.5, 0.66, 0.06), (0.5, 0.8, 0.03)), fill(palette.line))
    canvas.drawCircle(0.5, 0.28, 0.048, fill(palette.line))


def turtle(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """A patterned dome on short legs, with the head held out."""
    high, step, nod = rng.uniform(0.28, 0.36), rng.uniform(-0.03, 0.03), rng.uniform(-0.05, 0.03)
    skin = blend(palette.base, palette.light, 0.75)
    limbs = joined(
        polygon((0.14, 0.76), (0.02, 0.88), (0.18, 0.86)),
        limb((0.22, 0.8, 0.15), (0.19 - step, 0.935, 0.14)),
        limb((0.62, 0.8, 0.15), (0.65 + step, 0.935, 0.14)),
        limb((0.66, 0.8, 0.15), (0.78, 0.72, 0.14), (0.83, 0.6 + nod, 0.14)),
        oval(0.865, 0.56 + nod, 0.105, 0.095),
    )
    silhouette(canvas, limbs, fill(skin), palette.line)
    shell = smooth((0.06, 0.82), (0.08, 0.66), (0.2, high + 0.1), (0.42, high), (0.64, high + 0.1), (0.77, 0.66),
                   (0.79, 0.82), (0.6, 0.86), (0.24, 0.86))  # fmt: skip
    silhouette(canvas, shell, coat(palette, high, 0.9), palette.line)
    width = rng.uniform(0.1, 0.13)
    plates = joined(
        *(
            _plate(x, y, width * scale)
            for x, y, scale in ((0.42, high + 0.19, 1.0), (0.2, high + 0.28, 0.72), (0.64, high + 0.28, 0.72))
        )
    )
    canvas.drawPath(plates, fill(palette.dark))
    canvas.drawPath(
        smooth((0.09, 0.78), (0.24, 0.765), (0.42, 0.775), (0.6, 0.765), (0.76, 0.78), closed=False),
        stroke(palette.dark, 0.03),
    )
    mouth = smooth((0.955, 0.6 + nod), (0.91, 0.615 + nod), (0.87, 0.6 + nod), closed=False)
    canvas.drawPath(mouth, stroke(palette.line, 0.016))
    eye(canvas, 0.885, 0.53 + nod, 0.035)


def _plate(x: float, y: float, radius: float) -> skia.Path:
    return polygon(*((x + radius * cos(i * pi / 3), y + radius * sin(i * pi / 3)) for i in range(6)))


PAINTERS: Final[dict[str, Painter]] = {
    "dog": dog,
    "cat": cat,
    "rabbit": rabbit,
    "bird": bird,
    "fish": fish,
    "horse": horse,
    "elephant": elephant,
    "snake": snake,
    "butterfly": butterfly,
    "turtle": turtle,
}
"""The animals' painters by kind."""
