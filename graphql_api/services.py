"""The parts behind the API, and their life: loading, warming, serving, draining, closing.

The server listens before its model is loaded, so that probes and clients get an answer that says what it waits for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from engine.access import IndexAccess
from engine.batcher import AsyncEncoder
from engine.caches.choice import Caches, open_caches
from engine.errors import EncoderUnavailable, SightlineError
from engine.ports import Encoder
from engine.search import Searcher
from engine.serving import IndexRegistry
from engine.settings import Settings

log = structlog.get_logger(__name__)

PROBE_TIMEOUT_S: Final = 2.0
"""Seconds that a look at one part may take before it counts as not reachable."""


_WATCH_AGAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Parts:
    """Which parts work; `device`, `model` and `runtime` are None while the encoder loads."""

    encoder_loaded: bool
    index_reachable: bool
    cache_reachable: bool
    device: str | None
    model: str | None
    runtime: str | None

    @property
    def healthy(self) -> bool:
        """Whether all of them do."""
        return self.encoder_loaded and self.index_reachable and self.cache_reachable


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """An index and its serving generation; all but the name are None, and `reason` says why, when none serves."""

    name: str
    ready: bool
    reason: str | None = None
    generation: str | None = None
    points: int | None = None
    indexed: int | None = None
    dimension: int | None = None
    model: str | None = None


class Services:
    """One server's parts. Given an `encoder` or `caches` it uses those, else the ones that the settings name."""

    def __init__(self, settings: Settings, encoder: Encoder | None = None, caches: Caches | None = None) -> None:
        self.settings = settings
        self.registry = IndexRegistry(settings)
        self._indexes = IndexAccess(self.registry, PROBE_TIMEOUT_S)
        self.caches = caches or open_caches(settings)
        self.draining = False
        self._encoder = encoder
        self._async_encoder: AsyncEncoder | None = None
        self._searcher: Searcher | None = None
        self._failure: SightlineError | None = None
        self._warm = False
        self._warming: asyncio.Task[str | None] | None = None
        self._started = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def uptime_s(self) -> float:
        """Seconds since the server started."""
        return time.monotonic() - self._started

    @property
    def searcher(self) -> Searcher:
        """The engine; raises `EncoderUnavailable` while the model loads, and its own error if it can't be loaded."""
        if self._failure is not None:
            raise self._failure
        if self._searcher is None:
            raise EncoderUnavailable("The model is still loading. Try again when /readyz answers 200.")
        return self._searcher

    @property
    def busy_searcher(self) -> Searcher | None:
        """The engine, while it refuses searches because it has too many."""
        return self._searcher if self._searcher is not None and self._searcher.busy else None

    @property
    def failure(self) -> SightlineError | None:
        """Why the model could not be loaded, once that is known."""
        return self._failure

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Begins to load the model and to watch for promoted generations; returns at once."""
        work = (self._load(), self._open(), self._connect(), self._watch())
        self._tasks = [asyncio.create_task(part) for part in work]

    async def started(self) -> str | None:
        """Waits until the model is loaded and one warm query was tried; why the server is not ready, or None."""
        await asyncio.wait(self._tasks[:1])
        return await self.not_ready(within_s=None)

    async def close(self) -> None:
        """Stops everything; harmless when done twice."""
        tasks = [*self._tasks, *([self._warming] if self._warming else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks, self._warming = [], None
        if self._async_encoder is not None:
            await self._async_encoder.close()
        await self.registry.close()
        await self.caches.close()

    async def _load(self) -> None:
        try:
            given = self._encoder
            encoder = await asyncio.to_thread(self._load_encoder) if given is None else given
            await asyncio.to_thread(encoder.warm_up)
        except SightlineError as error:
            self._failure = error
            return
        except Exception as fault:  # whatever a model's libraries raise, the probes must tell it
            log.exception("the model can't be loaded")
            self._failure = EncoderUnavailable(f"The model can't be loaded: {fault}. The server's log has the details.")
            return
        self._encoder = encoder
        self._async_encoder = AsyncEncoder(encoder, self.settings)
        self._searcher = Searcher(self._async_encoder, self.registry, self.caches, self.settings)

    async def _open(self) -> None:
        """Opens the default index while the model loads; why it can't be opened is the first search's to say."""
        with suppress(SightlineError):
            async with self.registry.acquire():
                pass

    async def _connect(self) -> None:
        """Asks the cache once, so that no search has to wait for its first connection."""
        await self._reaches(self.caches.ping)

    async def _watch(self) -> None:
        """Watches for promoted generations for as long as the server lives."""
        while True:
            try:
                await self.registry.watch()
            except Exception:  # a disk that fails once must not end the watch
                log.exception("watching for promoted generations failed, going on")
                await asyncio.sleep(_WATCH_AGAIN_S)

    def _load_encoder(self) -> Encoder:
        from engine.encoders.choice import load_encoder  # noqa: PLC0415 - takes a second

        return load_encoder(self.settings)

    # ------------------------------------------------------------ state

    async def not_ready(self, within_s: float | None = PROBE_TIMEOUT_S) -> str | None:
        """Why no traffic should come here, or None; the first time, that takes a real query through all parts.

        Waits for that query at most `within_s` seconds, or, with None, until it has ended.
        """
        if self.draining:
            return "The server is shutting down."
        if self._warm:
            return None
        if self._warming is None or self._warming.done():
            self._warming = asyncio.create_task(self._warm_up())
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(self._warming)
        except TimeoutError:
            return "The first query is still running."

    async def _warm_up(self) -> str | None:
        """Runs a real query; why it failed, or None."""
        try:
            await self.searcher.ready()
        except SightlineError as error:
            return str(error)
        self._warm = True
        return None

    async def health(self) -> Parts:
        """A look at each part, all at once."""
        index, cache = await asyncio.gather(self._reaches(self._ask_index), self._reaches(self.caches.ping))
        encoder = self._encoder if self._searcher is not None else None
        return Parts(
            encoder_loaded=encoder is not None,
            index_reachable=index,
            cache_reachable=cache,
            device=encoder.device if encoder else None,
            model=encoder.model.name if encoder else None,
            runtime=encoder.runtime if encoder else None,
        )

    async def indexes(self) -> list[IndexStatus]:
        """Every index, by name."""
        return await asyncio.gather(*(self._status(name) for name in await self.registry.names()))

    async def _status(self, name: str) -> IndexStatus:
        try:
            async with self._indexes.acquire(name) as serving, self._indexes.deadline(name):
                info = await serving.index.info()
        except SightlineError as error:
            return IndexStatus(name, ready=False, reason=str(error))
        return IndexStatus(
            name,
            ready=True,
            generation=serving.generation.id,
            points=info.points,
            indexed=info.indexed,
            dimension=info.dimension,
            model=serving.generation.model.name,
        )

    async def _ask_index(self) -> bool:
        async with self._indexes.acquire() as serving, self._indexes.deadline():
            await serving.index.info()
        return True

    async def _reaches(self, ask: Callable[[], Awaitable[bool]]) -> bool:
        """Whether a part answers in time; what it says instead is in the log, not in the way."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await ask()
        except SightlineError:
            return False
        except Exception as fault:  # health is asked when something is broken, and answers even then
            log.warning("a part does not answer", exc_info=fault)
            return False
