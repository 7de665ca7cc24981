"""Texts as a model wants them: numbers of tokens, without PyTorch, and the order in which they are cheap to encode.

In a causal tower, which pools the state of the end token and can't see what follows it, a text needs no padding. So
texts of alike length go together and are cut behind the longest, or they are packed: laid end to end as one sequence.
"""

from __future__ import annotations

import hashlib
import html
import json
import string
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import ftfy
import numpy as np
import regex
from numpy.typing import NDArray
from tokenizers.models import BPE

Tokens = NDArray[np.int64]
"""Numbers of tokens: (n, context_length), zeros behind the end."""

_PACKED: Final = 128
"""Tokens in one packed pass, unless one text is longer: beyond, who may see whom costs more than company saves."""

_ROUND: Final = 2
"""Packed passes have a multiple of so many tokens: preparing for a shape costs 1 to 2 ms, more than one token and less
than three. One query with ViT-H-14: 31.2 ms with a multiple of 1, 29.6 of 2, 31.8 of 4; with ViT-B-32 the same."""

_ROUND_ENDS: Final = 4
"""And a multiple of so many ends, of which only the last layer knows. One alone would be rounded by other kernels."""

_LONGEST_TOKEN: Final = 32  # characters in the longest token of CLIP's vocabulary
_REMEMBERED_WORDS: Final = 100_000  # words whose tokens are remembered, about 20 MB
_END_OF_WORD: Final = "</w>"
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


class Tokenizer(Protocol):
    """Turns texts into tokens, cut to the model's context length. Any thread may call it."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokens of texts, (n, context_length)."""
        ...


@dataclass(frozen=True, slots=True)
class TextTower:
    """What has to be known of a text tower: whether texts may be `cut`, and the number of the token that ends them.

    `end_token` is None when it is the highest number there is, as in OpenAI's models. An exported tower is given each
    text from token `first` on: that is 1 where the start, which all texts have in common, is built in.
    """

    cut: bool
    end_token: int | None = None
    first: int = 0

    def ends(self, tokens: Tokens) -> NDArray[np.int64]:
        """Where each text ends, (n,): the position whose state is pooled, or the last one where nothing may be cut."""
        if not self.cut:
            return np.full(len(tokens), tokens.shape[1] - 1)
        last = tokens if self.end_token is None else tokens == self.end_token
        ends: NDArray[np.int64] = last.argmax(axis=1)
        return ends

    def batches(self, tokens: Tokens, max_batch: int) -> Iterator[tuple[NDArray[np.intp], Tokens, NDArray[np.int64]]]:
        """Passes of at most `max_batch` texts, short ones first: their rows, their tokens cut, and where they end."""
        ends = self.ends(tokens)
        by_length = ends.argsort(kind="stable")
        for start in range(0, len(tokens), max_batch):
            rows = by_length[start : start + max_batch]
            yield rows, tokens[rows, : int(ends[rows[-1]]) + 1], ends[rows]

    def passes(
        self, tokens: Tokens, max_batch: int
    ) -> Iterator[tuple[NDArray[np.intp], tuple[NDArray[np.int64], ...]]]:
        """Passes of an exported tower: which texts, at most `max_batch`, and what its graph is given of them.

        That is `packed` where texts may be cut; elsewhere their tokens (n, l) and where they end (n,).
        """
        if not self.cut:
            for rows, part, at in self.batches(tokens, max_batch):
                yield rows, (part, at)
            return
        ends = self.ends(tokens)
        sizes = np.cumsum(ends + 1 - self.first)
        start = 0
        while start < len(tokens):
            before = sizes[start - 1] if start else 0
            fit = int(np.searchsorted(sizes, before + _PACKED, side="right"))
            after = min(max(fit, start + 1), start + max_batch)
            yield np.arange(start, after), packed(tokens[start:after], ends[start:after], self.first)
            start = after


def packed(tokens: Tokens, ends: NDArray[np.int64], first: int) -> tuple[NDArray[np.int64], ...]:
    """Texts of a causal tower laid end to end: tokens, positions and numbers of texts (t,), and where they end (m,).

    Of each text the tokens from `first` on. Nobody sees another text. Those behind the last are filled up, as text -1,
    and so are the ends of n texts, by the first, to a multiple m of 4: who gets the vectors takes n of them.
    """
    at = np.arange(tokens.shape[1])
    wanted = (first <= at) & (at <= ends[:, None])
    texts, positions = np.nonzero(wanted)
    room = (0, -len(texts) % _ROUND)
    return (
        np.pad(tokens[texts, positions], room),
        np.pad(positions, room),
        np.pad(texts, room, constant_values=-1),
        np.resize(at_end := np.cumsum(wanted.sum(axis=1)) - 1, len(at_end) + -len(at_end) % _ROUND_ENDS),
    )


