"""`sightline models bench`: what each way to run a model costs on this machine, and which one to take.

Every way runs in a process of its own, so that its memory is its own and a way that fails or takes too long is a row
that says so. All encode the same queries and pictures; cosine and recall compare with PyTorch in fp32.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.encoders.choice import load_encoder
from engine.errors import SightlineError
from engine.settings import Settings
from indexing.bench.encode import neighbours, recall, typical_queries
from indexing.bench.memory import memory_of
from indexing.bench.report import Figure, Latency, Report, repeat

TIMEOUT_S: Final = 300.0
"""Seconds after which a way to run the model is given up: torch.compile can take long on a large one."""

_LEAST_COSINE: Final = 0.999
_PICTURES: Final = 8
_TEXTS: Final = 16


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model: values of CLIP_RUNTIME, CLIP_PRECISION and CLIP_DEVICE."""

    runtime: str
    precision: str
    device: str

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.runtime} {self.precision}{'' if self.device == 'cpu' else f' on {self.device}'}"


def variants() -> list[Variant]:
    """The ways that this machine has, the reference first."""
    ways = [Variant("torch", "fp32", "cpu"), Variant("torch", "bf16", "cpu"), Variant("torch-compile", "fp32", "cpu")]
    ways += [Variant("openvino", precision, "cpu") for precision in ("fp32", "bf16", "int8")]
    if find_spec("torch") is not None:
        import torch  # noqa: PLC0415 - takes seconds, and only says whether there is a GPU

        if torch.cuda.is_available():
            ways += [Variant("torch", precision, "cuda") for precision in ("fp32", "fp16", "bf16")]
            ways += [Variant("torch-compile", precision, "cuda") for precision in ("fp16", "bf16")]
    return ways


def run(settings: Settings, *, timeout_s: float = TIMEOUT_S, seconds: float = 3.0) -> Report:
    """Measures every way to run the settings' model, one after the other, each timing for some seconds."""
    load_encoder(settings.model_copy(update={"clip_runtime": "openvino", "clip_precision": "fp32"}))  # exports it first
    rows: list[dict[str, Figure]] = []
    exact: dict[str, Any] | None = None
    for variant in variants():
        measured = _in_process(variant, settings, timeout_s, seconds)
        if "failure" in measured:
            rows.append({"runtime": variant.name, "note": measured["failure"]})
            continue
        exact = exact or measured
        rows.append({"runtime": variant.name, **_figures(measured, exact)})
    best = recommended(rows)
    notes = [f"Recommended here: {best}" if best else "No way worked: the notes say why."]
    setup: dict[str, Figure] = {
        "model": settings.clip_model,
        "texts at once": _TEXTS,
        "pictures at once": _PICTURES,
        "seconds each": seconds,
    }
    return Report("Ways to run the model", setup, rows, notes=notes)


def recommended(rows: list[dict[str, Figure]]) -> str | None:
    """The fastest for a single query among those whose vectors keep their direction; None without any."""
    exact = [row for row in rows if float(row.get("least cosine") or 0) >= _LEAST_COSINE]
    best = min(exact, key=lambda row: float(row["text p50_ms"] or 0), default=None)
    return None if best is None else str(best["runtime"])


def measure(settings: Settings, vectors: Path, seconds: float) -> dict[str, Any]:
    """Measures the encoder of the settings in this process; its vectors go to a file, for comparison."""
    encoder = load_encoder(settings)
    encoder.warm_up()
    from engine.encoders.exported import find  # noqa: PLC0415 - after the encoder, which may export
    from engine.encoders.openvino import load_tokenizer  # noqa: PLC0415

    exported = find(settings)
    assert exported is not None  # noqa: S101 - the parent has exported it
    queries = typical_queries(load_tokenizer(exported), _TEXTS)
    noise = np.random.default_rng(4)
    height, width = encoder.preprocessing.size
    coarse = noise.integers(0, 256, (_PICTURES, 6, 6, 3), dtype=np.uint8)
    pictures = np.stack([_enlarged(picture, height, width) for picture in coarse])
    alone = list(_timed(lambda: encoder.encode_texts(queries[:1]), seconds))
    together = list(_timed(lambda: encoder.encode_texts(queries), seconds))
    seen = list(_timed(lambda: encoder.encode_images(pictures), seconds))
    memory = memory_of(os.getpid()).total / 1e6
    np.savez(
        vectors,
        texts=encoder.encode_texts(queries),
        pictures=encoder.encode_images(pictures),
        neighbours=neighbours(encoder) if settings.clip_precision == "fp32" else np.empty(0),
    )
    return {
        "text": alone,
        "texts": together,
        "pictures": seen,
        "memory_mb": memory,
        "vectors": str(vectors),
    }


def _figures(measured: dict[str, Any], exact: dict[str, Any]) -> dict[str, Figure]:
    ours, theirs = (np.load(one["vectors"]) for one in (measured, exact))
    cosines = [float((ours[kind] * theirs[kind]).sum(axis=1).min()) for kind in ("texts", "pictures")]
    return {
        "text p50_ms": Latency.of(measured["text"]).p50,
        "text p95_ms": Latency.of(measured["text"]).p95,
        "texts/s": 1000 * _TEXTS / Latency.of(measured["texts"]).p50,
        "pictures/s": 1000 * _PICTURES / Latency.of(measured["pictures"]).p50,
        "memory_mb": measured["memory_mb"],
        "least cosine": min(cosines),
        "recall@10 lost": 1 - recall(theirs["neighbours"], theirs["texts"], ours["texts"]),
    }


def _in_process(variant: Variant, settings: Settings, timeout_s: float, seconds: float) -> dict[str, Any]:
    wanted = settings.model_copy(
        update={"clip_runtime": variant.runtime, "clip_precision": variant.precision, "clip_device": variant.device}
    )
    folder = Path(tempfile.mkdtemp(prefix="sightline-variant-"))
    order = {"settings": wanted.model_dump(mode="json"), "vectors": str(folder / "vectors.npz"), "seconds": seconds}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "indexing.bench.variants"],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"not done within {timeout_s:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"failure": reason[-1][:200]}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _timed(work: Callable[[], object], seconds: float) -> Iterator[float]:
    """Milliseconds of passes for some seconds, three at least; the first is not counted."""
    work()
    spent = 0.0
    for number in range(1000):
        if spent > seconds * 1000 and number >= 3:  # noqa: PLR2004 - a median of fewer says nothing
            return
        (took,) = repeat(work, 1, warm_up=0)
        spent += took
        yield took


def _enlarged(coarse: Any, height: int, width: int) -> Any:
    rows, columns = np.linspace(0, 5, height).astype(int), np.linspace(0, 5, width).astype(int)
    return coarse[rows][:, columns]


if __name__ == "__main__":
    received = json.loads(sys.stdin.read())
    try:
        result = measure(Settings(**received["settings"]), Path(received["vectors"]), received["seconds"])
    except SightlineError as failure:
        result = {"failure": str(failure)}
    sys.stdout.write(json.dumps(result) + "\n")
