"""One indexing run: the source's pictures become a generation of the index, and nothing less ever serves.

Everything is written to a generation of its own, batch by batch: thumbnails, then vectors, then the ledger. A run that
ends at any point, by an error, an interrupt or a kill, leaves the serving generation as it was and an unfinished one
that the next run goes on with; what was not yet in the ledger is done again, under the same ids. Only a complete,
checked generation is promoted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn, Protocol

from sqlalchemy.exc import SQLAlchemyError

import engine
from engine.errors import IndexCorrupt, LedgerUnavailable, NotPromoted, SightlineError, SourceError
from engine.generations import Generation, Generations, generations_of
from engine.ports import Encoder, Point, VectorIndex
from engine.settings import Settings
from indexing import disk
from indexing.decode import Failure, Outcome, Reason
from indexing.encoding import chunk_size
from indexing.entries import Entry, remove_thumbnails, write_thumbnails
from indexing.flow import flow
from indexing.ledger import Build, Ledger, Row
from indexing.manifest import write_manifest
from indexing.plan import Plan, Work, make_plan
from indexing.sources import Problem, Source
from indexing.sources.remote import RemoteSource
from indexing.verification import Verification, read_canaries, verify
from indexing.workers import DECODER, DecoderPool
from observability.metrics import indexing_images

MANIFEST: Final = "manifest.json"

_ATTEMPTS: Final = 2


class Progress(Protocol):
    """Hears how a run goes on. It may raise to end the run, and the run can be continued like any other."""

    def stage(self, name: str) -> None:
        """A step begins: reading, encoding, writing, deleting, checking, optimizing, promoting and others."""
        ...

    def start(self, total: int) -> None:
        """So many files have to be decoded."""
        ...

    def advance(self, key: str, reason: Reason | None) -> None:
        """One file is done; None means that it will be indexed."""
        ...


@dataclass(slots=True)
class Report:
    """What a run did. `skipped` has every file that is not in the index, from this run or an earlier one, by reason.

    `total` is how many pictures the index has now; `generation` serves now and has its `manifest`; `resumed` tells that
    an interrupted run was continued, `changed` that a new generation was promoted, `held` that it was left to be
    promoted by a person. `recall` is what the verification of a new one measured. `replaced`
    is the source that the index was made from before, if that was another one. `seconds` is the whole run,
    `encoding_seconds` the part from the first file to the last, without loading the model and building the graph.
    """

    index: str
    source: str
    indexed: int = 0
    unchanged: int = 0
    deleted: int = 0
    total: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    generation: str = ""
    manifest: Path | None = None
    resumed: bool = False
    changed: bool = False
    held: bool = False
    recall: float | None = None
    replaced: str | None = None
    seconds: float = 0.0
    encoding_seconds: float = 0.0


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
    try:
        async with generations_of(settings, index_name) as store:
            with store.lock():
                ledger = await asyncio.to_thread(Ledger.open, settings, index_name)
                try:
                    with ledger.lock() as require_lock:
                        run = _Run(
                            source,
                            settings,
                            encoder_factory,
                            index_name,
                            progress,
                            decoder,
                            store,
                            ledger,
                            require_lock,
                            promote,
                        )
                        report = await run.go()
                finally:
                    await asyncio.to_thread(ledger.close)
    except LedgerUnavailable:  # whose disk may be full too, and is another one
        raise
    except (OSError, SQLAlchemyError, SightlineError) as error:
        _explain_full_disk(error, settings.index_path)
        raise
    report.seconds = time.monotonic() - started
    return report


@dataclass(slots=True)
class _Run:
    """One run's state. `reference` is the generation that the ledger's rows in use describe: see `_choose`."""

    source: Source
    settings: Settings
    encoder_factory: Callable[[], Encoder]
    index_name: str
    progress: Progress
    decoder: str
    store: Generations
    ledger: Ledger
    require_lock: Callable[[], None]
    promote: bool
    encoder: Encoder | None = None
    reference: Generation | None = None
    building: bool = False
    vectors: VectorIndex | None = None
    held: list[Row] = field(default_factory=list)
    report: Report = field(init=False)

    async def go(self) -> Report:
        """The whole run, noted in the ledger however it ends."""
        read_canaries(self.settings.index_canaries)  # a mistake in them is told before the work, not after
        self.report = Report(self.index_name, self.source.name)
        run = self.ledger.start_run(self.report.source)
        outcome = "failed"
        try:
            await self._run()
            outcome = "done"
        except (asyncio.CancelledError, KeyboardInterrupt):
            outcome = "interrupted"
            self.ledger.hurry()
            raise
        except LedgerUnavailable:
            self.ledger.hurry()
            raise
        finally:
            if self.vectors:
                with suppress(SightlineError):  # what goes on is told by the error on its way
                    await self.vectors.close()
            with suppress(SQLAlchemyError, SightlineError):
                report = self.report
                skipped = sum(map(len, report.skipped.values()))
                await asyncio.to_thread(
                    self.ledger.end_run,
                    run,
                    outcome,
                    generation=report.generation or None,
                    indexed=report.indexed,
                    unchanged=report.unchanged,
                    skipped=skipped,
                    deleted=report.deleted,
                )
        return self.report

    async def _run(self) -> None:
        self.progress.stage("reading")
        await self._tidy()
        serving = await self.store.current()
        build = self.ledger.build(serving.id) if serving else None
        if build and build.source != self.report.source:
            self.report.replaced = build.source
        for attempt in range(_ATTEMPTS):
            plan = await self._plan()
            self.report.resumed |= self.building and not attempt
            await self._decode(plan)
            await self._delete(plan.gone)
            if not self.building or await self._check():
                break
        else:
            raise IndexCorrupt(
                "The new generation loses vectors that were written to it. Check the disk, then run the same command "
                "again; the serving generation is untouched."
            )
        if self.building:
            await self._finish(plan)
        elif not plan.nothing_to_do:
            self._write_manifest(plan)
        await self._conclude(plan)

    # ---------------------------------------------------------------- where to start from

    async def _tidy(self) -> None:
        """Ends what a killed run had nearly ended, and drops what it had hardly begun."""
        there = {generation.id: generation for generation in await self.store.list()}
        for build in self.ledger.builds():
            generation = there.get(build.generation)
            if generation and generation.state == "ready" and not (build.promoted or generation.held):
                await self.store.promote(generation.id)
                self.ledger.mark_promoted(generation.id)
                self.report.changed = self.report.resumed = True
        unfinished = await self.store.building()
        if unfinished and not self.ledger.build(unfinished.id):
            await self.store.discard(unfinished)
        await self._forget()

    async def _forget(self) -> None:
        """Drops the rows of generations that are no more, and the thumbnails that only they had."""
        there = {generation.id for generation in await self.store.list()}
        gone = [build.generation for build in self.ledger.builds() if build.generation not in there]
        if gone:
            remove_thumbnails(self.store.folder, self.ledger.only_in(gone))
            self.ledger.forget(gone)

    async def _choose(self) -> None:
        """Sets `reference`: the unfinished generation, or the serving one, or none, whichever has the wanted model."""
        self.reference, self.building = None, False
        unfinished, serving = await self.store.building(), await self.store.current()
        if unfinished:
            if self._has_wanted_model(unfinished):
                self.reference, self.building = unfinished, True
                return
            await self.store.discard(unfinished)
            await self._forget()
        if serving and self._has_wanted_model(serving):
            self.reference = serving

    def _has_wanted_model(self, generation: Generation) -> bool:
        build = self.ledger.build(generation.id)
        if not build:
            return False
        wanted = _requested_model(self.settings)
        if self.encoder is None and build.requested_model == wanted:
            return True
        same = self._loaded().model.fingerprint == generation.model.fingerprint
        if same and build.requested_model != wanted:
            self.ledger.name_model(generation.id, wanted)
        return same

    def _loaded(self) -> Encoder:
        if self.encoder is None:
            self.progress.stage("loading the model")
            self.encoder = self.encoder_factory()
        return self.encoder

    async def _plan(self) -> Plan:
        """What to do. The model is loaded if something has to be encoded, and then what to do is judged by it."""
        await self._choose()
        plan = await asyncio.to_thread(self._compare)
        if plan.work and self.encoder is None:
            self._loaded()
            before = self.reference
            await self._choose()
            if self.reference != before:
                plan = await asyncio.to_thread(self._compare)
        if self.reference and plan.touched:
            self.ledger.touch(self.reference.id, plan.touched)
        return plan

    def _compare(self) -> Plan:
        rows: Iterator[Row] = self.ledger.rows(self.reference.id) if self.reference else iter(())
        return make_plan(self.source.scan(), rows)

    # ---------------------------------------------------------------- pictures to vectors

    async def _decode(self, plan: Plan) -> None:
        if not plan.work:
            return
        encoder = self._loaded()
        pool = DecoderPool(self.settings, encoder.preprocessing, ahead=2 * chunk_size(encoder), decoder=self.decoder)
        self.progress.start(len(plan.work))
        started = time.monotonic()
        async with self._results(pool, plan) as results:
            await flow(
                results,
                encoder,
                self._write,
                batch_size=self.settings.index_batch_size,
                encoding=lambda: self.progress.stage("encoding"),
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

        fetcher = Fetcher(self.source, self.settings)
        async with aclosing(fetcher.fetch(plan.work)) as arriving, aclosing(pool.decode_arriving(arriving)) as results:
            yield results
        plan.problems = sorted([*plan.problems, *fetcher.problems], key=lambda problem: problem.key)

    def _advance(self, entry: Entry, plan: Plan) -> None:
        reason = entry.outcome.reason if isinstance(entry.outcome, Failure) else None
        if entry.stays:
            plan.problems.append(entry.stays)
            plan.unchanged += 1
        indexing_images.labels(reason or "indexed").inc()
        self.progress.advance(entry.work.item.key, reason)

    async def _write(self, batch: Sequence[Entry]) -> None:
        """Writes a batch in the order that makes it safe to be killed: thumbnails, vectors, ledger."""
        self.progress.stage("writing")
        rows, points = await asyncio.to_thread(self._describe, batch)
        lost = [entry.lost_id for entry in batch if entry.lost_id]
        if points or lost:
            vectors = await self._begin()
            disk.require(self.store.folder, 0)
            await asyncio.to_thread(write_thumbnails, self.store.folder, batch)
            self.progress.stage("upserting")
            await vectors.upsert(points)
            await vectors.delete(lost)
            self.progress.stage("recording")
        if self.reference:
            await asyncio.to_thread(self.ledger.record, self.reference.id, rows)
        else:
            self.held += rows
        self.report.indexed += len(points)
        self.progress.stage("written")

    def _describe(self, batch: Sequence[Entry]) -> tuple[list[Row], list[Point]]:
        points = [entry.point(self.index_name) for entry in batch]
        rows = [
            entry.row(self.index_name, point) for entry, point in zip(batch, points, strict=True) if not entry.stays
        ]
        return rows, [point for point in points if point]

    async def _begin(self) -> VectorIndex:
        """The vectors of the generation being built, which is begun or opened with the first write to it."""
        if self.vectors:
            return self.vectors
        if self.building and self.reference:
            self.vectors = await self.store.create_index(self.reference)
            return self.vectors
        base = self.reference
        model = base.model if base else self._loaded().model
        disk.require(self.store.folder, disk.used_bytes(base.shard) if base else 0)
        self.progress.stage("beginning")
        generation = await self.store.begin(model, base)
        self.vectors = await self.store.create_index(generation)
        requested = _requested_model(self.settings)
        build = Build(generation.id, base.id if base else None, requested, self.report.source, promoted=False)
        await asyncio.to_thread(self.ledger.adopt, build)
        self.ledger.record(generation.id, self.held)
        self.held = []
        self.reference, self.building = generation, True
        return self.vectors

    async def _delete(self, gone: Sequence[Row]) -> None:
        if not gone:
            return
        self.progress.stage("deleting")
        ids = [row.id for row in gone if row.state == "indexed"]
        if ids:
            await (await self._begin()).delete(ids)
        if self.reference:
            self.ledger.remove(self.reference.id, [row.key for row in gone])
        self.report.deleted += len(ids)
        indexing_images.labels("deleted").inc(len(ids))

    # ---------------------------------------------------------------- to the serving generation

    async def _check(self) -> bool:
        """Whether the vectors are those that the ledger names. Those too many go; files without one are done again."""
        assert self.reference  # noqa: S101 - a generation is being built
        self.progress.stage("checking")
        vectors = await self._begin()
        named, there = self.ledger.indexed(self.reference.id), set(await vectors.ids())
        await vectors.delete(sorted(there - named.keys()))
        missing = [key for id_, key in named.items() if id_ not in there]
        self.ledger.remove(self.reference.id, missing)
        return not missing

    async def _finish(self, plan: Plan) -> None:
        """Makes the generation complete and serves it."""
        assert self.reference  # noqa: S101 - a generation is being built
        assert self.vectors  # noqa: S101 - and was just checked
        generation, vectors = self.reference, self.vectors
        total = self.ledger.counts(generation.id)["indexed"]
        if not total:
            await vectors.close()
            await self._refuse_empty(self.ledger.skipped(generation.id))
        disk.require(self.store.folder, (await vectors.info()).disk_bytes)
        self.progress.stage("optimizing")
        await vectors.optimize()
        self.progress.stage("verifying")
        encoder = self._loaded() if self.settings.index_canaries else self.encoder
        verified = await verify(vectors, total, encoder.encode_texts if encoder else None, self.settings)
        if verified.points != total:
            raise IndexCorrupt(
                f"The new generation has {verified.points} vectors for {total} pictures. Run the same command again; "
                "the serving generation is untouched."
            )
        self.report.recall = verified.recall
        await vectors.close()
        self._write_manifest(plan)
        self.progress.stage("finishing")
        held = "; ".join(verified.failures) or (None if self.promote else "it was built not to be promoted")
        await asyncio.to_thread(self.require_lock)
        await self.store.finish(generation, total, held)
        if held:
            await self._hold(generation, verified)
            return
        self.progress.stage("promoting")
        await self.store.promote(generation.id)
        self.progress.stage("promoted")
        self.ledger.mark_promoted(generation.id)
        await self.store.prune(self.settings.index_keep_generations)
        await self._forget()
        self.report.changed = True

    async def _hold(self, generation: Generation, verified: Verification) -> None:
        """Leaves a generation to a person. Raises `NotPromoted` if it is because of what its verification found."""
        await self.store.prune(self.settings.index_keep_generations + 1)  # what may be rolled back to stays too
        await self._forget()
        self.report.held = True
        if verified.failures:
            raise NotPromoted(
                f"The new generation {generation.id} is complete but was not promoted: {'; '.join(verified.failures)}. "
                "What served before goes on. Look again with `sightline generations verify`, or promote it all the "
                f"same with `sightline generations promote {generation.id}`."
            )

    def _write_manifest(self, plan: Plan) -> None:
        if not self.reference:
            return
        self.progress.stage("listing")
        write_manifest(
            self.reference.path / MANIFEST,
            source=self.report.source,
            model=self.reference.model,
            counts=self.ledger.counts(self.reference.id),
            problems=plan.problems,
            rows=self.ledger.rows(self.reference.id),
        )

    async def _conclude(self, plan: Plan) -> None:
        if not self.reference:
            by_reason: dict[str, list[str]] = {}
            for row in self.held:
                by_reason.setdefault(str(row.reason), []).append(row.key)
            await self._refuse_empty(by_reason)
        report = self.report
        report.generation = self.reference.id
        report.manifest = self.reference.path / MANIFEST
        report.total = self.ledger.counts(self.reference.id)["indexed"]
        report.unchanged = plan.unchanged + len(plan.touched)
        indexing_images.labels("unchanged").inc(report.unchanged)
        report.skipped = self.ledger.skipped(self.reference.id)
        report.problems = plan.problems

    async def _refuse_empty(self, skipped: dict[str, list[str]]) -> NoReturn:
        """An index without pictures is no use, and more often a mistake than a wish."""
        if self.building and self.reference:
            await self.store.discard(self.reference)
            await self._forget()
        reasons = "; ".join(f"{keys[0]}: {Reason(reason).sentence}" for reason, keys in list(skipped.items())[:3])
        raise SourceError(
            f"None of the {sum(map(len, skipped.values()))} files in {self.source.name} is a picture that can be read "
            f"({reasons}). Name another source, or repair these files. The index is as it was."
        )


def _explain_full_disk(error: BaseException, folder: Path) -> None:
    """Raises what a person can act on, if the disk is the reason."""
    reason = disk.full_reason(error)
    if reason is not None:
        raise SightlineError(
            f"The disk of {folder} is full: {reason}. Free some space, or set INDEX_PATH to another disk, and run the "
            "same command again: it goes on from here. The serving generation is untouched."
        ) from error


def _requested_model(settings: Settings) -> str:
    """How the settings name the model, and which file that is as far as a glance tells: enough to see a change."""
    shipped = Path(engine.__file__).parent / "weights" / settings.clip_model / "model.safetensors"
    weights = Path(settings.clip_pretrained) if settings.clip_pretrained else shipped
    try:
        about = weights.stat()
    except OSError:
        return f"{settings.clip_model} {settings.clip_pretrained}"
    return f"{settings.clip_model} {settings.clip_pretrained} {about.st_size} {about.st_mtime_ns}"
