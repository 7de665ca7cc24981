"""One installation for all tests of this folder, and what it needs beside it: pictures in a bucket, another model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from indexing.scenes.dataset import METADATA, write_scenes
from tests.e2e.cluster.cluster import ROOT, Cluster
from tests.e2e.system.installation import Installation, tutorial
from tests.support.s3 import CREDENTIALS, Bucket

SCENES = 500
KEYS = "keys"
SMALL = "sightline-small"
WEIGHTS = ROOT / "engine" / "weights" / SMALL / "model.safetensors"


@pytest.fixture(scope="package")
def prepared(image_archives: Path) -> Iterator[Installation]:
    """A cluster with all images, and nothing of Sightline yet."""
    with Cluster(purpose="system") as cluster:
        yield Installation(cluster, image_archives)


@pytest.fixture(scope="package")
def installation(prepared: Installation) -> Installation:
    """Installed by the first command of the tutorial."""
    prepared.shell(tutorial()[0])
    return prepared


@pytest.fixture(scope="package")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 500 pictures whose truth is known."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(SCENES, 6, folder, 192)
    return folder


@pytest.fixture(scope="package")
def captions(scenes: Path) -> dict[str, str]:
    """What some pictures show, by their file's name."""
    lines = (json.loads(line) for line in (scenes / METADATA).read_text().splitlines())
    return {line["file"]: line["caption"] for line in lines if len(line["objects"]) == 2}


@pytest.fixture(scope="package")
def bucket(prepared: Installation, scenes: Path) -> Iterator[Bucket]:
    """The same pictures in a bucket."""
    with prepared.bucket("scenes") as bucket:
        bucket.put_tree(scenes, "pictures")
        yield bucket


@pytest.fixture(scope="package")
def source(installation: Installation, bucket: Bucket) -> dict[str, Any]:
    """The bucket as a resource names it; its keys are in a Secret."""
    keys = [f"--from-literal={name}={CREDENTIALS[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    installation.kubectl("create", "secret", "generic", KEYS, *keys)
    return {"s3": {"url": f"{bucket.address}/pictures", "endpoint": installation.s3, "secretName": KEYS}}


@pytest.fixture(scope="package")
def second_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with slightly other weights, exported for pods without PyTorch: it finds other pictures."""
    folder = tmp_path_factory.mktemp("model")
    weights = load_file(WEIGHTS)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std(correction=0) * 0.05
            weights[name] = (tensor.float() + noise * (tensor != 0)).to(tensor.dtype)
    save_file(weights, folder / "other.safetensors")
    subprocess.run(
        [sys.executable, "-m", "sightline", "models", "export", "--out", folder / "export"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "operator")]),
            "CLIP_MODEL": SMALL,
            "CLIP_PRETRAINED": str(folder / "other.safetensors"),
        },
        check=True,
        capture_output=True,
    )
    return folder / "export"
