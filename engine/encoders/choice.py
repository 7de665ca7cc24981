"""Which encoder the settings mean or a generation needs, and the export that is made the first time it is needed."""

from __future__ import annotations

import ctypes.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import structlog

from engine.encoders.exported import ExportedModel, exports_folder, find, find_fingerprint, place_of
from engine.errors import EncoderUnavailable, ModelUnavailable
from engine.ports import Encoder, ModelInfo
from engine.settings import Settings

log = structlog.get_logger(__name__)

_PREPARE: Final = """
import os, sys
from engine.encoders.choice import load_encoder
from engine.errors import SightlineError
from engine.settings import Settings
if hasattr(os, "nice"):
    os.nice(5)
try:
    load_encoder(Settings())
except SightlineError as error:
    sys.exit(str(error))
"""
"""What another process does so that this one finds a model exported, and its precision measured."""


def load_encoder(settings: Settings) -> Encoder:
    """The encoder that the settings ask for, not yet warm.

    With CLIP_RUNTIME=auto, a model runs on PyTorch where there is an accelerator, and is compiled by OpenVINO for the
    processor elsewhere; the first time that takes PyTorch and seconds, from then on neither. Raises `ModelUnavailable`
    or `EncoderUnavailable`.
    """
    if not _on_openvino(settings):
        _need_torch(f"CLIP_RUNTIME={settings.clip_runtime} and CLIP_DEVICE={settings.clip_device} need PyTorch")
        from engine.encoders.openclip import OpenClipEncoder  # noqa: PLC0415 - brings PyTorch, which takes seconds

        return OpenClipEncoder.load(settings)
    if settings.clip_device in ("cuda", "mps"):
        raise EncoderUnavailable(
            f"OpenVINO computes on the CPU, but CLIP_DEVICE is {settings.clip_device}. Set CLIP_RUNTIME=torch."
        )
    from engine.encoders.openvino import OpenVinoEncoder  # noqa: PLC0415 - takes half a second

    exported = find(settings) or export_model(settings, place_of(settings))
    return OpenVinoEncoder.load(exported, settings)


def load_encoder_beside(settings: Settings) -> Encoder:
    """What `load_encoder` gives, in a process that serves meanwhile: a model is exported by another process.

    PyTorch would hold up this one's searches while it is imported and traces the model, and stay in its memory.
    """
    if _on_openvino(settings) and find(settings) is None:
        _need_torch_to_export(settings)
        log.info("exporting a model in a process of its own; this happens once", model=settings.clip_model)
        environment = os.environ | settings.environment()
        command = [sys.executable, "-c", _PREPARE]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"its process ended with status {done.returncode}"]
            raise ModelUnavailable(f"{settings.clip_model} could not be exported: {said[-1]}")
    return load_encoder(settings)


def load_encoder_of(model: ModelInfo, settings: Settings, load: Callable[[Settings], Encoder] | None = None) -> Encoder:
    """The encoder of the very model that a generation was built with, not yet warm.

    It is looked for where the settings say, if CLIP_MODEL is its name; then among the exported models in CLIP_EXPORTS;
    then by its name and tag, or where its file or folder was: that path may mean nothing here, or lie on a volume that
    machines share. A file of that name in CLIP_EXPORTS does too. The fingerprint decides. `load` stands for
    `load_encoder_beside`.

    Raises `ModelUnavailable` with what was found instead and where to put the model.
    """
    reasons = []
    for place in _places(model, settings):
        try:
            return _load_if(model, place, load or load_encoder_beside)
        except (ModelUnavailable, EncoderUnavailable) as error:
            reasons.append(str(error))
    raise ModelUnavailable(
        f"{described(model)} can't be loaded here. {' '.join(dict.fromkeys(reasons))} Where that model is, run "
        f"`sightline models export` and copy the folder into {exports_folder(settings)}; or start the server with "
        f"CLIP_MODEL={model.name} and CLIP_PRETRAINED set to its weights."
    )


def described(model: ModelInfo) -> str:
    """A model in words, as precisely as it takes to tell it from others of its name."""
    return f"{model.name} ({model.dimension} dimensions, fingerprint {model.fingerprint[:12]})"


def export_model(settings: Settings, folder: Path) -> ExportedModel:
    """Exports the settings' model into a folder, replacing what is there. Raises `ModelUnavailable`."""
    _need_torch_to_export(settings)
    from engine.encoders.export import export  # noqa: PLC0415 - brings PyTorch
    from engine.models import load  # noqa: PLC0415 - the same

    log.info("exporting the model for this processor; this happens once", model=settings.clip_model, folder=str(folder))
    return export(load(settings.clip_model, settings.clip_pretrained, "cpu"), folder)


def _places(model: ModelInfo, settings: Settings) -> Iterator[Settings]:
    """Settings under which a generation's model may be found, likelier ones first."""
    if settings.clip_model == model.name:
        yield settings
    exported = find_fingerprint(settings, model.fingerprint) if _on_openvino(settings) else None
    file = exports_folder(settings) / Path(model.pretrained).name
    named = [str(exported.folder)] if exported is not None else []
    named += [model.pretrained, *([str(file)] if file.suffix == ".safetensors" else [])]
    for pretrained in named:
        place = settings.model_copy(update={"clip_model": model.name, "clip_pretrained": pretrained})
        if place != settings:
            yield place


def _load_if(model: ModelInfo, settings: Settings, load: Callable[[Settings], Encoder]) -> Encoder:
    """The encoder that settings name. Raises `ModelUnavailable` if that is another one, before loading where it can."""
    exported = find(settings) if _on_openvino(settings) else None
    found = exported.info if exported is not None else None
    if found is None or _same(found, model):
        encoder = load(settings)
        if _same(encoder.model, model):
            return encoder
        found = encoder.model
    raise ModelUnavailable(f"What is here under that name is {described(found)}.")


def _same(found: ModelInfo, wanted: ModelInfo) -> bool:
    return (found.fingerprint, found.dimension) == (wanted.fingerprint, wanted.dimension)


def _on_openvino(settings: Settings) -> bool:
    if settings.clip_runtime != "auto":
        return settings.clip_runtime == "openvino"
    return not _wants_accelerator(settings.clip_device)


def _wants_accelerator(device: str) -> bool:
    """Whether to compute on an accelerator. Importing PyTorch to ask would cost a start its seconds."""
    if device != "auto":
        return device != "cpu"
    if find_spec("torch") is None:
        return False
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if ctypes.util.find_library("cuda") is None and not Path("/dev/nvidiactl").exists():
        return False
    import torch  # noqa: PLC0415 - there is a driver: now it is worth asking

    return torch.cuda.is_available()


def _need_torch_to_export(settings: Settings) -> None:
    _need_torch(f"{settings.clip_model} has not been exported yet, and that needs PyTorch")


def _need_torch(why: str) -> None:
    if find_spec("torch") is None or find_spec("open_clip") is None:
        raise ModelUnavailable(
            f"{why}, which is not installed here. Run `sightline models export --out FOLDER` where it is, copy the "
            "folder here, and set CLIP_PRETRAINED to it; or install all of Sightline's requirements."
        )
