from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import openvino as ov
import pytest
import torch

from engine.encoders import openvino
from engine.encoders.export import export
from engine.encoders.exported import ExportedModel
from engine.encoders.openclip import OpenClipEncoder
from engine.encoders.openvino import OpenVinoEncoder, load_tokenizer
from engine.encoders.passes import Precision, Tower, compiled, core
from engine.encoders.precision import PRECISIONS, chosen, measure
from engine.encoders.texts import LockedTokenizer
from engine.errors import EncoderUnavailable
from engine.ports import Encoder
from engine.settings import Settings
from tests.support.models import CONFIGS, TEXTS, loaded, tiny_model

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request: pytest.FixtureRequest, folder: Path) -> ExportedModel:
    """Every kind of tower, exported."""
    return export(loaded(request.param), folder / request.param)


@pytest.fixture(scope="module")
def vit(folder: Path) -> ExportedModel:
    return export(loaded("vit"), folder / "one-vit")


def encoder_of(exported: ExportedModel, precision: Precision = "fp32", max_batch: int = 64) -> OpenVinoEncoder:
    tokenizer = load_tokenizer(exported)
    return OpenVinoEncoder(exported, tokenizer, {"text": precision, "image": precision}, 1, max_batch)


def _watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads of passes that are made from now on by towers that are compiled from now on."""
    used: list[int] = []

    def watched(
        exported: ExportedModel, tower: Tower, precision: Precision, threads: int, copies: int = 1
    ) -> Callable[..., np.ndarray]:
        encode = compiled(exported, tower, precision, threads, copies)
        return lambda *inputs: (used.append(threads), encode(*inputs))[1]

    monkeypatch.setattr(openvino, "compiled", watched)
    return used


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_same_as_open_clip(exported: ExportedModel):
    """Texts of every length and pictures have open_clip's own vectors, for every kind of tower."""
    kind = exported.info.name
    encoder = encoder_of(exported)
    tokens = open_clip.SimpleTokenizer(context_length=28)(TEXTS)
    with torch.inference_mode():
        expected = tiny_model(kind).encode_text(tokens, normalize=True).numpy()
    assert np.allclose(encoder.encode_texts(TEXTS), expected, atol=2e-3)  # weights are stored in float16
    theirs = OpenClipEncoder(loaded(kind), "cpu").encode_images(pictures())
    assert np.allclose(encoder.encode_images(pictures()), theirs, atol=2e-3)


def test_the_start_is_built_in_where_a_tokenizer_always_writes_it(vit: ExportedModel, folder: Path):
    """CLIP's own is known to. With another, texts bring their start along, and have the same vectors."""
    theirs = LockedTokenizer(open_clip.SimpleTokenizer(context_length=28), 28)
    other = export(replace(loaded("vit"), tokenizer=theirs), folder / "another-tokenizer")
    assert (vit.text.first, other.text.first) == (1, 0)
    vectors = OpenVinoEncoder(other, theirs, {"text": "fp32", "image": "fp32"}, 1).encode_texts(TEXTS)
    assert np.allclose(vectors, encoder_of(vit).encode_texts(TEXTS), atol=2e-3)  # what is built in lies in float16


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions_keep_the_direction(vit: ExportedModel, precision: Precision):
    """Every precision gives unit vectors, and close to the exact ones."""
    exact, other = encoder_of(vit), encoder_of(vit, precision)
    assert other.runtime == f"OpenVINO {precision}"
    for ours, theirs in [
        (exact.encode_texts(TEXTS), other.encode_texts(TEXTS)),
        (exact.encode_images(pictures()), other.encode_images(pictures())),
    ]:
        assert theirs.dtype == np.float32
        assert np.allclose(np.linalg.norm(theirs, axis=1), 1, atol=5e-3)
        assert (ours * theirs).sum(axis=1).min() > 0.99


