"""`sightline generations verify`: a generation that is there already, asked what a new one is asked."""

from __future__ import annotations

import asyncio

from engine.errors import IndexNotReady
from engine.generations import Generation, Generations, generations_of
from engine.settings import Settings
from indexing.ledger import FILE, Ledger
from indexing.verification import Verification, verify


async def verify_generation(settings: Settings, index: str, id_: str | None) -> tuple[str, Verification]:
    """The id and what was found of a generation, the newest complete one without an id.

    Raises `IndexNotReady` when there is none, or its model is not the one that the settings name, `IndexCorrupt` when
    files are damaged, and `IndexUnavailable` when a server has it open and only one process can.
    """
    from engine.encoders.choice import load_encoder  # noqa: PLC0415 - takes a second

    async with generations_of(settings, index) as store:
        generation = await _chosen(store, id_)
        await store.verify(generation)
        opened = await store.open_index(generation)
        try:
            encoder = await asyncio.to_thread(load_encoder, settings)
            built, loaded = generation.model, encoder.model
            if built.fingerprint != loaded.fingerprint:
                raise IndexNotReady(
                    f"Generation {generation.id} was built with {built.name}, and {loaded.name} is loaded, whose words "
                    f"are not of that space. Set CLIP_MODEL={built.name} as it was then, and verify it again."
                )
            expected = await asyncio.to_thread(_recorded, settings, generation)
            return generation.id, await verify(opened, expected, encoder.encode_texts, settings)
        finally:
            await opened.close()


async def _chosen(store: Generations, id_: str | None) -> Generation:
    generations = [await store.get(id_)] if id_ else await store.list()
    ready = [generation for generation in generations if generation.state == "ready"]
    if not ready:
        raise IndexNotReady(f"Index {store.index!r} has no complete generation to verify. Run `sightline index` first.")
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
