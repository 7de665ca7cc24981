"""The benchmarks of encoders, run small: what they say is true, whatever the machine's speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.encoders.choice import load_encoder
from engine.settings import Settings
from indexing.bench import encode, start, variants
from indexing.bench.variants import Variant, recommended
from indexing.simulate import simulate_images
from tests.support.models import loaded

pytestmark = pytest.mark.bench

SMALL = Settings(clip_device="cpu", clip_precision="fp32")


def test_encode_compares_with_plain_open_clip():
    """Both encode the same queries of eight tokens: one row each, ours with the ratio, the cosine and the recall."""
    report = encode.run(SMALL, times=8)
    plain, ours = report.rows
    assert plain["encoder"] == "plain open_clip"
    assert ours["encoder"] == "Sightline, OpenVINO fp32"
    assert plain["times faster"] == 1
    assert float(ours["times faster"] or 0) == pytest.approx(float(plain["p50_ms"] or 0) / float(ours["p50_ms"] or 1))
    assert float(ours["least cosine"] or 0) > 0.999
    assert plain["recall@10"] == 1
    assert [target.name for target in report.targets] == ["cosine with plain open_clip"]
    assert report.targets[0].met


def test_typical_queries_have_eight_tokens():
    """Queries are different and of just the length that the targets speak of."""
    tokenizer = loaded("vit").tokenizer
    queries = encode.typical_queries(tokenizer, 16)
    assert len(set(queries)) == 16
    assert set((tokenizer(queries) != 0).sum(axis=1)) == {encode.TOKENS}


def test_recall():
    """Recall counts which of the true neighbours are found: all, none, or half."""
    near = np.eye(40, dtype=np.float32)
    exact = np.zeros((1, 40), dtype=np.float32)
    exact[0, :10] = 1
    half = np.zeros((1, 40), dtype=np.float32)
    half[0, 5:15] = 1
    assert encode.recall(near, exact, exact) == 1
    assert encode.recall(near, exact, half) == 0.5
    assert encode.recall(near, exact, 1 - exact) == 0


def test_variants_run_apart(monkeypatch: pytest.MonkeyPatch):
    """Each way runs in its own process; one that can't is a row that says why, and the others go on."""
    ways = [Variant("openvino", "fp32", "cpu"), Variant("openvino", "fp16", "cpu"), Variant("openvino", "int8", "cpu")]
    monkeypatch.setattr(variants, "variants", lambda: ways)
    exact, impossible, small = variants.run(SMALL, seconds=0.05).rows
    assert exact["recall@10 lost"] == 0
    assert float(exact["least cosine"] or 0) == pytest.approx(1, abs=1e-5)
    assert "not in fp16" in str(impossible["note"])
    assert 0.99 < float(small["least cosine"] or 0) < 1
    assert float(small["memory_mb"] or 0) > 0


def test_variants_are_bounded(monkeypatch: pytest.MonkeyPatch):
    """A way that takes too long is given up."""
    monkeypatch.setattr(variants, "variants", lambda: [Variant("openvino", "fp32", "cpu")])
    report = variants.run(SMALL, timeout_s=0.05)
    assert report.rows[0]["note"] == "not done within 0 s"
    assert report.notes == ["No way worked: the notes say why."]


def test_recommendation_is_the_fastest_that_is_exact():
    """A faster way that loses the direction of vectors is not recommended."""
    rows = [
        {"runtime": "exact", "text p50_ms": 9.0, "least cosine": 1.0},
        {"runtime": "good", "text p50_ms": 3.0, "least cosine": 0.9995},
        {"runtime": "wrong", "text p50_ms": 1.0, "least cosine": 0.95},
        {"runtime": "broken", "note": "…"},
    ]
    assert recommended(rows) == "good"


async def test_start(tmp_path: Path):
    """Both ways are started until ready and answer a search; the ratio is between their times."""
    settings = SMALL.model_copy(update={"index_path": tmp_path})
    await simulate_images(50, load_encoder(settings), 1, "default", settings)
    report = start.run(settings, times=1)
    ours, torch = report.rows
    assert float(ours["ready s"] or 0) > 0
    assert float(ours["times sooner than on PyTorch"] or 0) == pytest.approx(
        float(torch["ready s"] or 0) / float(ours["ready s"] or 1)
    )
