"""Copies of a tower: which one computes, and that it does not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest

from engine.encoders.export import export
from engine.encoders.exported import ExportedModel
from engine.encoders.passes import Pass, _in_copies, compiled, core
from engine.encoders.texts import packed
from tests.support.models import loaded


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return export(loaded("vit"), tmp_path_factory.mktemp("exports") / "vit")


class CopiesNoted:
    """Stands for a compiled model of two inputs and some copies, and notes which copy is asked for."""

    def __init__(self, copies: int) -> None:
        self.inputs = [None] * (copies + 2)
        self.asked: list[int] = []

    def create_infer_request(self) -> CopiesNoted:
        return self

    def infer(self, inputs: list[np.ndarray], *, share_inputs: bool) -> list[np.ndarray]:
        *flags, _, _ = inputs
        assert share_inputs
        (copy,) = np.flatnonzero(flags)
        self.asked.append(int(copy))
        return [np.zeros((1, 4), dtype=np.float32)]


def copies_asked(lengths: list[int], copies: int) -> list[int]:
    model: Any = CopiesNoted(copies)
    encode = Pass(model, copies)
    for length in lengths:
        encode(np.zeros(length), np.zeros(4))
    return model.asked


@pytest.mark.parametrize(
    ("lengths", "asked"),
    [
        ([6, 8, 6, 8, 6], [0, 1, 0, 1, 0]),
        ([6, 8, 10, 6, 12, 10, 8], [0, 1, 2, 0, 1, 2, 0]),
        ([6, 6, 6], [0, 0, 0]),
    ],
    ids=["each shape has its own", "a new one takes the place that was not used for longest", "one shape"],
)
def test_a_shape_stays_with_its_copy(lengths: list[int], asked: list[int]):
    """Because a copy that is given another shape has to prepare for it."""
    assert copies_asked(lengths, copies=3) == asked


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_copies_compute_the_same(vit: ExportedModel, precision: Any):
    """Whichever copy is used, for more shapes than there are copies, again and again."""
    one, three = compiled(vit, "text", precision, 1), compiled(vit, "text", precision, 1, copies=3)
    random = np.random.default_rng(3)
    for length in [5, 9, 5, 14, 21, 9, 5, 3, 21, 14, 3, 5]:
        tokens = random.integers(1, 500, (2, length + 2))
        inputs = packed(tokens, np.array([length, length + 1]), vit.text.first)
        vectors = three(*inputs)
        assert vectors.shape == (4, 24)
        assert np.array_equal(vectors, one(*inputs))


def test_copies_share_their_weights(vit: ExportedModel):
    """They are one model to OpenVINO, in which each matrix is there once."""
    model = core().read_model(vit.graph("text", int8=True))
    several = _in_copies(model, 3)
    branches = [node for node in several.get_ops() if node.get_type_name() == "If"]
    places = [
        {node.get_data().ctypes.data for node in branch.get_function(0).get_ops() if _is_matrix(node)}
        for branch in branches
    ]
    assert len(places) == 3
    assert places[0]
    assert places[0] == places[1] == places[2]


def _is_matrix(node: ov.Node) -> bool:
    return node.get_type_name() == "Constant" and node.get_element_type() == ov.Type.i8
