from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from engine import models
from engine.errors import ModelUnavailable
from tests.support.models import CONFIGS, PREPROCESS, ship, tiny_model

REPOSITORY = "someone/tiny-clip"
TAG = "made_up"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with one shipped model, `vit`."""
    ship(tmp_path / "weights", "vit")
    return tmp_path / "weights"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no way to the hub itself."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def architecture(monkeypatch: pytest.MonkeyPatch) -> str:
    """An architecture that open_clip knows, with a tag of its own, for as long as the test runs."""
    config = {"embed_dim": 24} | CONFIGS["vit"]
    registry = open_clip.factory._MODEL_CONFIGS | {"tiny": config}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", registry)
    tag = {
        "hf_hub": f"{REPOSITORY}/",
        "mean": (0.1,) * 3,
        "std": (0.9,) * 3,
        "resize_mode": "squash",
        "quick_gelu": True,
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {TAG: tag})
    return "tiny"


def put_in_cache(hub: Path, seed: int = 0) -> Path:
    """Puts weights where the hub's own client would have put them."""
    repository = hub / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    path = snapshot / "open_clip_model.safetensors"
    save_file(tiny_model("vit", seed).state_dict(), path)
    return path


# ---------------------------------------------------------------- shipped


def test_shipped_model(weights: Path):
    """A shipped model is loaded with its weights, in float32 and for evaluation, and described as its config says."""
    loaded = models.load("vit", "", "cpu", weights)
    expected = ship(weights.parent / "again", "vit").state_dict()
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}
    assert not loaded.model.training
    assert (loaded.info.name, loaded.info.pretrained) == ("vit", "")
    assert (loaded.info.dimension, loaded.info.image_size, loaded.info.context_length) == (24, 32, 28)
    assert (loaded.preprocess.mean, loaded.preprocess.resize_mode) == (PREPROCESS["mean"], "squash")
    assert loaded.tokenizer(["a red car"]).shape == (1, 28)


def test_shipped_model_has_no_tags(weights: Path):
    """A tag for the shipped model is refused, saying which setting to change."""
    with pytest.raises(ModelUnavailable, match="Leave CLIP_PRETRAINED empty"):
        models.load("vit", "openai", "cpu", weights)


def test_missing_shipped_weights(weights: Path):
    """A shipped model without its weights says how to get them back."""
    (weights / "vit" / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="Restore"):
        models.load("vit", "", "cpu", weights)


def test_shipped_model_leaves_open_clip_alone(weights: Path):
    """Loading a shipped model does not add it to open_clip's registry."""
    models.load("vit", "", "cpu", weights)
    assert "vit" not in open_clip.list_models()


# ---------------------------------------------------------------- local files


@pytest.mark.parametrize("layout", ["compact", "plain"])
def test_local_file(weights: Path, tmp_path: Path, layout: str):
    """A local safetensors file, compact or plain, replaces the weights of an architecture."""
    other = ship(tmp_path / "other", "vit", seed=1)
    path = tmp_path / "other" / "vit" / "model.safetensors"
    if layout == "plain":
        path = tmp_path / "plain.safetensors"
        save_file(other.state_dict(), path)
    loaded = models.load("vit", str(path), "cpu", weights)
    assert torch.equal(loaded.model.state_dict()["visual.proj"], other.state_dict()["visual.proj"])
    assert loaded.info.pretrained == str(path)
    assert loaded.info.fingerprint != models.load("vit", "", "cpu", weights).info.fingerprint


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.pth", "folder/model.ckpt"])
def test_pickle_is_refused(weights: Path, name: str):
    """A pickle is refused before it is looked at, with the command that converts it."""
    with pytest.raises(ModelUnavailable, match=r"pickle.*python -c .*save_file"):
        models.load("vit", name, "cpu", weights)


def test_missing_local_file(weights: Path, tmp_path: Path):
    """A path without a file is named."""
    with pytest.raises(ModelUnavailable, match=r"no safetensors file .*absent"):
        models.load("vit", str(tmp_path / "absent.safetensors"), "cpu", weights)


@pytest.mark.parametrize("layout", ["compact", "plain"])
def test_weights_of_another_model(weights: Path, tmp_path: Path, layout: str):
    """Weights of another architecture are refused in a few lines that name the setting."""
    other = ship(tmp_path / "other", "resnet")
    path = tmp_path / "other" / "resnet" / "model.safetensors"
    if layout == "plain":
        path = tmp_path / "plain.safetensors"
        save_file(other.state_dict(), path)
    with pytest.raises(ModelUnavailable, match=r"do not fit the model vit\. Set CLIP_MODEL") as caught:
        models.load("vit", str(path), "cpu", weights)
    assert len(str(caught.value)) < 1000


# ---------------------------------------------------------------- tags and names


def test_unknown_model(weights: Path):
    """An unknown name is answered with similar ones and with the command that lists all."""
    with pytest.raises(ModelUnavailable, match=r"Did you mean .*ViT-H-14.*sightline models"):
        models.load("vit-h14", "", "cpu", weights)


