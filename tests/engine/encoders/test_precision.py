from __future__ import annotations

import pytest

from engine.encoders.precision import Measured, Precision, choose, worthwhile_threads


def measured(precision: Precision, ms: float, cosine: float = 0.9999) -> Measured:
    return Measured(precision, single_ms=ms, batch_ms=ms, cosine=cosine)


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ([measured("fp32", 10, 1), measured("bf16", 6), measured("int8", 3)], "int8"),
        ([measured("fp32", 10, 1), measured("bf16", 50), measured("int8", 8)], "int8"),
        ([measured("fp32", 10, 1), measured("bf16", 6), measured("int8", 3, 0.99)], "bf16"),
        ([measured("fp32", 10, 1), measured("bf16", 9.5), measured("int8", 9.3)], "fp32"),
        ([measured("fp32", 10, 1), measured("bf16", 5), measured("int8", 4.8)], "bf16"),
        ([measured("fp32", 10, 1), measured("int8", 20)], "fp32"),
    ],
    ids=["fastest", "bf16 is slow here", "int8 is too inexact", "not worth it", "hardly faster", "all slower"],
)
def test_choice(figures: list[Measured], best: Precision):
    """The fastest precision is taken that keeps the vectors, and a less exact one only for a tenth of the time."""
    assert choose(figures) == best


@pytest.mark.parametrize(
    ("times_ms", "threads"),
    [({4: 23.4, 8: 20.0}, 4), ({8: 14.0, 4: 19.7}, 8), ({1: 4.9, 2: 2.9}, 1)],
    ids=["hardly help", "help", "help where a text is short"],
)
def test_threads_that_hardly_help_are_left_to_others(times_ms: dict[int, float], threads: int):
    """Half of them are taken where all make a text less than a quarter faster, or half take no more than 8 ms."""
    assert worthwhile_threads(times_ms) == threads
