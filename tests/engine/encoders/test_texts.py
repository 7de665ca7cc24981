from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest

from engine.encoders import texts
from engine.encoders.texts import ClipTokenizer, LockedTokenizer, TextTower, packed
from engine.models import tokenizer_of
from tests.support.models import TEXTS

HARD = [
    *TEXTS,
    "it's we'll they'd i'm you've we're don't DON'T",
    "fish &amp; chips &amp;amp; caf\u00e9 cafÃ© «déjà vu»",
    "tabs\tand\nlines\r\n\u00a0\u3000spaces",
    "<start_of_text> in the middle <end_of_text> and <END_OF_TEXT>",
    "1234567890 3.14 ½ ² Ⅷ ٣ 中文字符 русский ελληνικά עברית العربية हिन्दी ไทย 한국어",
    "👩‍👩‍👧‍👦🏳️‍🌈 \u200d zero\u200bwidth \ufeff combining e\u0301 ﬁ ligature ǅ İstanbul ẞ",
    "!!!??? ... --- ((())) #hash @at $5 100% a_b snake_case CamelCase",
    "x" * 500,
    "supercalifragilisticexpialidocious " * 20,
    "\x00\x01 control \x7f \ud7ff",
]


def tokenizers(clean: str = "lower") -> tuple[Any, ClipTokenizer]:
    theirs = open_clip.SimpleTokenizer(context_length=28, clean=clean)
    ours = tokenizer_of(theirs)
    assert isinstance(ours, ClipTokenizer)
    return theirs, ours


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_same_tokens_as_open_clip(clean: str):
    """Every script, entity, contraction and symbol becomes the tokens that open_clip makes of it."""
    theirs, ours = tokenizers(clean)
    for text in HARD:
        assert np.array_equal(ours([text]), theirs([text]).numpy()), text


def test_same_tokens_for_every_character():
    """Each character of the basic plane, between letters and alone, has open_clip's tokens."""
    theirs, ours = tokenizers()
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    lines = ["a".join(characters[at : at + 4]) + " " + " ".join(characters[at : at + 4]) for at in range(0, 65536, 4)]
    differing = [line for line in lines if line and not np.array_equal(ours([line]), theirs([line]).numpy())]
    assert not differing


def test_endless_word():
    """A megabyte without a space, which would take open_clip's tokenizer hours, takes no time."""
    assert tokenizers()[1](["ab" * 500_000]).shape == (1, 28)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """Words remembered are forgotten before they fill the memory, and the tokens stay the same."""
    monkeypatch.setattr(texts, "_REMEMBERED_WORDS", 10)
    theirs, ours = tokenizers()
    for number in range(40):
        text = f"word{number}x other{number}y"
        assert np.array_equal(ours([text]), theirs([text]).numpy())
    assert len(ours._remembered) <= 10


def test_saved_and_loaded(tmp_path: Path):
    """Written to a file and read again it makes the same tokens."""
    _, ours = tokenizers()
    ours.save(tmp_path / "tokenizer.json")
    assert np.array_equal(ClipTokenizer.load(tmp_path / "tokenizer.json")(HARD), ours(HARD))


def test_equal_tokenizers_in_use_are_one(tmp_path: Path):
    """Of several models in memory at once; it is gone with the last of them."""
    _, ours = tokenizers()
    for name in ("a", "b"):
        ours.save(tmp_path / name)
    tokenizers("whitespace")[1].save(tmp_path / "other")
    first = ClipTokenizer.load(tmp_path / "a")
    assert ClipTokenizer.load(tmp_path / "b") is first
    assert ClipTokenizer.load(tmp_path / "other") is not first
    remains = weakref.ref(first)
    del first
    assert remains() is None


def test_other_tokenizers_one_at_a_time():
    """A tokenizer that two threads would break is never given two."""
    inside: list[int] = []

    def fragile(lines: list[str]) -> list[list[int]]:
        inside.append(1)
        assert len(inside) == 1
        inside.pop()
        return [[len(line)] * 5 for line in lines]

    tokenizer = LockedTokenizer(fragile, 5)
    with ThreadPoolExecutor(4) as pool:
        assert all(tokens[0, 0] == 3 for tokens in pool.map(tokenizer, [["abc"]] * 200))


