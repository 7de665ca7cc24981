"""One pass through a tower, compiled by OpenVINO: numbers in, unit vectors out.

Whenever the shape of what it is given changes, OpenVINO prepares each step of a model anew, known shapes or not: with
ViT-B-32 that is a quarter to a third of the time that three texts or one take. So a text tower can be compiled in
several copies, as the branches of one model, which share their weights and keep the shape that each was last used for.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, Final, Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from engine.encoders.exported import ExportedModel

Precision = Literal["fp32", "bf16", "int8"]
Tower = Literal["text", "image"]

_GROUP: Final = 128  # inputs that share a scale when activations become bytes: 32 is 25 % slower, no more exact

_LOADING: Final = threading.Lock()


def core() -> ov.Core:
    """OpenVINO in this process, loaded at the first call and never let go.

    With each core, OpenVINO (2026.4) gives the thread that loads it another stack for signals, and takes it away with
    the core. It does not notice when cores go in the order they came: then the thread is left with a stack that is no
    longer there, and the next signal that Python handles, a Ctrl-C or the end of a child, ends the process by SIGSEGV.
    """
    with _LOADING:  # two at once would be two
        return _core()


@cache
def _core() -> ov.Core:
    return ov.Core()


def compiled(exported: ExportedModel, tower: Tower, precision: Precision, threads: int, copies: int = 1) -> Pass:
    """A tower, ready to compute on `threads` threads, in so many copies. Each takes as long as one to compile."""
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if precision == "int8" else 0,
        "ENABLE_CPU_PINNING": False,  # other threads of a server run on the same cores
    }
    model = core().read_model(exported.graph(tower, int8=precision == "int8"))
    return Pass(core().compile_model(model if copies == 1 else _in_copies(model, copies), "CPU", config), copies)


def _in_copies(model: ov.Model, copies: int) -> ov.Model:
    """Copies of a model side by side: a flag for each says whether it is computed, and one is.

    The flags are inputs of their own: of those that are computed, OpenVINO 2026.4 takes each for true.
    """
    op = ov.opset13
    flags = [op.parameter([], np.bool_) for _ in range(copies)]
    inputs = [op.parameter(of.partial_shape, of.element_type) for of in model.inputs]
    results = []
    for flag in flags:
        copy = model.clone()
        (result,) = copy.get_results()
        width = result.get_output_partial_shape(0)[1].get_length()
        nothing = ov.Model([op.constant(np.empty((0, width), dtype=np.float32))], [])
        branch = op.if_op(flag)
        branch.set_then_body(copy)
        branch.set_else_body(nothing)
        for given, parameter in zip(inputs, copy.get_parameters(), strict=True):
            branch.set_input(given.output(0), parameter, None)
        results.append(branch.set_output(result, nothing.get_results()[0]))
    return ov.Model([op.concat(results, axis=0)], [*flags, *inputs])


class Pass:
    """One compiled tower. One thread at a time may call it."""

    def __init__(self, model: ov.CompiledModel, copies: int = 1) -> None:
        """`copies` of a tower are in the model, as `compiled` makes them."""
        self._request = model.create_infer_request()
        self._flags = [list(row) for row in np.eye(copies, dtype=np.bool_)] if copies > 1 else [[]]
        self._inputs = len(model.inputs) - len(self._flags[0])
        self._copies: dict[object, int] = {copy: copy for copy in range(copies)}  # by their shapes, latest last

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Unit vectors (n, d) of texts as `TextTower.passes` has them, or of pixels."""
        contiguous = [np.ascontiguousarray(part) for part in inputs[: self._inputs]]
        shapes = tuple(part.shape for part in contiguous)
        copy = self._copies.pop(shapes if shapes in self._copies else next(iter(self._copies)))
        self._copies[shapes] = copy
        result = self._request.infer([*self._flags[copy], *contiguous], share_inputs=True)[0]
        vectors: NDArray[np.float32] = np.array(result, dtype=np.float32)  # the memory is the request's
        return vectors
