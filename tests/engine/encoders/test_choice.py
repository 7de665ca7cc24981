from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import models
from engine.encoders import choice
from engine.encoders.choice import export_model, load_encoder
from engine.encoders.exported import find, place_of
from engine.errors import EncoderUnavailable, ModelUnavailable
from engine.settings import Settings
from tests.support.models import TEXTS, ship


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a tiny shipped model, with a folder of its own for exports."""
    ship(tmp_path / "weights", "vit")
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(models.load, "__defaults__", (tmp_path / "weights",))
    return Settings(clip_model="vit", clip_exports=tmp_path / "exports", clip_device="cpu", clip_precision="fp32")


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    missing = {"torch", "open_clip"}
    monkeypatch.setattr(choice, "find_spec", lambda name: None if name in missing else find_spec(name))
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)


def test_exports_once(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """The first use exports the model; every later one needs no PyTorch and answers the same."""
    first = load_encoder(settings).encode_texts(TEXTS)
    without_torch(monkeypatch)
    again = load_encoder(settings)
    assert again.runtime.startswith("OpenVINO")
    assert np.array_equal(again.encode_texts(TEXTS), first)


def test_new_weights_are_exported_again(settings: Settings, tmp_path: Path):
    """Weights that changed under the same name are not served from the old export."""
    first = load_encoder(settings)
    (tmp_path / "weights" / "vit" / "config.json").unlink()
    for file in (tmp_path / "weights" / "vit").iterdir():
        file.unlink()
    (tmp_path / "weights" / "vit").rmdir()
    ship(tmp_path / "weights", "vit", seed=1)
    second = load_encoder(settings)
    assert second.model.fingerprint != first.model.fingerprint
    assert not np.allclose(second.encode_texts(["red"]), first.encode_texts(["red"]), atol=1e-2)


@pytest.mark.parametrize("damage", ["format", "json", "missing"])
def test_damaged_exports_are_made_again(settings: Settings, damage: str):
    """An export of another version, or in pieces, is replaced."""
    exported = export_model(settings, place_of(settings))
    description = exported.folder / "model.json"
    if damage == "format":
        description.write_text(json.dumps({**json.loads(description.read_text()), "format": 0}))
    elif damage == "json":
        description.write_text("{")
    else:
        description.unlink()
    assert find(settings) is None
    assert load_encoder(settings).runtime.startswith("OpenVINO")


def test_exported_folder_as_weights(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """CLIP_PRETRAINED may be an exported model's folder, elsewhere and without PyTorch."""
    export_model(settings, tmp_path / "elsewhere")
    expected = load_encoder(settings)
    without_torch(monkeypatch)
    moved = Settings(
        clip_model="vit",
        clip_pretrained=str(tmp_path / "elsewhere"),
        clip_exports=tmp_path / "none",
        clip_precision="fp32",
    )
    encoder = load_encoder(moved)
    assert encoder.model.fingerprint == expected.model.fingerprint
    assert np.allclose(encoder.encode_texts(TEXTS), expected.encode_texts(TEXTS), atol=1e-5)


def test_exported_folder_of_another_model(settings: Settings, tmp_path: Path):
    """A folder that holds another model than CLIP_MODEL says, or none, is an error that names both."""
    export_model(settings, tmp_path / "elsewhere")
    with pytest.raises(ModelUnavailable, match=r"holds vit, but CLIP_MODEL is ViT-B-32\. Set CLIP_MODEL=vit"):
        load_encoder(Settings(clip_model="ViT-B-32", clip_pretrained=str(tmp_path / "elsewhere")))
    with pytest.raises(ModelUnavailable, match="sightline models export"):
        load_encoder(Settings(clip_model="vit", clip_pretrained=str(tmp_path)))


def test_nothing_exported_and_no_torch(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Without PyTorch and without an export, the error says how to get one."""
    without_torch(monkeypatch)
    with pytest.raises(ModelUnavailable, match=r"sightline models export --out FOLDER.*CLIP_PRETRAINED"):
        load_encoder(settings)


def test_torch_on_request(settings: Settings):
    """CLIP_RUNTIME=torch computes on PyTorch."""
    assert load_encoder(settings.model_copy(update={"clip_runtime": "torch"})).runtime == "PyTorch fp32"


def test_accelerators_need_torch(settings: Settings):
    """OpenVINO on CUDA is a contradiction, and said to be one."""
    with pytest.raises(EncoderUnavailable, match="CLIP_RUNTIME=torch"):
        load_encoder(settings.model_copy(update={"clip_runtime": "openvino", "clip_device": "cuda"}))


def test_unknown_model(settings: Settings):
    """A model that is not there is an error before anything is written."""
    with pytest.raises(ModelUnavailable, match="no model"):
        load_encoder(settings.model_copy(update={"clip_model": "no-such-model"}))
    assert not list((settings.clip_exports or Path()).glob("*"))
