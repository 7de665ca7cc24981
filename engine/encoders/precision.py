"""In which precision a tower is computed, and on how many threads: measured on the processor at hand.

Bytes are fastest where a processor multiplies them (VNNI, AMX), half precision where it has that, and each can be
slower than plain floats elsewhere. Exactness is a condition. Two processors of a virtual machine can be two cores or
the two threads of one, and it does not say which. Nobody knows that of all machines, and a second tells.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import openvino as ov
import structlog
from numpy.typing import NDArray

from engine.encoders.exported import ExportedModel
from engine.encoders.passes import Pass, Precision, Tower, compiled, core
from engine.encoders.texts import Tokenizer

Way = TypeVar("Way")

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "bf16", "int8")
"""From the most exact to the smallest."""

LEAST_COSINE: Final = 0.999
"""What every vector of a faster precision must keep with that of fp32: ten times less than what moves a ranking."""

_WORTHWHILE: Final = 0.9  # of the time of a more exact precision, for a less exact one to be taken
_SECONDS: Final = 0.2  # spent on timing one way to compute one tower, if one pass is shorter
_TWICE: Final = 1.25  # times as fast that twice the threads must be
_SHORT_MS: Final = 8.0  # for a text: about twice what one search takes beside the encoder, in the index and the server
_PAUSE_S: Final = 0.002  # before each pass: threads of the last one still look for work, at the cost of the next

_SENTENCES: Final = (
    "a photo of a red car at night",
    "two dogs play on the beach",
    "an old wooden boat on a calm lake in the mountains",
    "sunset",
    "a child in a yellow raincoat jumps into a puddle",
    "blueprint of a house with three rooms",
    "a close-up of a bee on a purple flower",
    "the skyline of a city, seen from across the river",
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """One precision of one tower: ms for one input alone and for each of a batch, least cosine with fp32."""

    precision: Precision
    single_ms: float
    batch_ms: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Choice:
    """How each tower is computed best here, and on how many threads a few texts are."""

    precision: Mapping[Tower, Precision]
    text_threads: int


def choose(measured: Sequence[Measured]) -> Precision:
    """The fastest precision that is exact enough; of those about as fast, the most exact. fp32 comes first in order."""
    best = measured[0]
    for one in measured[1:]:
        if one.cosine >= LEAST_COSINE and _cost(one) < _WORTHWHILE * _cost(best):
            best = one
    return best.precision


def measure(exported: ExportedModel, tower: Tower, tokenizer: Tokenizer, threads: int) -> list[Measured]:
    """Every precision that the processor has instructions for, most exact first."""
    singles, batch = _texts(exported, tokenizer) if tower == "text" else _pictures(exported)
    runs = {precision: compiled(exported, tower, precision, threads) for precision in _worth_trying()}
    vectors = {precision: np.concatenate([run(*single) for single in singles]) for precision, run in runs.items()}
    single_ms, batch_ms = _milliseconds(runs, singles[0]), _milliseconds(runs, batch)
    exact = vectors["fp32"]
    return [
        Measured(
            precision,
            single_ms[precision],
            batch_ms[precision] / len(singles),
            float((vectors[precision] * exact).sum(axis=1).min()),
        )
        for precision in runs
    ]


def worthwhile_threads(single_ms: Mapping[int, float]) -> int:
    """The number of threads that a few texts are worth, of two for which the time of one is given.

    Twice as many leave nothing to the index and the server's loop, which run beside them, unless they wait for each
    other; so half, where all are hardly faster or a text is short. Measured on two threads of one core, all and half:
    ViT-B-32 at 178 searches a second, p95 57 and 46 ms, and alone 10.4 and 9.8; ViT-H-14 at 55, 169 and 168 ms, but
    the median 72 and 95, and alone 29 and 38.
    """
    few, many = sorted(single_ms)
    return many if single_ms[few] >= max(_TWICE * single_ms[many], _SHORT_MS) else few


def chosen(exported: ExportedModel, tokenizer: Tokenizer, threads: int) -> Choice:
    """What is best for each tower: as measured here before, or measured now and remembered beside the model."""
    memory = exported.folder / "choice.json"
    here = f"{core().get_property('CPU', 'FULL_DEVICE_NAME')}, {threads} threads, OpenVINO {ov.get_version()}"
    known = _remembered(memory)
    if "text_threads" not in known.get(here, {}):
        towers: tuple[Tower, ...] = ("text", "image")
        figures = {tower: measure(exported, tower, tokenizer, threads) for tower in towers}
        known[here] = {
            tower: {"precision": choose(measured), "measured": [asdict(one) for one in measured]}
            for tower, measured in figures.items()
        }
        known[here]["text_threads"] = _text_threads(exported, choose(figures["text"]), tokenizer, threads)
        log.info(
            "measured the encoder",
            model=exported.info.name,
            choice={t: known[here][t]["precision"] for t in towers},
            text_threads=known[here]["text_threads"],
        )
        _remember(memory, known)
    best = known[here]
    return Choice({"text": best["text"]["precision"], "image": best["image"]["precision"]}, best["text_threads"])


def _text_threads(exported: ExportedModel, precision: Precision, tokenizer: Tokenizer, threads: int) -> int:
    """All threads that may be used, or half of them if the others hardly help."""
    if threads == 1:
        return 1
    runs = {number: compiled(exported, "text", precision, number) for number in (threads // 2, threads)}
    (single, *_), _ = _texts(exported, tokenizer)
    return worthwhile_threads(_milliseconds(runs, single))


def _worth_trying() -> list[Precision]:
    native = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [precision for precision in PRECISIONS if precision != "bf16" or "BF16" in native]


def _cost(measured: Measured) -> float:
    return float((measured.single_ms * measured.batch_ms) ** 0.5)


def _milliseconds(runs: Mapping[Way, Pass], inputs: Sequence[NDArray[Any]]) -> dict[Way, float]:
    """The fastest of as many passes as fit the time, one at least, in turns: so neighbours slow down all or none."""
    for run in runs.values():
        run(*inputs)
    took: dict[Way, list[float]] = {way: [] for way in runs}
    until = time.perf_counter() + _SECONDS * len(runs)
    while not all(took.values()) or time.perf_counter() < until:
        for way, run in runs.items():
            time.sleep(_PAUSE_S)
            started = time.perf_counter()
            run(*inputs)
            took[way].append((time.perf_counter() - started) * 1000)
    return {way: min(times) for way, times in took.items()}


Inputs = tuple[NDArray[Any], ...]


def _texts(exported: ExportedModel, tokenizer: Tokenizer) -> tuple[list[Inputs], Inputs]:
    """Sentences, what a pass is given of each alone and of all."""
    together, *singles = (
        next(exported.text.passes(tokenizer(texts), len(texts)))[1]
        for texts in (_SENTENCES, *((one,) for one in _SENTENCES))
    )
    return singles, together


def _pictures(exported: ExportedModel) -> tuple[list[Inputs], Inputs]:
    """Two pictures of soft coloured shapes; noise would say little about how pictures are seen."""
    height, width = exported.preprocessing.size
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(9 * x + 4 * y + phase) * np.cos(7 * y - 3 * x * phase) for phase in range(6)]
    pixels = np.stack(waves, axis=-1).reshape(height, width, 2, 3).transpose(2, 0, 1, 3)
    pictures = np.ascontiguousarray((127.5 + 127 * pixels).astype(np.uint8))
    return [(pictures[:1],), (pictures[1:],)], (pictures,)


def _remembered(memory: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known


def _remember(memory: Path, known: dict[str, Any]) -> None:
    try:
        temporary = memory.with_suffix(".writing")
        temporary.write_text(json.dumps(known, indent=2), encoding="utf-8")
        temporary.replace(memory)
    except OSError:  # in an image of a read-only file system it is measured at every start
        log.info("the measured choice can't be kept", folder=str(memory.parent))
