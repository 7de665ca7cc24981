"""Which encoder the settings mean, and the export that is made the first time it is needed."""

from __future__ import annotations

import ctypes.util
import platform
import sys
from importlib.util import find_spec
from pathlib import Path

import structlog

from engine.encoders.exported import ExportedModel, find, place_of
from engine.errors import EncoderUnavailable, ModelUnavailable
from engine.ports import Encoder
from engine.settings import Settings

log = structlog.get_logger(__name__)


def load_encoder(settings: Settings) -> Encoder:
    """The encoder that the settings ask for, not yet warm.

    With CLIP_RUNTIME=auto, a model runs on PyTorch where there is an accelerator, and is compiled by OpenVINO for the
    processor elsewhere; the first time that takes PyTorch and seconds, from then on neither. Raises `ModelUnavailable`
    or `EncoderUnavailable`.
    """
    runtime = settings.clip_runtime
    if runtime == "auto":
        runtime = "torch" if _wants_accelerator(settings.clip_device) else "openvino"
    if runtime != "openvino":
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


def export_model(settings: Settings, folder: Path) -> ExportedModel:
    """Exports the settings' model into a folder, replacing what is there. Raises `ModelUnavailable`."""
    _need_torch(f"{settings.clip_model} has not been exported yet, and that needs PyTorch")
    from engine.encoders.export import export  # noqa: PLC0415 - brings PyTorch
    from engine.models import load  # noqa: PLC0415 - the same

    log.info("exporting the model for this processor; this happens once", model=settings.clip_model, folder=str(folder))
    return export(load(settings.clip_model, settings.clip_pretrained, "cpu"), folder)


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


def _need_torch(why: str) -> None:
    if find_spec("torch") is None or find_spec("open_clip") is None:
        raise ModelUnavailable(
            f"{why}, which is not installed here. Run `sightline models export --out FOLDER` where it is, copy the "
            "folder here, and set CLIP_PRETRAINED to it; or install all of Sightline's requirements."
        )
