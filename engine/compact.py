"""Model weights as small files: half precision, only the token rows that were trained, and a checksum beside them.

In a small OpenCLIP model the table of 49,408 tokens outweighs all else, and most of its rows were never trained.
A compact file keeps the trained rows and their ids; loading scatters them back and leaves zeros elsewhere. The
checksum catches a truncated copy or a Git LFS pointer before they become puzzling search results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import ModelUnavailable

_TOKEN_TABLES = ("token_embedding.weight", "text.token_embedding.weight")
_ROWS = "token_ids"


def save_state(path: Path, state: Mapping[str, Tensor], token_ids: Sequence[int]) -> None:
    """Writes an OpenCLIP state dict, and its sha256 beside it, replacing what is there.

    `token_ids` are the rows of the token table to keep. Floats become float16; integers stay as they are.
    Raises `ValueError` for a state without a token table, an id outside it, or values that float16 can't hold.
    """
    table = next((name for name in _TOKEN_TABLES if name in state), None)
    if table is None:
        raise ValueError(f"The state holds no token table: one of {', '.join(_TOKEN_TABLES)} must be in it.")
    ids = sorted(set(token_ids))
    if not ids or ids[0] < 0 or ids[-1] >= len(state[table]):
        raise ValueError(f"Token ids must be from 0 to {len(state[table]) - 1}, and at least one.")

    kept = {**state, table: state[table][ids]}
    stored = {name: _stored(name, tensor) for name, tensor in kept.items()}
    stored[_ROWS] = torch.tensor(ids, dtype=torch.int32)

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    save_file(stored, temporary)
    temporary.replace(path)
    checksum_path(path).write_text(f"{_sha256(path)}  {path.name}\n", encoding="ascii")


def load_state(path: Path, vocabulary_size: int = 49408) -> dict[str, Tensor]:
    """Reads a state dict in full: float32, with a token table of `vocabulary_size` rows, zeros where none was kept.

    A safetensors file that is not compact is read too, just without the scattering. Raises `ModelUnavailable` when
    the file is missing, damaged, or made for a larger vocabulary.
    """
    verify(path)
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelUnavailable(f"{path} is no readable safetensors file: {error}. Restore it.") from error
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    if _ROWS not in state:
        return state

    ids = state.pop(_ROWS).long()
    if int(ids.max()) >= vocabulary_size:
        raise ModelUnavailable(f"{path} has token {int(ids.max())}, but the model knows only {vocabulary_size}.")
    table = next(name for name in _TOKEN_TABLES if name in state)
    rows = state[table]
    state[table] = torch.zeros(vocabulary_size, rows.shape[1]).index_copy_(0, ids, rows)
    return state


def is_compact(path: Path) -> bool:
    """Whether the file was written by `save_state`. Raises `ModelUnavailable` when it is no safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return _ROWS in file.keys()  # noqa: SIM118 - the file is no mapping
    except (SafetensorError, OSError) as error:
        raise ModelUnavailable(f"{path} is no readable safetensors file: {error}. Restore it.") from error


def checksum_path(path: Path) -> Path:
    """Where the checksum of a weights file lies: `model.safetensors.sha256`."""
    return path.with_name(f"{path.name}.sha256")


def verify(path: Path) -> None:
    """Compares the file with its checksum, if there is one. Raises `ModelUnavailable` when they differ."""
    if not path.is_file():
        raise ModelUnavailable(f"There is no file {path}. Restore it, or point CLIP_PRETRAINED at another.")
    checksum = checksum_path(path)
    if not checksum.is_file():
        return
    expected = checksum.read_text(encoding="ascii", errors="replace").split(maxsplit=1)[:1]
    if expected != [_sha256(path)]:
        raise ModelUnavailable(
            f"{path} is damaged: its sha256 is not the one in {checksum.name}. "
            "Restore both files, for example with `git checkout` or by copying them again."
        )


def _stored(name: str, tensor: Tensor) -> Tensor:
    """A copy as the file holds it. Copies, because safetensors refuses tensors that share memory."""
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.clone().contiguous()
    half = tensor.to(torch.float16, copy=True).contiguous()
    if not half.isfinite().all():
        raise ValueError(f"{name} holds values that float16 can't: the largest is {tensor.abs().max():g}.")
    return half


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
