"""What belongs to no generation any more, put away: rows, thumbnails, and what killed processes left half written.

`forget` is part of every build and looks only at generations that are gone. `prune`, which is `sightline generations
prune`, also looks at every thumbnail: one that was written for a file that changed before its row was recorded, or
again before its generation was complete, belongs to none.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from engine.generations import Generation, Generations, generations_of
from engine.patience import PATIENCE_S
from engine.settings import Settings
from indexing.entries import remove_drafts, remove_thumbnails, stored_contents
from indexing.ledger import FILE, Ledger


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted: generations, and so many contents' thumbnails that none of the others has."""

    generations: list[Generation]
    thumbnails: int


async def prune(settings: Settings, index: str, keep: int) -> Pruned:
    """Deletes all complete generations but `keep`, and all that belongs to none.

    Thumbnails are left alone where the ledger does not know all generations, as after going over to another database.
    Raises `IndexBusy` while somebody builds, `IndexUnavailable` and `LedgerUnavailable` when a server stays away.
    """
    async with generations_of(settings, index, patience_s=PATIENCE_S) as store:
        with store.lock():
            if not settings.index_database_url.get_secret_value() and not (store.folder / FILE).exists():
                return Pruned(await store.prune(keep), 0)
            ledger = await asyncio.to_thread(Ledger.open, settings, index)
            try:
                with ledger.lock():
                    gone = await store.prune(keep)
                    await forget(store, ledger)
                    return Pruned(gone, await _sweep(store, ledger))
            finally:
                await asyncio.to_thread(ledger.close)


async def forget(store: Generations, ledger: Ledger) -> None:
    """Drops the rows of generations that are no more, the thumbnails that only they had, and half-written ones."""
    there = {generation.id for generation in await store.list()}
    gone = [build.generation for build in ledger.builds() if build.generation not in there]
    if gone:
        for contents in ledger.only_in(gone):
            remove_thumbnails(store.folder, contents)
        ledger.forget(gone)
    remove_drafts(store.folder)


async def _sweep(store: Generations, ledger: Ledger) -> int:
    there = {generation.id for generation in await store.list()}
    known = {build.generation for build in await asyncio.to_thread(ledger.builds)}
    return await asyncio.to_thread(_remove_strangers, store, ledger) if there <= known else 0


def _remove_strangers(store: Generations, ledger: Ledger) -> int:
    removed = 0
    for contents in stored_contents(store.folder):
        strangers = contents - ledger.named(contents)
        remove_thumbnails(store.folder, strangers)
        removed += len(strangers)
    return removed
