from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from PIL import Image
from prometheus_client import REGISTRY

from engine.batcher import AsyncEncoder, Batcher
from engine.errors import BadUserInput, EncoderUnavailable, Overloaded
from engine.ports import Pixels, Vectors
from engine.settings import Settings
from tests.support.encoders import WordEncoder

LONG_S = 30
"""Seconds after which a test that hangs is given up; nothing here takes a hundredth of it."""


class Doubler:
    """A `process` that doubles numbers, stops at a gate when told to, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.failing: dict[int, BaseException] = {}

    def __call__(self, items: list[int]) -> list[int]:
        """Twice each item, once the gate is open."""
        self.batches.append(items)
        self.started.set()
        assert self.gate.wait(LONG_S)
        for item in items:
            if item in self.failing:
                raise self.failing[item]
        return [item * 2 for item in items]


@contextmanager
def batcher(
    process: Callable[[list[int]], Sequence[int]], max_batch: int = 8, max_waiting: int = 100
) -> Iterator[Batcher[int, int]]:
    """A batcher that is closed in the end."""
    made = Batcher(process, max_batch=max_batch, max_waiting=max_waiting, name="test worker")
    try:
        yield made
    finally:
        made.close()


async def submit_soon(batcher: Batcher[int, int], *items: int) -> asyncio.Task[list[int]]:
    """Submits in a task of its own, which has put its items into the queue when this returns."""
    task = asyncio.create_task(batcher.submit(items))
    await asyncio.sleep(0)
    return task


async def hold(batcher: Batcher[int, int], process: Doubler, item: int = 0) -> asyncio.Task[list[int]]:
    """Makes the worker busy with one item until the gate opens."""
    process.gate.clear()
    process.started.clear()
    task = await submit_soon(batcher, item)
    assert await asyncio.to_thread(process.started.wait, LONG_S)
    return task


def sample(name: str) -> float:
    """The value of a metric now."""
    return REGISTRY.get_sample_value(f"sightline_encoder_{name}") or 0.0


# ---------------------------------------------------------------- batches


async def test_results_in_order():
    """Results come in the order of the items, however many batches they take."""
    with batcher(Doubler(), max_batch=3) as made:
        assert await made.submit(range(10)) == [item * 2 for item in range(10)]


async def test_nothing_to_do():
    """No items make no results and no pass."""
    process = Doubler()
    with batcher(process) as made:
        assert await made.submit([]) == []
    assert process.batches == []


async def test_idle_worker_starts_at_once():
    """A single item is processed without company to wait for."""
    process = Doubler()
    with batcher(process) as made:
        assert await made.submit([1]) == [2]
        assert await made.submit([2]) == [4]
    assert process.batches == [[1], [2]]


async def test_meanwhile_is_next_batch():
    """What arrives from several callers during a pass is one batch, up to the largest, first come first served."""
    process = Doubler()
    with batcher(process, max_batch=4) as made:
        tasks = [await hold(made, process), *[await submit_soon(made, item, item + 10) for item in (1, 2, 3)]]
        process.gate.set()
        assert await asyncio.gather(*tasks) == [[0], [2, 22], [4, 24], [6, 26]]
    assert process.batches == [[0], [1, 11, 2, 12], [3, 13]]


async def test_loop_is_not_blocked():
    """While the worker computes, the event loop goes on."""
    process = Doubler()
    with batcher(process) as made:
        task = await hold(made, process)
        turns = 0
        for turns in range(1, 101):  # noqa: B007 - counted
            await asyncio.sleep(0)
        assert turns == 100
        assert not task.done()
        process.gate.set()
        assert await task == [0]


# ---------------------------------------------------------------- failures


async def test_failing_items_fail_alone():
    """Each failing item's caller gets its own error; everyone else in the batch gets a result."""
    process = Doubler()
    with batcher(process, max_batch=16) as made:
        tasks = [await hold(made, process, 100), *[await submit_soon(made, item) for item in range(13)]]
        process.failing = {3: ValueError("three"), 11: KeyError("eleven")}
        process.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[4] is process.failing[3]
    assert answers[12] is process.failing[11]
    assert [answers[item + 1] for item in range(13) if item not in process.failing] == [
        [item * 2] for item in range(13) if item not in process.failing
    ]


async def test_caller_of_several_gets_the_error():
    """A caller with one failing item among several gets that item's error, and the batcher goes on."""
    process = Doubler()
    process.failing = {2: ValueError("two")}
    with batcher(process) as made:
        with pytest.raises(ValueError, match="two"):
            await made.submit([1, 2, 3])
        assert await made.submit([1]) == [2]


