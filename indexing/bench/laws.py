"""How an index grows: laws fitted to measurements, and numbers that remember what they rest on.

A law is a sum of a few terms of the number of vectors N and their dimension d, each with a coefficient that is not
negative: what an index costs only grows. So plans made from laws never say that more needs less, and a measurement
that is noisy flattens a law instead of bending it down. `laws.json` beside this file holds the laws that were measured
last, on what machine and by which command, and what has only been assumed, with its source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import BadUserInput, SightlineError

LAWS: Final = Path(__file__).with_name("laws.json")
"""The laws shipped with the project."""

TERMS: Final[Mapping[str, Callable[[float, float], float]]] = {
    "1": lambda _n, _d: 1,
    "ln N": lambda n, _d: math.log(n),
    "d ln N": lambda n, d: d * math.log(n),
    "sqrt N": lambda n, _d: math.sqrt(n),
    "N": lambda n, _d: n,
    "N d": lambda n, d: n * d,
    "N ln N": lambda n, _d: n * math.log(n),
    "N d ln N": lambda n, d: n * d * math.log(n),
}
"""What laws are made of, by their names."""

Measured = tuple[float, float, float]
"""The number of vectors, their dimension, and what was measured."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, and everything that makes it less certain than a measurement: `marks`, empty for a measured one."""

    value: float
    marks: frozenset[str] = frozenset()

    def __add__(self, other: Estimate | float) -> Estimate:
        right = _estimate(other)
        return Estimate(self.value + right.value, self.marks | right.marks)

    def __mul__(self, other: Estimate | float) -> Estimate:
        right = _estimate(other)
        return Estimate(self.value * right.value, self.marks | right.marks)

    def __truediv__(self, other: Estimate | float) -> Estimate:
        right = _estimate(other)
        return Estimate(self.value / right.value, self.marks | right.marks)

    def at_least(self, other: Estimate | float) -> Estimate:
        """The larger of both, which rests on both."""
        right = _estimate(other)
        return Estimate(max(self.value, right.value), self.marks | right.marks)

    def rounded_up(self) -> Estimate:
        """The next whole number."""
        return Estimate(math.ceil(self.value), self.marks)


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Law(_Stored):
    """A quantity as a function of N and d. `error` is the largest relative distance from a point it was fitted to.

    `ahead` says how far off the largest count was when it was predicted from the smaller ones, with a sign: what to
    expect one step beyond the range that was measured. None where there were too few counts.
    """

    unit: str
    terms: dict[str, float]
    counts: tuple[float, float]
    dimensions: tuple[float, float]
    error: float
    ahead: float | None
    points: tuple[Measured, ...]

    def at(self, count: float, dimension: float) -> Estimate:
        """The quantity, marked when it lies outside of what was measured."""
        value = sum(factor * TERMS[term](count, dimension) for term, factor in self.terms.items())
        marks = set()
        for name, asked, (low, high) in (("vectors", count, self.counts), ("dimensions", dimension, self.dimensions)):
            if not low <= asked <= high:
                where = f"up to {shown(high)}" if asked > high else f"from {shown(low)}"
                marks.add(f"extrapolated: measured {where} {name}")
        return Estimate(value, frozenset(marks))

    def formula(self) -> str:
        """The law as people write it."""
        parts = [f"{factor:.3g}" + ("" if term == "1" else f" {term}") for term, factor in self.terms.items() if factor]
        return f"{' + '.join(parts) or '0'} {self.unit}"


class ModelCost(_Stored):
    """What one replica does with a model. Times are for queries of 8 tokens; `images_per_s` decodes, encodes, writes.

    `text_ms` is one query alone, `batch_ms` its share in a batch of 16. `assumed` says where figures come from that
    were not measured, and is empty if all were.
    """

    dimension: int
    pretrained: str
    cores: int
    text_ms: float
    batch_ms: float
    images_per_s: float
    memory_gb: float
    assumed: str


class Assumption(_Stored):
    """A number that plans need and no benchmark here gives."""

    value: float
    unit: str
    source: str

    def estimate(self) -> Estimate:
        """The value, marked with its source."""
        return Estimate(self.value, frozenset({f"assumed: {self.source}"}))


