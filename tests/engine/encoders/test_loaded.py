"""One encoder for each model that is claimed: loaded when it is needed, and really gone when it is not."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from engine.encoders import loaded
from engine.encoders.choice import load_encoder
from engine.encoders.loaded import Claim, LoadedEncoders
from engine.errors import EncoderUnavailable, ModelUnavailable
from engine.ports import Encoder
from engine.settings import Settings
from tests.support.encoders import Shelf, WordEncoder
from tests.support.models import shipped
from tests.support.waiting import until

SETTINGS = Settings(_env_file=None, clip_model="own")


@pytest.fixture
def shelf() -> Shelf:
    """Models of any name."""
    return Shelf()


@pytest.fixture
async def encoders(shelf: Shelf) -> AsyncIterator[LoadedEncoders]:
    """Nothing loaded yet."""
    encoders = LoadedEncoders(SETTINGS, shelf)
    yield encoders
    shelf.gate.set()
    await encoders.close()


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A server keeps what it has loaded from the collector, so an encoder has to go without its help."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def in_memory(encoders: LoadedEncoders) -> list[str]:
    return [model.info.name for model in encoders.models]


async def _is(expected: list[str], shelf: Shelf) -> bool:
    return expected == shelf.names()


async def _asked(shelf: Shelf, times: int) -> bool:
    return len(shelf.loads) >= times


async def test_a_model_is_loaded_once_for_all_who_claim_it(encoders: LoadedEncoders, shelf: Shelf):
    """Not before somebody needs it; all get the same encoder."""
    model = shelf.encoder("a").model
    claims = [encoders.claim(model) for _ in range(3)]
    assert (shelf.loads, [claim.loaded for claim in claims]) == ([], [False] * 3)
    found = await asyncio.gather(*(claim.encoder() for claim in claims * 2))
    assert (shelf.loads, len(set(map(id, found)))) == (["a"], 1)
    assert all(claim.loaded for claim in claims)
    assert np.array_equal(await found[0].encode_texts(["red"]), shelf.encoder("a").encode_texts(["red"]))
    [one] = encoders.models
    assert (one.info, one.device, one.runtime) == (model, "cpu", "NumPy")


async def test_an_encoder_is_warm_before_anybody_gets_it():
    """Its first search is not the slow one."""
    events: list[str] = []

    class Noting(WordEncoder):
        def warm_up(self) -> None:
            events.append("warm")

    encoders = LoadedEncoders(SETTINGS, lambda _settings: Noting())
    await encoders.claim(Noting().model).encoder()
    events.append("given")
    assert events == ["warm", "given"]
    await encoders.close()


async def test_an_encoder_is_sped_up_while_it_is_used():
    """What takes seconds begins when searches can be made already, and `close` waits for it."""
    given, sped_up = threading.Event(), threading.Event()

    class Slow(WordEncoder):
        def speed_up(self) -> None:
            assert given.wait(10)
            sped_up.set()

    encoders = LoadedEncoders(SETTINGS, lambda _settings: Slow())
    await encoders.claim(Slow().model).encoder()
    assert not sped_up.is_set()
    given.set()
    await encoders.close()
    assert sped_up.is_set()


async def test_a_model_that_can_not_be_sped_up_is_used_as_it_is():
    """The log says so once."""

    class Broken(WordEncoder):
        def speed_up(self) -> None:
            raise RuntimeError("no memory")

    encoders = LoadedEncoders(SETTINGS, lambda _settings: Broken())
    with capture_logs() as logs:
        encoder = await encoders.claim(Broken().model).encoder()
        await encoders.close()
    assert encoder.model == Broken().model
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["a model stays as fast as it is"]


async def test_an_encoder_is_let_go_with_its_last_claim(encoders: LoadedEncoders, shelf: Shelf):
    """And loaded again for the next one."""
    await encoders.load_own()
    own = encoders.claim(shelf.encoder("own").model)
    claims = [encoders.claim(shelf.encoder("a").model) for _ in range(2)]
    assert (await own.encoder()).model.name == "own"
    encoder = await claims[0].encoder()
    claims[0].release()
    claims[0].release()
    assert in_memory(encoders) == ["a", "own"]
    assert len(await encoder.encode_texts(["red"])) == 1
    del encoder
    with no_garbage_collection():
        claims[1].release()
        assert in_memory(encoders) == ["own"]
        await until(lambda: _is(["own"], shelf))
    await encoders.claim(shelf.encoder("a").model).encoder()
    assert shelf.loads == ["own", "a", "a"]


async def test_the_only_encoder_stays_until_there_is_another(encoders: LoadedEncoders, shelf: Shelf):
    """A server without an index has its model ready; when the first index wants another, it is not needed."""
    await encoders.load_own()
    encoders.claim(shelf.encoder("own").model).release()
    assert in_memory(encoders) == ["own"]
    claim = encoders.claim(shelf.encoder("a").model)
    assert in_memory(encoders) == ["own"]
    await claim.encoder()
    assert in_memory(encoders) == ["a"]
    await until(lambda: _is(["a"], shelf))


async def test_who_claims_the_own_model_while_it_loads_waits_for_that(encoders: LoadedEncoders, shelf: Shelf):
    """It is not loaded twice, though nobody knows its fingerprint before it is there."""
    shelf.gate.clear()
    own = asyncio.create_task(encoders.load_own())
    await until(lambda: _asked(shelf, 1))
    waiting = asyncio.create_task(encoders.claim(shelf.encoder("own").model).encoder())
    await asyncio.sleep(0)
    shelf.gate.set()
    await own
    assert (await waiting).model.name == "own"
    assert shelf.loads == ["own"]


async def test_models_are_loaded_one_at_a_time(encoders: LoadedEncoders, shelf: Shelf):
    """Two at once would share processor and memory with the searches that go on."""
    claims = [encoders.claim(shelf.encoder(name).model) for name in "abc"]
    await asyncio.gather(*(claim.encoder() for claim in claims))
    assert (sorted(shelf.loads), shelf.most_at_once) == (["a", "b", "c"], 1)


async def test_who_gives_up_leaves_loading_to_the_others(encoders: LoadedEncoders, shelf: Shelf):
    """Also when it was the one that began it."""
    shelf.gate.clear()
    claim = encoders.claim(shelf.encoder("a").model)
    impatient, patient = (asyncio.create_task(claim.encoder()) for _ in range(2))
    await until(lambda: _asked(shelf, 1))
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    shelf.gate.set()
    assert (await patient).model.name == "a"
    assert (impatient.cancelled(), shelf.loads) == (True, ["a"])


async def test_what_nobody_claims_any_more_is_not_kept(encoders: LoadedEncoders, shelf: Shelf):
    """One that is being loaded is dropped when it is there; one that waits for its turn is never loaded."""
    await encoders.load_own()
    kept = encoders.claim(shelf.encoder("own").model)
    shelf.gate.clear()
    claims = [encoders.claim(shelf.encoder(name).model) for name in "ab"]
    for claim in claims:
        claim.begin()
    await until(lambda: _asked(shelf, 2))
    for claim in claims:
        claim.release()
    shelf.gate.set()
    await until(lambda: _settled(encoders))
    await until(lambda: _is(["own"], shelf))
    assert (in_memory(encoders), shelf.loads, kept.loaded) == (["own"], ["own", "a"], True)


async def _settled(encoders: LoadedEncoders) -> bool:
    return not encoders._one_at_a_time.locked() and len(encoders._places) == 1


async def test_a_model_that_is_missing_is_tried_again_after_a_while(
    encoders: LoadedEncoders, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    """Until then everybody hears at once why it is not there, and where to put it; the log says so once."""
    shelf.missing = {"a"}
    claim = encoders.claim(shelf.encoder("a").model)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(ModelUnavailable, match=r"weights of a are not here.*sightline models export"):
                await claim.encoder()
        assert (shelf.loads, isinstance(claim.failure, ModelUnavailable)) == (["a"], True)
        monkeypatch.setattr(loaded, "_RETRY_S", 0)
        with pytest.raises(ModelUnavailable):
            await claim.encoder()
        shelf.missing.clear()
        assert (await claim.encoder()).model.name == "a"
    assert claim.failure is None
    assert [entry["event"] for entry in logs] == ["a model can't be loaded"]


@pytest.mark.parametrize("fault", [RuntimeError("no kernel"), MemoryError(), OSError("no disk")], ids=repr)
async def test_whatever_loading_raises_is_told(encoders: LoadedEncoders, shelf: Shelf, fault: Exception):
    """As an error that can be shown; others are loaded as ever."""
    shelf.faults = {"a": fault, "own": fault}
    with pytest.raises(EncoderUnavailable, match=str(fault) or "MemoryError"):
        await encoders.claim(shelf.encoder("a").model).encoder()
    with pytest.raises(EncoderUnavailable, match=str(fault) or "MemoryError"):
        await encoders.load_own()
    assert (await encoders.claim(shelf.encoder("b").model).encoder()).model.name == "b"


async def test_other_weights_under_the_same_name_are_not_the_model(encoders: LoadedEncoders):
    """The fingerprint decides, and both are told apart in the message; nothing of the wrong one stays."""
    wanted = WordEncoder(16, "a", space="retrained").model
    with pytest.raises(ModelUnavailable, match=f"{wanted.fingerprint[:12]}.*What is here under that name is a"):
        await encoders.claim(wanted).encoder()
    assert encoders.models == []


async def test_closing_ends_waiting(shelf: Shelf):
    """Those who wait for a model hear that the server shuts down; whoever comes later does too."""
    encoders = LoadedEncoders(SETTINGS, shelf)
    shelf.gate.clear()
    claim = encoders.claim(shelf.encoder("a").model)
    waiting = asyncio.create_task(claim.encoder())
    await until(lambda: _asked(shelf, 1))
    await encoders.close()
    for outcome in await asyncio.gather(waiting, claim.encoder(), return_exceptions=True):
        assert isinstance(outcome, EncoderUnavailable)
    shelf.gate.set()
    await encoders.close()
    assert encoders.models == []


# ---------------------------------------------------------------- real encoders


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
async def test_real_encoders_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str):
    """Switched to and fro as promotions do, by reference counts alone: neither towers nor tokenizer stay."""
    settings = shipped(tmp_path, monkeypatch, "vit", "resnet").model_copy(update={"clip_runtime": runtime})
    remains: list[weakref.ref[object]] = []
    tokenizers: list[weakref.ref[object]] = []

    def load(settings: Settings) -> Encoder:
        encoder = load_encoder(settings)
        parts = vars(encoder)
        remains.extend(map(weakref.ref, [encoder, *_towers(parts)]))
        tokenizers.append(weakref.ref(parts["_tokenizer"]))
        return encoder

    infos = {name: load_encoder(settings.model_copy(update={"clip_model": name})).model for name in ("vit", "resnet")}
    encoders = LoadedEncoders(settings, load)
    claim: Claim | None = None
    with no_garbage_collection():
        for name in ("vit", "resnet", "vit"):
            new = encoders.claim(infos[name])
            assert (await (await new.encoder()).encode_texts(["a red car"])).shape == (1, 24)
            if claim is not None:
                claim.release()
            claim = new
        kept = len(remains) // 3
        await until(lambda: _gone(remains[:-kept]))
        assert all(ref() is not None for ref in remains[-kept:])
        await encoders.close()
        await until(lambda: _gone([*remains, *tokenizers]))


async def _gone(remains: list[weakref.ref[object]]) -> bool:
    return all(ref() is None for ref in remains)


def _towers(parts: dict[str, object]) -> list[object]:
    if "_model" in parts:
        model = parts["_model"]
        return [model, parts["_encode_text"], parts["_encode_image"], *vars(model)["_parameters"].values()]
    return [parts["_few_texts"], parts["_many_texts"], parts["_image"]]
