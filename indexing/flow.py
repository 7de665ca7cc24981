"""Decoding, encoding and writing at the same time, so that a run takes little longer than the slowest of them.

Decoded pictures come from processes of their own, the encoder and the index work in threads, and each is one step ahead
of the next and no more: memory stays bounded, and a run that is killed has little to do again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self

from engine.ports import Encoder
from indexing.decode import Decoded, Outcome
from indexing.encoding import chunk_size, encode
from indexing.entries import Entry
from indexing.plan import Work

P = ParamSpec("P")


async def flow(
    results: AsyncIterable[tuple[Work, Outcome]],
    encoder: Encoder,
    write: Callable[[Sequence[Entry]], Coroutine[Any, Any, None]],
    *,
    batch_size: int,
    encoding: Callable[[], None],
    advance: Callable[[Entry], None],
) -> None:
    """Encodes what was decoded and writes it in batches of at most `batch_size`, one after the other.

    `encoding` is called before pictures are encoded, `advance` with each file that will be in the next batch.
    """
    size = min(chunk_size(encoder), batch_size)
    batch: list[Entry] = []

    async def encode_chunk(chunk: Sequence[Entry]) -> None:
        nonlocal batch
        pictures = [entry.outcome for entry in chunk if isinstance(entry.outcome, Decoded)]
        if pictures:
            encoding()
            vectors = iter(await asyncio.to_thread(encode, encoder, pictures))
        for entry in chunk:
            batch.append(entry.encoded(next(vectors)) if isinstance(entry.outcome, Decoded) else entry)
            advance(entry)
        if len(batch) + size > batch_size:
            full, batch = batch, []
            await writer.put(write, full)

    async with _Lane() as writer, _Lane() as coder:
        chunk: list[Entry] = []
        async for work, outcome in results:
            chunk.append(Entry(work, outcome))
            if len(chunk) == size:
                await coder.put(encode_chunk, chunk)
                chunk = []
        await coder.put(encode_chunk, chunk)
        await coder.done()
        if batch:
            await writer.put(write, batch)


class _Lane:
    """One job at a time, in the background; who brings the next one waits, and hears what went wrong with the last.

    Leaving it waits for the last job, or ends it if there was an error.
    """

    def __init__(self) -> None:
        self._job: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error and self._job:
            self._job.cancel()
            await asyncio.wait([self._job])
            self._job = None
        await self.done()

    async def put(self, work: Callable[P, Coroutine[Any, Any, None]], *args: P.args, **options: P.kwargs) -> None:
        """Begins a job when the one before is done."""
        await self.done()
        self._job = asyncio.create_task(work(*args, **options))

    async def done(self) -> None:
        """Waits for the job, and raises what it raised."""
        job, self._job = self._job, None
        if job:
            await job
