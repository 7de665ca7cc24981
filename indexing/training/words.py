"""The words that captions are made of, as token numbers of CLIP's own tokenizer.

Only the rows of the token table that captions use are trained and kept: a few hundred of 49,408. Every other token is
one and the same unknown, whose embedding is zero, so that a word the model has never seen does no harm.
"""

from __future__ import annotations

import re
from functools import cache, cached_property
from random import Random
from typing import Final

import numpy as np
import open_clip
from numpy.typing import NDArray

from indexing.scenes import captions
from indexing.scenes.scene import sample

UNKNOWN: Final = 0
"""The small number of every token outside the vocabulary; its embedding stays zero."""

_PIECES: Final = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")


class Words:
    """Captions to rows of small token numbers and back to the tokenizer's own.

    Small numbers are 1 to n in the order of the tokenizer's, so that the end token stays the largest, which is how
    CLIP finds it.
    """

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        tokenizer = open_clip.tokenizer.SimpleTokenizer()
        self._encode = cache(lambda piece: tuple(tokenizer.encode(piece)))
        self._start, self._end = tokenizer.sot_token_id, tokenizer.eot_token_id

    @cached_property
    def token_ids(self) -> list[int]:
        """The tokenizer's numbers of all words in captions, ascending: small number i + 1 is `token_ids[i]`."""
        rng = Random("words")
        found = {self._start, self._end}
        for seed in range(6_000):
            scene = sample(seed)
            for query in (captions.full(scene, rng), captions.short(scene, rng), captions.partial(scene, rng)):
                for piece in _PIECES.findall(captions.phrase(query, rng)):
                    found.update(self._encode(piece))
        return sorted(found)

    @cached_property
    def _small(self) -> dict[int, int]:
        return {token: number for number, token in enumerate(self.token_ids, 1)}

    @property
    def size(self) -> int:
        """Rows of the small token table: the vocabulary and the unknown."""
        return len(self.token_ids) + 1

    def encode(self, texts: list[str], unknown: Random | None = None) -> NDArray[np.int64]:
        """Small token numbers, (n, longest), zero after the end token.

        With `unknown`, one text in eight gets one to three unknown words at random places: people write words that
        captions don't.
        """
        rows = []
        for text in texts:
            row = [self._small.get(t, UNKNOWN) for piece in _PIECES.findall(text) for t in self._encode(piece)]
            if unknown is not None and unknown.random() < 0.125:  # noqa: PLR2004
                for _ in range(unknown.randint(1, 3)):
                    row.insert(unknown.choice((0, 0, unknown.randint(0, len(row)))), UNKNOWN)
            row = [self._small[self._start], *row[: self.context_length - 2], self._small[self._end]]
            rows.append(row)
        table = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for number, row in enumerate(rows):
            table[number, : len(row)] = row
        return table
