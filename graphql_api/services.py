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
from engine.caches.choice import Caches, open_caches
from engine.encoders.loaded import Load, LoadedEncoders, LoadedModel
from engine.errors import EncoderUnavailable, IndexNotFound, IndexNotReady, SightlineError
from engine.search import Searcher
from engine.serving import IndexRegistry
from engine.settings import Settings

log = structlog.get_logger(__name__)

PROBE_TIMEOUT_S: Final = 2.0
"""Seconds that a look at one part may take before it counts as not reachable."""


_WATCH_AGAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Parts:
    """Which parts work, which models are in memory, and what keeps what was promoted from being served.

    `model` is the one that the default index is searched with, None while it loads.
    """

    index_reachable: bool
    cache_reachable: bool
    model: LoadedModel | None
    models: list[LoadedModel]
    problems: list[str]

    @property
    def healthy(self) -> bool:
        """Whether all of them do."""
        return self.model is not None and self.index_reachable and self.cache_reachable and not self.problems


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
    """One server's parts. `load` and `caches` stand for those that the settings name."""

    def __init__(self, settings: Settings, load: Load | None = None, caches: Caches | None = None) -> None:
        self.settings = settings
        self.encoders = LoadedEncoders(settings, load)
        self.registry = IndexRegistry(settings, self.encoders)
        self._indexes = IndexAccess(self.registry, PROBE_TIMEOUT_S)
        self.caches = caches or open_caches(settings)
        self.draining = False
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
        await self.registry.close()
        await self.encoders.close()
        await self.caches.close()

    async def _load(self) -> None:
        """Loads CLIP_MODEL before it is known what the default index wants, which is nearly always the same."""
        try:
            await self.encoders.load_own()
        except SightlineError as error:
            self._failure = error
            return
        self._searcher = Searcher(self.registry, self.caches, self.settings)

    async def _open(self) -> None:
        """Opens the default index while the model loads; why it can't be opened is the first search's to say."""
        with suppress(SightlineError):
            await self.registry.open()

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
        """Runs a real query; why it failed, or None. An index that is missing is no reason where none is needed."""
        try:
            await self.searcher.ready()
        except (IndexNotFound, IndexNotReady) as error:
            if self.settings.api_needs_index:
                return str(error)
        except SightlineError as error:
            return str(error)
        self._warm = True
        return None

    async def health(self) -> Parts:
        """A look at each part, all at once."""
        index, cache = await asyncio.gather(self._reaches(self._ask_index), self._reaches(self.caches.ping))
        models, serving = self.encoders.models, self.registry.peek()
        wanted = serving.generation.model.fingerprint if serving is not None else None
        return Parts(
            index_reachable=index,
            cache_reachable=cache,
            model=next((model for model in models if wanted in (None, model.info.fingerprint)), None),
            models=models,
            problems=self.registry.problems,
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
