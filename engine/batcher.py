"""Where requests of different clients meet: a queue in front of one thread that works on many inputs at once.

A model encodes several texts in little more than the time of one: a GPU dozens, a processor a few. The batcher never
waits for company: an idle worker starts with what is there, and what arrives meanwhile is the next batch, so batches
grow with the load by themselves, as far as that pays.
Whatever goes wrong, every caller gets an answer: its own result, its own error, or word that the encoder died.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import structlog

from engine.errors import BadUserInput, EncoderUnavailable, Overloaded
from engine.ports import Encoder, ModelInfo, Pixels, Vectors
from engine.settings import Settings
from observability import metrics

In = TypeVar("In")
Out = TypeVar("Out")

log = structlog.get_logger(__name__)

_UNKNOWN_PACE_S = 0.02
"""Seconds an input is thought to take until the first batch was timed."""

_LAST_BATCH_S = 10.0
"""Seconds that closing waits for the running batch: longer than one takes, and shorter than a server's grace."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[In, Out]):
    """One input and whom to tell. `since` is the time.monotonic() of its arrival."""

    item: In
    future: Future[Out]
    since: float


class Batcher(Generic[In, Out]):
    """Runs `process` over what many callers submit, up to `max_batch` inputs at once, on a thread of its own.

    `process` returns one result for each input, in order. If it raises, its batch is halved until the culprit stands
    alone, so that its neighbours still get their results. If it brings down its thread (MemoryError, SystemExit), its
    callers get `EncoderUnavailable` and a new thread takes over. At most `max_waiting` inputs wait.

    One lock guards the queue and the thread; it is never held while `process` runs or callers are told.
    """

    def __init__(
        self, process: Callable[[list[In]], Sequence[Out]], *, max_batch: int, max_waiting: int, name: str
    ) -> None:
        self._process = process
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._name = name
        self._changed = threading.Condition()
        self._waiting: OrderedDict[Future[Out], _Job[In, Out]] = OrderedDict()
        self._running: list[_Job[In, Out]] = []
        self._pace_s = _UNKNOWN_PACE_S
        self._closed = False
        self._worker = self._start_worker()

    @property
    def alive(self) -> bool:
        """Whether there is a thread to do the work."""
        return not self._closed and self._worker.is_alive()

    async def submit(self, items: Sequence[In]) -> list[Out]:
        """The results of the items, in order; a cancelled caller's items are dropped unless they run already.

        Raises what `process` raised for one of these items, `Overloaded` when too many wait, `EncoderUnavailable`
        when the thread died meanwhile or the batcher is closed.
        """
        futures = self.enqueue(items)
        try:
            return await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
        finally:
            for future in futures:
                future.cancel()

    def enqueue(self, items: Sequence[In]) -> list[Future[Out]]:
        """Puts items into the queue, all or none, and returns at once; a future that is cancelled leaves the queue."""
        self._replace_lost_worker()
        jobs = [_Job(item, Future[Out](), time.monotonic()) for item in items]
        with self._changed:
            if self._closed:
                raise EncoderUnavailable(f"The {self._name} is shutting down. Try again on another server.")
            if len(jobs) > self._max_waiting:
                raise BadUserInput(f"{len(jobs)} inputs in one request are too many. Send at most {self._max_waiting}.")
            if len(self._waiting) + len(jobs) > self._max_waiting:
                raise Overloaded(retry_after_ms=math.ceil(len(self._waiting) * self._pace_s * 1000))
            self._waiting.update((job.future, job) for job in jobs)
            metrics.encoder_queue_size.inc(len(jobs))
            self._changed.notify()
        for job in jobs:
            job.future.add_done_callback(self._forget)
        return [job.future for job in jobs]

    def close(self) -> None:
        """Fails what waits, gives the running batch 10 s to finish and ends the thread; harmless when done twice."""
        with self._changed:
            self._closed = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
            metrics.encoder_queue_size.dec(len(waiting))
            self._changed.notify()
        self._fail(waiting, "is shutting down")
        self._worker.join(_LAST_BATCH_S)

    # ------------------------------------------------------------ the queue

    def _forget(self, future: Future[Out]) -> None:
        with self._changed:
            if self._waiting.pop(future, None) is not None:
                metrics.encoder_queue_size.dec()

    def _take(self) -> list[_Job[In, Out]]:
        """Waits for work and takes a batch of it off the queue; empty when closed."""
        with self._changed:
            while not self._running:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return []
                count = min(self._max_batch, len(self._waiting))
                jobs = [self._waiting.popitem(last=False)[1] for _ in range(count)]
                metrics.encoder_queue_size.dec(count)
                self._running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            return self._running

    # ------------------------------------------------------------ the worker

    def _start_worker(self) -> threading.Thread:
        worker = threading.Thread(target=self._work, name=self._name, daemon=True)
        worker.start()
        return worker

    def _work(self) -> None:
        try:
            while batch := self._take():
                now = time.monotonic()
                for job in batch:
                    metrics.encoder_queue_duration.observe(now - job.since)
                self._answer(batch)
                self._running = []
        except BaseException as error:  # whatever ends this thread, its callers must hear of it
            log.critical("a worker died", worker=self._name, exc_info=error)
            with self._changed:
                lost, self._running = self._running, []
                if not self._closed:
                    self._worker = self._start_worker()
            self._fail(lost, f"died of {type(error).__name__}")

    def _replace_lost_worker(self) -> None:
        """Starts a worker if the last one is gone without having seen to that, and fails what it had begun."""
        with self._changed:
            if self._closed or self._worker.is_alive():
                return
            lost, self._running = self._running, []
            self._worker = self._start_worker()
        self._fail(lost, "stopped without a word")

    def _answer(self, batch: list[_Job[In, Out]]) -> None:
        """Processes a batch and tells its callers; on an error, each half by itself."""
        started = time.monotonic()
        try:
            results = self._process([job.item for job in batch])
        except MemoryError:
            raise  # no state to go on in
        except Exception as error:  # noqa: BLE001 - it belongs to the caller
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            middle = len(batch) // 2
            self._answer(batch[:middle])
            self._answer(batch[middle:])
            return
        took = time.monotonic() - started
        self._pace_s += 0.2 * (took / len(batch) - self._pace_s)  # the last dozen batches count
        metrics.encoder_inference_duration.observe(took)
        metrics.encoder_batch_size.observe(len(batch))
        if len(results) != len(batch):
            wrong = f"{self._name} made {len(results)} results of {len(batch)} inputs: a fault in `process`."
            for job in batch:
                job.future.set_exception(RuntimeError(wrong))
            return
        for job, result in zip(batch, results, strict=True):
            job.future.set_result(result)

    def _fail(self, jobs: Sequence[_Job[In, Out]], why: str) -> None:
        for job in jobs:
            with suppress(InvalidStateError):  # answered before the end, or cancelled this moment
                job.future.set_exception(EncoderUnavailable(f"The {self._name} {why}. Try again in a moment."))


