"""What is asked: terms and their weights, checked and normalized, their fingerprint, their cursors, their vector.

Everything here is pure. `engine.search` decides where a request runs and what it costs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import unicodedata
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import orjson

from engine.errors import BadUserInput, CursorStale, ImageNotFound, SightlineError
from engine.filters import canonical, validate
from engine.ports import Filter, Point, Vectors

TIERS: Final = (30, 100, 1_000, 10_000)
"""How deep the ranked lists are; nobody sees more than the last of them."""

GRAPH_DEPTH: Final = 100
"""The deepest list that is taken from the graph; deeper ones come from comparing all vectors."""

_MAX_QUERY: Final = 512
_MAX_FIRST: Final = 100
_CANCELLED_OUT: Final = 1e-6  # length of a sum of unit vectors that has no direction left


@dataclass(frozen=True, slots=True)
class Term:
    """A part of what is searched for: words, an image of the index, or a vector (d,). Negative weights move away."""

    text: str | None = None
    image_id: str | None = None
    vector: tuple[float, ...] | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search. `query` is a term of weight 1; hits score at least `score_threshold`, and 0 means any score."""

    index: str | None = None
    query: str | None = None
    terms: tuple[Term, ...] = ()
    filter: Filter | None = None
    score_threshold: float = 0.0
    first: int = 10
    after: str | None = None


def normalized_terms(request: SearchRequest) -> tuple[Term, ...]:
    """The query and the terms, texts normalized: Unicode NFC, runs of white space as one space, case kept."""
    terms: list[Term] = []
    if request.query is not None:
        terms.append(Term(text=_text(request.query, "query")))
    for position, term in enumerate(request.terms):
        name = f"terms[{position}]"
        if sum(source is not None for source in (term.text, term.image_id, term.vector)) != 1:
            raise BadUserInput(f"{name}: give it exactly one of text, image or vector.")
        if not math.isfinite(term.weight):
            raise BadUserInput(f"{name}.weight: it must be a finite number, not {term.weight}.")
        if term.vector is not None and not (all(map(math.isfinite, term.vector)) and any(term.vector)):
            raise BadUserInput(f"{name}.vector: its numbers must be finite, and not all 0.")
        terms.append(term if term.text is None else replace(term, text=_text(term.text, f"{name}.text")))
    if not terms:
        raise BadUserInput("query: give a query, or at least one of terms.")
    if not any(term.weight for term in terms):
        raise BadUserInput("terms: their weights are all 0. Give at least one another weight.")
    return tuple(terms)


def _text(text: str, name: str) -> str:
    if not 1 <= len(text.strip()) <= _MAX_QUERY:
        raise BadUserInput(f"{name}: it must have 1 to {_MAX_QUERY} characters, not {len(text.strip())}.")
    return " ".join(unicodedata.normalize("NFC", text).split())


def check(request: SearchRequest) -> None:
    """Raises `BadUserInput` that names the argument, for what is not in the terms."""
    if not 1 <= request.first <= _MAX_FIRST:
        raise BadUserInput(f"first: it must be between 1 and {_MAX_FIRST}, not {request.first}.")
    if not 0 <= request.score_threshold <= 1:
        raise BadUserInput(f"scoreThreshold: it must be between 0 and 1, not {request.score_threshold}.")
    if request.filter is not None:
        validate(request.filter)


def fingerprint_of(index: str, terms: tuple[Term, ...], request: SearchRequest) -> str:
    """A digest of everything that changes a request's ranked list, paging left out."""
    asked = [[term.text, term.image_id, term.vector, float(term.weight)] for term in terms]
    return digest([index, asked, canonical(request.filter), request.score_threshold])


def digest(parts: list[Any]) -> str:
    """The SHA-256 of plain data, hex."""
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


# ---------------------------------------------------------------- cursors


def cursor_at(generation: str, fingerprint: str, offset: int) -> str:
    """The cursor behind the hit of rank `offset`, bound to the generation and the request."""
    return base64.urlsafe_b64encode(orjson.dumps([generation, fingerprint[:16], offset])).decode().rstrip("=")


def offset_after(cursor: str, generation: str, fingerprint: str) -> int:
    """Where the page after a cursor begins. Raises `CursorStale` when it was given for something else."""
    try:
        issued_by, issued_for, offset = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadUserInput("after: this is no cursor. Pass the endCursor of an earlier page as it is.") from error
    if issued_for != fingerprint[:16]:
        raise CursorStale("after: this cursor belongs to another search. Leave it out to begin with the first page.")
    if issued_by != generation:
        raise CursorStale("after: the index has changed since that page. Leave it out to begin with the first page.")
    if not isinstance(offset, int) or not 0 <= offset <= TIERS[-1]:
        raise BadUserInput("after: this is no cursor. Pass the endCursor of an earlier page as it is.")
    return offset


# ---------------------------------------------------------------- vectors


def combined_vector(
    terms: tuple[Term, ...], texts: dict[str, Vectors | SightlineError], images: dict[str, Point]
) -> Vectors:
    """The weighted sum of the terms' unit vectors, at unit length, (d,)."""
    total: Any = 0.0
    for term in terms:
        vector: Any
        if term.text is not None:
            vector = texts[term.text]
            if isinstance(vector, SightlineError):
                raise vector
        elif term.image_id is not None:
            if term.image_id not in images:
                raise ImageNotFound(f"terms: there is no image {term.image_id!r} in this index.")
            vector = images[term.image_id].vector
        else:
            vector = np.asarray(term.vector, dtype=np.float64)
        total = total + term.weight * (vector / np.linalg.norm(vector))
    length = float(np.linalg.norm(total))
    if not length > _CANCELLED_OUT * sum(abs(term.weight) for term in terms):
        raise BadUserInput("terms: they cancel each other out, nothing is left to look for. Change a weight.")
    combined: Vectors = (total / length).astype(np.float32)
    return combined
