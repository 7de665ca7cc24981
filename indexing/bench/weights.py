"""Random weights of a true architecture: a model's speed without its file, which may be out of reach.

How long a pass takes depends on the shapes of the weights and not on their values, so a model of random weights is as
fast as the trained one. It finds nothing, of course: its embeddings of any two texts are almost alike.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import open_clip
import torch
from safetensors.torch import save_file

from engine.errors import BadUserInput, SightlineError
from engine.models import list_models
from indexing import disk

_BYTES_PER_PARAMETER: Final = 4


def random_weights(name: str, folder: Path, seed: int = 0) -> Path:
    """A safetensors file with random float32 weights of the OpenCLIP architecture `name`, made if it is not there yet.

    Set CLIP_MODEL to the name and CLIP_PRETRAINED to the path. The same seed gives the same weights. In memory there is
    one copy of them at a time (ViT-H-14: 3.9 GB); the file appears complete or not at all. Raises `BadUserInput` for a
    name that is no architecture, `SightlineError` when the disk is too small.
    """
    if name not in open_clip.list_models():
        shipped = name in (model.name for model in list_models() if not model.pretrained)
        raise BadUserInput(
            f"{name} is shipped with its weights: leave CLIP_PRETRAINED empty."
            if shipped
            else f"There is no architecture {name!r}. `sightline models` prints the names for CLIP_MODEL."
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / f"{name}-random-{seed}.safetensors").resolve()
    if path.is_file():
        return path
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    state = model.state_dict()
    size = _BYTES_PER_PARAMETER * sum(tensor.numel() for tensor in state.values())
    try:
        disk.require(folder, size)
    except OSError as error:
        raise SightlineError(
            f"The weights of {name} take {size / 1e9:.1f} GB. {error.strerror}. Free some space, or name a folder on "
            "another disk."
        ) from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(state, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