def test_weights_are_bytes(vit: ExportedModel):
    """No large matrix of the int8 graphs is stored in floats, the token table included."""
    for tower in ("text", "image"):
        nodes = core().read_model(vit.graph(tower, int8=True)).get_ops()
        constants = [node for node in nodes if node.get_type_name() == "Constant" and len(node.shape) == 2]
        matrices = [node for node in constants if min(node.shape) > 1 and np.prod(node.shape) >= 4096]
        assert matrices
        assert {node.get_element_type() for node in matrices} == {ov.Type.i8}


def test_many_texts(vit: ExportedModel):
    """More texts than fit one pass are encoded in several, and come back in order."""
    texts = [f"number {number} " + "and more " * (number % 7) for number in range(30)]
    assert np.allclose(encoder_of(vit, max_batch=4).encode_texts(texts), encoder_of(vit).encode_texts(texts), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_company_changes_nothing(vit: ExportedModel, precision: Precision):
    """A text has the same vector alone and among others, to the last bit: a wrong one may turn a byte round."""
    encoder = encoder_of(vit, precision)
    texts = [f"{text} {number}" for number in range(10) for text in TEXTS]
    same = (encoder.encode_texts(texts) == [encoder.encode_texts([text])[0] for text in texts]).all(axis=1)
    assert same.mean() > 0.9  # a processor's kernels for few and many rows may differ


def test_signals_survive_encoders_that_were_let_go(vit: ExportedModel):
    """In whatever order they go: OpenVINO's cores take a stack for signals with them that may still be in use."""
    precision = {"text": "fp32", "image": "fp32"}
    program = f"""
import gc, os, pathlib, signal
from engine.encoders.exported import ExportedModel
from engine.encoders.openvino import OpenVinoEncoder, load_tokenizer
exported = ExportedModel.read(pathlib.Path({str(vit.folder)!r}))
encoders = [OpenVinoEncoder(exported, load_tokenizer(exported), {precision}, 1) for _ in range(2)]
while encoders:
    del encoders[0]
    gc.collect()
heard = []
signal.signal(signal.SIGCHLD, lambda *_: heard.append(True))
os.kill(os.getpid(), signal.SIGCHLD)
assert heard
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_empty_input(vit: ExportedModel):
    """Nothing in, no vectors of the right dimension out."""
    encoder = encoder_of(vit)
    assert encoder.encode_texts([]).shape == (0, 24)
    assert encoder.encode_images(pictures(0)).shape == (0, 24)


def test_results_are_kept(vit: ExportedModel):
    """A vector does not change when the next one is computed."""
    encoder = encoder_of(vit)
    first = encoder.encode_texts(["red"])
    copy = first.copy()
    encoder.encode_texts(["a blue house"])
    assert np.array_equal(first, copy)


def test_threads_agree(vit: ExportedModel):
    """Four threads at once get what one thread gets, texts and pictures mixed."""
    encoder = encoder_of(vit)
    expected = [encoder.encode_texts([f"{text} {number}" for text in TEXTS]) for number in range(4)]
    seen = encoder.encode_images(pictures())
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(lambda number: encoder.encode_texts([f"{text} {number % 4}" for text in TEXTS]), range(40))
        images = pool.map(lambda _: encoder.encode_images(pictures()), range(40))
        assert all(np.allclose(vectors, expected[number % 4], atol=1e-5) for number, vectors in enumerate(texts))
        assert all(np.allclose(vectors, seen, atol=1e-5) for vectors in images)


def test_many_texts_get_all_threads(vit: ExportedModel, monkeypatch: pytest.MonkeyPatch):
    """Three texts are encoded on the threads that are set aside for them, four on all, and to the same vectors."""
    used = _watched(monkeypatch)
    both: dict[Tower, Precision] = {"text": "fp32", "image": "fp32"}
    encoder = OpenVinoEncoder(vit, load_tokenizer(vit), both, threads=2, text_threads=1)
    texts = ["red", "a blue house", "two dogs", "sunset"]
    few = encoder.encode_texts(texts[:3])
    many = encoder.encode_texts(texts)
    assert used == [1, 2]
    assert np.allclose(few, many[:3], atol=1e-5)


def test_chooses_by_measuring(vit: ExportedModel):
    """With CLIP_PRECISION=auto precisions are measured once on this processor, and remembered beside the model."""
    memory = vit.folder / "choice.json"
    memory.unlink(missing_ok=True)
    first = OpenVinoEncoder.load(vit, Settings(clip_threads=1))
    written = memory.stat().st_mtime_ns
    second = OpenVinoEncoder.load(vit, Settings(clip_threads=1))
    assert first.runtime == second.runtime
    assert memory.stat().st_mtime_ns == written


def test_counts_the_threads_that_texts_are_worth(vit: ExportedModel):
    """Texts get one or both of two threads; what an earlier version remembered does not say, and is measured again."""
    memory = vit.folder / "choice.json"
    memory.unlink(missing_ok=True)
    best = chosen(vit, load_tokenizer(vit), 2)
    assert best.text_threads in (1, 2)
    ((processor, kept),) = json.loads(memory.read_text()).items()
    assert kept.pop("text_threads") == best.text_threads
    memory.write_text(json.dumps({processor: kept}))
    assert chosen(vit, load_tokenizer(vit), 2).text_threads in (1, 2)
    assert "text_threads" in json.loads(memory.read_text())[processor]


def test_measures_against_the_exact(vit: ExportedModel):
    """Each precision is measured with its cosine to fp32, which is 1 for fp32 itself."""
    measured = measure(vit, "text", load_tokenizer(vit), 1)
    assert measured[0].precision == "fp32"
    assert measured[0].cosine == pytest.approx(1, abs=1e-5)
    assert measured[-1].precision == "int8"
    assert 0.99 < measured[-1].cosine < 1
    assert all(one.single_ms > 0 and one.batch_ms > 0 for one in measured)


def test_wanted_precision(vit: ExportedModel):
    """A precision that is asked for is taken unmeasured; one that OpenVINO has not is an error that says what is."""
    assert OpenVinoEncoder.load(vit, Settings(clip_precision="int8")).runtime == "OpenVINO int8"
    with pytest.raises(EncoderUnavailable, match="fp32, bf16, int8, not in fp16"):
        OpenVinoEncoder.load(vit, Settings(clip_precision="fp16"))


@pytest.mark.parametrize("text_threads", [1, 2], ids=["half the threads for few texts", "all threads for all"])
def test_speeding_up_changes_no_vector(vit: ExportedModel, monkeypatch: pytest.MonkeyPatch, text_threads: int):
    """Afterwards texts are encoded by copies of the tower; all vectors are what they were, to the last bit."""
    monkeypatch.setattr(openvino, "_WORTH_COPIES_S", 0.0)
    both: dict[Tower, Precision] = {"text": "fp32", "image": "fp32"}
    encoder = OpenVinoEncoder(vit, load_tokenizer(vit), both, threads=2, text_threads=text_threads)
    batches = [*([text] for text in TEXTS), TEXTS[:2], TEXTS[1:4], ["red", "a blue house", "two dogs", "sunset"]]
    before = [encoder.encode_texts(batch) for batch in batches]
    used = _watched(monkeypatch)
    encoder.speed_up()
    used.clear()
    after = [encoder.encode_texts(batch) for batch in batches]
    assert all(np.array_equal(was, is_) for was, is_ in zip(before, after, strict=True))
    assert used == [text_threads] * (len(batches) - 1) + [2]


@pytest.mark.parametrize("kind", ["vit", "bidirectional"])
def test_no_copies_where_they_are_no_gain(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A text that takes less than 2 ms, or one that keeps its padding, which has one shape anyway."""
    encoder = encoder_of(export(loaded(kind), folder / f"without-copies-{kind}"))
    monkeypatch.setattr(openvino, "_WORTH_COPIES_S", 60.0 if kind == "vit" else 0.0)
    used = _watched(monkeypatch)
    encoder.speed_up()
    encoder.encode_texts(["red"])
    assert used == []


def test_warm_up(vit: ExportedModel):
    """Warming up takes texts and a picture through the model."""
    encoder = encoder_of(vit)
    encoder.warm_up()
    port: Encoder = encoder
    assert (port.device, port.model.dimension) == ("cpu", 24)
    assert port.preprocessing.size == (32, 32)
