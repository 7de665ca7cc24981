"""How well a model finds scenes: recall, precision, order and number, judged by what was drawn, not by another model.

All measures of the model are by exact search over unit vectors; how much of it the index keeps is a measure of its
own. Scenes come from seeds, and hold the pairs of kind and colour that training never saw.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.indexes.edge import EdgeIndex
from engine.indexes.exact import ExactIndex
from engine.ports import Encoder, Point, VectorQuery, Vectors
from engine.settings import Settings
from indexing.scenes import captions
from indexing.scenes.dataset import scene_seed, write_scenes
from indexing.scenes.scene import Scene, held_out, sample
from indexing.scenes.truth import KIND_NUMBER, Mention, Query, fits, query_table, scene_table, shows_main_kind
from indexing.scenes.vocabulary import BACKGROUNDS, COLORS, KINDS, TIMES, WEATHERS

EncodeTexts = Callable[[Sequence[str]], Vectors]
"""Texts to unit vectors, (n, d)."""

MIN_RIGHT: Final = 10
"""A short query counts only where at least this many scenes are right, so that a precision@10 of 1 is possible."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The measures over one set of scenes, each 0 to 1; `short_queries` and `held_out_queries` count what was asked."""

    recall_at_1: float
    recall_at_10: float
    short_query_precision_at_10: float
    held_out_precision_at_10: float
    left_right_accuracy: float
    count_accuracy: float
    image_precision_at_10: float
    short_queries: int
    held_out_queries: int


def full_captions(scenes: Sequence[Scene], rng: Random) -> tuple[list[str], list[Query]]:
    """One full caption for each scene."""
    said = [captions.full(scene, rng) for scene in scenes]
    return [captions.phrase(query, rng) for query in said], said


def short_queries(scenes: Sequence[Scene], rng: Random, most: int = 400) -> tuple[list[str], list[Query]]:
    """Short searches that at least ten of the scenes fit, a third of them phrased as training never does.

    All pairs of kind and colour that training never saw are among them; the rest is drawn at random.
    """
    places = [
        *(Query(background=name) for name in BACKGROUNDS),
        *(Query(time=name) for name in TIMES),
        *(Query(weather=name) for name in WEATHERS),
    ]
    unseen = [Query((Mention(kind, color),)) for kind in KINDS for color in COLORS if held_out(kind, color)]
    others = [Query((Mention(kind, color),)) for kind in KINDS for color in COLORS if not held_out(kind, color)]
    for kind in KINDS:
        others.append(Query((Mention(kind),)))
        others += [Query((Mention(kind, None, count),)) for count in (1, 2, 3)]
        others += [replace(place, mentions=(Mention(kind),)) for place in places]
    rng.shuffle(others)
    table = scene_table(scenes)
    possible = [
        [query for query, right in zip(some, fits(query_table(some), table).sum(1), strict=True) if right >= MIN_RIGHT]
        for some in (unseen, others)
    ]
    asked = possible[0] + possible[1][: most - len(possible[0])]
    return [captions.phrase(query, rng, unseen=number % 3 == 0) for number, query in enumerate(asked)], asked


def _right(scores: NDArray[np.float32], truth: NDArray[np.bool_], depth: int) -> NDArray[np.bool_]:
    """Which of each row's best `depth` answers are right, (n, depth), in no order."""
    best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    return np.take_along_axis(truth, best, 1)


def _left_right(scenes: Sequence[Scene], vectors: Vectors, encode: EncodeTexts, rng: Random) -> float:
    """How often, for a picture with A on the left, "A left of B" scores above "B left of A" in the same words."""
    rows, right, mirrored = [], [], []
    for row, scene in enumerate(scenes):
        if len(scene.groups) == 1:
            continue
        left, other = (f"a {KINDS[g.kind].name}" for g in scene.left_to_right)
        form = rng.choice(captions.ORDERED)
        rows.append(row)
        right.append(form.format(left=left, right=other))
        mirrored.append(form.format(left=other, right=left))
    margin = ((encode(right) - encode(mirrored)) * vectors[rows]).sum(1)
    return float((margin > 0).mean())