@pytest.mark.parametrize("results", [[], [1, 2, 3]])
async def test_wrong_count(results: list[int]):
    """A process that returns too few or too many results fails its callers rather than mixing up their answers."""
    with batcher(lambda _: results) as made:
        with pytest.raises(RuntimeError, match=f"{len(results)} results of 2 inputs"):
            await made.submit([1, 2])
        assert made.alive


@pytest.mark.parametrize("death", [SystemExit(), MemoryError(), KeyboardInterrupt(), GeneratorExit()], ids=repr)
async def test_dead_worker(death: BaseException):
    """When the worker dies, its batch fails at once, and what waited is done by a new one."""
    process = Doubler()
    process.failing = {1: death}
    with batcher(process, max_batch=2) as made:
        first = made._worker
        held = await hold(made, process)
        doomed, beside, later = [await submit_soon(made, item) for item in (1, 2, 3)]
        process.gate.set()
        assert await held == [0]
        for task in (doomed, beside):
            with pytest.raises(EncoderUnavailable, match=f"test worker died of {type(death).__name__}"):
                await task
        assert await later == [6]
        assert made.alive
        assert made._worker is not first


async def test_lost_worker():
    """When the worker is gone without a word, the next request fails what it had begun and starts a new one."""

    class Vanishing(Batcher[int, int]):
        """Its first worker takes a batch and is never seen again."""

        vanished = False

        def _work(self) -> None:
            if self.vanished:
                super()._work()
            else:
                self.vanished = True
                self._take()

    made = Vanishing(Doubler(), max_batch=8, max_waiting=10, name="test worker")
    lost = await submit_soon(made, 1)
    await asyncio.to_thread(made._worker.join, LONG_S)
    assert not made.alive
    assert await made.submit([2]) == [4]
    with pytest.raises(EncoderUnavailable, match="without a word"):
        await lost
    assert made.alive
    made.close()


# ---------------------------------------------------------------- limits


async def test_overloaded():
    """More than may wait is refused whole, saying when to come back, and what waits is not harmed."""
    process = Doubler()
    with batcher(process, max_waiting=3) as made:
        held, waiting = await hold(made, process), await submit_soon(made, 1, 2)
        made._pace_s = 0.5
        with pytest.raises(Overloaded) as caught:
            await made.submit([3, 4])
        assert caught.value.retry_after_ms == 1000
        last = await submit_soon(made, 5)
        process.gate.set()
        assert await asyncio.gather(held, waiting, last) == [[0], [2, 4], [10]]


async def test_pace_follows_the_process():
    """The estimate of the time an input takes moves with what batches took."""
    with batcher(Doubler()) as made:
        made._pace_s = 1000.0
        await made.submit([1])
        assert 700 < made._pace_s < 900


async def test_request_larger_than_the_queue():
    """A request that could never fit is the caller's mistake, not an overload to wait out."""
    with batcher(Doubler(), max_waiting=3) as made:
        with pytest.raises(BadUserInput, match="at most 3"):
            await made.submit([1, 2, 3, 4])
        assert await made.submit([1, 2, 3]) == [2, 4, 6]


async def test_cancelled_items_leave_the_queue():
    """A cancelled caller's items make room at once and are never processed."""
    process = Doubler()
    with batcher(process, max_waiting=3) as made:
        held, cancelled = await hold(made, process), await submit_soon(made, 1, 2, 3)
        cancelled.cancel()
        with suppress(asyncio.CancelledError):
            await cancelled
        others = await submit_soon(made, 4, 5, 6)
        process.gate.set()
        assert await asyncio.gather(held, others) == [[0], [8, 10, 12]]
    assert process.batches == [[0], [4, 5, 6]]


async def test_cancelled_while_running():
    """A caller may give up while its item is being processed; the worker is not disturbed."""
    process = Doubler()
    with batcher(process) as made:
        held = await hold(made, process)
        held.cancel()
        process.gate.set()
        assert await made.submit([1]) == [2]
        assert held.cancelled()


# ---------------------------------------------------------------- end


async def test_close():
    """Closing fails what waits at once, lets the running batch finish, and ends the thread."""
    process = Doubler()
    with batcher(process) as made:
        held, waiting = await hold(made, process), await submit_soon(made, 1)
        closing = asyncio.create_task(asyncio.to_thread(made.close))
        with pytest.raises(EncoderUnavailable, match="shutting down"):
            await waiting
        assert not held.done()
        process.gate.set()
        assert await held == [0]
        await closing
        assert not made._worker.is_alive()
        assert not made.alive
    assert process.batches == [[0]]


