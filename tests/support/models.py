"""Tiny OpenCLIP models with random weights: every kind of tower that the encoder tells apart, made in a moment."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg
from torch import nn

from engine import compact, models
from engine.models import LoadedModel, tokenizer_of
from engine.ports import ModelInfo
from engine.settings import Settings

VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
TEXT = {"context_length": 28, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PREPROCESS = {
    "size": 32,
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}

TEXTS = ["", "red", "a photo of a red car at night", "The big dog, twice! " * 30, "日本の猫 🐈", "a blue house"]
"""Texts of every length and script."""

CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"vision_cfg": VIT, "text_cfg": TEXT},
    "resnet": {"vision_cfg": RESNET, "text_cfg": TEXT},
    "eos": {"vision_cfg": VIT, "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407, "proj_bias": True}},
    "custom": {"vision_cfg": VIT, "text_cfg": TEXT, "custom_text": True},
    "bidirectional": {"vision_cfg": VIT, "text_cfg": TEXT | {"no_causal_mask": True}},
    "bidirectional-custom": {"vision_cfg": VIT, "text_cfg": TEXT | {"no_causal_mask": True}, "custom_text": True},
    "last": {"vision_cfg": VIT, "text_cfg": TEXT | {"pool_type": "last"}},
    "class-token": {"vision_cfg": VIT, "text_cfg": TEXT | {"embed_cls": True}, "custom_text": True},
}
"""Model configurations by what is special about them; the last four can't be given cut texts."""


def tiny_model(kind: str, seed: int = 0) -> nn.Module:
    """The model of a kind, random but the same for the same seed."""
    config = {"embed_dim": 24} | deepcopy(CONFIGS[kind])
    custom = config.pop("custom_text", False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
        for parameter in model.parameters():  # fresh models are so near zero that mistakes would hide
            parameter.data += torch.randn_like(parameter) * 0.1
    return model.eval()


def loaded(kind: str, weights: Path = Path("none"), **preprocess: object) -> LoadedModel:
    """The model of a kind as `models.load` would bring it."""
    info = ModelInfo(kind, "", dimension=24, image_size=32, context_length=28, fingerprint="0" * 16)
    tokenizer = tokenizer_of(open_clip.SimpleTokenizer(context_length=28))
    return LoadedModel(tiny_model(kind), PreprocessCfg(**{"size": 32, **preprocess}), tokenizer, info, weights)


def ship(weights: Path, kind: str, seed: int = 0) -> nn.Module:
    """Writes the model as a shipped one, `weights/KIND/`, with all of its tokens; returns it."""
    model = tiny_model(kind, seed)
    state = {name: tensor.half().float() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    folder = weights / kind
    folder.mkdir(parents=True)
    config = {"embed_dim": 24} | CONFIGS[kind] | {"preprocess_cfg": PREPROCESS}
    (folder / "config.json").write_text(json.dumps(config))
    compact.save_state(folder / "model.safetensors", model.state_dict(), range(TEXT["vocab_size"]))
    return model


def shipped(folder: Path, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> Settings:
    """Settings of the first of these models, all of which are shipped now, with exports of their own and in fp32."""
    for kind in kinds:
        ship(folder / "weights", kind)
    monkeypatch.setattr(models, "WEIGHTS", folder / "weights")
    monkeypatch.setattr(models.load, "__defaults__", (folder / "weights",))
    return Settings(
        _env_file=None, clip_model=kinds[0], clip_exports=folder / "exports", clip_device="cpu", clip_precision="fp32"
    )
