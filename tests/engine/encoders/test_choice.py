from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import models
from engine.encoders import choice, exported
from engine.encoders.choice import export_model, load_encoder, load_encoder_of
from engine.encoders.exported import ExportedModel, find, find_fingerprint, place_of
from engine.errors import EncoderUnavailable, ModelUnavailable
from engine.settings import Settings
from tests.support.models import TEXTS, ship, shipped

SHIPPED = models.WEIGHTS


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


def test_export_that_was_brought_along(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without PyTorch, the model that came with the installation serves, whatever CLIP_EXPORTS is."""
    monkeypatch.setattr(exported, "SHIPPED", tmp_path / "shipped")
    export_model(settings, tmp_path / "shipped" / "vit")
    without_torch(monkeypatch)
    assert len(load_encoder(settings).encode_texts(TEXTS)) == len(TEXTS)
    assert find(settings.model_copy(update={"clip_pretrained": "another"})) is None
    weights = tmp_path / "weights" / "vit" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert find(settings) is None, "it is of other weights than those that are here"


def test_own_weights_are_named_from_the_package_on(tmp_path: Path):
    """An export of Sightline's own model names no folder of the machine that made it, and still knows its weights."""
    settings = Settings(clip_model="sightline-small", clip_pretrained="")
    folder = export_model(settings, tmp_path / "small").folder
    assert json.loads((folder / "model.json").read_text())["weights"] == "weights/sightline-small/model.safetensors"
    read = ExportedModel.read(folder)
    assert read is not None
    assert read.weights.is_file()
    assert read.is_current()


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


# ---------------------------------------------------------------- the model of a generation


def named(settings: Settings, name: str) -> Settings:
    """The same with another CLIP_MODEL."""
    return settings.model_copy(update={"clip_model": name})


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of the model "vit", where there is also "resnet"."""
    return shipped(tmp_path, monkeypatch, "vit", "resnet")


def test_a_generations_model_is_found_by_its_name(two: Settings):
    """Whatever CLIP_MODEL is now."""
    for name in ("vit", "resnet"):
        expected = load_encoder(named(two, name))
        encoder = load_encoder_of(expected.model, two, load_encoder)
        assert encoder.model == expected.model
        assert np.array_equal(encoder.encode_texts(TEXTS), expected.encode_texts(TEXTS))


def test_a_generations_model_is_found_among_the_exports(two: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """By its fingerprint, in a folder of any name, though its weights were a file of another machine."""
    file = tmp_path / "mine.safetensors"
    shutil.copy(tmp_path / "weights" / "resnet" / "model.safetensors", file)
    elsewhere = named(two, "resnet").model_copy(update={"clip_pretrained": str(file)})
    model = export_model(elsewhere, tmp_path / "exports" / "copied").info
    file.unlink()
    assert model.pretrained == str(file)
    without_torch(monkeypatch)
    assert load_encoder_of(model, two).model == model


def test_a_generations_weights_are_found_in_the_folder_of_exports(two: Settings, tmp_path: Path):
    """As a safetensors file of the name that the record has."""
    file = two.clip_exports / "mine.safetensors" if two.clip_exports else Path()
    elsewhere = named(two, "resnet").model_copy(update={"clip_pretrained": str(tmp_path / file.name)})
    shutil.copy(tmp_path / "weights" / "resnet" / "model.safetensors", tmp_path / file.name)
    model = models.load("resnet", elsewhere.clip_pretrained, "cpu").info
    (tmp_path / file.name).rename(tmp_path / "renamed.safetensors")
    with pytest.raises(ModelUnavailable, match=f"There is no safetensors file {file}"):
        load_encoder_of(model, two, load_encoder)
    file.parent.mkdir(exist_ok=True)
    (tmp_path / "renamed.safetensors").rename(file)
    assert load_encoder_of(model, two, load_encoder).model == replace(model, pretrained=str(file))


@pytest.mark.parametrize("kind", ["file", "export"])
def test_a_generations_model_is_found_where_it_was_when_it_was_built(
    two: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
):
    """On a volume that replicas and workers share, whatever CLIP_PRETRAINED is now."""
    place = tmp_path / "volume" / ("mine.safetensors" if kind == "file" else "mine")
    place.parent.mkdir()
    if kind == "file":
        shutil.copy(tmp_path / "weights" / "resnet" / "model.safetensors", place)
    else:
        export_model(named(two, "resnet"), place)
        without_torch(monkeypatch)
    there = named(two, "resnet").model_copy(update={"clip_pretrained": str(place)})
    built = load_encoder(there).model
    assert built.pretrained == str(place)
    assert load_encoder_of(built, two, load_encoder).model == built


def test_other_weights_of_the_same_name_are_not_even_loaded(two: Settings):
    """What is exported says what it is; the error tells both apart and says what to do."""
    load_encoder(two)
    wanted = replace(models.load("vit", "", "cpu").info, fingerprint="f" * 16)
    with pytest.raises(ModelUnavailable, match=r"vit \(24 .* fingerprint ffffffffffff\).*What is here.*vit") as caught:
        load_encoder_of(wanted, two, lambda _settings: pytest.fail("loaded it"))
    assert str(two.clip_exports) in str(caught.value)
    assert "CLIP_MODEL=vit" in str(caught.value)


def test_an_export_that_is_not_complete_yet_is_not_taken(two: Settings, tmp_path: Path):
    """It is written in a hidden folder beside its place."""
    model = export_model(named(two, "resnet"), tmp_path / "exports" / ".resnet-half").info
    assert find_fingerprint(two, model.fingerprint) is None


def test_a_process_that_serves_has_another_one_export(two: Settings, monkeypatch: pytest.MonkeyPatch):
    """It loads what that one made; what that one says is wrong is said here."""
    monkeypatch.setattr(choice, "export_model", lambda *_: pytest.fail("exported here"))
    model = models.load("sightline-small", "", "cpu", SHIPPED).info
    assert load_encoder_of(model, two).model == model
    with pytest.raises(ModelUnavailable, match=r"could not be exported: There is no model 'no-such-model'"):
        load_encoder_of(replace(model, name="no-such-model"), two)