async def test_submit_after_close():
    """A closed batcher says so, and closing it again does no harm."""
    with batcher(Doubler()) as made:
        made.close()
        with pytest.raises(EncoderUnavailable, match="shutting down"):
            await made.submit([1])


async def test_metrics():
    """Queue, waiting times, batches and passes are counted, and the queue is empty again in the end."""
    names = ("queue_duration_seconds_count", "batch_size_count", "batch_size_sum", "inference_duration_seconds_count")
    before = {name: sample(name) for name in names}
    queued = sample("queue_size")
    process = Doubler()
    with batcher(process) as made:
        held, waiting, cancelled = await hold(made, process), await submit_soon(made, 1, 2), await submit_soon(made, 3)
        assert sample("queue_size") == queued + 3
        cancelled.cancel()
        with suppress(asyncio.CancelledError):
            await cancelled
        assert sample("queue_size") == queued + 2
        process.gate.set()
        await asyncio.gather(held, waiting)
        closed = await hold(made, process), await submit_soon(made, 4)
        process.gate.set()
        await asyncio.gather(*closed)
    assert sample("queue_size") == queued
    assert {name: sample(name) - before[name] for name in names} == dict(zip(names, (5, 4, 5, 4), strict=True))


async def test_everyone_is_answered():
    """Among hundreds of callers with failures, deaths and cancellations, each gets its own answer and none hangs."""
    chance = random.Random(7)
    process = Doubler()
    process.failing = {item: ValueError(str(item)) for item in range(0, 400, 17)} | {
        201: MemoryError(),
        333: SystemExit(),
    }

    async def caller(item: int) -> str:
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        try:
            return "answered" if await made.submit([item, 1000 + item]) == [item * 2, 2000 + item * 2] else "mixed up"
        except ValueError as error:
            return "failed" if item % 17 == 0 and str(error) == str(item) else "mixed up"
        except EncoderUnavailable:
            return "unavailable"

    with batcher(process, max_batch=16, max_waiting=1000) as made:
        tasks = [asyncio.create_task(caller(item)) for item in range(400)]
        await asyncio.sleep(0)
        for task in chance.sample(tasks, 40):
            task.cancel()
        async with asyncio.timeout(LONG_S):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert "mixed up" not in answers
        assert answers.count("answered") > 250
        assert not made._waiting


# ---------------------------------------------------------------- the encoder for asyncio


class GatedEncoder(WordEncoder):
    """A `WordEncoder` that stops at a gate and remembers what it was asked."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self._device = device
        self.gate = threading.Event()
        self.started = threading.Event()
        self.asked: list[list[str]] = []
        self.pictures: list[int] = []

    @property
    def device(self) -> str:
        """Where it says that it computes."""
        return self._device

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encodes once the gate is open."""
        self.asked.append(list(texts))
        self.started.set()
        assert self.gate.wait(LONG_S)
        if "bad" in texts:
            raise ValueError("bad")
        return super().encode_texts(texts)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """Encodes at once."""
        self.pictures.append(len(pixels))
        return super().encode_images(pixels)


@pytest.fixture
async def gated():
    """An encoder with a closed gate, and the same for asyncio."""
    encoder = GatedEncoder()
    wrapped = AsyncEncoder(encoder, Settings(clip_max_batch=16, clip_queue_limit=64))
    yield encoder, wrapped
    encoder.gate.set()
    await wrapped.close()


async def ask(encoder: GatedEncoder, wrapped: AsyncEncoder, *texts: str) -> asyncio.Task[Vectors]:
    """Asks for texts in a task of its own, once the worker is held at the gate."""
    if not encoder.started.is_set():
        first = asyncio.create_task(wrapped.encode_texts(["first"]))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(encoder.started.wait, LONG_S)
        encoder.first = first  # type: ignore[attr-defined]  # a reference, so that the task lives
    task = asyncio.create_task(wrapped.encode_texts(list(texts)))
    await asyncio.sleep(0)
    return task


async def test_async_texts(gated: tuple[GatedEncoder, AsyncEncoder]):
    """Texts get the encoder's own vectors, in order, repeated ones too."""
    encoder, wrapped = gated
    encoder.gate.set()
    texts = ["red car", "blue", "red car"]
    assert np.array_equal(await wrapped.encode_texts(texts), WordEncoder().encode_texts(texts))
    assert encoder.asked == [["red car", "blue"]]


async def test_async_pictures(gated: tuple[GatedEncoder, AsyncEncoder]):
    """Pictures get the encoder's own vectors, in order, in smaller batches than texts."""
    encoder, wrapped = gated
    pictures = [Image.new("RGB", (9, 9), colour) for colour in ("red", "green", "blue", "white", "black")]
    pixels = np.stack([encoder.preprocess(picture) for picture in pictures])
    assert np.allclose(await wrapped.encode_images(pixels), WordEncoder().encode_images(pixels), atol=1e-6)
    assert max(encoder.pictures) == 2


