"""How well pictures and texts fit each other: the CLIP score of one pair, or of a whole CSV file of them.

A score is the cosine of the two embeddings, -1 to 1. Scores of one model can be compared, those of two models can't.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from engine.errors import BadUserInput
from engine.ports import Encoder, Vectors
from engine.settings import Settings
from indexing.decode import Decoded, Failure, Rules, decode
from indexing.encoding import chunk_size, encode

_COLUMNS: Final = ("image", "text")


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture's path and a text."""

    image: str
    text: str


@dataclass(frozen=True, slots=True)
class Scored:
    """A pair with its `score`, or with None and the `error` that says why there is none."""

    pair: Pair
    score: float | None
    error: str | None


def score(encoder: Encoder, pairs: Sequence[Pair], settings: Settings) -> list[Scored]:
    """The score of every pair, in their order. A bad picture fails its own pairs and no others.

    Every picture and every text is encoded once, however many pairs it is in.
    """
    pictures, reasons = _pictures(encoder, list(dict.fromkeys(pair.image for pair in pairs)), settings)
    texts = list(dict.fromkeys(pair.text for pair in pairs))
    words = dict(zip(texts, encoder.encode_texts(texts), strict=True))
    return [
        Scored(pair, float(pictures[pair.image] @ words[pair.text]), None)
        if pair.image in pictures
        else Scored(pair, None, reasons[pair.image])
        for pair in pairs
    ]


def score_csv(encoder: Encoder, source: Path, target: Path, settings: Settings) -> tuple[int, int]:
    """Scores the rows of a CSV file with the columns image and text into another file; how many rows, how many failed.

    Pictures' paths are relative to the CSV file's folder. The target has the source's columns, then score and error; it
    appears when it is complete. Raises `BadUserInput` for a file that can't be read as such a CSV.
    """
    rows = failed = 0
    partial = target.with_name(f".{target.name}.writing")
    try:
        with (
            source.open(newline="", encoding="utf-8-sig") as read,
            partial.open("w", newline="", encoding="utf-8") as write,
        ):
            reader = csv.DictReader(read)
            columns = list(reader.fieldnames or [])
            if not set(_COLUMNS) <= set(columns):
                raise BadUserInput(
                    f"{source} needs a header with the columns image and text; it has {columns or 'none'}."
                )
            writer = csv.DictWriter(write, [*columns, "score", "error"], extrasaction="ignore")
            writer.writeheader()
            for chunk in _chunks(reader, chunk_size(encoder)):
                pairs = [Pair(str(source.parent / (row["image"] or "")), row["text"] or "") for row in chunk]
                for row, scored in zip(chunk, score(encoder, pairs, settings), strict=True):
                    value = "" if scored.score is None else f"{scored.score:.6f}"
                    writer.writerow({**row, "score": value, "error": scored.error or ""})
                    failed += scored.score is None
                rows += len(chunk)
        partial.replace(target)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadUserInput(
            f"{source} can't be scored into {target}: {error}. Give a readable UTF-8 CSV file."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return rows, failed


def _chunks(reader: Iterator[dict[str, str]], size: int) -> Iterator[list[dict[str, str]]]:
    while chunk := list(islice(reader, size)):
        yield chunk


def _pictures(encoder: Encoder, paths: list[str], settings: Settings) -> tuple[dict[str, Vectors], dict[str, str]]:
    """Embeddings (d,) of the pictures that can be read, and the reasons of the others, by path."""
    rules = Rules(
        settings.index_max_bytes, settings.index_max_pixels, settings.index_thumbnail_px, encoder.preprocessing
    )
    size = chunk_size(encoder)
    vectors: dict[str, Vectors] = {}
    reasons: dict[str, str] = {}
    for start in range(0, len(paths), size):
        read: dict[str, Decoded] = {}
        for path in paths[start : start + size]:
            outcome = decode(path, rules)
            if isinstance(outcome, Failure):
                reasons[path] = (
                    f"{outcome.reason.sentence} ({outcome.detail})" if outcome.detail else outcome.reason.sentence
                )
            else:
                read[path] = outcome
        if read:
            vectors |= zip(read, np.asarray(encode(encoder, list(read.values()))), strict=True)
    return vectors, reasons
