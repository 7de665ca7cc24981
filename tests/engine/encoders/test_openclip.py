from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from engine.encoders.openclip import OpenClipEncoder, choose_device
from engine.errors import EncoderUnavailable, ModelUnavailable
from engine.ports import Encoder
from engine.settings import Settings
from tests.support.models import CONFIGS, TEXTS, loaded, tiny_model

CUT = ["vit", "resnet", "eos", "custom"]
PADDED = ["bidirectional", "bidirectional-custom", "last", "class-token"]


def make_encoder(kind: str = "vit", max_batch: int = 64, threads: int = 0, **preprocess: object) -> OpenClipEncoder:
    """An encoder over a tiny model."""
    return OpenClipEncoder(loaded(kind, **preprocess), "cpu", threads, max_batch)


@pytest.fixture(scope="module")
def encoder() -> OpenClipEncoder:
    """One encoder for the tests that only use it."""
    return make_encoder()


def photo(mode: str = "RGB", size: tuple[int, int] = (90, 60)) -> Image.Image:
    """A picture of coloured noise."""
    noise = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def reference(kind: str, texts: list[str]) -> np.ndarray:
    """What open_clip itself makes of padded texts."""
    tokens = open_clip.SimpleTokenizer(context_length=28)(texts)
    with torch.inference_mode():
        return tiny_model(kind).encode_text(tokens, normalize=True).numpy()


def lengths_seen(encoder: OpenClipEncoder, texts: list[str]) -> list[int]:
    """How many tokens the text tower's layers were given, pass by pass."""
    lengths: list[int] = []
    parts = getattr(encoder._model, "text", encoder._model)
    handle = parts.transformer.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    encoder.encode_texts(texts)
    handle.remove()
    return lengths


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("kind", CONFIGS)
def test_same_as_open_clip(kind: str):
    """Texts of every length have the vectors that open_clip gives them padded, for every kind of tower."""
    assert np.allclose(make_encoder(kind).encode_texts(TEXTS), reference(kind, TEXTS), atol=1e-5)


@pytest.mark.parametrize("kind", CUT)
def test_causal_towers_are_cut(kind: str):
    """A causal tower pooled at the end token computes the text alone, or the longest of a batch."""
    assert lengths_seen(make_encoder(kind), ["a red car"]) == [5]
    assert lengths_seen(make_encoder(kind), ["a red car", "one two three four five six seven eight"]) == [10]


@pytest.mark.parametrize(("kind", "length"), list(zip(PADDED, [28, 28, 28, 29], strict=True)))
def test_other_towers_are_padded(kind: str, length: int):
    """A tower that looks both ways, or pools elsewhere, gets the padding it was trained with."""
    assert lengths_seen(make_encoder(kind), ["a red car"]) == [length]


def test_long_text_is_not_cut_short():
    """A text longer than the model's context is truncated as open_clip does, not sooner."""
    assert lengths_seen(make_encoder(), ["word " * 200]) == [28]


@pytest.mark.parametrize("kind", CUT + PADDED)
def test_batch_equals_single(kind: str):
    """A text's vector does not depend on the texts beside it."""
    encoder = make_encoder(kind)
    singles = np.concatenate([encoder.encode_texts([text]) for text in TEXTS])
    assert np.allclose(encoder.encode_texts(TEXTS), singles, atol=1e-5)


def test_many_texts():
    """More texts than fit one batch are encoded in several, alike lengths together, and come back in order."""
    encoder = make_encoder(max_batch=4)
    texts = [f"number {number} " + "and more " * (number % 7) for number in range(30)]
    lengths = lengths_seen(encoder, texts)
    assert len(lengths) == 8
    assert lengths == sorted(lengths)
    assert np.allclose(encoder.encode_texts(texts), make_encoder(max_batch=64).encode_texts(texts), atol=1e-5)


def test_endless_word(encoder: OpenClipEncoder):
    """A megabyte without a space, which would take the tokenizer hours, is encoded all the same."""
    assert encoder.encode_texts(["ab" * 500_000]).shape == (1, 24)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_pictures_same_as_open_clip(kind: str):
    """Pictures have open_clip's vectors, alone and in a batch."""
    encoder = make_encoder(kind)
    pictures = [photo(size=(50 + number, 40)) for number in range(3)]
    pixels = np.stack([encoder.preprocess(picture) for picture in pictures])
    theirs = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    with torch.inference_mode():
        batch = torch.stack([theirs(picture) for picture in pictures])
        expected = tiny_model(kind).encode_image(batch, normalize=True).numpy()
    assert np.allclose(encoder.encode_images(pixels), expected, atol=1e-5)
    singles = np.concatenate([encoder.encode_images(picture[None]) for picture in pixels])
    assert np.allclose(singles, expected, atol=1e-5)


