"""From OpenCLIP on PyTorch to files that need neither: both towers traced once, in float16 and with weights of 8 bits.

The frontend is called by itself, without OpenVINO's converter, which reports its use to its makers.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np
import openvino as ov
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from openvino.passes import ConstantFolding, Manager
from torch import Tensor, nn
from torch.nn import functional

from engine.encoders.exported import ExportedModel
from engine.encoders.texts import ClipTokenizer, packed
from engine.encoders.towers import CausalTower, ImageGraph, PackedTextGraph, TextGraph, text_tower
from engine.errors import ModelUnavailable
from engine.models import LoadedModel

_QUANTIZED_FROM: Final = {"MatMul": 4096, "Gather": 1_000_000}
"""Numbers in a matrix from which 8 bits save anything worth their error: positions, looked up in a few, do not."""


def export(loaded: LoadedModel, folder: Path) -> ExportedModel:
    """Writes a loaded model as an exported one and returns it; whatever is in the folder is replaced.

    Raises `ModelUnavailable` when its towers can't be traced: PyTorch can still run such a model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(loaded, temporary)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster
            if ExportedModel.read(folder) is None:
                raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelUnavailable(
            f"{loaded.info.name} can't be exported: {error}. Set CLIP_RUNTIME=torch to run it on PyTorch."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    exported = ExportedModel.read(folder)
    if exported is None:
        raise ModelUnavailable(f"{folder} was replaced while {loaded.info.name} was exported to it. Try again.")
    return exported


def _write(loaded: LoadedModel, folder: Path) -> None:
    start = _start_token(loaded)
    exported = ExportedModel(
        folder,
        loaded.info,
        loaded.preprocessing,
        replace(text_tower(loaded.model), first=0 if start is None else 1),
        loaded.weights,
        asdict(loaded.preprocess),
    )
    _save(_traced_text(loaded, start), exported, "text")
    height, width = loaded.preprocessing.size
    picture = _Unit(ImageGraph(loaded.model, loaded.preprocessing))
    pixels = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    _save(_traced(picture, (pixels,), [ov.PartialShape([-1, height, width, 3])]), exported, "image")
    if isinstance(loaded.tokenizer, ClipTokenizer):
        loaded.tokenizer.save(exported.tokenizer)
    exported.write_description()


class _Unit(nn.Module):
    """A tower with unit vectors."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self._tower = tower

    def forward(self, *inputs: Tensor) -> Tensor:
        return functional.normalize(self._tower(*inputs), dim=-1)


def _traced_text(loaded: LoadedModel, start: int | None) -> ov.Model:
    """The text tower. The texts that it is shown have lengths that no part of a model has, so that none is fixed."""
    causal = CausalTower.of(loaded.model)
    if causal is not None:
        texts = packed(np.ones((2, 8), dtype=np.int64), np.array([4, 7]), 0 if start is None else 1)
        example = tuple(torch.from_numpy(part) for part in texts)
        return _traced(_Unit(PackedTextGraph(causal, start)), example, [ov.PartialShape([-1])] * len(example))
    length = loaded.info.context_length
    tokens, ends = torch.ones(2, length, dtype=torch.int64), torch.tensor([2, length - 1])
    shapes = [ov.PartialShape([-1, length]), ov.PartialShape([-1])]
    return _traced(_Unit(TextGraph(loaded.model)), (tokens, ends), shapes)


def _start_token(loaded: LoadedModel) -> int | None:
    """The token that all texts start with, if the exported tower can have it built in."""
    causal = CausalTower.of(loaded.model)
    if causal is None or not causal.is_plain or not isinstance(loaded.tokenizer, ClipTokenizer):
        return None
    return loaded.tokenizer.start


def _traced(module: nn.Module, example: tuple[Tensor, ...], shapes: Sequence[ov.PartialShape]) -> ov.Model:
    module.eval()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of constants in the trace: the tests compare every kind of tower
        decoder = TorchScriptPythonDecoder(module, example_input=example)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model: ov.Model = frontend.convert(frontend.load(decoder))
    for parameter, shape in zip(model.get_parameters(), shapes, strict=False):  # ends may be unused, and left out
        parameter.set_partial_shape(shape)
    model.validate_nodes_and_infer_types()
    folding = Manager()
    folding.register_pass(ConstantFolding())  # some towers cut three matrices out of one at every pass
    folding.run_passes(model)
    return model


def _save(model: ov.Model, exported: ExportedModel, tower: str) -> None:
    ov.save_model(model, exported.graph(tower, int8=False), compress_to_fp16=True)
    _quantize_weights(model)
    ov.save_model(model, exported.graph(tower, int8=True), compress_to_fp16=True)


def _quantize_weights(model: ov.Model) -> None:
    """Replaces the matrices that are multiplied or looked up in by bytes, with a scale for each of their rows.

    Symmetric and per output: w = scale * byte, with scale the largest |w| of the row / 127. That is a relative error
    of at most 1/254 of the row's largest weight; the processor's kernels know this pattern and keep the bytes.
    """
    for node in list(model.get_ordered_ops()):
        kind = node.get_type_name()
        if kind not in _QUANTIZED_FROM:
            continue
        at = 1 if kind == "MatMul" else 0
        source = node.input(at).get_source_output()
        constant = source.get_node()
        if constant.get_type_name() != "Constant" or constant.get_element_type() != ov.Type.f32:
            continue
        weights = constant.get_data()
        if weights.ndim != 2 or weights.size < _QUANTIZED_FROM[kind]:  # noqa: PLR2004 - a matrix
            continue
        output = 1 if kind == "MatMul" and not node.get_attributes()["transpose_b"] else 0
        scale = np.abs(weights).max(axis=1 - output, keepdims=True) / 127
        scale[scale == 0] = 1
        bytes_ = np.rint(weights / scale).astype(np.int8)
        stored = ov.opset13.constant(bytes_, dtype=ov.Type.i8)
        widened = ov.opset13.convert(stored, destination_type="f16")
        restored = ov.opset13.multiply(widened, ov.opset13.constant(scale.astype(np.float16)))
        as_float = ov.opset13.convert(restored, destination_type="f32")
        node.input(at).replace_source_output(as_float.output(0))
