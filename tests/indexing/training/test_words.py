"""Words as small token numbers: CLIP's own tokens under other numbers, and one number for all that is unknown."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer

from indexing.scenes import captions
from indexing.scenes.scene import sample
from indexing.training.words import UNKNOWN, Words


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """300 captions and searches."""
    rng = Random("texts")
    forms = (captions.full, captions.partial, captions.short)
    return [captions.phrase(say(sample(seed), rng), rng) for seed in range(100) for say in forms]


def tokens(row: NDArray[np.int64], words: Words) -> list[int]:
    """A row's numbers as the tokenizer's own, without the zeros."""
    return [words.token_ids[number - 1] for number in row if number]


def test_known_words_are_the_tokenizers(texts: list[str], words: Words):
    """Through `token_ids`, every caption is what open_clip's tokenizer makes of it."""
    expected = SimpleTokenizer(context_length=32)(texts)
    for row, wanted in zip(words.encode(texts), expected, strict=True):
        assert tokens(row, words) == [token for token in wanted.tolist() if token]


def test_small_numbers_keep_the_tokenizers_order(words: Words):
    """Numbers ascend with the tokenizer's own, so that its start and end are the two largest."""
    tokenizer = SimpleTokenizer()
    assert words.token_ids == sorted(set(words.token_ids))
    assert words.token_ids[-2:] == [tokenizer.sot_token_id, tokenizer.eot_token_id]
    assert words.size == len(words.token_ids) + 1


def test_end_is_largest_and_zeros_follow(texts: list[str], words: Words):
    """The largest number of a row is its end, found once; after it there is nothing but zeros."""
    table = words.encode(texts)
    ends = table.argmax(axis=1)
    for row, end in zip(table, ends, strict=True):
        assert row[end] == words.size - 1
        assert (row[:end] < row[end]).all()
        assert not row[end + 1 :].any()
    assert table.shape == (len(texts), ends.max() + 1)


def test_unknown_words_are_zero(words: Words):
    """A word that no caption has is the unknown, between its neighbours as they are."""
    (row,) = words.encode(["a red xylophone boat"])
    (known,) = words.encode(["a red boat"])
    middle = row[3:-2]
    assert len(middle)
    assert (middle == UNKNOWN).all()
    assert [*row[:3], *row[-2:]] == list(known)


def test_only_unknown_words_are_still_a_text(words: Words):
    """A text in another script, or an empty one, has its start and end."""
    for row in words.encode(["Ω≈ç√", ""]):
        start, *rest = row
        assert start == words.size - 2
        assert max(rest) == words.size - 1


def test_long_texts_are_cut_to_the_context(words: Words):
    """A text that is too long keeps its beginning and its end token, as open_clip cuts it."""
    long = "a red boat and a blue house " * 10
    (row,) = words.encode([long])
    assert row.shape == (32,)
    assert tokens(row, words) == SimpleTokenizer(context_length=32)([long])[0].tolist()


def test_strange_words_are_mixed_in(texts: list[str], words: Words):
    """With a source of chance, one text in eight gets one to three unknown words; nothing else changes."""
    plain, mixed = words.encode(texts * 4), words.encode(texts * 4, Random("strange"))
    added = []
    for before, after in zip(plain, mixed, strict=True):
        assert tokens(after, words) == tokens(before, words)
        added.append(after.argmax() - before.argmax())
    counts = np.bincount(added, minlength=4)
    assert len(counts) == 4
    assert counts[1:].all()
    assert 0.09 < counts[1:].sum() / counts.sum() < 0.16


def test_nothing_strange_without_chance(texts: list[str], words: Words):
    """Without it, captions hold no unknown: training and judging see the same words."""
    table = words.encode(texts)
    assert all((row[: row.argmax()] != UNKNOWN).all() for row in table)
