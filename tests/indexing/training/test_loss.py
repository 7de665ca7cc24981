"""Losses: near nothing for what is right, more for what is wrong, and silent on what is nobody's mistake."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from indexing.scenes.scene import held_out
from indexing.scenes.vocabulary import BACKGROUNDS, COLORS, KINDS, TIMES, WEATHERS
from indexing.training.loss import contents, contrast, likeness

SCALE = torch.tensor(100.0)
EYE = torch.eye(4)
TRUE = torch.eye(4, dtype=torch.bool)

# ---------------------------------------------------------------- contrast


def test_perfect_embeddings_lose_nothing():
    """Texts on their pictures, far from the others: no loss."""
    assert contrast(EYE, EYE, SCALE, TRUE) < 1e-6


def test_wrong_embeddings_lose():
    """Texts on other pictures lose by the whole distance, and texts that tell nothing by log 4."""
    assert contrast(EYE, EYE.roll(1, 0), SCALE, TRUE) > 100
    unsure = contrast(EYE, torch.full((4, 4), 0.5), SCALE, TRUE)
    assert float(unsure) == pytest.approx(2 * log(4), abs=1e-4)


def test_fitting_picture_is_never_a_negative():
    """Two pictures in one place, both of which the text fits, cost nothing; if it fits one of them, the other costs."""
    pictures, texts = EYE[[0, 0, 1]], EYE[[0, 1]]
    both = torch.tensor([[True, True, False], [False, False, True]])
    one = torch.tensor([[True, False, False], [False, False, True]])
    assert contrast(pictures, texts, SCALE, both) < 1e-6
    assert contrast(pictures, texts, SCALE, one) > 0.3


def test_near_miss_pushes_its_picture_away():
    """A text that fits nothing has no picture to come to, but costs where it lies on one."""
    truth = torch.cat([TRUE, torch.zeros(1, 4, dtype=torch.bool)])
    apart = contrast(EYE, torch.cat([EYE, -EYE[:1]]), SCALE, truth)
    near = contrast(EYE, torch.cat([EYE, EYE[:1]]), SCALE, truth)
    assert apart < 1e-6
    assert near > 0.1


# ---------------------------------------------------------------- likeness


def test_likeness_of_a_batch_without_a_pair_is_nothing():
    """Small batches often hold no two pictures alike: that must not turn the weights to NaN."""
    assert likeness(EYE, torch.eye(len(EYE), dtype=torch.bool)) == 0


def test_likeness_falls_when_alike_pictures_meet():
    """Two pairs of alike pictures: less loss where each pair coincides than where all are apart, or paired wrongly."""
    alike = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()
    together, apart, wrong = (likeness(EYE[rows], alike) for rows in ([0, 0, 1, 1], [0, 1, 2, 3], [0, 1, 0, 1]))
    assert together < apart < wrong
    assert together < 1e-4


def test_half_alike_pictures_are_no_negatives():
    """A picture that shows my main thing beside its own is drawn to me, and I never push it away, nor it me."""
    mutual = torch.tensor([[True, False, True], [False, True, True], [True, True, True]])
    half = mutual.clone()
    half[0, 1] = True
    pictures = EYE[[0, 1, 2]]
    assert likeness(pictures, half) < 1e-6 < likeness(pictures, mutual)


# ---------------------------------------------------------------- contents

DOGS = (0, 3, 2)  # kind, colour, count
BOAT = (16, 0, 1)
NOTHING = (-1, -1, -1)


def zeros(rows: int) -> dict[str, Tensor]:
    """Heads that read nothing at all."""
    kinds, colors = len(KINDS), len(COLORS)
    shapes = {
        "kind": (kinds,),
        "count": (kinds, 3),
        "color": (colors,),
        "side": (2, kinds + 1),
        "binding": (kinds, colors),
        "background": (len(BACKGROUNDS),),
        "time": (len(TIMES),),
        "weather": (len(WEATHERS),),
    }
    return {name: torch.zeros(rows, *shape) for name, shape in shapes.items()}


def right(things: Tensor, place: Tensor, sure: float = 30) -> dict[str, Tensor]:
    """Heads that read exactly what is there, and how sure they are."""
    read = zeros(len(things))
    for name in ("kind", "color", "binding"):
        read[name] -= sure
    for row, slots in enumerate(things.tolist()):
        for slot, (kind, color, count) in enumerate(slots):
            read["side"][row, slot, kind if kind >= 0 else len(KINDS)] = sure
            if kind >= 0:
                read["kind"][row, kind] = sure
                read["count"][row, kind, count - 1] = sure
            if color >= 0:
                read["color"][row, color] = sure
            if kind >= 0 and color >= 0:
                read["binding"][row, kind, color] = sure
        for number, name in enumerate(("background", "time", "weather")):
            read[name][row, place[row, number]] = sure
    return read


THINGS = torch.tensor([[DOGS, BOAT], [BOAT, NOTHING]])
PLACE = torch.tensor([[0, 1, 2], [3, 2, 1]])
KNOWN = torch.tensor([True, True])


def test_contents_lose_nothing_when_read_right():
    """Heads that read what is there lose nothing; the less sure they are, the more they lose."""
    assert not any(held_out(list(KINDS)[kind], list(COLORS)[color]) for kind, color, _ in (DOGS, BOAT))
    losses = [contents(right(THINGS, PLACE, sure), THINGS, PLACE, KNOWN) for sure in (30, 3, 0)]
    assert losses[0] < 1e-4
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("name", list(zeros(1)))
def test_each_reading_counts(name: str):
    """A single head that reads nothing costs, whatever the others read."""
    read = right(THINGS, PLACE)
    read[name] = zeros(len(THINGS))[name]
    assert contents(read, THINGS, PLACE, KNOWN) > 0.1


def test_held_out_pairs_are_not_taught():
    """No pair of kind and colour that training never shows gets a gradient: it is neither there nor absent."""
    read = zeros(2)
    read["binding"].requires_grad_()
    torch.autograd.backward(contents(read, THINGS, PLACE, KNOWN))
    gradient = read["binding"].grad
    assert gradient is not None
    unseen = torch.tensor([[held_out(kind, color) for color in COLORS] for kind in KINDS])
    assert (gradient[:, unseen] == 0).all()
    assert (gradient[:, ~unseen] != 0).all()


def test_what_is_not_said_is_not_taught():
    """Sides, numbers, places and times that a text leaves open get no gradient."""
    things = torch.tensor([[(0, 3, -1), NOTHING]])
    read = {name: value.requires_grad_() for name, value in zeros(1).items()}
    loss = contents(read, things, torch.tensor([[-1, 2, -1]]), torch.tensor([False]))
    torch.autograd.backward(loss)
    taught = {name for name, value in read.items() if value.grad is not None and bool(value.grad.any())}
    assert taught == {"kind", "color", "binding", "time"}
