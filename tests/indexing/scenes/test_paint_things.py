"""Painters of vehicles, buildings, furniture, food and the sky: in bounds, in their colour, and never twice alike."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import skia
from numpy.typing import NDArray

from indexing.scenes import paint_buildings, paint_objects, paint_vehicles
from indexing.scenes.paint import Palette, sketch
from indexing.scenes.vocabulary import COLORS, KINDS

PAINTERS = paint_vehicles.PAINTERS | paint_buildings.PAINTERS | paint_objects.PAINTERS
SIDE = 96
"""The unit square's side in pixels."""
MARGIN = 16
"""What is left around the unit square, to see what is drawn outside it."""

each_kind = pytest.mark.parametrize("kind", PAINTERS)


def drawn(kind: str, color: str, seed: int) -> NDArray[np.uint8]:
    """One thing on a transparent ground, as RGBA of shape (SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, 4)."""
    surface = skia.Surface(SIDE + 2 * MARGIN, SIDE + 2 * MARGIN)
    canvas = surface.getCanvas()
    canvas.translate(MARGIN, MARGIN)
    canvas.scale(SIDE, SIDE)
    rng = Random(seed)
    PAINTERS[kind](canvas, Palette.of(COLORS[color], rng), rng)
    return np.asarray(surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType))


def test_paints_every_vehicle_building_piece_of_furniture_food_and_thing_of_the_sky() -> None:
    """Every kind of these categories has a painter, and no other kind has one here."""
    categories = {"vehicles", "buildings", "furniture", "food", "sky"}
    assert set(PAINTERS) == {kind.name for kind in KINDS.values() if kind.category in categories}


@each_kind
def test_stays_inside_the_unit_square(kind: str) -> None:
    """Nothing that could be seen lies outside the unit square, beyond the pixel that antialiasing may touch."""
    for seed in range(12):
        shown = drawn(kind, "red", seed)[..., 3] > 24
        shown[MARGIN - 1 : 1 - MARGIN, MARGIN - 1 : 1 - MARGIN] = False
        assert not shown.any(), f"seed {seed}"


@each_kind
def test_fills_the_unit_square_in_one_direction(kind: str) -> None:
    """Every thing is at least 85 % as high or as wide as the unit square."""
    for seed in range(12):
        rows, columns = np.nonzero(drawn(kind, "red", seed)[..., 3] > 128)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 0.85 * SIDE, f"seed {seed}"


@each_kind
def test_stands_on_the_ground_or_floats(kind: str) -> None:
    """What does not float reaches down to y = 1, so that the renderer can put it on the ground; food may lie softly."""
    if KINDS[kind].floats:
        return
    slack = 0.1 if KINDS[kind].category == "food" else 0.05
    for seed in range(12):
        rows, _ = np.nonzero(drawn(kind, "red", seed)[..., 3] > 128)
        assert rows.max() - MARGIN >= (1 - slack) * SIDE, f"seed {seed}"


@each_kind
@pytest.mark.parametrize("color", COLORS)
def test_is_of_the_named_colour(kind: str, color: str) -> None:
    """Of a thing's opaque pixels, more than half are nearer to its colour than to any of the other nine."""
    names, references = list(COLORS), np.array(list(COLORS.values()))
    for seed in range(3):
        picture = drawn(kind, color, seed)
        pixels = picture[picture[..., 3] > 200][:, :3].astype(int)
        nearest = ((pixels[:, None] - references) ** 2).sum(axis=2).argmin(axis=1)
        assert np.mean(nearest == names.index(color)) > 0.5, f"seed {seed}"


@each_kind
def test_is_decided_by_its_seed(kind: str) -> None:
    """The same seed draws the same pixels."""
    assert np.array_equal(drawn(kind, "green", 7), drawn(kind, "green", 7))


@each_kind
def test_has_another_shape_for_another_seed(kind: str) -> None:
    """Different seeds differ in shape, not only in the shade of the paint."""
    shapes = {(drawn(kind, "green", seed)[..., 3] > 128).tobytes() for seed in range(6)}
    assert len(shapes) == 6


def test_sketch_refuses_a_segment_that_is_no_curve() -> None:
    """A segment with an odd count of numbers is refused with its length."""
    with pytest.raises(ValueError, match="not 3"):
        sketch((0.0, 0.0), (0.1, 0.2, 0.3))
