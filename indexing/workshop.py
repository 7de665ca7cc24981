"""What everything that builds an index works with, and the locks that say who else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

import engine
from engine.errors import LedgerUnavailable, SightlineError
from engine.generations import Generation, Generations, generations_of
from engine.patience import PATIENCE_S
from engine.ports import Encoder
from engine.settings import Settings
from indexing import disk
from indexing.ledger import Build, Ledger
from indexing.pruning import forget
from indexing.report import Progress, Report


@dataclass(slots=True)
class Workshop:
    """The settings, stores and model of one build. `require_lock` raises `IndexBusy` when the lock was lost."""

    settings: Settings
    store: Generations
    ledger: Ledger
    progress: Progress
    encoder_factory: Callable[[], Encoder]
    require_lock: Callable[[], None]
    encoder: Encoder | None = None

    def loaded(self) -> Encoder:
        """The model, which is loaded when it is needed first."""
        if self.encoder is None:
            self.progress.stage("loading the model")
            self.encoder = self.encoder_factory()
        return self.encoder

    def has_wanted_model(self, generation: Generation) -> bool:
        """Whether a generation was built with the model that the settings name now, which may have to be loaded."""
        build = self.ledger.build(generation.id)
        if not build:
            return False
        wanted = self.requested_model
        if self.encoder is None and build.requested_model == wanted:
            return True
        same = self.loaded().model.fingerprint == generation.model.fingerprint
        if same and build.requested_model != wanted:
            self.ledger.name_model(generation.id, wanted)
        return same

    @property
    def requested_model(self) -> str:
        """How the settings name the model, and which file that is as far as a glance tells: enough to see a change."""
        settings = self.settings
        shipped = Path(engine.__file__).parent / "weights" / settings.clip_model / "model.safetensors"
        weights = Path(settings.clip_pretrained) if settings.clip_pretrained else shipped
        try:
            about = weights.stat()
        except OSError:
            return f"{settings.clip_model} {settings.clip_pretrained}"
        return f"{settings.clip_model} {settings.clip_pretrained} {about.st_size} {about.st_mtime_ns}"

    async def begin(self, base: Generation | None, source: str, id_: str | None = None) -> Generation:
        """A new generation in store and ledger, with all that its base has."""
        model = base.model if base else self.loaded().model
        disk.require(self.store.folder, disk.used_bytes(base.shard) if base else 0)
        self.progress.stage("beginning")
        generation = await self.store.begin(model, base, id_)
        build = Build(generation.id, base.id if base else None, self.requested_model, source, promoted=False)
        await asyncio.to_thread(self.ledger.adopt, build)
        return generation

    async def forget(self) -> None:
        """Puts away what belongs to generations that are no more: see `pruning`."""
        await forget(self.store, self.ledger)

    @asynccontextmanager
    async def on_record(self, report: Report, generation: str | None = None) -> AsyncIterator[None]:
        """A run that the ledger knows of however it ends. It is done only once the ledger says so."""
        shard = report.shard
        run = self.ledger.start_run(
            report.source, generation=generation, shard_index=shard.index, shard_count=shard.count
        )

        async def end(outcome: str) -> None:
            await asyncio.to_thread(
                self.ledger.end_run,
                run,
                outcome,
                generation=report.generation or generation,
                indexed=report.indexed,
                unchanged=report.unchanged,
                skipped=sum(map(len, report.skipped.values())),
                deleted=report.deleted,
            )

        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
            if stopped or isinstance(error, LedgerUnavailable):
                self.ledger.hurry()
            with suppress(SQLAlchemyError, SightlineError):
                await end("interrupted" if stopped else "failed")
            raise
        await end("done")


@asynccontextmanager
async def workshop(
    settings: Settings,
    index_name: str,
    progress: Progress,
    encoder_factory: Callable[[], Encoder],
    *,
    shared: bool = False,
) -> AsyncIterator[Workshop]:
    """The workshop of an index, which nobody else works in, or only others that share it.

    Raises `IndexBusy` when somebody does, `IndexUnavailable` and `LedgerUnavailable` when a server stays away for a
    minute, and `SightlineError` for what happened inside when the disk is full.
    """
    try:
        async with generations_of(settings, index_name, patience_s=PATIENCE_S) as store:
            with store.lock(shared=shared):
                ledger = await asyncio.to_thread(Ledger.open, settings, index_name)
                try:
                    with ledger.lock(shared=shared) as require_lock:
                        yield Workshop(settings, store, ledger, progress, encoder_factory, require_lock)
                finally:
                    await asyncio.to_thread(ledger.close)
    except LedgerUnavailable:  # whose disk may be full too, and is another one
        raise
    except (OSError, SQLAlchemyError, SightlineError) as error:
        _explain_full_disk(error, settings.index_path)
        raise


def _explain_full_disk(error: BaseException, folder: Path) -> None:
    """Raises what a person can act on, if the disk is the reason."""
    reason = disk.full_reason(error)
    if reason is not None:
        raise SightlineError(
            f"The disk of {folder} is full: {reason}. Free some space, or set INDEX_PATH to another disk, and run the "
            "same command again: it goes on from here. The serving generation is untouched."
        ) from error
