"""Queries for benchmarks: as many different ones as are asked for, of the length that people type."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

from indexing.scenes.captions import partial, phrase
from indexing.scenes.scene import sample

_WORDS: Final = (5, 7)
"""Least and most words: 7 to 9 tokens with CLIP's two marks at the ends, 8 on average."""


def distinct_queries(seed: int = 0) -> Iterator[str]:
    """English captions of 5 to 7 words, no two alike, the same for a seed on every machine. Endless; 0.3 ms each."""
    rng = Random(f"queries/{seed}")
    seen: set[str] = set()
    while True:
        query = phrase(partial(sample(rng.getrandbits(40)), rng), rng)
        if query not in seen and _WORDS[0] <= len(query.split()) <= _WORDS[1]:
            seen.add(query)
            yield query


def repeated(queries: Iterator[str], share: float, seed: int = 0, window: int = 200) -> Iterator[str]:
    """The same queries with repetitions in between: each is, with probability `share`, one of the last `window`."""
    rng = Random(f"repeated/{seed}")
    recent: list[str] = []
    while True:
        if recent and rng.random() < share:
            yield rng.choice(recent)
        else:
            query = next(queries)
            recent.append(query)
            del recent[:-window]
            yield query