async def test_async_nothing(gated: tuple[GatedEncoder, AsyncEncoder]):
    """Nothing in, no vectors of the right dimension out."""
    _, wrapped = gated
    assert (await wrapped.encode_texts([])).shape == (0, 64)
    assert (await wrapped.encode_images(np.zeros((0, 3, 8, 8), dtype=np.float32))).shape == (0, 64)


async def test_same_text_is_encoded_once(gated: tuple[GatedEncoder, AsyncEncoder]):
    """A text asked for while it waits or is being encoded is not encoded again."""
    encoder, wrapped = gated
    tasks = [await ask(encoder, wrapped, *texts) for texts in (["a", "b"], ["b", "c"], ["first", "c"])]
    encoder.gate.set()
    answers = await asyncio.gather(*tasks)
    assert sorted(text for texts in encoder.asked for text in texts) == ["a", "b", "c", "first"]
    assert np.array_equal(answers[0][1], answers[1][0])
    assert np.array_equal(answers[2], WordEncoder().encode_texts(["first", "c"]))
    assert not wrapped._in_flight


async def test_text_outlives_one_caller(gated: tuple[GatedEncoder, AsyncEncoder]):
    """When the caller that asked first gives up, others who want the same text still get it."""
    encoder, wrapped = gated
    gone, stays = await ask(encoder, wrapped, "a", "b"), await ask(encoder, wrapped, "b")
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    encoder.gate.set()
    assert np.array_equal(await stays, WordEncoder().encode_texts(["b"]))
    assert encoder.asked == [["first"], ["b"]]


async def test_text_can_come_back(gated: tuple[GatedEncoder, AsyncEncoder]):
    """A text whose only caller gave up can be asked for again at once."""
    encoder, wrapped = gated
    gone = await ask(encoder, wrapped, "a")
    gone.cancel()
    again = await ask(encoder, wrapped, "a")
    encoder.gate.set()
    assert np.array_equal(await again, WordEncoder().encode_texts(["a"]))


async def test_bad_text_fails_alone(gated: tuple[GatedEncoder, AsyncEncoder]):
    """A text that can't be encoded fails those who asked for it, and nobody else."""
    encoder, wrapped = gated
    good, bad, both = [await ask(encoder, wrapped, *texts) for texts in (["a"], ["bad"], ["a", "bad"])]
    encoder.gate.set()
    assert np.array_equal(await good, WordEncoder().encode_texts(["a"]))
    for task in (bad, both):
        with pytest.raises(ValueError, match="bad"):
            await task
    assert not wrapped._in_flight


async def test_async_overload(gated: tuple[GatedEncoder, AsyncEncoder]):
    """The queue's bound is the setting, and refused texts leave nothing behind."""
    encoder, wrapped = gated
    full = await ask(encoder, wrapped, *[f"text {number}" for number in range(64)])
    with pytest.raises(Overloaded):
        await wrapped.encode_texts(["one more"])
    assert "one more" not in wrapped._in_flight
    encoder.gate.set()
    assert (await full).shape == (64, 64)


@pytest.mark.parametrize(("device", "chosen", "most"), [("cpu", 0, 8), ("cuda", 0, 64), ("cpu", 20, 20)])
async def test_batches_end_where_they_stop_to_pay(device: str, chosen: int, most: int):
    """At eight on a processor and later on a GPU, unless somebody chose otherwise: all of a batch wait for its last."""
    encoder = GatedEncoder(device)
    wrapped = AsyncEncoder(encoder, Settings(_env_file=None, clip_max_batch=chosen))
    waiting = await ask(encoder, wrapped, *[f"text {number}" for number in range(2 * most + 1)])
    encoder.gate.set()
    await waiting
    assert [len(batch) for batch in encoder.asked] == [1, most, most, 1]
    await wrapped.close()


async def test_async_close():
    """After closing, it is not alive, and refuses texts and pictures; closing again does no harm."""
    encoder = WordEncoder()
    wrapped = AsyncEncoder(encoder, Settings())
    assert wrapped.alive
    assert (wrapped.model, wrapped.device) == (encoder.model, "cpu")
    await wrapped.close()
    await wrapped.close()
    assert not wrapped.alive
    with pytest.raises(EncoderUnavailable):
        await wrapped.encode_texts(["a"])
    with pytest.raises(EncoderUnavailable):
        await wrapped.encode_images(np.zeros((1, 3, 8, 8), dtype=np.float32))