# ---------------------------------------------------------------- the encoder for asyncio


_PICTURE_COST = 8
"""Texts that a picture counts as: smaller batches of them keep texts from waiting, a shorter queue bounds memory."""


@dataclass(slots=True)
class _Shared:
    """A text in flight, and how many callers wait for it."""

    future: asyncio.Future[Vectors]
    callers: int = 0


class AsyncEncoder:
    """An `Encoder` for callers on one event loop: it batches across requests, and never blocks the loop.

    A text that several requests ask for at once is encoded once; it is dropped when the last of them gives up.
    """

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        self._encoder = encoder
        self._in_flight: dict[str, _Shared] = {}
        batch, limit = settings.max_batch(encoder.device), settings.clip_queue_limit
        self._texts: Batcher[str, Vectors] = Batcher(
            lambda texts: list(encoder.encode_texts(texts)), max_batch=batch, max_waiting=limit, name="text encoder"
        )
        self._pictures: Batcher[Pixels, Vectors] = Batcher(
            lambda pictures: list(encoder.encode_images(np.stack(pictures))),
            max_batch=max(1, batch // _PICTURE_COST),
            max_waiting=max(1, limit // _PICTURE_COST),
            name="picture encoder",
        )

    @property
    def model(self) -> ModelInfo:
        """The model behind the vectors."""
        return self._encoder.model

    @property
    def device(self) -> str:
        """Where it computes: "cuda", "mps" or "cpu"."""
        return self._encoder.device

    @property
    def runtime(self) -> str:
        """How it computes."""
        return self._encoder.runtime

    @property
    def alive(self) -> bool:
        """Whether there are threads to encode with."""
        return self._texts.alive and self._pictures.alive

    async def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embeddings of texts, (n, d). Raises as `Batcher.submit` does."""
        if not texts:
            return self._nothing()
        fresh = [text for text in dict.fromkeys(texts) if text not in self._in_flight]
        for text, future in zip(fresh, self._texts.enqueue(fresh), strict=True):
            self._in_flight[text] = _Shared(asyncio.wrap_future(future))
        shared = {text: self._in_flight[text] for text in texts}
        for one in shared.values():
            one.callers += 1
        try:
            vectors = await asyncio.gather(*(asyncio.shield(one.future) for one in shared.values()))
        finally:
            for text, one in shared.items():
                self._leave(text, one)
        found = dict(zip(shared, vectors, strict=True))
        return np.stack([found[text] for text in texts])

    async def encode_images(self, pixels: Pixels) -> Vectors:
        """Embeddings of preprocessed pictures, (n, h, w, 3) to (n, d). Raises as `Batcher.submit` does."""
        if not len(pixels):
            return self._nothing()
        return np.stack(await self._pictures.submit(list(pixels)))

    async def close(self) -> None:
        """Fails what waits and ends the threads, once their running batches are done; harmless when done twice."""
        await asyncio.gather(asyncio.to_thread(self._texts.close), asyncio.to_thread(self._pictures.close))

    def _leave(self, text: str, shared: _Shared) -> None:
        """One caller less; the last one takes the text out of flight, which drops it if it still waits."""
        shared.callers -= 1
        if not shared.callers:
            shared.future.cancel()
            if self._in_flight.get(text) is shared:
                del self._in_flight[text]

    def _nothing(self) -> Vectors:
        return np.empty((0, self.model.dimension), dtype=np.float32)
