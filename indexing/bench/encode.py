"""How fast a query becomes a vector: plain open_clip and this project's encoder, with the same weights, in one run.

Alone, one query after the other, as a single visitor has it; and sixteen at once, as they meet in the batcher. They
take turns, so that a busy machine slows down both. The cosine is between the vectors that both make of the same
queries, the least of all; recall is how many of the ten nearest by the plain vector are among the ten nearest by ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from engine.encoders.choice import load_encoder
from engine.encoders.texts import Tokenizer
from engine.ports import Encoder, Vectors
from engine.settings import Settings
from indexing.bench.report import Figure, Latency, Report, Target, repeat
from indexing.spaces import model_space, searches

TOKENS: Final = 8
"""Of a query, start and end included."""

NEIGHBOURS: Final = 20_000
"""Vectors of the model's own space that recall is measured among."""

_TOGETHER: Final = 16
_ROUNDS: Final = 8
_COSINE: Final = 0.999
_TIMES_FASTER: Final = {"ViT-B-32": 8.0, "ViT-H-14": 12.0}

TextEncoder = Callable[[Sequence[str]], Vectors]


def run(settings: Settings, *, times: int = 40) -> Report:
    """Encodes `times` single queries and as many batches with both. The model is that of the settings, and local."""
    import torch  # noqa: PLC0415 - brings 500 MB, which `models bench` must not count for encoders without it

    from engine import models  # noqa: PLC0415 - the same

    ours = load_encoder(settings)
    ours.warm_up()
    loaded = models.load(settings.clip_model, settings.clip_pretrained, ours.device)

    def plain(texts: Sequence[str]) -> Vectors:
        tokens = torch.from_numpy(loaded.tokenizer(texts)).to(ours.device)
        with torch.inference_mode():
            features: torch.Tensor = loaded.model.encode_text(tokens)  # type: ignore[operator]
            vectors: Vectors = torch.nn.functional.normalize(features, dim=-1).cpu().numpy()
            return vectors

    queries = typical_queries(loaded.tokenizer)
    encoders: dict[str, TextEncoder] = {"plain open_clip": plain, f"Sightline, {ours.runtime}": ours.encode_texts}
    alone: dict[str, list[float]] = {name: [] for name in encoders}
    together: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(_ROUNDS):
        for name, encode in encoders.items():
            alone[name] += repeat(lambda: encode(queries[:1]), max(1, times // _ROUNDS), warm_up=1)  # noqa: B023
            together[name] += repeat(lambda: encode(queries), max(1, times // _ROUNDS // 4), warm_up=1)  # noqa: B023
    exact = plain(queries)
    near = neighbours(ours)
    baseline = Latency.of(alone["plain open_clip"]).p50
    rows: list[dict[str, Figure]] = []
    for name, encode in encoders.items():
        vectors, latency = encode(queries), Latency.of(alone[name])
        rows.append(
            {
                "encoder": name,
                **latency.row(),
                "times faster": baseline / latency.p50,
                "queries/s in 16s": 1000 * _TOGETHER / Latency.of(together[name]).p50,
                "least cosine": float((vectors * exact).sum(axis=1).min()),
                "recall@10": recall(near, exact, vectors),
            }
        )
    mine = rows[-1]
    targets = [Target("cosine with plain open_clip", _number(mine["least cosine"]), ">=", _COSINE)]
    if settings.clip_model in _TIMES_FASTER:
        wanted = _TIMES_FASTER[settings.clip_model]
        targets.append(Target("times faster than plain open_clip", _number(mine["times faster"]), ">=", wanted))
    setup: dict[str, Figure] = {"model": settings.clip_model, "tokens": TOKENS, "device": ours.device, "times": times}
    return Report("One query to a vector", setup, rows, targets)


def typical_queries(tokenizer: Tokenizer, count: int = _TOGETHER) -> list[str]:
    """Different searches of exactly `TOKENS` tokens."""
    found: dict[str, None] = {}
    for seed in range(100):
        texts = list(dict.fromkeys(searches(500, seed)))
        lengths = (tokenizer(texts) != 0).sum(axis=1)
        found |= dict.fromkeys(text for text, length in zip(texts, lengths, strict=True) if length == TOKENS)
        if len(found) >= count:
            break
    return list(found)[:count]


def neighbours(encoder: Encoder) -> Vectors:
    """Vectors of the model's space, (NEIGHBOURS, d): where its searches in words have neighbours."""
    return model_space(encoder, 1).draw(np.random.default_rng(1), NEIGHBOURS)[0]


def recall(near: Vectors, exact: Vectors, vectors: Vectors, depth: int = 10) -> float:
    """How many of the nearest by the `exact` vectors are among the nearest by `vectors`, from 0 to 1."""
    nearest = [np.argpartition(-(queries @ near.T), depth, axis=1)[:, :depth] for queries in (exact, vectors)]
    return float(np.mean([len(set(a) & set(b)) / depth for a, b in zip(*map(np.ndarray.tolist, nearest), strict=True)]))


def _number(value: Figure) -> float:
    return float(value or 0)
