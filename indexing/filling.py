"""From a source's pictures to a generation's vectors: what is new or changed is written, what is gone is deleted.

Files are decoded, encoded and written batch by batch. A batch is written in the order that makes it safe to be killed:
thumbnails, then vectors, then the ledger. What was not yet in the ledger is done again, under the same ids.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

from engine.errors import SightlineError
from engine.generations import Generation
from engine.ports import Point, VectorIndex
from indexing import disk
from indexing.decode import Failure, Outcome
from indexing.encoding import chunk_size
from indexing.entries import Entry, write_thumbnails
from indexing.flow import flow
from indexing.ledger import Row
from indexing.plan import Plan, Work, make_plan
from indexing.report import Report
from indexing.sources import Item, Listed, Source
from indexing.sources.remote import RemoteSource
from indexing.workers import DECODER, DecoderPool
from indexing.workshop import Workshop
from observability.metrics import indexing_images


class Filling(ABC):
    """Brings a generation from what it holds to what a source holds, or a shard of it.

    `reference` is the generation that the ledger's rows in use describe, None before there is any.
    """

    def __init__(self, source: Source, workshop: Workshop, report: Report, decoder: str = DECODER) -> None:
        """`decoder` names the function that decoding workers call."""
        self.source = source
        self.workshop = workshop
        self.report = report
        self.reference: Generation | None = None
        self.vectors: VectorIndex | None = None
        self.held: list[Row] = []
        self._decoder = decoder

    @abstractmethod
    async def go(self) -> None:
        """All that is to be done."""

    @abstractmethod
    async def begin(self) -> VectorIndex:
        """Where vectors are written, opened with the first of them. Rows that were held are recorded."""

    async def run(self) -> None:
        """All of it, and in the end, whichever that is, lets go of the vectors."""
        try:
            await self.go()
        finally:
            if self.vectors:
                with suppress(SightlineError):  # what goes on is told by the error on its way
                    await self.vectors.close()

    async def require(self) -> None:
        """Raises `IndexBusy` if somebody else builds what this writes to, because the lock was lost."""
        await asyncio.to_thread(self.workshop.require_lock)

    def compare(self) -> Plan:
        """What to do: the source beside the ledger's rows of the reference."""
        ledger, shard = self.workshop.ledger, self.report.shard
        rows: Iterator[Row] = ledger.rows(self.reference.id) if self.reference else iter(())
        plan = make_plan(self._listed(), (row for row in rows if shard.owns(row.key)))
        plan.problems = [problem for problem in plan.problems if shard.owns(problem.key)]
        return plan

    async def fill(self, plan: Plan) -> None:
        """Does what is to be done. The model is loaded if something has to be encoded."""
        if self.reference:
            for touched in plan.touched.parts():
                self.workshop.ledger.touch(self.reference.id, touched)
        if plan.work:
            await self._decode(plan)
        for gone in plan.gone.parts():
            await self._delete(gone)

    def tell(self, plan: Plan) -> None:
        """Puts into the report what was left as it was, and what could not be listed or fetched."""
        self.report.unchanged = plan.unchanged + len(plan.touched)
        self.report.problems = plan.problems
        indexing_images.labels("unchanged").inc(self.report.unchanged)

    def _listed(self) -> Iterable[Listed]:
        """The shard's files, and everything that could not be listed: below a closed folder nothing is gone."""
        shard = self.report.shard
        return (found for found in self.source.scan() if not isinstance(found, Item) or shard.owns(found.key))

    async def _decode(self, plan: Plan) -> None:
        encoder, settings, progress = self.workshop.loaded(), self.workshop.settings, self.workshop.progress
        pool = DecoderPool(settings, encoder.preprocessing, ahead=2 * chunk_size(encoder), decoder=self._decoder)
        progress.start(len(plan.work))
        started = time.monotonic()
        async with self._results(pool, plan) as results:
            await flow(
                results,
                encoder,
                self._write,
                batch_size=settings.index_batch_size,
                encoding=lambda: progress.stage("encoding"),
                advance=lambda entry: self._advance(entry, plan),
            )
        self.report.encoding_seconds += time.monotonic() - started

    @asynccontextmanager
    async def _results(self, pool: DecoderPool, plan: Plan) -> AsyncIterator[AsyncIterator[tuple[Work, Outcome]]]:
        """The plan's files with their outcomes, fetched first if they are elsewhere."""
        if not isinstance(self.source, RemoteSource):
            async with aclosing(pool.decode(plan.work)) as results:
                yield results
            return
        from indexing.fetching import Fetcher  # noqa: PLC0415 - imports what only remote sources need

        fetcher = Fetcher(self.source, self.workshop.settings)
        async with aclosing(fetcher.fetch(plan.work)) as arriving, aclosing(pool.decode_arriving(arriving)) as results:
            yield results
        plan.problems = sorted([*plan.problems, *fetcher.problems], key=lambda problem: problem.key)

    def _advance(self, entry: Entry, plan: Plan) -> None:
        reason = entry.outcome.reason if isinstance(entry.outcome, Failure) else None
        if entry.stays:
            plan.problems.append(entry.stays)
            plan.unchanged += 1
        indexing_images.labels(reason or "indexed").inc()
        self.workshop.progress.advance(entry.work.item.key, reason)

    async def _write(self, batch: Sequence[Entry]) -> None:
        progress, folder = self.workshop.progress, self.workshop.store.folder
        progress.stage("writing")
        rows, points = await asyncio.to_thread(self._describe, batch)
        lost = [entry.lost_id for entry in batch if entry.lost_id]
        if points or lost:
            await self.require()
            vectors = await self.begin()
            disk.require(folder, 0)
            await asyncio.to_thread(write_thumbnails, folder, batch)
            progress.stage("upserting")
            await vectors.upsert(points)
            await vectors.delete(lost)
            progress.stage("recording")
        await self._record(rows)
        self.report.indexed += len(points)
        progress.stage("written")

    def _describe(self, batch: Sequence[Entry]) -> tuple[list[Row], list[Point]]:
        index_name = self.report.index
        points = [entry.point(index_name) for entry in batch]
        rows = [entry.row(index_name, point) for entry, point in zip(batch, points, strict=True) if not entry.stays]
        return rows, [point for point in points if point]

    async def _record(self, rows: list[Row]) -> None:
        if self.reference:
            await asyncio.to_thread(self.workshop.ledger.record, self.reference.id, rows)
        else:
            self.held += rows

    async def _delete(self, gone: Sequence[Row]) -> None:
        self.workshop.progress.stage("deleting")
        ids = [row.id for row in gone if row.state == "indexed"]
        if ids:
            await self.require()
            await (await self.begin()).delete(ids)
        if self.reference:
            self.workshop.ledger.remove(self.reference.id, [row.key for row in gone])
        self.report.deleted += len(ids)
        indexing_images.labels("deleted").inc(len(ids))
