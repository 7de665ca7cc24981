"""A seeded story of kills: rounds of indexing in which everything that can die is killed at random instants.

A round changes the folder of pictures and has it indexed by processes that are started again, as a platform does it,
until they say that they are done. After each round everything must be as if nothing had happened; all the while an API
server answers searches.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from indexing.bench.server import running
from tests.chaos.album import Album, Expected
from tests.chaos.jobs import Jobs
from tests.chaos.kills import Killer, Victim
from tests.chaos.report import Report
from tests.chaos.searches import Searches
from tests.chaos.state import State, look, open_files, processes_of, require_complete, require_pruned
from tests.support.postgres import Postgres
from tests.support.qdrant import QdrantServer
from tests.support.redis import RedisServer
from tests.support.waiting import until

SHARDS = 3
PICTURES = 240
CHANGES = 90
PATIENCE_S = 300.0
"""What is not done so long after the last kill of a round hangs."""

_ALONE = 0.2
"""How often a round is one run alone, without workers."""

_TWIN = 0.3
"""How often a shard gets a second worker."""

_EARLY = 0.3
"""How often a generation is asked to be finished while its workers are at it."""

_FILES_MORE = 40  # files and connections that a server may come to hold beyond those of its first minute

Command = tuple[str, ...]
"""A kind of job, and the arguments of `sightline` that it is run with."""


@dataclass
class Story:
    """All parts and what happens to them. Everything random in it comes from `seed`; `wanted` kills have to hit."""

    folder: Path
    seed: int
    wanted: int
    report: Report = field(init=False)

    def __post_init__(self) -> None:
        self.report = Report(self.seed, self.wanted)
        self._random = Random(f"{self.seed} rounds")
        self._restarts = Random(f"{self.seed} restarts")
        self._generations: dict[str, Expected] = {}
        self._servers: list[int] = []
        self._searches: Searches | None = None

    async def tell(self) -> Report:
        """Plays the story to its end; fails where something is not as it has to be, and says how to repeat it."""
        begun = time.monotonic()
        try:
            async with AsyncExitStack() as stack:
                await self._play(stack)
            self.report.verdict = "as if nothing had happened"
        except BaseException as error:
            self.report.verdict = f"failed: {error!r}"[:2000]
            error.add_note(f"The last kills: {self.report.kills[-3:]}")
            error.add_note(f"To repeat: make chaos CHAOS_SEED={self.seed} CHAOS_KILLS={self.wanted}")
            raise
        finally:
            self.report.seconds = round(time.monotonic() - begun, 1)
            if self._searches:
                self.report.searches = self._searches.figures()
        return self.report

    async def _play(self, stack: AsyncExitStack) -> None:
        await self._open(stack)
        await self._round()
        command = (sys.executable, "-m", "tests.indexing.bench.word_server")
        api = await asyncio.to_thread(stack.enter_context, running(self._settings, command))
        self._servers.append(api.pid)
        self._searches = Searches(api.url, Random(f"{self.seed} searches"))
        await stack.enter_async_context(self._searches)
        files = 0
        while len(self.report.kills) < self.wanted:
            await self._round()
            files = files or open_files(api.pid)
            assert open_files(api.pid) <= files + _FILES_MORE, "the API server holds more and more open"
        await self._round()  # without a kill
        require_pruned(await self._look(), self._settings.index_keep_generations)
        missed = (self._killer.names | {"worker", "finish"}) - self.report.by_victim.keys()
        assert not missed, f"never hit: {missed}"

    async def _open(self, stack: AsyncExitStack) -> None:
        """Starts the servers; nothing is indexed yet."""
        qdrant = QdrantServer(self.folder / "qdrant")
        stack.callback(qdrant.stop)
        qdrant.start()
        redis = stack.enter_context(RedisServer(self.folder))
        postgres = self._postgres = stack.enter_context(Postgres())
        self._database = postgres.create()
        self._settings = qdrant.settings(
            index_path=self.folder / "data",
            index_database_url=postgres.url(self._database),
            index_batch_size=8,
            index_workers=1,
            redis_url=redis.url,
        )
        victims = [
            Victim("index server", 3, qdrant.start, qdrant.kill, lambda: qdrant._process),
            Victim("PostgreSQL", 2, postgres.start, postgres.kill, lambda: postgres._process),
            Victim("Redis", 1, redis.start, redis.kill, lambda: redis._process),
        ]
        self._killer = Killer(self.report, victims, Random(f"{self.seed} kills"))
        environment = self._settings.environment() | {"OMP_NUM_THREADS": "1"}
        self._jobs = await stack.enter_async_context(Jobs(self.folder / "jobs", environment, self._killer.hear))
        self._killer.jobs = self._jobs
        self._servers.append(self._jobs.process)
        stack.push_async_callback(self._killer.settle)
        random = Random(f"{self.seed} pictures")
        self._album = Album(self.folder / "pictures", self._settings.index_name, random, PICTURES)

    # ---------------------------------------------------------------- a round

    async def _round(self) -> None:
        """The folder changes and is indexed; then everything is looked at."""
        self.report.rounds += 1
        if self.report.rounds > 1:
            self._album.change(CHANGES)
            self.report.changes += CHANGES
        expected = self._album.expected()
        self.report.pictures, self.report.other_files = len(expected.pictures), len(expected.reasons)
        commands = await self._index()
        state = await self._look()
        self._generations[state.serving] = expected
        require_complete(state, expected, self._settings, self._postgres, self._database)
        await self._require_idle(state, commands)
        if self._searches:
            self._searches.judge(self._generations)

    async def _index(self) -> list[Command]:
        """Brings the index up to date: by one run alone, or by workers together. Returns commands that did it."""
        random, source = self._random, str(self._album.path)
        alone = ("run", "index", source)
        if random.random() < _ALONE:
            await self._phase(self._run(*alone), random.randint(4, 8), steps=12)
            return [alone]
        generation = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{random.getrandbits(16):04x}"
        shared = ("--shard-count", str(SHARDS), "--generation", generation)
        workers = [("worker", "index", source, "--shard-index", str(shard), *shared) for shard in range(SHARDS)]
        finish = ("finish", "generations", "finish", generation)
        twins = [(worker, random.uniform(0, 3)) for worker in workers if random.random() < _TWIN]
        early = [finish] if random.random() < _EARLY else []
        begun = [(worker, 0.0) for worker in workers]
        await self._phase(self._run_all([*begun, *twins], early), random.randint(4, 8), steps=12)
        await self._phase(self._run(*finish), random.randint(1, 3), steps=9)
        return [random.choice(workers), finish, alone]

    async def _phase(self, work: Coroutine[Any, Any, None], most: int, steps: int) -> None:
        """Does some work among at most so many kills (see `Killer.go`), and waits until it is done and all is up."""
        self._killer.written.clear()
        working = asyncio.create_task(work)
        killing = asyncio.create_task(self._killer.go(most, steps))
        try:
            await asyncio.wait([working, killing], return_when=asyncio.FIRST_COMPLETED)
            if killing.done():
                killing.result()
            _, late = await asyncio.wait([working], timeout=PATIENCE_S)
            assert not late, f"not done {PATIENCE_S:g} s after the last kill; the jobs are {self._jobs.running}"
        finally:
            working.cancel()
            killing.cancel()
            await asyncio.gather(working, killing, return_exceptions=True)
            await self._killer.settle()
        working.result()

    async def _run(self, kind: str, *arguments: str, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        await self._jobs.complete(kind, list(arguments), self._restarts)

    async def _run_all(self, commands: list[tuple[Command, float]], later: list[Command]) -> None:
        """Commands that begin after so many seconds, and some that begin when something has been written."""
        async with asyncio.TaskGroup() as group:
            for command, after_s in commands:
                group.create_task(self._run(*command, after_s=after_s))
            if later:
                await self._killer.written.wait()
            for command in later:
                group.create_task(self._run(*command))

    # ---------------------------------------------------------------- after a round

    async def _look(self) -> State:
        return await look(self._settings, self._postgres, self._database)

    async def _require_idle(self, before: State, commands: list[Command]) -> None:
        """Running it all once more writes nothing, and nothing of the round is left running."""
        for command in commands:
            await self._run(*command)
            difference = before.difference(await self._look())
            assert not difference, f"sightline {' '.join(command[1:])} has written once more: {difference[:10]}"
        sessions = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{self._database}'"  # noqa: S608 - made here

        async def nobody() -> bool:
            return not processes_of(self._settings, self._servers) and not self._postgres.run(sessions)

        await until(nobody)
