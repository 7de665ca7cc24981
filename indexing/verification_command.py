"""`sightline generations verify` and `tune`: a generation that is there already, asked what a new one is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from engine.errors import IndexNotReady, NotPromoted
from engine.generations import Generation, Generations, generations_of
from engine.patience import PATIENCE_S
from engine.ports import Encoder, Hit, VectorIndex, Vectors
from engine.settings import Settings
from indexing.ledger import FILE, Ledger
from indexing.verification import Verification, answers, questions, recall, verify

_EFS: Final = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True, slots=True)
class Tuning:
    """The cheapest SEARCH_EF with the wanted recall@10 in a generation, the recall that it has, and all measured."""

    generation: str
    ef: int
    recall: float
    measured: dict[int, float]


async def verify_generation(settings: Settings, index: str, id_: str | None) -> tuple[str, Verification]:
    """The id and what was found of a generation, the newest complete one without an id.

    Raises `IndexNotReady` when there is none, or its model is not the one that the settings name, `IndexCorrupt` when
    files are damaged, and `IndexUnavailable` when a server has it open and only one process can.
    """
    async with _ready(settings, index, id_) as (generation, encoder), _opened(settings, generation) as opened:
        expected = await asyncio.to_thread(_recorded, settings, generation)
        return generation.id, await verify(opened, expected, encoder.encode_texts, settings)


async def tune_generation(settings: Settings, index: str, id_: str | None, min_recall: float) -> Tuning:
    """Measures how small SEARCH_EF may be. Recall grows with it, so few of the values have to be tried.

    Raises `NotPromoted` when no value holds `min_recall`, and what `verify_generation` does.
    """
    true: list[list[Hit]] = []
    vectors: Vectors | None = None
    measured: dict[int, float] = {}
    low, high = 0, len(_EFS)
    async with _ready(settings, index, id_) as (generation, encoder):
        while low < high:
            middle = (low + high) // 2
            ef = _EFS[middle]
            async with _opened(settings.model_copy(update={"search_ef": ef}), generation) as opened:
                if vectors is None:
                    vectors = await questions(opened, encoder.encode_texts)
                    true = await answers(opened, vectors, exact=True)
                measured[ef] = recall(true, await answers(opened, vectors, exact=False))
            low, high = (low, middle) if measured[ef] >= min_recall else (middle + 1, high)
    if low == len(_EFS):
        best = max(measured)
        raise NotPromoted(
            f"Generation {generation.id} has recall@10 {measured[best]:.3f} with SEARCH_EF={best}, less than "
            f"{min_recall:g}. Build it anew with a higher SEARCH_EF_CONSTRUCT or SEARCH_HNSW_M, or ask for less."
        )
    return Tuning(generation.id, _EFS[low], measured[_EFS[low]], dict(sorted(measured.items())))


@asynccontextmanager
async def _ready(settings: Settings, index: str, id_: str | None) -> AsyncIterator[tuple[Generation, Encoder]]:
    """A complete generation with the model that it can be asked in."""
    from engine.encoders.choice import load_encoder  # noqa: PLC0415 - takes a second

    async with generations_of(settings, index, patience_s=PATIENCE_S) as store:
        generation = await _chosen(store, id_)
        await store.verify(generation)
        encoder = await asyncio.to_thread(load_encoder, settings)
        built, loaded = generation.model, encoder.model
        if built.fingerprint != loaded.fingerprint:
            raise IndexNotReady(
                f"Generation {generation.id} was built with {built.name}, and {loaded.name} is loaded, whose words "
                f"are not of that space. Set CLIP_MODEL={built.name} as it was then, and try again."
            )
        yield generation, encoder


@asynccontextmanager
async def _opened(settings: Settings, generation: Generation) -> AsyncIterator[VectorIndex]:
    """Its index, searched as these settings say."""
    async with generations_of(settings, generation.index, patience_s=PATIENCE_S) as store:
        opened = await store.open_index(generation)
        try:
            yield opened
        finally:
            await opened.close()


async def _chosen(store: Generations, id_: str | None) -> Generation:
    generations = [await store.get(id_)] if id_ else await store.list()
    ready = [generation for generation in generations if generation.state == "ready"]
    if not ready:
        raise IndexNotReady(f"Index {store.index!r} has no complete generation to ask. Run `sightline index` first.")
    return ready[-1]


def _recorded(settings: Settings, generation: Generation) -> int:
    """How many pictures the ledger has of a generation; what its own record says where the ledger knows nothing."""
    file = settings.index_path / generation.index / FILE
    if not settings.index_database_url.get_secret_value() and not file.exists():
        return generation.points
    ledger = Ledger.open(settings, generation.index)
    try:
        known = ledger.build(generation.id)
        return ledger.counts(generation.id)["indexed"] if known else generation.points
    finally:
        ledger.close()
