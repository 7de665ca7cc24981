"""What every peer is given: the same weights in its own form, the same pictures, their embeddings, and the truth.

The embeddings come from plain open_clip in float32. Peers with an index of their own get these vectors, so that recall
says what a peer's text encoder and search lose, and nothing of differences in how pictures are decoded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

import engine
from engine.ports import Vectors
from indexing.bench.peers.processes import Command, finish
from indexing.bench.queries import distinct_queries
from indexing.scenes.dataset import write_scenes

ADAPTERS: Final = Path(__file__).parent / "adapters"
NEIGHBOURS: Final = 10

Environments = Callable[[str], Path]
"""The Python of an environment by its name; raises `PeerFailed`."""

_SHIPPED: Final = Path(engine.__file__).parent / "weights"
_RANDOM: Final = Path("data/bench/weights")  # where all benchmarks keep random weights: they are large
_JUDGED_SEED: Final = 1
_PREPARE_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Material:
    """What a run works with, in files for the adapters and in memory for the driver.

    `source` is the safetensors file of `model`, `weights` the folder with all its other forms. `names` are the pictures
    below the folder `pictures`, `vectors` (n, d) their embeddings in the same order. `best` has, for each of
    `queries`, the file names of the true ten nearest. `embed_s` is how long plain open_clip took for all pictures.
    """

    model: str
    pretrained: str
    work: Path
    source: Path
    weights: Path
    pictures: Path
    names: list[str]
    vectors: Vectors
    queries: list[str]
    best: list[set[str]]
    embed_s: float

    @property
    def list_file(self) -> Path:
        """JSON list of `names`."""
        return self.work / "pictures.json"

    @property
    def vectors_file(self) -> Path:
        """`vectors` as NumPy writes them."""
        return self.work / "pictures.npy"


def adapter(python: Path, name: str, *arguments: str | Path | int) -> Command:
    """One of the scripts in `adapters/`, in an environment. It sees no module of ours."""
    return Command((str(python), "-P", str(ADAPTERS / f"{name}.py"), *map(str, arguments)), {"PYTHONPATH": ""})


def prepare(model: str, count: int, judged: int, folder: Path, environments: Environments) -> Material:
    """Draws `count` pictures, converts the weights, embeds pictures and `judged` queries with plain open_clip.

    Pictures and weights are kept below `folder` for the next run. Raises `PeerFailed` when plain open_clip fails: then
    there is nothing to compare with.
    """
    folder = folder.resolve()
    work = folder / model
    work.mkdir(parents=True, exist_ok=True)
    pictures = folder / "pictures" / str(count)
    write_scenes(count, 1, pictures)
    names = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.jpg"))
    queries = list(islice(distinct_queries(_JUDGED_SEED), judged))
    (work / "pictures.json").write_text(json.dumps(names), encoding="utf-8")
    (work / "queries.json").write_text(json.dumps(queries), encoding="utf-8")

    python = environments("open-clip")
    shipped = (_SHIPPED / model / "model.safetensors").is_file()
    source = _SHIPPED / model / "model.safetensors" if shipped else _random(model)
    weights = _forms(model, source, work, python)
    ask = partial(adapter, python, "plain")
    embed_s = finish(
        ask("index", model, weights, pictures, work / "pictures.json", work / "pictures.npy"),
        work / "embed.log",
        _PREPARE_S,
    )
    finish(ask("texts", model, weights, work / "queries.json", work / "queries.npy"), work / "embed.log", _PREPARE_S)
    vectors = np.load(work / "pictures.npy")
    nearest = np.argsort(-(np.load(work / "queries.npy") @ vectors.T), axis=1)[:, :NEIGHBOURS]
    return Material(
        model=model,
        pretrained="" if shipped else str(source),
        work=work,
        source=source,
        weights=weights,
        pictures=pictures,
        names=names,
        vectors=vectors,
        queries=queries,
        best=[{Path(names[at]).name for at in row} for row in nearest],
        embed_s=embed_s,
    )


def _random(model: str) -> Path:
    from indexing.bench.weights import random_weights  # noqa: PLC0415 - brings PyTorch

    return random_weights(model, _RANDOM)


def _forms(model: str, source: Path, work: Path, python: Path) -> Path:
    """The folder with the weights in all forms, written once for a source and a way to convert it."""
    weights = work / "weights"
    made_from = f"{source} {source.stat().st_mtime_ns} {(ADAPTERS / 'weights.py').stat().st_mtime_ns}"
    stamp = weights / "made_from"
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from):
        shutil.rmtree(weights, ignore_errors=True)
        finish(adapter(python, "weights", model, source, weights), work / "weights.log", _PREPARE_S)
        stamp.write_text(made_from, encoding="utf-8")
    return weights
