"""Animals, people and plants as drawn: inside their square, in their colour, no two alike."""

from __future__ import annotations

from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
import skia

from indexing.scenes import paint_animals, paint_figures
from indexing.scenes.paint import Palette
from indexing.scenes.vocabulary import COLORS, KINDS

PAINTERS: Final = {**paint_animals.PAINTERS, **paint_figures.PAINTERS}
SIDE: Final = 96
MARGIN: Final = 16

kinds = pytest.mark.parametrize("kind", PAINTERS)


def drawn(kind: str, color: str, seed: int) -> npt.NDArray[np.uint8]:
    """RGBA of one thing whose unit square is `SIDE` pixels wide, amid a transparent margin."""
    surface = skia.Surface(SIDE + 2 * MARGIN, SIDE + 2 * MARGIN)
    canvas = surface.getCanvas()
    canvas.translate(MARGIN, MARGIN)
    canvas.scale(SIDE, SIDE)
    rng = Random(seed)
    PAINTERS[kind](canvas, Palette.of(COLORS[color], rng), rng)
    return np.array(surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType))


def extent(alpha: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is drawn, in pixels from the corner of the unit square."""
    rows, columns = np.nonzero(alpha.any(axis=1))[0], np.nonzero(alpha.any(axis=0))[0]
    left, top = int(columns[0]) - MARGIN, int(rows[0]) - MARGIN
    return left, top, int(columns[-1]) + 1 - MARGIN, int(rows[-1]) + 1 - MARGIN


def test_every_living_kind_has_a_painter() -> None:
    """The two modules paint the animals, the people and the plants of the vocabulary, and nothing else."""
    living = {kind.name for kind in KINDS.values() if kind.category in ("animals", "people", "plants")}
    assert set(PAINTERS) == living


@kinds
def test_stays_inside_its_square(kind: str) -> None:
    """Nothing but the faint edge of an outline is drawn outside the unit square, whatever the pose."""
    for seed in range(40):
        alpha = drawn(kind, "red", seed)[..., 3]
        left, top, right, bottom = extent(alpha)
        assert min(left, top) >= 0, f"seed {seed} starts at {left}, {top}"
        assert max(right, bottom) <= SIDE, f"seed {seed} ends at {right}, {bottom}"


@kinds
def test_fills_its_square(kind: str) -> None:
    """A thing takes at least 85 % of the width or the height of its square, and a fifth of its area."""
    for seed in range(20):
        alpha = drawn(kind, "red", seed)[..., 3]
        left, top, right, bottom = extent(alpha)
        assert max(right - left, bottom - top) >= 0.85 * SIDE
        assert (alpha > 128).sum() >= 0.2 * SIDE * SIDE


@kinds
def test_stands_on_the_ground(kind: str) -> None:
    """What does not float reaches down to the lower edge of its square, so that it does not hover over its ground."""
    lowest = 0.8 if KINDS[kind].floats else 0.93
    for seed in range(20):
        assert extent(drawn(kind, "red", seed)[..., 3])[3] >= lowest * SIDE


@kinds
@pytest.mark.parametrize("color", COLORS)
def test_shows_its_colour(kind: str, color: str) -> None:
    """Most of what is drawn is nearer to the named colour than to the nine others, black and white included."""
    names, values = list(COLORS), np.array(list(COLORS.values()), dtype=np.float32)
    for seed in range(3):
        picture = drawn(kind, color, seed)
        pixels = picture[picture[..., 3] == 255][:, :3].astype(np.float32)
        nearest = np.argmin(((pixels[:, None] - values) ** 2).sum(axis=2), axis=1)
        share = float((nearest == names.index(color)).mean())
        assert share > 0.55, f"seed {seed}: {share:.0%} looks {color}"


@kinds
def test_repeats_for_a_seed(kind: str) -> None:
    """The same seed draws the same pixels."""
    np.testing.assert_array_equal(drawn(kind, "blue", 7), drawn(kind, "blue", 7))


@kinds
def test_shape_changes_with_the_seed(kind: str) -> None:
    """Two seeds give two outlines, not the same one in other shades."""
    first, second = (drawn(kind, "blue", seed)[..., 3] > 128 for seed in (1, 2))
    assert (first != second).mean() > 0.004
