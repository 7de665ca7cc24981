from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import SightlineError
from engine.settings import Settings
from indexing.decode import Decoded, Failure, Outcome, Reason
from indexing.worker import pack, unpack
from indexing.workers import DECODER, DecoderPool
from tests.support.encoders import WordEncoder
from tests.support.pictures import paint

PREPROCESSING = WordEncoder().preprocessing
ROUGH = "tests.support.decoders:rough"


@dataclass(frozen=True)
class File:
    """A task for the pool."""

    path: str


async def run(files: Sequence[Path], decoder: str = ROUGH, **settings: Any) -> dict[str, Outcome]:
    """Decodes files and returns their outcomes by name."""
    pool = DecoderPool(Settings(index_workers=2, **settings), PREPROCESSING, decoder=decoder)
    async with aclosing(pool.decode([File(str(file)) for file in files])) as results:
        return {Path(file.path).stem: outcome async for file, outcome in results}


def children() -> set[str]:
    """The process ids of this process's children."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


async def test_only_the_file_that_crashes_a_worker_fails(tmp_path: Path):
    """Segmentation faults and stray errors cost one picture each; those before and after are decoded."""
    names = ["a", "crash1", "b", "crash2", "c", "nonsense", "d", "e"]
    found = await run([paint(tmp_path / f"{name}.png") for name in names])
    assert {name for name, outcome in found.items() if isinstance(outcome, Decoded)} == {"a", "b", "c", "d", "e"}
    assert found["crash1"] == Failure(Reason.WORKER_DIED, "signal 11")
    assert found["nonsense"] == Failure(Reason.WORKER_DIED, "exit code 1")


async def test_only_the_file_that_hangs_a_worker_fails(tmp_path: Path):
    """A worker that never answers is replaced after the time limit."""
    names = ["hang1", "hang2", "a", "b", "c"]
    found = await run([paint(tmp_path / f"{name}.png") for name in names], index_decode_timeout_s=2.0)
    assert found["hang1"] == found["hang2"] == Failure(Reason.TIMEOUT, "2 s")
    assert all(isinstance(found[name], Decoded) for name in "abc")


async def test_memory_is_limited(tmp_path: Path):
    """A picture that wants 64 GB is told so, and the worker goes on."""
    found = await run([paint(tmp_path / f"{name}.png") for name in ("eat", "a", "b")], index_worker_memory_mb=512)
    assert found["eat"] == Failure(Reason.OUT_OF_MEMORY)
    assert isinstance(found["a"], Decoded)


async def test_a_real_picture_too_large_for_the_memory_limit_fails_alone(tmp_path: Path):
    """Pillow itself runs into the limit: a picture within the pixel limit whose pixels need more than is allowed."""
    large = paint(tmp_path / "large.png", size=(9000, 9000), compress_level=1)
    found = await run([large, paint(tmp_path / "a.png")], decoder=DECODER, index_worker_memory_mb=128)
    assert found["large"] == Failure(Reason.OUT_OF_MEMORY)
    assert isinstance(found["a"], Decoded)


async def test_what_decoders_print_is_not_taken_for_an_answer(tmp_path: Path):
    """Output of libraries goes nowhere."""
    found = await run([paint(tmp_path / "chatter.png"), paint(tmp_path / "a.png")])
    assert all(isinstance(outcome, Decoded) for outcome in found.values())


async def test_workers_end_with_the_iteration(tmp_path: Path):
    """When the caller stops early no process is left behind."""
    before = children()
    pool = DecoderPool(Settings(index_workers=2), PREPROCESSING)
    files = [File(str(paint(tmp_path / f"{number}.png"))) for number in range(20)]
    async with aclosing(pool.decode(files)) as results:
        await anext(results)
        assert children() > before
    assert children() == before


async def test_few_results_wait(tmp_path: Path):
    """Workers do not run ahead of a slow caller by more than they are told: memory stays bounded."""
    taken = []

    def files() -> Iterator[File]:
        for number in range(50):
            taken.append(number)
            yield File(str(paint(tmp_path / f"{number}.png")))

    pool = DecoderPool(Settings(index_workers=2), PREPROCESSING, ahead=3)
    async with aclosing(pool.decode(files())) as results:
        for _ in range(4):
            await anext(results)
        assert len(taken) <= 4 + 3 + 2


async def test_workers_that_can_not_start_say_why(tmp_path: Path):
    """A broken installation is an error with a reason, not a list of skipped pictures."""
    with pytest.raises(SightlineError, match="no_such_module"):
        await run([paint(tmp_path / "a.png")], decoder="no_such_module:decode")


async def test_pixels_come_whole_and_from_their_own_file(tmp_path: Path):
    """Many pictures through the same shared memory: each has the pixels that decoding it here gives."""
    files = [paint(tmp_path / f"{number}.png", (number * 5, 0, 255 - number * 5)) for number in range(40)]
    found = await run(files, decoder=DECODER)
    for file in files:
        decoded = found[file.stem]
        assert isinstance(decoded, Decoded)
        with Image.open(file) as image:
            np.testing.assert_array_equal(decoded.pixels, PREPROCESSING.apply(image))


async def test_as_many_workers_as_suit_the_machine(tmp_path: Path):
    """With 0 workers asked for there are some."""
    pool = DecoderPool(Settings(index_workers=0), PREPROCESSING)
    files = [File(str(paint(tmp_path / f"{number}.png"))) for number in range(9)]
    async with aclosing(pool.decode(files)) as results:
        assert len([outcome async for _, outcome in results if isinstance(outcome, Decoded)]) == 9


def test_frames_keep_every_outcome():
    """What a worker packs its parent unpacks, and the pixels are no longer the worker's to change."""
    shared = np.full((1, 1, 3), 7, dtype=np.uint8)
    decoded = Decoded("ab", 3, 2, None, shared, b"jpeg")
    for outcome in (decoded, Failure(Reason.CORRUPT, "why"), None):
        frame = pack(outcome)
        length, rest = int.from_bytes(frame[:4], "little"), frame[8:]
        found = unpack(rest[:length], rest[length:], shared)
        if isinstance(found, Decoded):
            assert (found.content_hash, found.width, found.height, found.taken_at) == ("ab", 3, 2, None)
            assert (found.thumbnail, found.pixels.tolist()) == (b"jpeg", [[[7, 7, 7]]])
            assert not np.shares_memory(found.pixels, shared)
        else:
            assert found == outcome