# ---------------------------------------------------------------- batches


def rows_of(batches: Sequence[tuple[Any, Any, Any]]) -> list[int]:
    return [int(row) for rows, _, _ in batches for row in rows]


def test_batches_are_cut_and_sorted():
    """Each text is in one batch, which is as long as its longest text; alike lengths go together."""
    _, ours = tokenizers()
    tokens = ours(["one two three four", "one", "one two", "one two three"])
    batches = list(TextTower(cut=True).batches(tokens, 2))
    assert rows_of(batches) == [1, 2, 3, 0]
    assert [part.shape for _, part, _ in batches] == [(2, 4), (2, 6)]
    for rows, part, ends in batches:
        assert all(part[at, end] == 49407 for at, end in enumerate(ends))
        assert np.array_equal(part, tokens[rows, : part.shape[1]])


def test_batches_keep_padding():
    """A tower that may not be cut gets whole rows."""
    _, ours = tokenizers()
    assert [part.shape for _, part, _ in TextTower(cut=False).batches(ours(["a", "b"]), 8)] == [(2, 28)]


@pytest.mark.parametrize(
    ("first", "laid", "positions", "texts", "ends"),
    [
        (0, [7, 1, 9, 7, 2, 3, 4, 9], [0, 1, 2, 0, 1, 2, 3, 4], [0, 0, 0, 1, 1, 1, 1, 1], [2, 7, 2, 7]),
        (1, [1, 9, 2, 3, 4, 9], [1, 2, 1, 2, 3, 4], [0, 0, 1, 1, 1, 1], [1, 5, 1, 5]),
    ],
    ids=["whole", "without their start"],
)
def test_packed_texts_lie_end_to_end(
    first: int, laid: list[int], positions: list[int], texts: list[int], ends: list[int]
):
    """Each keeps its positions, from the first that is wanted to its end; the ends are repeated to four."""
    found = packed(np.array([[7, 1, 9, 0, 0], [7, 2, 3, 4, 9]]), np.array([2, 4]), first)
    assert [part.tolist() for part in found] == [laid, positions, texts, ends]


def test_packed_texts_are_filled_up():
    """To an even number, of which the last belongs to no text, and to four ends: so few shapes are all there are."""
    laid, positions, texts, ends = packed(np.array([[7, 1, 9, 0]]), np.array([2]), 0)
    assert laid.tolist() == [7, 1, 9, 0]
    assert positions.tolist() == [0, 1, 2, 0]
    assert texts.tolist() == [0, 0, 0, -1]
    assert ends.tolist() == [2, 2, 2, 2]


def test_passes_are_filled():
    """Texts keep their order; a pass takes as many as fit 128 tokens and are allowed, and a longer text goes alone."""
    tokens = np.zeros((7, 200), dtype=np.int64)
    for row, length in zip(tokens, [60, 60, 60, 199, 5, 5, 5], strict=True):
        row[:length] = 1
        row[length] = 9
    passes = list(TextTower(cut=True).passes(tokens, 2))
    assert [rows.tolist() for rows, _ in passes] == [[0, 1], [2], [3], [4, 5], [6]]
    assert [len(inputs[0]) for _, inputs in passes] == [122, 62, 200, 12, 6]
    passes = list(TextTower(cut=True, first=1).passes(tokens, 7))
    assert [rows.tolist() for rows, _ in passes] == [[0, 1], [2], [3], [4, 5, 6]]
    assert [len(inputs[0]) for _, inputs in passes] == [120, 60, 200, 16]


def test_passes_keep_padding():
    """A tower that may not be cut gets whole rows."""
    _, ours = tokenizers()
    assert [inputs[0].shape for _, inputs in TextTower(cut=False).passes(ours(["a", "b"]), 8)] == [(2, 28)]
