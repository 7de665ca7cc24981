"""How people, their likenesses and plants are drawn."""

from __future__ import annotations

from math import cos, pi, sin
from random import Random
from typing import Final

import skia

from indexing.scenes.paint import Painter, Palette, argb, blend, box, fill, outlined, oval, polygon, stroke
from indexing.scenes.paint_living import INK, SNOW, TONGUE, behind, coat, eye, joined, limb, silhouette, smooth

SKIN: Final = tuple(argb(*rgb) for rgb in ((250, 214, 184), (232, 184, 144), (196, 140, 100), (140, 94, 66)))
CARROT: Final = argb(238, 126, 40)
POLLEN: Final = argb(248, 200, 60)
LEAF: Final = argb(96, 130, 92)
CREAM: Final = argb(238, 226, 204)
EMBER: Final = argb(190, 60, 70)


def person(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Standing in a cap, a sweater and trousers or a skirt, one hand perhaps raised."""
    stance, wave, fat = rng.uniform(0.0, 0.05), rng.random() < 0.5, rng.uniform(-0.02, 0.02)
    skin, hair = rng.choice(SKIN), blend(palette.accent, INK, rng.uniform(0.1, 0.6))
    skirt, long_hair = rng.random() < 0.45, rng.random() < 0.5
    lift = rng.uniform(-0.05, 0.03)
    hands = [(0.2, 0.62 + lift / 2), (0.83, 0.2 + lift) if wave else (0.8, 0.62 - lift / 2)]
    for x, y in hands:
        outlined(canvas, oval(x, y, 0.05, 0.05), fill(skin), palette.line)
    if long_hair:
        canvas.drawPath(smooth((0.36, 0.2), (0.5, 0.1), (0.64, 0.2), (0.66, 0.4), (0.5, 0.43), (0.34, 0.4)), fill(hair))
    shoes = joined(oval(0.4 - stance, 0.955, 0.085, 0.028), oval(0.62 + stance, 0.955, 0.085, 0.028))
    silhouette(canvas, shoes, fill(palette.accent), palette.line)
    trousers = joined(
        limb((0.42, 0.6, 0.19), (0.41 - stance, 0.78, 0.16), (0.4 - stance, 0.935, 0.14)),
        limb((0.58, 0.6, 0.19), (0.59 + stance, 0.78, 0.16), (0.6 + stance, 0.935, 0.14)),
    )
    silhouette(canvas, trousers, behind(palette), palette.line)
    arm_right = (
        limb((0.64, 0.46, 0.14), (0.77, 0.42, 0.125), (0.825, 0.26 + lift, 0.11))
        if wave
        else limb((0.64, 0.45, 0.14), (0.75, 0.52, 0.125), (0.79, 0.59 - lift / 2, 0.11))
    )
    if skirt:
        torso = smooth((0.36, 0.42), (0.5, 0.385), (0.64, 0.42), (0.66, 0.56), (0.78, 0.8), (0.5, 0.84), (0.22, 0.8),
                       (0.34, 0.56))  # fmt: skip
    else:
        torso = smooth((0.35, 0.43), (0.5, 0.385), (0.65, 0.43), (0.67 + fat, 0.56), (0.66 + fat, 0.7), (0.5, 0.715),
                       (0.34 - fat, 0.7), (0.33 - fat, 0.56))  # fmt: skip
    sweater = joined(torso, limb((0.36, 0.45, 0.14), (0.25, 0.52, 0.125), (0.21, 0.59 + lift / 2, 0.11)), arm_right)
    silhouette(canvas, sweater, coat(palette, 0.3, 0.9), palette.line)
    pattern = rng.randrange(3)
    if pattern == 0:
        for y in (0.5, 0.57):
            canvas.drawPath(box(0.345, y, 0.655, y + 0.032, 0.01), fill(rng.choice((palette.light, palette.dark))))
    elif pattern == 1:
        buttons = joined(*(oval(0.5, 0.48 + 0.07 * i, 0.017, 0.017) for i in range(3)))
        canvas.drawPath(buttons, fill(palette.line))
    else:
        canvas.drawPath(limb((0.38, 0.405, 0.05), (0.5, 0.43, 0.06), (0.62, 0.405, 0.05)), fill(palette.dark))
    outlined(canvas, oval(0.5, 0.265, 0.14, 0.145), fill(skin), palette.line)
    cheeks = joined(oval(0.42, 0.305, 0.024, 0.018), oval(0.6, 0.305, 0.024, 0.018))
    canvas.drawPath(cheeks, fill(blend(skin, TONGUE, 0.55)))
    canvas.drawPath(joined(oval(0.47, 0.255, 0.018, 0.022), oval(0.565, 0.255, 0.018, 0.022)), fill(INK))
    canvas.drawPath(smooth((0.47, 0.325), (0.515, 0.35), (0.56, 0.325), closed=False), stroke(INK, 0.014))
    hat = smooth((0.35, 0.2), (0.37, 0.09), (0.5, 0.03), (0.63, 0.09), (0.65, 0.2), (0.5, 0.185))
    outlined(canvas, hat, coat(palette), palette.line)
    if rng.random() < 0.5:
        outlined(
            canvas,
            limb((0.34, 0.19, 0.045), (0.52, 0.18, 0.05), (0.74, 0.205, 0.035)),
            fill(palette.dark),
            palette.line,
        )
    else:
        outlined(canvas, box(0.335, 0.165, 0.665, 0.22, 0.025), fill(palette.dark), palette.line)
        canvas.drawCircle(0.5, 0.045, 0.035, fill(palette.light))


def snowman(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Three balls with a hat, a carrot for a nose and sticks for arms."""
    fat, up, tilt = rng.uniform(-0.02, 0.02), rng.uniform(-0.08, 0.08), rng.uniform(-0.02, 0.02)
    arms = skia.Path()
    for side, height in ((-1, 0.42 + up), (1, 0.42 - up)):
        arms.moveTo(0.5 + side * 0.18, 0.56)
        arms.lineTo(0.5 + side * 0.45, height)
        arms.moveTo(0.5 + side * 0.36, 0.56 + (height - 0.56) * 0.67)
        arms.lineTo(0.5 + side * 0.43, height + 0.12)
    canvas.drawPath(arms, stroke(palette.accent, 0.034))
    balls = ((0.5, 0.775, 0.27 + fat, 0.205), (0.5, 0.53, 0.205 + fat, 0.17), (0.51 + tilt, 0.305, 0.155, 0.15))
    for x, y, rx, ry in balls:
        outlined(canvas, oval(x, y, rx, ry), coat(palette, y - ry, y + ry), palette.line, 0.02)
    head = 0.51 + tilt
    buttons = joined(*(oval(0.53, y, 0.022, 0.022) for y in (0.53, 0.63, 0.72)[: rng.randint(2, 3)]))
    canvas.drawPath(buttons, fill(palette.line))
    scarf = joined(
        limb((0.38, 0.405, 0.06), (0.5, 0.44, 0.075), (0.64, 0.405, 0.06)),
        limb((0.4, 0.43, 0.07), (0.37 + up / 4, 0.52, 0.075), (0.38 + up / 2, 0.6, 0.08)),
    )
    silhouette(canvas, scarf, behind(palette), palette.line, 0.026)
    canvas.drawPath(
        joined(oval(head - 0.045, 0.27, 0.022, 0.026), oval(head + 0.055, 0.27, 0.022, 0.026)), fill(palette.line)
    )
    smile = smooth((head - 0.05, 0.355), (head + 0.01, 0.38), (head + 0.07, 0.355), closed=False)
    canvas.drawPath(smile, stroke(palette.line, 0.016))
    outlined(canvas, polygon((head, 0.295), (head + 0.2, 0.335), (head, 0.345)), fill(CARROT), palette.line, 0.012)
    canvas.save()
    canvas.rotate(rng.uniform(-7, 7), head, 0.18)
    silhouette(
        canvas,
        joined(box(head - 0.17, 0.165, head + 0.17, 0.2, 0.015), box(head - 0.1, 0.035, head + 0.1, 0.18, 0.02)),
        fill(palette.accent),
        palette.line,
        0.026,
    )
    canvas.drawPath(box(head - 0.1, 0.12, head + 0.1, 0.16), fill(palette.base))
    canvas.restore()


def robot(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Boxes on boxes: a square head with an aerial, a chest panel and claws."""
    wide, raised, square = rng.uniform(-0.03, 0.03), rng.random() < 0.5, rng.uniform(0.02, 0.06)
    lean = rng.uniform(-0.04, 0.04)
    joints = skia.Path()
    for x1, y1, x2, y2 in (
        (0.5, 0.2, 0.5 + lean, 0.06),
        (0.5, 0.36, 0.5, 0.46),
        (0.36, 0.7, 0.36, 0.92),
        (0.64, 0.7, 0.64, 0.92),
    ):
        joints.moveTo(x1, y1)
        joints.lineTo(x2, y2)
    canvas.drawPath(joints, stroke(palette.accent, 0.05))
    outlined(canvas, oval(0.5 + lean, 0.06, 0.04, 0.04), fill(EMBER), palette.line)
    hand = 0.3 if raised else 0.7
    claws = skia.Path()
    for x, y, open_up in ((0.1, 0.7, 1), (0.9, hand, -1 if raised else 1)):
        claws.moveTo(x - 0.045, y + 0.08 * open_up)
        claws.lineTo(x, y)
        claws.lineTo(x + 0.045, y + 0.08 * open_up)
    canvas.drawPath(claws, stroke(palette.accent, 0.045))
    right_arm = box(0.835, hand, 0.965, 0.57, 0.05) if raised else box(0.835, 0.45, 0.965, 0.7, 0.05)
    parts = joined(box(0.035, 0.45, 0.165, 0.7, 0.05), right_arm, box(0.15, 0.465, 0.85, 0.545, 0.02),
                   box(0.25 - wide, 0.415, 0.75 + wide, 0.78, square), box(0.27, 0.82, 0.45, 0.975, 0.03),
                   box(0.55, 0.82, 0.73, 0.975, 0.03))  # fmt: skip
    silhouette(canvas, parts, coat(palette, 0.2), palette.line)
    head = joined(
        box(0.27 - wide, 0.13, 0.73 + wide, 0.385, square),
        box(0.215 - wide, 0.21, 0.3, 0.305, 0.02),
        box(0.7, 0.21, 0.785 + wide, 0.305, 0.02),
    )
    silhouette(canvas, head, coat(palette, 0.1, 0.4), palette.line)
    panel = box(0.34, 0.49, 0.66, 0.66, 0.03)
    outlined(canvas, panel, fill(palette.dark), palette.line, 0.014)
    if rng.random() < 0.5:
        lit = rng.randrange(3)
        for i in range(3):
            canvas.drawCircle(0.42 + 0.08 * i, 0.575, 0.026, fill(SNOW if i == lit else palette.light))
    else:
        dial = smooth(
            (0.38, 0.58), (0.45, 0.57), (0.49, 0.53 + lean), (0.53, 0.62), (0.57, 0.575), (0.62, 0.57), closed=False
        )
        canvas.drawPath(dial, stroke(SNOW, 0.02))
    eye(canvas, 0.41, 0.235, 0.05)
    eye(canvas, 0.6, 0.235, 0.05)
    canvas.drawPath(box(0.4, 0.315, 0.62, 0.35, 0.012), fill(palette.line))
    teeth = joined(*(box(0.44 + 0.055 * i, 0.32, 0.455 + 0.055 * i, 0.345) for i in range(3)))
    canvas.drawPath(teeth, fill(palette.base))


def tree(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """A leafy crown like a cloud on a short trunk."""
    lean, wide, count = rng.uniform(-0.04, 0.04), rng.uniform(0.36, 0.41), rng.randint(7, 9)
    trunk = joined(
        smooth(
            (0.43 + lean, 0.55), (0.45, 0.8), (0.38, 0.97), (0.5, 0.955), (0.63, 0.97), (0.56, 0.8), (0.57 + lean, 0.55)
        ),
        limb((0.5, 0.78, 0.06), (0.62, 0.66, 0.05), (0.68 + lean, 0.56, 0.04)),
    )
    silhouette(canvas, trunk, fill(palette.accent), palette.line)
    x, y, turn = 0.5 + lean, 0.385, rng.uniform(0, pi)
    puffs = [oval(x, y, wide * 0.85, 0.3)]
    for i in range(count):
        angle = turn + 2 * pi * i / count
        radius = rng.uniform(0.13, 0.165)
        puffs.append(oval(x + (wide - 0.13) * cos(angle), y + 0.2 * sin(angle), radius, radius))
    silhouette(canvas, joined(*puffs), coat(palette, 0.0, 0.8), palette.line, 0.04)
    tufts, shades = skia.Path(), skia.Path()
    for i in range(5):
        cx, cy = (
            x + (0.4 * (i * 2 % 5) - 0.8 + rng.uniform(-0.1, 0.1)) * (wide - 0.08),
            y + 0.09 * i - 0.17 + rng.uniform(-0.03, 0.03),
        )
        tufts.addPath(smooth((cx - 0.06, cy), (cx - 0.03, cy - 0.045), (cx, cy), closed=False))
        tufts.addPath(smooth((cx, cy), (cx + 0.03, cy - 0.045), (cx + 0.06, cy), closed=False))
    canvas.drawPath(tufts, stroke(palette.dark, 0.022))
    for _ in range(rng.choice((0, 0, 4, 5))):
        angle, reach = rng.uniform(0, 2 * pi), rng.uniform(0.3, 0.9)
        shades.addCircle(x + (wide - 0.08) * reach * cos(angle), y + 0.23 * reach * sin(angle), 0.034)
    canvas.drawPath(shades, fill(palette.light))


def flower(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """One great blossom on a stem with two leaves."""
    petals, turn, sway = rng.randint(5, 8), rng.uniform(0, pi), rng.uniform(-0.05, 0.05)
    x, y = 0.5 + sway, 0.36
    stem = smooth((x, y), (0.5 - sway * 0.6, 0.7), (0.5, 0.95), closed=False)
    canvas.drawPath(stem, stroke(palette.line, 0.072))
    leaves = joined(
        smooth((0.5, 0.92), (0.36, 0.9), (0.24, 0.76 + sway), (0.4, 0.78)),
        smooth((0.5, 0.95), (0.64, 0.92), (0.77, 0.78 - sway), (0.6, 0.81)),
    )
    green = fill(LEAF)
    silhouette(canvas, leaves, green, palette.line)
    canvas.drawPath(stem, stroke(LEAF, 0.04))
    radius = 0.335
    half = min(0.17, 0.78 * radius * sin(pi / petals)) * rng.uniform(0.95, 1.1)
    corolla = [oval(x, y, 0.15, 0.15)]
    lines = skia.Path()
    for i in range(petals):
        angle = turn + 2 * pi * i / petals
        ux, uy = cos(angle), sin(angle)

        def at(out: float, side: float, ux: float = ux, uy: float = uy) -> tuple[float, float]:
            return x + ux * out - uy * side, y + uy * out + ux * side

        corolla.append(smooth(at(0.06, 0.04), at(0.2, half), at(radius - 0.03, half * 0.7), at(radius, 0),
                              at(radius - 0.03, -half * 0.7), at(0.2, -half), at(0.06, -0.04)))  # fmt: skip
        lines.moveTo(*at(0.14, 0))
        lines.lineTo(*at(0.24, 0))
    silhouette(canvas, joined(*corolla), coat(palette, 0.0, 0.75), palette.line)
    canvas.drawPath(lines, stroke(palette.dark, 0.022))
    yellow = skia.ColorGetG(palette.base) > 115 and skia.ColorGetB(palette.base) < 60
    outlined(canvas, oval(x, y, 0.1, 0.1), fill(palette.accent if yellow else POLLEN), palette.line)
    seeds = joined(
        *(oval(x + 0.05 * cos(i * 2.4 + turn), y + 0.05 * sin(i * 2.4 + turn), 0.013, 0.013) for i in range(4))
    )
    canvas.drawPath(seeds, fill(INK))


def cactus(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """A ribbed column with two bent arms and a blossom on top."""
    low, high, thick = rng.uniform(0.56, 0.66), rng.uniform(0.42, 0.54), rng.uniform(0.23, 0.27)
    first, second = rng.uniform(0.26, 0.36), rng.uniform(0.16, 0.26)
    if rng.random() < 0.5:
        low, high, first, second = high, low, second, first
    body = joined(
        box(0.5 - thick / 2, 0.08, 0.5 + thick / 2, 0.975, thick / 2),
        limb((0.5, low + 0.02, 0.15), (0.24, low + 0.015, 0.15), (0.135, low - 0.08, 0.15), (0.13, first + 0.04, 0.14)),
        limb(
            (0.5, high + 0.02, 0.15),
            (0.76, high + 0.015, 0.15),
            (0.865, high - 0.08, 0.15),
            (0.87, second + 0.04, 0.14),
        ),
        oval(0.13, first + 0.04, 0.07, 0.07),
        oval(0.87, second + 0.04, 0.07, 0.07),
    )
    silhouette(canvas, body, coat(palette, 0.0), palette.line)
    ribs = skia.Path()
    for offset in (-0.3, 0.0, 0.3):
        ribs.moveTo(0.5 + thick * offset, 0.17 if offset else 0.13)
        ribs.lineTo(0.5 + thick * offset, 0.94)
    for x, top, bottom in ((0.13, first + 0.05, low - 0.1), (0.87, second + 0.05, high - 0.1)):
        ribs.moveTo(x, top)
        ribs.lineTo(x, bottom)
    canvas.drawPath(ribs, stroke(palette.dark, 0.018))
    spines = skia.Path()
    for i in range(5):
        for side in (-1, 1):
            x, y = 0.5 + side * thick * 0.15, 0.22 + 0.15 * i + 0.04 * side
            spines.moveTo(x - 0.018, y - 0.015)
            spines.lineTo(x, y)
            spines.lineTo(x + 0.018, y - 0.015)
    canvas.drawPath(spines, stroke(palette.line, 0.011))
    blossom = joined(*(oval(0.5 + dx, 0.07 + dy, 0.034, 0.034) for dx, dy in ((-0.045, 0), (0.045, 0), (0, -0.025))))
    silhouette(canvas, blossom, fill(rng.choice((TONGUE, POLLEN, SNOW))), palette.line, 0.02)


def mushroom(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """A spotted dome of a cap on a thick pale stalk."""
    brim, stalk, lean = rng.uniform(0.52, 0.6), rng.uniform(0.1, 0.13), rng.uniform(-0.03, 0.03)
    x = 0.5 + lean
    foot = smooth((x - stalk, brim - 0.04), (0.5 - stalk * 0.95, 0.78), (0.5 - stalk * 1.4, 0.95), (0.5, 0.975),
                  (0.5 + stalk * 1.4, 0.95), (0.5 + stalk * 0.95, 0.78), (x + stalk, brim - 0.04))  # fmt: skip
    outlined(canvas, foot, fill(blend(CREAM, palette.base, 0.1)), palette.line, 0.02)
    outlined(
        canvas,
        smooth((x - 0.3, brim), (x, brim + 0.11), (x + 0.3, brim), (x, brim - 0.06)),
        fill(blend(CREAM, palette.accent, 0.4)),
        palette.line,
        0.018,
    )
    cap = smooth((0.035, brim - 0.05), (0.1, brim - 0.27), (0.28, 0.11), (x, 0.04), (0.72, 0.11), (0.9, brim - 0.27),
                 (0.965, brim - 0.05), (0.86, brim + 0.03), (x, brim + 0.05), (0.14, brim + 0.03))  # fmt: skip
    outlined(canvas, cap, coat(palette, 0.0, 0.65), palette.line, 0.02)
    pale = palette.dark if skia.ColorGetG(palette.base) > 225 else blend(palette.light, SNOW, 0.45)
    dots = skia.Path()
    for cx, cy, radius in ((0.5, 0.2, 0.075), (0.27, 0.3, 0.065), (0.74, 0.31, 0.07), (0.45, 0.42, 0.06),
                           (0.15, 0.47, 0.04), (0.86, 0.48, 0.035), (0.63, 0.45, 0.04)):  # fmt: skip
        size = radius * rng.uniform(0.75, 1.15)
        dots.addPath(
            oval(cx + rng.uniform(-0.03, 0.03), cy + rng.uniform(-0.02, 0.02) + (brim - 0.56), size, size * 0.9)
        )
    canvas.drawPath(dots, fill(pale))
    if rng.random() < 0.4:
        canvas.drawPath(joined(oval(0.455, 0.76, 0.017, 0.022), oval(0.545, 0.76, 0.017, 0.022)), fill(INK))
        canvas.drawPath(smooth((0.47, 0.82), (0.5, 0.84), (0.53, 0.82), closed=False), stroke(INK, 0.013))


def palm(canvas: skia.Canvas, palette: Palette, rng: Random) -> None:
    """Drooping fronds, notched like feathers, on a bent thin trunk."""
    bend, root = rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1)
    x, y = 0.5 + bend / 3, 0.32
    trunk = limb((x, y, 0.05), (0.5 + bend * 0.2 + root * 0.3, 0.6, 0.055), (0.5 + root, 0.935, 0.09))
    silhouette(canvas, trunk, fill(palette.accent), palette.line)
    rings = skia.Path()
    for i in range(5):
        height = 0.48 + 0.1 * i
        middle = 0.5 + root * (height - 0.32) / 0.64 + bend * 0.2 * (1 - height)
        rings.addPath(
            smooth((middle - 0.025, height), (middle, height + 0.015), (middle + 0.025, height), closed=False)
        )
    canvas.drawPath(rings, stroke(palette.line, 0.012))
    fronds, ribs = [], skia.Path()
    tips = ((-0.43, 0.3), (-0.46, 0.03), (-0.27, -0.24), (0.27, -0.24), (0.46, 0.03), (0.43, 0.3))
    for dx, dy in tips:
        tip_x, tip_y = (
            x + dx * rng.uniform(0.9, 1.0) - bend / 3,
            y + dy * rng.uniform(0.9, 1.0) + rng.uniform(-0.02, 0.02),
        )
        knee_x, knee_y = x + dx * 0.55, y + dy * 0.45 - 0.13
        fronds.append(_frond((x, y), (knee_x, knee_y), (tip_x, tip_y)))
        ribs.moveTo(x, y)
        ribs.quadTo(knee_x, knee_y, tip_x + (x - tip_x) * 0.12, tip_y + (y - tip_y) * 0.12)
    silhouette(canvas, joined(*fronds), coat(palette, 0.0, 0.7), palette.line, 0.028)
    canvas.drawPath(ribs, stroke(palette.dark, 0.012))
    nuts = [oval(x + side * 0.045, y + 0.035, 0.04, 0.04) for side in (-1, 1)[: rng.randint(1, 2)]]
    silhouette(canvas, joined(*nuts), fill(palette.accent), palette.line, 0.026)


def _frond(start: tuple[float, float], knee: tuple[float, float], tip: tuple[float, float]) -> skia.Path:
    """A leaf along a bent rib, its lower edge cut into teeth."""
    rib = [
        tuple((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c for a, b, c in zip(start, knee, tip, strict=True))
        for t in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    upper = [(px, py - 0.065 * edge) for (px, py), edge in zip(rib, (0, 1, 1.2, 0.9, 0), strict=True)]
    teeth: list[tuple[float, float]] = []
    for i in (3, 2, 1):
        px, py = rib[i]
        out = 0.03 if px > start[0] else -0.03
        teeth += [(px + out, py + 0.15), (px - out * 0.6, py + 0.045)]
    points = [*upper, *teeth]
    return polygon(*points) if tip[0] > start[0] else polygon(*reversed(points))


PAINTERS: Final[dict[str, Painter]] = {
    "person": person,
    "snowman": snowman,
    "robot": robot,
    "tree": tree,
    "flower": flower,
    "cactus": cactus,
    "mushroom": mushroom,
    "palm": palm,
}
"""The painters of people and plants by kind."""
