"""One indexing run: the source's pictures become a generation of the index, and nothing less ever serves.

Everything is written to a generation of its own (see `filling`). A run that ends at any point, by an error, an
interrupt or a kill, leaves the serving generation as it was and an unfinished one that the next run goes on with. Only
a complete, checked generation is promoted (see `completion`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from engine.errors import IndexCorrupt
from engine.ports import Encoder, VectorIndex
from engine.settings import Settings
from indexing.completion import Completion, refuse_empty
from indexing.filling import Filling
from indexing.plan import Plan
from indexing.report import Progress, Report
from indexing.sources import Source
from indexing.verification import read_canaries
from indexing.workers import DECODER
from indexing.workshop import Workshop, workshop

_ATTEMPTS: Final = 2


async def index(
    source: Source,
    *,
    settings: Settings,
    encoder_factory: Callable[[], Encoder],
    index_name: str,
    progress: Progress,
    decoder: str = DECODER,
    promote: bool = True,
) -> Report:
    """Makes the index hold what the source holds, and promotes the result. Does as little as that takes.

    Without `promote` a new generation is left ready, for a person to promote.

    `encoder_factory` is called only if there is something to encode; `decoder` names the function that decoding
    workers call. Raises `SourceError` if the source has no picture that can be read, `NotPromoted` if the result failed
    its verification, and `SightlineError` if the disk is full.
    """
    started = time.monotonic()
    await asyncio.to_thread(source.check)
    report = Report(index_name, source.name)
    async with workshop(settings, index_name, progress, encoder_factory) as shop:
        read_canaries(settings.index_canaries)  # a mistake in them is told before the work, not after
        run = _Run(source, shop, report, decoder, promote=promote)
        async with shop.on_record(report):
            await run.run()
    report.seconds = time.monotonic() - started
    return report


class _Run(Filling):
    """One run. Its reference is an unfinished generation (`building`), or the serving one: see `_choose`."""

    def __init__(self, source: Source, shop: Workshop, report: Report, decoder: str, *, promote: bool) -> None:
        super().__init__(source, shop, report, decoder)
        self.building = False
        self._promote = promote

    async def go(self) -> None:
        """The whole run."""
        store, ledger, report = self.workshop.store, self.workshop.ledger, self.report
        self.workshop.progress.stage("reading")
        await self._tidy()
        serving = await store.current()
        build = ledger.build(serving.id) if serving else None
        if build and build.source != report.source:
            report.replaced = build.source
        for attempt in range(_ATTEMPTS):
            plan = await self._plan()
            report.resumed |= self.building and not attempt
            await self.fill(plan)
            if not self.building or not await self._completion().missing(await self.begin()):
                break
        else:
            raise IndexCorrupt(
                "The new generation loses vectors that were written to it. Check the disk, then run the same command "
                "again; the serving generation is untouched."
            )
        if not self.reference:
            by_reason: dict[str, list[str]] = {}
            for row in self.held:
                by_reason.setdefault(str(row.reason), []).append(row.key)
            refuse_empty(report.source, by_reason)
        completion = self._completion()
        if self.building or not plan.nothing_to_do:
            ledger.note_problems(self.reference.id, plan.problems)
        if self.building:
            await completion.complete(await self.begin())
        elif not plan.nothing_to_do:
            completion.write_manifest()
        completion.conclude()
        self.tell(plan)

    async def begin(self) -> VectorIndex:
        """The vectors of the generation being built, which is begun or opened with the first write to it."""
        if self.vectors:
            return self.vectors
        if not (self.building and self.reference):
            generation = await self.workshop.begin(self.reference, self.report.source)
            self.workshop.ledger.record(generation.id, self.held)
            self.held = []
            self.reference, self.building = generation, True
        self.vectors = await self.workshop.store.create_index(self.reference)
        return self.vectors

    def _completion(self) -> Completion:
        assert self.reference  # noqa: S101 - a generation is being built, or serves
        return Completion(self.workshop, self.report, self.reference, promote=self._promote)

    async def _tidy(self) -> None:
        """Ends what a killed run had nearly ended, and drops what it had hardly begun."""
        store, ledger = self.workshop.store, self.workshop.ledger
        there = {generation.id: generation for generation in await store.list()}
        for build in ledger.builds():
            generation = there.get(build.generation)
            if generation and generation.state == "ready" and not (build.promoted or generation.held):
                await store.promote(generation.id)
                ledger.mark_promoted(generation.id)
                self.report.changed = self.report.resumed = True
        unfinished = await store.building()
        if unfinished and not ledger.build(unfinished.id):
            await store.discard(unfinished)
        await self.workshop.forget()

    async def _choose(self) -> None:
        """Sets `reference`: the unfinished generation, or the serving one, or none, whichever has the wanted model."""
        store = self.workshop.store
        self.reference, self.building = None, False
        unfinished, serving = await store.building(), await store.current()
        if unfinished:
            if self.workshop.has_wanted_model(unfinished):
                self.reference, self.building = unfinished, True
                return
            await store.discard(unfinished)
            await self.workshop.forget()
        if serving and self.workshop.has_wanted_model(serving):
            self.reference = serving

    async def _plan(self) -> Plan:
        """What to do. The model is loaded if something has to be encoded, and then what to do is judged by it."""
        await self._choose()
        plan = await asyncio.to_thread(self.compare)
        if plan.work and self.workshop.encoder is None:
            self.workshop.loaded()
            before = self.reference
            await self._choose()
            if self.reference != before:
                plan = await asyncio.to_thread(self.compare)
        return plan
