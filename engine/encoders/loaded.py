"""The encoders in memory: one for each model that open indexes were built with, for as long as one of them needs it.

A generation is searched with the encoder of its own model, so whoever opens one claims that model. Its encoder is
loaded when it is first needed, shared by all who claim it, and let go with the last claim. The only encoder there is
stays, claimed or not, so that a server without an index has its model ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog

from engine.batcher import AsyncEncoder
from engine.errors import EncoderUnavailable, SightlineError
from engine.ports import Encoder, ModelInfo
from engine.settings import Settings

Load = Callable[[Settings], Encoder]
"""Brings the model that the settings name into memory. Blocking; raises `ModelUnavailable` or `EncoderUnavailable`."""

_RETRY_S: Final = 30.0
"""Seconds until a model that could not be loaded is tried again: somebody has to put it there, or to free memory."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory: which one, on which device, and what computes it in which precision."""

    info: ModelInfo
    device: str
    runtime: str


@dataclass(slots=True, eq=False)
class _Place:
    """Where the encoder of one model is, or will be. `failed_at` is the time.monotonic() of the last `failure`."""

    model: ModelInfo
    claims: int = 0
    encoder: AsyncEncoder | None = None
    loading: asyncio.Task[None] | None = None
    failure: tuple[type[SightlineError], str] | None = None
    failed_at: float = 0.0


class Claim:
    """An open generation's right to the encoder of its model. Used on one event loop, until it is released."""

    def __init__(self, encoders: LoadedEncoders, place: _Place) -> None:
        """Only `LoadedEncoders.claim` makes one."""
        self._encoders = encoders
        self._place: _Place | None = place

    @property
    def loaded(self) -> bool:
        """Whether `encoder` has it at once."""
        return self._place is not None and self._place.encoder is not None

    @property
    def failure(self) -> SightlineError | None:
        """Why the model could not be loaded when that was last tried."""
        if self._place is None or self._place.failure is None:
            return None
        kind, reason = self._place.failure
        return kind(reason)

    def begin(self) -> None:
        """Has the model loaded in the background, unless it is loaded or failed in the last 30 s."""
        if self._place is not None:
            self._encoders.begin(self._place)

    async def encoder(self) -> AsyncEncoder:
        """The encoder, loaded if it is not yet; who gives up waiting leaves that to the others.

        It is good for as long as the claim is. Raises `ModelUnavailable` or `EncoderUnavailable`.
        """
        self.begin()
        if self._place is not None and self._place.loading is not None:
            await asyncio.wait([self._place.loading])
        if self._place is not None and self._place.encoder is not None:
            return self._place.encoder
        raise self.failure or EncoderUnavailable("This server is shutting down. Try again on another one.")

    def release(self) -> None:
        """Gives the right back; harmless when done twice."""
        place, self._place = self._place, None
        if place is not None:
            self._encoders.leave(place)


