"""Random weights of true architectures: a file that the encoder loads, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from engine import models
from engine.errors import BadUserInput
from indexing.bench.commands import bench_app
from indexing.bench.weights import random_weights

SMALLEST = "ViT-S-32-alt"  # 63 million parameters, the fewest of OpenCLIP's own architectures


@pytest.fixture(scope="module")
def made(memory: Path) -> Path:
    """The file of the smallest architecture."""
    return random_weights(SMALLEST, memory)


def test_weights_load_as_the_model(made: Path):
    """CLIP_PRETRAINED takes the path, and the model has the architecture's dimension."""
    loaded = models.load(SMALLEST, str(made), "cpu")
    assert (loaded.info.name, loaded.info.dimension) == (SMALLEST, 256)


def test_weights_are_made_once(made: Path):
    """Asked for again, the same file is there untouched, and nothing half written beside it."""
    before = made.stat()
    assert random_weights(SMALLEST, made.parent) == made
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(made.parent.iterdir()) == [made]


def test_weights_depend_on_the_seed_alone(made: Path, tmp_path: Path):
    """The same seed gives the same weights in another folder; another seed gives others."""
    first, again, other = (
        load_file(path)["token_embedding.weight"]
        for path in (made, random_weights(SMALLEST, tmp_path), random_weights(SMALLEST, tmp_path, seed=1))
    )
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize(("name", "message"), [("sightline-small", "shipped with its weights"), ("ViT-X", "no arch")])
def test_names_without_random_weights_are_refused(name: str, message: str, tmp_path: Path):
    """A shipped model needs none, and an unknown name is said to be one."""
    with pytest.raises(BadUserInput, match=message):
        random_weights(name, tmp_path)


def test_command_prints_the_settings(made: Path):
    """`sightline bench weights` prints the two variables to set."""
    shown = CliRunner().invoke(bench_app, ["weights", SMALLEST, "--out", str(made.parent)])
    assert shown.output.splitlines()[-2:] == [f"CLIP_MODEL={SMALLEST}", f"CLIP_PRETRAINED={made}"]
