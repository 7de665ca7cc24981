"""Several workers fill one generation, each its shard of the source; then somebody completes it.

    sightline index SOURCE --shard-index I --shard-count N --generation G      for each I, anywhere, also twice at once
    sightline generations finish G

The first worker begins the generation, from what serves if the model is the same; the others join it. All write by the
same rules as one run alone (see `filling`), and ids follow from keys: two workers on one shard make the same points. A
worker that was killed goes on when it is started again. Who completes the generation has the index alone, and begins
only when every shard is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from engine.errors import BadUserInput, IndexBusy, IndexNotFound, IndexNotReady, NotPromoted, SightlineError
from engine.generations import Generation, check_id
from engine.generations.record import new_id
from engine.ports import Encoder, VectorIndex
from engine.settings import Settings
from indexing.completion import Completion
from indexing.filling import Filling
from indexing.report import Progress, Report
from indexing.sharding import Shard
from indexing.sources import Source
from indexing.verification import read_canaries
from indexing.workers import DECODER
from indexing.workshop import Workshop, workshop

_LOOK_AGAIN_S: Final = 0.2


async def index_shard(
    source: Source,
    shard: Shard,
    generation: str,
    *,
    settings: Settings,
    encoder_factory: Callable[[], Encoder],
    index_name: str,
    progress: Progress,
    decoder: str = DECODER,
) -> Report:
    """Brings one shard of the source into a generation, which is begun if it is not there yet.

    Does nothing if the generation is complete. Raises `BadUserInput` if that was begun with another model or source,
    `IndexBusy` if somebody builds the index alone, and what `pipeline.index` does.
    """
    started = time.monotonic()
    check_id(generation)
    await asyncio.to_thread(source.check)
    report = Report(index_name, source.name, shard, generation=generation)
    async with workshop(settings, index_name, progress, encoder_factory, shared=True) as shop:
        worker = _Worker(source, shop, report, decoder)
        progress.stage("reading")
        if (await worker.join(generation)).state == "building":
            async with shop.on_record(report, generation):
                await worker.run()
        await asyncio.to_thread(worker.conclude)
    report.seconds = time.monotonic() - started
    return report


async def finish(
    generation: str,
    *,
    settings: Settings,
    encoder_factory: Callable[[], Encoder],
    index_name: str,
    progress: Progress,
    promote: bool = True,
) -> Report:
    """Completes a generation that workers have filled, and promotes it. Does nothing if that was done.

    Raises `IndexNotFound` if there is no such generation, `IndexNotReady` with the shards that are not done or whose
    vectors are not all there, `IndexBusy` while workers are at it, and what `pipeline.index` does.
    """
    started = time.monotonic()
    async with workshop(settings, index_name, progress, encoder_factory) as shop:
        read_canaries(settings.index_canaries)
        found = await shop.store.get(check_id(generation))
        build = await asyncio.to_thread(shop.ledger.build, generation)
        if build is None:
            raise IndexNotFound(f"The ledger knows nothing of generation {generation} of index {index_name!r}.")
        report = Report(index_name, build.source, generation=generation)
        completion = Completion(shop, report, found, promote=promote)
        if found.state == "building":
            await _complete(shop, completion, found)
        elif promote and not build.promoted:
            if found.held:
                raise NotPromoted(
                    f"Generation {generation} is complete but was not promoted: {found.held}. To have it serve: "
                    f"`sightline generations promote {generation} --index {index_name}`."
                )
            await completion.promote()
        else:
            report.held = not build.promoted
            await shop.forget()  # what one that was killed after the promotion left undone
        await asyncio.to_thread(completion.conclude)
    report.seconds = time.monotonic() - started
    return report


async def _complete(shop: Workshop, completion: Completion, generation: Generation) -> None:
    count, open_shards = await asyncio.to_thread(shop.ledger.shards, generation.id)
    if open_shards or not count:
        raise _undone(generation.id, count, open_shards, "not done")
    vectors = await shop.store.create_index(generation)
    try:
        if lost := await completion.missing(vectors):
            what = f"missing vectors ({lost.total()} pictures) that were written"
            raise _undone(generation.id, count, set(lost), what)
        await completion.complete(vectors)
    finally:
        with suppress(SightlineError):
            await vectors.close()


def _undone(generation: str, count: int, open_shards: set[int], what: str) -> IndexNotReady:
    named = ", ".join(map(str, sorted(open_shards))) or "all"
    return IndexNotReady(
        f"Of {count or 'the'} shards of generation {generation} these are {what}: {named}. Run `sightline index "
        f"SOURCE --shard-index I --shard-count {count or 'N'} --generation {generation}` for each, then this again."
    )


class _Worker(Filling):
    """One worker, with a part of its own to write to if the store gives it one."""

    async def join(self, id_: str) -> Generation:
        """The generation; it is begun if nobody has, and waited for while another worker begins it."""
        shop = self.workshop
        while True:
            if joined := await self._joined(id_):
                return joined
            try:
                with shop.store.beginning(), shop.ledger.beginning():
                    if joined := await self._joined(id_):
                        return joined
                    with suppress(IndexNotFound):  # begun by one that was killed before the ledger knew
                        await shop.store.discard(await shop.store.get(id_))
                    await self._begin(id_)
            except IndexBusy:
                shop.progress.stage("waiting")
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def go(self) -> None:
        """Fills the shard."""
        plan = await asyncio.to_thread(self.compare)
        await self.fill(plan)
        await self.require()
        shard = self.report.shard
        await asyncio.to_thread(
            self.workshop.ledger.note_problems,
            self.report.generation,
            plan.problems,
            shard_index=shard.index,
            shard_count=shard.count,
        )
        self.tell(plan)

    def conclude(self) -> None:
        """Puts into the report what is known of the shard's files."""
        report, ledger = self.report, self.workshop.ledger
        for row in ledger.rows(report.generation):
            if report.shard.owns(row.key):
                report.total += row.state == "indexed"
                if row.state == "skipped":
                    report.skipped.setdefault(str(row.reason), []).append(row.key)

    async def begin(self) -> VectorIndex:
        """Where this worker writes."""
        assert self.reference  # noqa: S101 - it has joined a generation
        if self.vectors is None:
            self.vectors = await self.workshop.store.create_part(self.reference, self.report.shard.index)
        return self.vectors

    async def _begin(self, id_: str) -> None:
        """Begins the generation, from what serves if the model is the same."""
        shop = self.workshop
        serving = await shop.store.current()
        if serving and id_ < serving.id:
            raise BadUserInput(
                f"There is no generation {id_} any more: what serves, {serving.id}, is newer. To build another one "
                f"give all workers a new id, such as {new_id()}."
            )
        base = serving if serving and shop.has_wanted_model(serving) else None
        try:
            await shop.begin(base, self.report.source, id_)
        except IndexNotFound as error:
            raise _taken_away(id_) from error

    async def _joined(self, id_: str) -> Generation | None:
        """The generation if it has been begun. Raises `BadUserInput` if what was begun is not what is wanted here."""
        shop = self.workshop
        build = await asyncio.to_thread(shop.ledger.build, id_)
        try:
            generation = await shop.store.get(id_)
        except IndexNotFound:
            return None
        if build is None:
            return None
        if not shop.has_wanted_model(generation):
            raise BadUserInput(
                f"Generation {id_} was begun with {generation.model.name}, and here CLIP_MODEL and CLIP_PRETRAINED "
                "name another model. Start all workers of a generation with the same settings, or give another id."
            )
        if build.source != self.report.source:
            raise BadUserInput(
                f"Generation {id_} was begun from {build.source}, not from {self.report.source}. Give all workers of a "
                "generation the same source, or another id."
            )
        self.reference = generation
        return generation

    async def require(self) -> None:
        """Raises `IndexBusy` also if the generation was completed or deleted, while the ledger's database was away."""
        await super().require()
        id_ = self.report.generation
        try:
            generation = await self.workshop.store.get(id_)
        except IndexNotFound as error:
            raise _taken_away(id_) from error
        if generation.state != "building":
            raise IndexBusy(f"Generation {id_} has been completed meanwhile. Nothing is left to do.")


def _taken_away(id_: str) -> IndexBusy:
    return IndexBusy(f"Generation {id_} was deleted by another process meanwhile. Run the same command again.")