@pytest.mark.usefixtures("hub")
def test_architecture_without_weights(architecture: str):
    """An architecture alone is not enough: its tags are listed."""
    with pytest.raises(ModelUnavailable, match=f"needs pretrained weights.*{TAG}"):
        models.load(architecture, "", "cpu")


@pytest.mark.usefixtures("hub")
def test_unknown_tag(architecture: str):
    """A tag that the architecture does not have is answered with those that it has."""
    with pytest.raises(ModelUnavailable, match=f"no pretrained tag 'laion9b'.*{TAG}"):
        models.load(architecture, "laion9b", "cpu")


@pytest.mark.usefixtures("hub")
def test_offline():
    """Without the hub, the error says which file to fetch and the settings to make; no retries are made."""
    with pytest.raises(ModelUnavailable) as caught:
        models.load("ViT-H-14", "laion2b_s32b_b79k", "cpu")
    message = str(caught.value)
    assert "open_clip_model.safetensors of the repository laion/CLIP-ViT-H-14-laion2B-s32B-b79K" in message
    assert "CLIP_MODEL=ViT-H-14" in message
    assert "CLIP_PRETRAINED=/path/to/laion2b_s32b_b79k.safetensors" in message


def test_tag_in_cache(hub: Path, architecture: str):
    """A tag whose weights are in the hub's cache loads offline, with the tag's preprocessing and activation."""
    put_in_cache(hub, seed=3)
    loaded = models.load(architecture, TAG, "cpu")
    assert torch.equal(loaded.model.state_dict()["visual.proj"], tiny_model("vit", seed=3).state_dict()["visual.proj"])
    assert (loaded.preprocess.mean, loaded.preprocess.resize_mode, loaded.preprocess.size) == ((0.1,) * 3, "squash", 32)
    assert any(isinstance(module, open_clip.transformer.QuickGELU) for module in loaded.model.modules())
    assert loaded.info.pretrained == TAG


def test_file_named_like_tag(hub: Path, architecture: str, tmp_path: Path):
    """Weights placed by hand as the offline error says are the same model as the tag, fingerprint and all."""
    put_in_cache(hub)
    by_tag = models.load(architecture, TAG, "cpu")
    path = tmp_path / f"{TAG}.safetensors"
    save_file(tiny_model("vit").state_dict(), path)
    by_hand = models.load(architecture, str(path), "cpu")
    assert by_hand.preprocess == by_tag.preprocess
    assert by_hand.info.fingerprint == by_tag.info.fingerprint


def test_list_models(hub: Path, architecture: str, weights: Path):
    """The list has the shipped model first, then every tag, and says which are on this machine."""
    before = models.list_models(weights)
    put_in_cache(hub)
    after = models.list_models(weights)
    assert before[0] == models.AvailableModel("vit", "", local=True)
    assert models.AvailableModel("ViT-H-14", "laion2b_s32b_b79k", local=False) in before
    assert models.AvailableModel(architecture, TAG, local=False) in before
    assert models.AvailableModel(architecture, TAG, local=True) in after


# ---------------------------------------------------------------- fingerprint


def test_fingerprint_is_stable(weights: Path, tmp_path: Path):
    """The same model in another place has the same fingerprint: 16 hex characters."""
    ship(tmp_path / "copy", "vit")
    first, second = (models.load("vit", "", "cpu", folder).info.fingerprint for folder in (weights, tmp_path / "copy"))
    assert first == second
    assert len(bytes.fromhex(first)) == 8


@pytest.mark.parametrize("change", ["name", "weights", "preprocess"])
def test_fingerprint_changes(tmp_path: Path, change: str):
    """Another name, other weights and other preprocessing each make another fingerprint."""
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(10)}, path)
    before = models.fingerprint("a", path, PREPROCESS)
    if change == "weights":
        save_file({"weight": torch.ones(10)}, path)
    name = "b" if change == "name" else "a"
    preprocess = PREPROCESS | {"size": 64} if change == "preprocess" else PREPROCESS
    assert models.fingerprint(name, path, preprocess) != before


def test_fingerprint_of_large_file(tmp_path: Path):
    """Of a large file only samples are read, yet a change of all weights is seen."""
    path = tmp_path / "large.safetensors"
    noise = np.random.default_rng(0).standard_normal(6_000_000).astype(np.float32)
    prints = []
    for scale in (1.0, 1.001):
        save_file({"weight": torch.from_numpy(noise * np.float32(scale))}, path)
        prints.append(models.fingerprint("a", path, {}))
    assert prints[0] != prints[1]


def test_config_is_read_as_json(weights: Path):
    """What the shipped config says is what is built: another dimension makes another model."""
    file = weights / "vit" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"embed_dim": 12}))
    with pytest.raises(ModelUnavailable, match="do not fit"):
        models.load("vit", "", "cpu", weights)