class LawBook(_Stored):
    """Everything that plans are made from. `models` are on a CPU, `gpu_models` on a GPU."""

    measured: dict[str, Any]
    laws: dict[str, Law]
    models: dict[str, ModelCost]
    gpu_models: dict[str, ModelCost]
    assumptions: dict[str, Assumption]

    @classmethod
    def read(cls, path: Path = LAWS) -> LawBook:
        """The laws in a file. Raises `SightlineError` when it can't be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise SightlineError(
                f"The laws in {path} can't be used: {error}. Restore the file with `git checkout`, or measure again "
                "with `sightline bench growth --save`."
            ) from error

    def write(self, path: Path = LAWS) -> None:
        """Replaces a file of laws."""
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)


def fit(points: Sequence[Measured], terms: Sequence[str], unit: str, *, relative: bool = True) -> Law:
    """The sum of terms with coefficients of 0 and more that is nearest to the points by least squares.

    With `relative` distances count in proportion to the values, so that small counts matter as much as large ones. Of
    terms that differ by the dimension alone, the one that grows with it is taken where only one dimension was measured.
    """
    counts, dimensions = [n for n, _, _ in points], [d for _, d, _ in points]
    if len(set(dimensions)) == 1:
        terms = [term for term in terms if " d" in term or not _with_dimension(term) & set(terms)]
    coefficients = _least_squares(points, terms, relative=relative)
    law = Law(
        unit=unit,
        terms=dict(zip(terms, coefficients, strict=True)),
        counts=(min(counts), max(counts)),
        dimensions=(min(dimensions), max(dimensions)),
        error=0.0,
        ahead=_ahead(points, terms, relative=relative),
        points=tuple(points),
    )
    errors = [abs(law.at(n, d).value - value) / abs(value) for n, d, value in points if value]
    return law.model_copy(update={"error": max(errors, default=0.0)})


def shown(number: float) -> str:
    """A number as people say it: 1.5M, 200k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"


def parse_number(text: str, name: str) -> float:
    """A number as people write it: 100M, 1.5k, 250_000. Raises `BadUserInput` that names the argument."""
    match = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kKmMgGbB]?)", text.strip())
    if not match:
        raise BadUserInput(f"{name}: {text!r} is no number. Write it like 250000, 1.5k, 100M or 2G.")
    return float(match[1].replace("_", "")) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}[match[2].lower()]


def _estimate(value: Estimate | float) -> Estimate:
    return value if isinstance(value, Estimate) else Estimate(value)


def _with_dimension(term: str) -> set[str]:
    """The terms that are this one times the dimension."""
    return {"ln N": {"d ln N"}, "N": {"N d"}, "N ln N": {"N d ln N"}}.get(term, set())


def _ahead(points: Sequence[Measured], terms: Sequence[str], *, relative: bool) -> float | None:
    largest = max(n for n, _, _ in points)
    smaller = [point for point in points if point[0] < largest]
    if len({n for n, _, _ in smaller}) < 2:  # noqa: PLR2004 - one count shows no growth
        return None
    coefficients = _least_squares(smaller, terms, relative=relative)
    misses = [(_sum(coefficients, terms, n, d) - value) / value for n, d, value in points if n == largest and value]
    return max(misses, key=abs, default=None)


def _sum(coefficients: Sequence[float], terms: Sequence[str], n: float, d: float) -> float:
    return sum(factor * TERMS[term](n, d) for factor, term in zip(coefficients, terms, strict=True))


def _least_squares(points: Sequence[Measured], terms: Sequence[str], *, relative: bool) -> list[float]:
    """Non-negative least squares, by trying every choice of terms: there are at most 15 of four."""
    columns = np.array([[TERMS[term](n, d) for term in terms] for n, d, _ in points], dtype=np.float64)
    values = np.array([value for _, _, value in points], dtype=np.float64)
    if relative:
        weights = 1 / np.maximum(np.abs(values), np.abs(values).max() * 1e-9 or 1.0)
        columns, values = columns * weights[:, None], values * weights
    best, least = np.zeros(len(terms)), float(values @ values)
    for size in range(1, len(terms) + 1):
        for chosen in combinations(range(len(terms)), size):
            solution = _solve(columns[:, chosen], values)
            if solution is None or (solution < 0).any():
                continue
            distance = float(((columns[:, chosen] @ solution - values) ** 2).sum())
            if distance < least * (1 - 1e-9):
                best, least = np.zeros(len(terms)), distance
                best[list(chosen)] = solution
    return [float(factor) for factor in best]


def _solve(columns: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    scale = np.linalg.norm(columns, axis=0)
    solution, _, rank, _ = np.linalg.lstsq(columns / scale, values, rcond=None)
    result: NDArray[np.float64] = solution / scale
    return result if rank == columns.shape[1] else None