class LoadedEncoders:
    """The encoders of one server, loaded one at a time. Used from one event loop."""

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        """Loads nothing yet. `load` stands for `load_encoder` and `load_encoder_beside` of `engine.encoders.choice`."""
        self._settings = settings
        self._load = load
        self._places: dict[tuple[str, int], _Place] = {}
        self._one_at_a_time = asyncio.Lock()
        self._beside: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def models(self) -> list[LoadedModel]:
        """The models in memory, by name."""
        encoders = [place.encoder for place in self._places.values() if place.encoder is not None]
        models = [LoadedModel(encoder.model, encoder.device, encoder.runtime) for encoder in encoders]
        return sorted(models, key=lambda model: (model.info.name, model.info.fingerprint))

    def claim(self, model: ModelInfo) -> Claim:
        """The right to a model's encoder. Loads nothing."""
        place = self._place(model)
        place.claims += 1
        return Claim(self, place)

    async def load_own(self) -> None:
        """Loads the model of the settings, before anybody claims it. Raises what `Load` does."""
        async with self._one_at_a_time:
            try:
                encoder = await asyncio.to_thread(self._own)
            except SightlineError:
                raise
            except Exception as fault:
                log.exception("a model can't be loaded", model=self._settings.clip_model)
                raise _expected(fault) from fault
            self._settle(self._place(encoder.model), encoder)
            self._sweep()

    async def close(self) -> None:
        """Closes every encoder; harmless when done twice."""
        self._closed = True
        places = list(self._places.values())
        self._places.clear()
        loading = [place.loading for place in places if place.loading is not None]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        for place in places:
            self._let_go(place)
        await asyncio.gather(*self._beside)

    # ------------------------------------------------------------ for claims

    def begin(self, place: _Place) -> None:
        """Begins to load a model, unless that is done, under way, or failed in the last 30 s."""
        failed = place.failure is not None and time.monotonic() < place.failed_at + _RETRY_S
        if not (self._closed or failed or place.encoder or place.loading):
            place.loading = asyncio.create_task(self._fill(place))

    def leave(self, place: _Place) -> None:
        """One claim less."""
        place.claims -= 1
        self._sweep()

    # ------------------------------------------------------------ loading and letting go

    def _place(self, model: ModelInfo) -> _Place:
        return self._places.setdefault((model.fingerprint, model.dimension), _Place(model))

    async def _fill(self, place: _Place) -> None:
        """Loads what is claimed still when its turn has come; what goes wrong is noted, and logged once."""
        try:
            async with self._one_at_a_time:
                if place.claims and place.encoder is None:
                    self._settle(place, await asyncio.to_thread(self._claimed, place.model))
        except Exception as fault:  # noqa: BLE001 - whatever a model's libraries raise, searches and health must tell it
            self._fail(place, fault)
        finally:
            place.loading = None
            self._sweep()

    def _fail(self, place: _Place, fault: Exception) -> None:
        error = _expected(fault)
        known, place.failure = place.failure, (type(error), str(error))
        place.failed_at = time.monotonic()
        if known != place.failure:
            details = None if error is fault else fault
            log.error("a model can't be loaded", model=place.model.name, reason=str(error), exc_info=details)

    def _settle(self, place: _Place, encoder: Encoder) -> None:
        if self._closed or place.encoder is not None:
            return
        place.encoder, place.failure = AsyncEncoder(encoder, self._settings), None
        self._do_beside(_speed_up(encoder))

    def _own(self) -> Encoder:
        from engine.encoders.choice import load_encoder  # noqa: PLC0415 - takes a second

        return _warm((self._load or load_encoder)(self._settings))

    def _claimed(self, model: ModelInfo) -> Encoder:
        from engine.encoders.choice import load_encoder_of  # noqa: PLC0415 - takes a second

        return _warm(load_encoder_of(model, self._settings, self._load))

    def _sweep(self) -> None:
        """Lets go of what nobody claims, but of the only encoder there is."""
        for key, place in list(self._places.items()):
            if place.claims or place.loading is not None:
                continue
            others = any(other.encoder is not None for other in self._places.values() if other is not place)
            if place.encoder is None or others:
                del self._places[key]
                if place.encoder is not None:
                    log.info("model let go", model=place.model.name)
                self._let_go(place)

    def _let_go(self, place: _Place) -> None:
        """Closes an encoder once its last batch is done; nothing here refers to it any more."""
        encoder, place.encoder = place.encoder, None
        if encoder is not None:
            self._do_beside(encoder.close())

    def _do_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Begins what nobody waits for but `close`."""
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


async def _speed_up(encoder: Encoder) -> None:
    try:
        await asyncio.to_thread(encoder.speed_up)
    except Exception:
        log.exception("a model stays as fast as it is", model=encoder.model.name)


def _warm(encoder: Encoder) -> Encoder:
    encoder.warm_up()
    return encoder


def _expected(fault: Exception) -> SightlineError:
    """What people are told; `fault` itself is for the log, unless it says what to do."""
    if isinstance(fault, SightlineError):
        return fault
    reason = str(fault) or type(fault).__name__
    return EncoderUnavailable(f"The model can't be loaded: {reason}. The log has the details.")
