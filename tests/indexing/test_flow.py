"""Decoding, encoding and writing side by side: order, bounds, errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from engine.errors import IndexUnavailable, ModelUnavailable
from engine.ports import Pixels, Vectors
from indexing.decode import Decoded, Failure, Outcome, Reason
from indexing.entries import Entry
from indexing.flow import flow
from indexing.plan import Work
from indexing.sources import Item
from tests.support.encoders import WordEncoder

BATCH = 8


class Recorder:
    """Takes batches as an index would, and remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[Entry]] = []
        self.writing = 0
        self.hold: asyncio.Event | None = None

    async def write(self, batch: Sequence[Entry]) -> None:
        """One batch at a time; waits for `hold` if there is one."""
        self.writing += 1
        assert self.writing == 1
        await (self.hold.wait() if self.hold else asyncio.sleep(0))
        self.batches.append(list(batch))
        self.writing -= 1


def result(number: int) -> tuple[Work, Outcome]:
    """Every fifth file is none, the others are pictures of their own."""
    work = Work(Item(f"{number:03}", f"/pictures/{number:03}", 1, 1), None)
    if number % 5 == 4:
        return work, Failure(Reason.CORRUPT)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return work, Decoded(f"{number}", 8, 8, None, pixels, b"")


async def results(count: int, taken: list[int] | None = None) -> AsyncIterator[tuple[Work, Outcome]]:
    """Decoded files, which the caller is seen to take."""
    for number in range(count):
        if taken is not None:
            taken.append(number)
        await asyncio.sleep(0)
        yield result(number)


async def run(count: int, recorder: Recorder, encoder: WordEncoder | None = None) -> list[str]:
    """Lets files flow and returns the keys in the order in which they were said to be done."""
    advanced: list[str] = []
    await flow(
        results(count),
        encoder or WordEncoder(),
        recorder.write,
        batch_size=BATCH,
        encoding=lambda: None,
        advance=lambda entry: advanced.append(entry.work.item.key),
    )
    return advanced


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1, 100])
async def test_every_file_is_written_once_with_its_own_vector(count: int):
    """In order, in batches of at most that size, with the vector that the picture has alone, and no pixels left."""
    recorder = Recorder()
    advanced = await run(count, recorder)
    written = [entry for batch in recorder.batches for entry in batch]
    assert [entry.work.item.key for entry in written] == advanced == [f"{number:03}" for number in range(count)]
    assert all(len(batch) <= BATCH for batch in recorder.batches)
    for number, entry in enumerate(written):
        picture = result(number)[1]
        assert (entry.vector is not None) == isinstance(picture, Decoded)
        if isinstance(picture, Decoded) and isinstance(entry.outcome, Decoded):
            assert entry.vector == pytest.approx(WordEncoder().encode_images(picture.pixels[None])[0], abs=1e-6)
            assert entry.outcome.pixels.size == 0


async def test_encoding_goes_on_while_a_batch_is_written():
    """While the index is busy with one batch the next is encoded, and then all wait: memory stays bounded."""
    recorder, taken = Recorder(), list[int]()
    recorder.hold = asyncio.Event()
    running = asyncio.create_task(
        flow(
            results(1000, taken),
            WordEncoder(),
            recorder.write,
            batch_size=BATCH,
            encoding=lambda: None,
            advance=lambda _: None,
        )
    )
    seen = -1
    while seen < len(taken):  # until nothing moves any more
        seen = len(taken)
        await asyncio.sleep(0.05)
    assert BATCH < len(taken) <= 5 * BATCH
    recorder.hold.set()
    await running
    assert sum(map(len, recorder.batches)) == 1000


async def test_an_error_of_the_encoder_ends_the_flow():
    """It comes out as it is, and nothing runs on."""

    class Broken(WordEncoder):
        def encode_images(self, pixels: Pixels) -> Vectors:  # noqa: ARG002 - the protocol's
            raise ModelUnavailable("out of order")

    before = asyncio.all_tasks()
    with pytest.raises(ModelUnavailable, match="out of order"):
        await run(100, Recorder(), Broken())
    assert asyncio.all_tasks() == before


async def test_an_error_of_the_index_ends_the_flow():
    """Also if it comes while the next pictures are being encoded."""
    before = asyncio.all_tasks()

    async def write(_: Sequence[Entry]) -> None:
        await asyncio.sleep(0)
        raise IndexUnavailable("no index")

    with pytest.raises(IndexUnavailable, match="no index"):
        await flow(results(100), WordEncoder(), write, batch_size=BATCH, encoding=lambda: None, advance=lambda _: None)
    assert asyncio.all_tasks() == before


async def test_a_cancelled_flow_leaves_nothing_running():
    """An interrupt while the encoder works and the index writes ends both lanes."""
    before = asyncio.all_tasks()
    entered, leave = threading.Event(), threading.Event()

    class Slow(WordEncoder):
        def encode_images(self, pixels: Pixels) -> Vectors:
            entered.set()
            leave.wait(30)
            return super().encode_images(pixels)

    running = asyncio.create_task(run(100, Recorder(), Slow()))
    await asyncio.to_thread(entered.wait, 30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    leave.set()
    assert asyncio.all_tasks() - {running} == before