class ClipTokenizer:
    """The byte pair encoding of CLIP, token for token what open_clip's SimpleTokenizer makes of a text.

    The merging is done by the tokenizers library, in time that grows with a word's length and not with its square.
    """

    def __init__(
        self, merges: Sequence[tuple[str, str]], special: Sequence[str], context_length: int, clean: str
    ) -> None:
        """`merges` in order of rank; `special` names the tokens that start and end a text, and any further ones."""
        self._merges = list(merges)
        self._special = list(special)
        self._context_length = context_length
        self._clean_name = clean
        self._clean = _CLEANERS[clean]
        self._letters = _bytes_as_letters()
        letters = self._letters.values()
        words = [*letters, *(letter + _END_OF_WORD for letter in letters), *("".join(pair) for pair in merges)]
        vocabulary = {word: number for number, word in enumerate([*words, *special])}
        self._special_numbers = {name: vocabulary[name] for name in special}
        self._start, self._end = (vocabulary[name] for name in special[:2])
        self._pair_encoding = BPE(vocab=vocabulary, merges=self._merges, end_of_word_suffix=_END_OF_WORD)
        self._pattern = regex.compile(
            "|".join(special) + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
        )
        self._remembered: dict[str, list[int]] = {}

    @property
    def start(self) -> int:
        """The token that every text starts with."""
        return self._start

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokens of texts, (n, context_length); a text that is too long keeps its beginning and the end token."""
        tokens = np.zeros((len(texts), self._context_length), dtype=np.int64)
        for row, text in zip(tokens, texts, strict=True):
            numbers = [self._start, *self._numbers(text)][: self._context_length - 1]
            row[: len(numbers) + 1] = [*numbers, self._end]
        return tokens

    def save(self, path: Path) -> None:
        """Writes all that makes this tokenizer, as JSON."""
        state = {
            "merges": [" ".join(pair) for pair in self._merges],
            "special": self._special,
            "contextLength": self._context_length,
            "clean": self._clean_name,
        }
        path.write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ClipTokenizer:
        """Reads what `save` wrote. Raises `OSError`, `ValueError` or `KeyError` for anything else.

        Models that are in memory at once share an equal one, because making it holds Python's GIL for 0.1 s.
        """
        text = path.read_bytes()
        digest = hashlib.sha256(text).digest()
        tokenizer = _IN_USE.get(digest)
        if tokenizer is None:
            state: Mapping[str, Any] = json.loads(text)
            merges = [(first, second) for first, _, second in (pair.partition(" ") for pair in state["merges"])]
            tokenizer = _IN_USE[digest] = cls(merges, state["special"], state["contextLength"], state["clean"])
        return tokenizer

    def _numbers(self, text: str) -> Iterator[int]:
        # No token is longer than this, so what lies beyond the context can't matter.
        kept = text.strip()[: self._context_length * _LONGEST_TOKEN]
        for word in self._pattern.findall(self._clean(kept)):
            yield from self._remembered.get(word) or self._learn(word)

    def _learn(self, word: str) -> list[int]:
        if word in self._special_numbers:
            return [self._special_numbers[word]]
        encoded = "".join(self._letters[byte] for byte in word.encode())
        numbers = [token.id for token in self._pair_encoding.tokenize(encoded)]
        if len(self._remembered) >= _REMEMBERED_WORDS:
            self._remembered = {}  # a new one, because other threads may be reading the old
        self._remembered[word] = numbers
        return numbers


_IN_USE: Final[weakref.WeakValueDictionary[bytes, ClipTokenizer]] = weakref.WeakValueDictionary()


class LockedTokenizer:
    """A tokenizer of another library, one thread at a time: many keep state that two threads would break."""

    def __init__(self, tokenize: Callable[[list[str]], Any], context_length: int) -> None:
        self._tokenize = tokenize
        self._longest = context_length * _LONGEST_TOKEN
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokens of texts, (n, context_length)."""
        with self._lock:
            return np.asarray(self._tokenize([text.strip()[: self._longest] for text in texts]), dtype=np.int64)


def _bytes_as_letters() -> dict[int, str]:
    """A printable letter for each byte, in the order of CLIP's vocabulary: printable bytes stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(256 + at) for at, byte in enumerate(others)}


def _plain(text: str) -> str:
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def _without_extra_spaces(text: str) -> str:
    return " ".join(_plain(text).split())


def _lower(text: str) -> str:
    return _without_extra_spaces(text).lower()


def _canonical(text: str) -> str:
    return " ".join(_plain(text).replace("_", " ").translate(_PUNCTUATION).lower().split())


_CLEANERS: Final[Mapping[str, Callable[[str], str]]] = {
    "lower": _lower,
    "whitespace": _without_extra_spaces,
    "canonicalize": _canonical,
}
