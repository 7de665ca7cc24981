"""From a filled generation to the serving one: checked, optimized, verified, described in a manifest, promoted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final, NoReturn

from engine.errors import IndexCorrupt, NotPromoted, SourceError
from engine.generations import Generation
from engine.generations.record import WAITS
from engine.indexes.pages import pages_of_ids
from engine.ports import Point, VectorIndex
from indexing import disk
from indexing.decode import Reason
from indexing.manifest import write_manifest
from indexing.report import Report
from indexing.sharding import owner
from indexing.verification import Verification, verify
from indexing.workshop import Workshop

MANIFEST: Final = "manifest.json"


class Completion:
    """The end of a build, for one generation. Nobody else may be building the index."""

    def __init__(self, workshop: Workshop, report: Report, generation: Generation, *, promote: bool = True) -> None:
        """Without `promote` the generation is left ready, for a person to promote."""
        self._workshop = workshop
        self._report = report
        self._generation = generation
        self._promote = promote

    async def missing(self, vectors: VectorIndex) -> Counter[int]:
        """How many pictures the ledger names and whose vectors are not there, by shard: they have to be done again.

        Their rows go, and their shards are not done any more. Vectors that the ledger does not name go too. Both sides
        are compared page by page, so that the largest index needs no more memory than a small one.
        """
        ledger, id_ = self._workshop.ledger, self._generation.id
        self._workshop.progress.stage("checking")
        await self._workshop.store.gather(self._generation, vectors, self._as_named)
        shards, _ = await asyncio.to_thread(ledger.shards, id_)
        lost: Counter[int] = Counter()
        there = 0
        pages = ledger.indexed(id_)
        while named := await asyncio.to_thread(next, pages, None):
            found = {point.id for point in await vectors.retrieve(list(named), payload=False)}
            missing = [key for image, key in named.items() if image not in found]
            if missing:
                by_shard = Counter(owner(key, max(shards, 1)) for key in missing)
                await asyncio.to_thread(ledger.reopen, id_, by_shard.keys())  # first: without it nobody would do them
                await asyncio.to_thread(ledger.remove, id_, missing)
                lost += by_shard
            there += len(found)
        if await vectors.count() > there:
            await self._drop_unnamed(vectors)
        return lost

    async def complete(self, vectors: VectorIndex) -> None:
        """Makes the generation ready and, if it is fit to serve, promotes it. Closes `vectors`.

        Raises `NotPromoted` if it is not fit, `SourceError` if it holds no picture, and then discards it.
        """
        store, ledger, progress = self._workshop.store, self._workshop.ledger, self._workshop.progress
        generation, settings = self._generation, self._workshop.settings
        total = ledger.counts(generation.id)["indexed"]
        if not total:
            await vectors.close()
            await store.discard(generation)
            skipped = ledger.skipped(generation.id)
            await self._workshop.forget()
            refuse_empty(self._report.source, skipped)
        disk.require(store.folder, (await vectors.info()).disk_bytes)
        progress.stage("optimizing")
        await vectors.optimize()
        progress.stage("verifying")
        encoder = self._workshop.loaded() if settings.index_canaries else self._workshop.encoder
        verified = await verify(vectors, total, encoder.encode_texts if encoder else None, settings)
        if verified.points != total:
            raise IndexCorrupt(
                f"The new generation has {verified.points} vectors for {total} pictures. Run the same command again; "
                "the serving generation is untouched."
            )
        self._report.recall = verified.recall
        await vectors.close()
        self.write_manifest()
        progress.stage("finishing")
        held = "; ".join(verified.failures) or (None if self._promote else WAITS)
        await asyncio.to_thread(self._workshop.require_lock)
        await store.finish(generation, total, held)
        if held:
            await self._hold(verified)
        else:
            await self.promote()

    async def promote(self) -> None:
        """Has a ready generation serve, and tidies up behind it."""
        store, settings = self._workshop.store, self._workshop.settings
        self._workshop.progress.stage("promoting")
        await store.promote(self._generation.id)
        self._workshop.progress.stage("promoted")
        self._workshop.ledger.mark_promoted(self._generation.id)
        await self._tidy(settings.index_keep_generations)
        self._report.changed = True

    def write_manifest(self) -> None:
        """Says of every file what became of it."""
        self._workshop.progress.stage("listing")
        ledger, generation = self._workshop.ledger, self._generation
        write_manifest(
            generation.path / MANIFEST,
            source=self._report.source,
            model=generation.model,
            counts=ledger.counts(generation.id),
            problems=ledger.problems(generation.id),
            rows=ledger.rows(generation.id),
        )

    def conclude(self) -> None:
        """Puts into the report what the generation holds now."""
        report, ledger, id_ = self._report, self._workshop.ledger, self._generation.id
        report.generation = id_
        report.manifest = self._generation.path / MANIFEST
        report.total = ledger.counts(id_)["indexed"]
        report.skipped = ledger.skipped(id_)
        report.problems = ledger.problems(id_)

    async def _hold(self, verified: Verification) -> None:
        """Leaves a generation to a person. Raises `NotPromoted` if it is because of what its verification found."""
        await self._tidy(self._workshop.settings.index_keep_generations + 1)  # what may be rolled back to stays too
        self._report.held = True
        if verified.failures:
            raise NotPromoted(
                f"The new generation {self._generation.id} is complete but was not promoted: "
                f"{'; '.join(verified.failures)}. What served before goes on. Look again with `sightline generations "
                f"verify`, or promote it all the same with `sightline generations promote {self._generation.id}`."
            )

    async def _tidy(self, keep: int) -> None:
        """Deletes generations beyond those to keep, and older ones that nobody has completed."""
        store = self._workshop.store
        await store.prune(keep, self._generation.id)
        for other in await store.list():
            if other.state == "building" and other.id < self._generation.id:
                await store.discard(other)
        await self._workshop.forget()

    async def _drop_unnamed(self, vectors: VectorIndex) -> None:
        """Deletes vectors that the ledger does not name: of files that went before their row was written."""
        async for ids in pages_of_ids(vectors):
            named = await self._contents(await vectors.retrieve(ids))
            await vectors.delete([id_ for id_ in ids if id_ not in named])

    async def _as_named(self, points: Sequence[Point]) -> list[Point]:
        """Those that the ledger names with the content that they were made of."""
        named = await self._contents(points)
        return [point for point in points if point.id in named and named[point.id] == point.payload["contentHash"]]

    async def _contents(self, points: Sequence[Point]) -> dict[str, str | None]:
        """The contents that the ledger has of the pictures that points were made of, by id."""
        keys = [key for point in points if isinstance(key := point.payload.get("objectKey"), str)]
        return await asyncio.to_thread(self._workshop.ledger.contents, self._generation.id, keys)


def refuse_empty(source: str, skipped: dict[str, list[str]]) -> NoReturn:
    """An index without pictures is no use, and more often a mistake than a wish."""
    reasons = "; ".join(f"{keys[0]}: {Reason(reason).sentence}" for reason, keys in list(skipped.items())[:3])
    raise SourceError(
        f"None of the {sum(map(len, skipped.values()))} files in {source} is a picture that can be read "
        f"({reasons}). Name another source, or repair these files. The index is as it was."
    )
