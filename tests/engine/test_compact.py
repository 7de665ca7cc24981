from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import compact
from engine.errors import ModelUnavailable

WEIGHTS = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7


def state(prefix: str = "") -> dict[str, torch.Tensor]:
    """A little of an OpenCLIP model: a token table, weights, a counter and a scalar."""
    return {
        f"{prefix}token_embedding.weight": torch.arange(1, 41, dtype=torch.float32).reshape(10, 4),
        "visual.conv1.weight": WEIGHTS,
        "visual.bn1.num_batches_tracked": torch.tensor(70_000_000_001),
        "logit_scale": torch.tensor(4.6),
    }


@pytest.mark.parametrize("prefix", ["", "text."])
def test_round_trip(tmp_path: Path, prefix: str):
    """What was saved comes back in float32 within float16's precision, kept rows in their places, zeros elsewhere."""
    path = tmp_path / "model.safetensors"
    before = state(prefix)
    compact.save_state(path, before, token_ids=[7, 2, 2, 9])
    after = compact.load_state(path, vocabulary_size=10)

    table = f"{prefix}token_embedding.weight"
    assert after.keys() == before.keys()
    assert after[table].shape == (10, 4)
    assert torch.equal(after[table][[2, 7, 9]], before[table][[2, 7, 9]])
    assert not after[table][[0, 1, 3, 4, 5, 6, 8]].any()
    assert after["visual.conv1.weight"].dtype == torch.float32
    assert torch.allclose(after["visual.conv1.weight"], WEIGHTS, rtol=1e-3)
    assert after["logit_scale"].shape == ()


def test_integers_stay_integers(tmp_path: Path):
    """Counters keep type and value, however large: half precision would ruin them."""
    path = tmp_path / "model.safetensors"
    compact.save_state(path, state(), token_ids=[1])
    counter = compact.load_state(path)["visual.bn1.num_batches_tracked"]
    assert counter.dtype == torch.int64
    assert counter == 70_000_000_001


def test_file_holds_only_kept_rows(tmp_path: Path):
    """On disk the token table has the kept rows alone, in half precision, with their ids as int32."""
    path = tmp_path / "model.safetensors"
    compact.save_state(path, state(), token_ids=[3, 1])
    stored = load_file(path)
    assert stored["token_embedding.weight"].shape == (2, 4)
    assert stored["token_embedding.weight"].dtype == torch.float16
    assert stored["token_ids"].dtype == torch.int32
    assert stored["token_ids"].tolist() == [1, 3]
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["model.safetensors", "model.safetensors.sha256"]


def test_checksum_file(tmp_path: Path):
    """The checksum beside the file is what `sha256sum` would write."""
    path = tmp_path / "model.safetensors"
    compact.save_state(path, state(), token_ids=[1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tmp_path / "model.safetensors.sha256").read_text() == f"{digest}  model.safetensors\n"


@pytest.mark.parametrize("checksum", ["", "0" * 64 + "  model.safetensors\n"])
def test_wrong_checksum(tmp_path: Path, checksum: str):
    """A file that is not what its checksum says is refused with a word on restoring it."""
    path = tmp_path / "model.safetensors"
    compact.save_state(path, state(), token_ids=[1])
    compact.checksum_path(path).write_text(checksum)
    with pytest.raises(ModelUnavailable, match="Restore"):
        compact.load_state(path)


def test_damaged_file(tmp_path: Path):
    """One flipped byte of the weights is noticed."""
    path = tmp_path / "model.safetensors"
    compact.save_state(path, state(), token_ids=[1])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match="damaged"):
        compact.load_state(path)


def test_no_safetensors_file(tmp_path: Path):
    """A text file, such as a Git LFS pointer without a checksum beside it, is refused as unreadable."""
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelUnavailable, match="no readable safetensors"):
        compact.load_state(path)
    with pytest.raises(ModelUnavailable, match="no readable safetensors"):
        compact.is_compact(path)


def test_missing_file(tmp_path: Path):
    """A missing file is named in the error."""
    with pytest.raises(ModelUnavailable, match=r"no file .*absent"):
        compact.load_state(tmp_path / "absent.safetensors")


def test_plain_file(tmp_path: Path):
    """A safetensors file that is not compact is read as it is, and known for what it is."""
    plain, small = tmp_path / "plain.safetensors", tmp_path / "small.safetensors"
    save_file(state(), plain)
    compact.save_state(small, state(), token_ids=[1])
    assert torch.equal(compact.load_state(plain)["token_embedding.weight"], state()["token_embedding.weight"])
    assert not compact.is_compact(plain)
    assert compact.is_compact(small)


def test_vocabulary_too_small(tmp_path: Path):
    """A file with tokens that the model does not know is refused."""
    path = tmp_path / "model.safetensors"
    compact.save_state(path, state(), token_ids=[9])
    with pytest.raises(ModelUnavailable, match="token 9"):
        compact.load_state(path, vocabulary_size=9)


@pytest.mark.parametrize("token_ids", [[], [10], [-1]])
def test_token_ids_outside(tmp_path: Path, token_ids: list[int]):
    """Ids that the token table does not have are refused, and nothing is written."""
    with pytest.raises(ValueError, match="from 0 to 9"):
        compact.save_state(tmp_path / "model.safetensors", state(), token_ids)
    assert not list(tmp_path.iterdir())


def test_state_without_tokens(tmp_path: Path):
    """A state without a token table is no OpenCLIP model."""
    with pytest.raises(ValueError, match="no token table"):
        compact.save_state(tmp_path / "model.safetensors", {"weight": WEIGHTS}, [0])


def test_overflow(tmp_path: Path):
    """A value too large for half precision is an error, not an infinity in the file."""
    with pytest.raises(ValueError, match="logit_scale"):
        compact.save_state(tmp_path / "model.safetensors", state() | {"logit_scale": torch.tensor(1e6)}, [0])


def test_shared_memory(tmp_path: Path):
    """Tied weights, which safetensors refuses, are written as two copies."""
    path = tmp_path / "model.safetensors"
    compact.save_state(path, state() | {"a": WEIGHTS, "b": WEIGHTS}, [0])
    loaded = compact.load_state(path)
    assert torch.equal(loaded["a"], loaded["b"])
