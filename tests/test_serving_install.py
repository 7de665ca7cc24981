"""The install without PyTorch: small, complete, and with the same answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from engine.encoders.choice import export_model, load_encoder
from engine.settings import Settings

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")
QUESTIONS = ["a red boat at night", "two dogs on the beach", "日本の猫"]

ASK = """
import json, sys
from importlib.util import find_spec
from engine.encoders.choice import load_encoder
from engine.settings import Settings
import graphql_api.server, indexing.command
encoder = load_encoder(Settings())
print(json.dumps({
    "torch": find_spec("torch") is not None or "torch" in sys.modules,
    "vectors": encoder.encode_texts(json.loads(sys.argv[1])).tolist(),
    "page": (graphql_api.server.__file__),
}))
"""


def run(*command: str | Path, **environment: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=600, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_serving_group_follows_the_dependencies():
    """What the install without PyTorch needs is what the whole project needs, in the same versions, and less."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    everything, serving = set(project["project"]["dependencies"]), set(project["dependency-groups"]["serving"])
    assert serving < everything
    names = {re.split(r"[<>=;\s]", requirement)[0] for requirement in everything - serving}
    operator = {"aiohttp", "kopf"}
    assert names == operator | {
        "huggingface-hub",
        "open_clip_torch",
        "safetensors",
        "setuptools",
        "skia-python",
        "torch",
    }


@pytest.mark.programs
def test_install_without_torch(tmp_path: Path):
    """Installed from its own lock file it takes under 1 GB, has no PyTorch, and makes the same vectors."""
    settings = Settings(clip_precision="fp32", clip_exports=tmp_path / "exports")
    expected = load_encoder(settings).encode_texts(QUESTIONS)
    exported = export_model(settings, tmp_path / "model")

    home, python = tmp_path / "lean", tmp_path / "lean" / "bin" / "python"
    run(UV, "venv", "--quiet", "--python", sys.executable, home)
    lock = ROOT / "requirements-serving.lock"
    run(UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "--requirement", lock)
    run(UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    run(UV, "pip", "install", "--quiet", "--python", python, "--no-deps", wheel)

    size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file() and not file.is_symlink())
    assert size < 750_000_000  # the rest of 1 GB is for Python, its base image and the model
    answer = json.loads(
        run(python, "-c", ASK, json.dumps(QUESTIONS), CLIP_PRETRAINED=str(exported.folder), CLIP_PRECISION="fp32")
    )
    assert not answer["torch"]
    assert np.allclose(answer["vectors"], expected, atol=1e-5)
    assert Path(answer["page"]).with_name("static").joinpath("index.html").is_file()