def _count(scenes: Sequence[Scene], vectors: Vectors, encode: EncodeTexts) -> float:
    """How often, of "one K", "two Ks" and "three Ks", the true number scores best."""
    words = [
        f"{number} {kind.name if number == 'one' else kind.plural}"
        for kind in KINDS.values()
        for number in ("one", "two", "three")
    ]
    texts = encode(words).reshape(len(KINDS), 3, -1)
    right = [
        int(np.argmax(texts[KIND_NUMBER[group.kind]] @ vectors[row])) + 1 == group.count
        for row, scene in enumerate(scenes)
        for group in scene.groups[:1]
    ]
    return float(np.mean(right))


def evaluate(scenes: Sequence[Scene], vectors: Vectors, encode: EncodeTexts, seed: int = 0) -> Quality:
    """All measures of a model over scenes, given their pictures' unit vectors (n, d) and a way to encode texts."""
    rng = Random(f"evaluate/{seed}")
    table = scene_table(scenes)
    texts, said = full_captions(scenes, rng)
    scores, truth = encode(texts) @ vectors.T, fits(query_table(said), table)
    brief, asked = short_queries(scenes, rng)
    precision = _right(encode(brief) @ vectors.T, fits(query_table(asked), table), 10).mean(1)
    is_unseen = np.array(
        [bool(q.mentions[0].color and held_out(q.mentions[0].what or "", q.mentions[0].color)) for q in asked]
    )
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -2)
    return Quality(
        recall_at_1=float(_right(scores, truth, 1).any(1).mean()),
        recall_at_10=float(_right(scores, truth, 10).any(1).mean()),
        short_query_precision_at_10=float(precision.mean()),
        held_out_precision_at_10=float(precision[is_unseen].mean()) if is_unseen.any() else float("nan"),
        left_right_accuracy=_left_right(scenes, vectors, encode, rng),
        count_accuracy=_count(scenes, vectors, encode),
        image_precision_at_10=float(_right(alike, shows_main_kind(scenes), 10).mean()),
        short_queries=len(asked),
        held_out_queries=int(is_unseen.sum()),
    )


# ---------------------------------------------------------------- with real files and a real index


def evaluate_scenes(seed: int, count: int, encoder: Encoder, settings: Settings) -> dict[str, Any]:
    """Draws `count` scenes of a seed to files, reads and encodes them as indexing does, and measures model and index.

    All of `Quality`, with `index_recall_at_10`: how many of the true nearest ten the HNSW index gives for the same
    text queries.
    """
    scenes = [sample(scene_seed(seed, number)) for number in range(1, count + 1)]
    with TemporaryDirectory() as folder:
        write_scenes(count, seed, Path(folder) / "scenes")
        files = sorted(Path(folder).glob("scenes/**/*.jpg"))
        vectors = np.concatenate([_encode_files(files[at : at + 64], encoder) for at in range(0, count, 64)])
        quality = evaluate(scenes, vectors, encoder.encode_texts, seed)
        rng = Random(f"index/{seed}")
        texts = full_captions(scenes, rng)[0][:500] + short_queries(scenes, rng)[0]
        queries = encoder.encode_texts(texts)
        kept = asyncio.run(_index_recall(vectors, queries, Path(folder) / "index", settings))
    return {
        **asdict(quality),
        "index_recall_at_10": kept,
        "seed": seed,
        "count": count,
        "model": encoder.model.name,
        "fingerprint": encoder.model.fingerprint,
    }


def _encode_files(files: Sequence[Path], encoder: Encoder) -> Vectors:
    pixels = []
    for file in files:
        with Image.open(file) as picture:
            pixels.append(encoder.preprocess(picture))
    return encoder.encode_images(np.stack(pixels))


async def _index_recall(vectors: Vectors, queries: Vectors, folder: Path, settings: Settings) -> float:
    """The share of the true ten nearest that an HNSW index over `vectors` gives, over `queries`."""
    points = [Point(str(uuid.UUID(int=number + 1)), vector, {}) for number, vector in enumerate(vectors)]
    exact, approximate = ExactIndex(vectors.shape[1]), EdgeIndex.create(folder, vectors.shape[1], settings)
    found = []
    try:
        for index in (exact, approximate):
            await index.upsert(points)
            await index.optimize()
            asked = [VectorQuery(vector, limit=10) for vector in queries]
            found.append([{hit.id for hit in hits} for hits in await index.search(asked)])
    finally:
        await approximate.close()
    return float(np.mean([len(true & got) / len(true) for true, got in zip(*found, strict=True)]))