def test_read_only_pixels(encoder: OpenClipEncoder):
    """Pixels in memory that may not be written, as shared memory is, are encoded without a warning."""
    pixels = encoder.preprocess(photo())[None]
    expected = encoder.encode_images(pixels)
    pixels.flags.writeable = False
    assert np.array_equal(encoder.encode_images(pixels), expected)


# ---------------------------------------------------------------- both


def test_unit_length(encoder: OpenClipEncoder):
    """Vectors are float32 of length one."""
    pixels = encoder.preprocess(photo())[None]
    for vectors in (encoder.encode_texts(TEXTS), encoder.encode_images(pixels)):
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_empty_input(encoder: OpenClipEncoder):
    """Nothing in, no vectors of the right dimension out."""
    assert encoder.encode_texts([]).shape == (0, 24)
    assert encoder.encode_images(np.zeros((0, 32, 32, 3), dtype=np.uint8)).shape == (0, 24)


def test_threads_agree():
    """Four threads at once get what one thread gets, for texts, preprocessing and pictures."""
    encoder = make_encoder()
    together = threading.Barrier(4)

    def work(number: int) -> tuple[np.ndarray, np.ndarray]:
        together.wait()
        texts = [f"{text} {number}" for text in TEXTS * 3]
        return encoder.encode_texts(texts), encoder.encode_images(
            encoder.preprocess(photo(size=(40 + number, 50)))[None]
        )

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(work, range(4)))
    fresh = make_encoder()
    for number, (texts, pictures) in enumerate(answers):
        assert np.allclose(texts, fresh.encode_texts([f"{text} {number}" for text in TEXTS * 3]), atol=1e-5)
        pixels = fresh.preprocess(photo(size=(40 + number, 50)))[None]
        assert np.allclose(pictures, fresh.encode_images(pixels), atol=1e-5)


def test_one_pass_at_a_time():
    """No two threads are inside the model at once, where they would fight for the cores."""
    encoder = make_encoder()
    inside: list[int] = []
    most: list[int] = []
    tower = encoder._model.transformer
    tower.register_forward_pre_hook(lambda *_: (inside.append(1), most.append(len(inside)))[0])
    tower.register_forward_hook(lambda *_: inside.pop() and None)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: encoder.encode_texts([f"text {number}"]), range(40)))
    assert len(most) == 40
    assert max(most) == 1


def test_warm_up_runs_both_towers():
    """Warming up takes a text and a picture through the model."""
    encoder = make_encoder()
    ran: list[str] = []
    encoder._model.transformer.register_forward_hook(lambda *_: ran.append("text"))
    encoder._model.visual.register_forward_hook(lambda *_: ran.append("picture"))
    encoder.warm_up()
    assert ran[0] == "text"
    assert ran[-1] == "picture"


def test_is_an_encoder(encoder: OpenClipEncoder):
    """It offers what the port asks for."""
    port: Encoder = encoder
    assert port.device == "cpu"
    assert port.model.dimension == 24


# ---------------------------------------------------------------- precision


def test_half_precision():
    """bfloat16 gives nearly the same vectors, and says so."""
    encoder = OpenClipEncoder(loaded("vit"), "cpu", precision="bf16")
    exact = make_encoder()
    assert encoder.runtime == "PyTorch bf16"
    assert (encoder.encode_texts(TEXTS) * exact.encode_texts(TEXTS)).sum(axis=1).min() > 0.999
    pixels = exact.preprocess(photo())[None]
    assert (encoder.encode_images(pixels) * exact.encode_images(pixels)).sum() > 0.999


def test_unknown_precision():
    """A precision that PyTorch has not is an error that says which it has."""
    with pytest.raises(EncoderUnavailable, match=r"fp32, bf16, fp16, not in int8.*CLIP_RUNTIME=openvino"):
        OpenClipEncoder(loaded("vit"), "cpu", precision="int8")


# ---------------------------------------------------------------- devices and settings


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda")],
)
def test_auto_device(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, device: str):  # noqa: FBT001 - a table
    """Of the devices that are there, auto takes CUDA before MPS before CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == device
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_missing_device(monkeypatch: pytest.MonkeyPatch, device: str):
    """Asking for a device that is not there is an error that names the setting."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(EncoderUnavailable, match=f"CLIP_DEVICE is {device}.*CLIP_DEVICE=auto"):
        choose_device(device)


def test_threads_setting():
    """The number of CPU threads is PyTorch's from then on; 0 leaves it as it is."""
    before = torch.get_num_threads()
    try:
        make_encoder(threads=before + 1)
        assert torch.get_num_threads() == before + 1
        make_encoder(threads=0)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_load_from_settings(tmp_path: Path):
    """The settings choose model and weights; what is not there is an error before anything is computed."""
    absent = Settings(clip_pretrained=str(tmp_path / "absent.safetensors"), clip_device="cpu", clip_model="ViT-B-32")
    with pytest.raises(ModelUnavailable, match="absent"):
        OpenClipEncoder.load(absent)
