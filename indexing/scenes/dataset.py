"""A set of scenes on disk: pictures with neutral names and, beside them, what is really in each.

    DIR/scenes.json             which set this is: `Stamp`
    DIR/metadata.jsonl          one line a picture, {"file": name, **ground truth}
    DIR/scene-000001.jpg …      quality 88, colour at full resolution, because drawings have sharp coloured edges

A set of more than 1,000 pictures lies in folders of 1,000, each with a `metadata.jsonl` of its own. Every file is a
function of the stamp alone and appears under its name only when it is whole, so a run that was interrupted is continued
by drawing what is missing, and no folder ever mixes two sets.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Final

import orjson
from PIL import Image

from engine.errors import BadUserInput, SourceError
from indexing.disk import full_reason
from indexing.scenes import captions
from indexing.scenes.render import render
from indexing.scenes.scene import Scene, sample
from indexing.scenes.vocabulary import COLORS

STAMP: Final = "scenes.json"
METADATA: Final = "metadata.jsonl"

Progress = Callable[[int, int], None]
"""Is told how many of how many pictures are there."""

_FOLDER: Final = 1_000  # pictures in one folder
_CHUNK: Final = 25  # pictures in one piece of work: a third of a second
_QUALITY: Final = 88
_JPEG_END: Final = b"\xff\xd9"
_SIZES: Final = (16, 4096)
_SEEDS: Final = 2**30
_NUMBERS: Final = 2**32
_PROBES: Final = 256  # together they hold all kinds, colours, counts, backgrounds, times and weathers
_PROBE_PX: Final = 32


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which set a folder holds; `size` is in pixels, and another `drawing` means that the pictures look different."""

    count: int
    seed: int
    size: int
    drawing: str


def scene_seed(seed: int, number: int) -> int:
    """The seed of scene `number` of the set `seed`: (seed + 1) * 2^32 + number.

    No two sets share a scene, and none is one that training draws or validates on, whose seeds are all below 2^32.
    `seed` is 0 to 2^30 - 1, `number` 0 to 2^32 - 1 (files are numbered from 1). Raises `BadUserInput` outside of that.
    """
    if not 0 <= seed < _SEEDS:
        raise BadUserInput(f"The seed {seed} is out of range. Choose one from 0 to {_SEEDS - 1}.")
    if not 0 <= number < _NUMBERS:
        raise BadUserInput(f"The scene number {number} is out of range. Choose one from 0 to {_NUMBERS - 1}.")
    return (seed + 1) * _NUMBERS + number


def describe(scene: Scene) -> str:
    """A full caption of a scene in natural English, the same on every call: what its metadata says.

    `captions` imitates what people type into a search box ("on the left 1 red dog"); here one dog is "a red dog".
    """
    rng = Random(f"caption/{scene.seed}")
    query = captions.full(scene, rng)
    # without a number, `phrase` may use the plural for a single thing
    mentions = tuple(replace(mention, count=mention.count or 1) for mention in query.mentions)
    text = captions.phrase(replace(query, mentions=mentions), rng)
    text = _ONE.sub(lambda match: "an " if match[1] == "orange" else "a ", text)
    text = _DIGIT.sub(lambda match: "two" if match[0] == "2" else "three", text)
    text = _THERE_IS_MANY.sub("there are", text)
    text = _OPENING_TO_A_PLACE.sub("", text)
    return text[0].upper() + text[1:]


def write_scenes(
    count: int, seed: int, out: Path, size: int = 512, progress: Progress = lambda _there, _all: None
) -> None:
    """Draws the scenes 1 to `count` of a set into the folder `out`, `size` pixels square, on all cores.

    Run again, it draws what is missing, and nothing once all is there. Raises `BadUserInput` when an argument is out of
    range or the folder holds anything else, `SourceError` when it can't be written or its disk is full.
    """
    if count < 1:
        raise BadUserInput(f"{count} scenes can't be drawn. Ask for 1 or more.")
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise BadUserInput(f"Scenes of {size} pixels can't be drawn. Choose a size from {_SIZES[0]} to {_SIZES[1]}.")
    scene_seed(seed, count)
    plan = _Plan(out, Stamp(count, seed, size, _drawing()))
    try:
        plan.claim()
        _complete(plan, progress)
    except OSError as error:
        if full_reason(error):
            raise SourceError(
                f"The disk of {out} is full. Free some space and run the same command again: it goes on from here. "
                "Or name a folder on another disk."
            ) from error
        raise SourceError(
            f"{error.filename or out} can't be written: {error.strerror}. Name a folder that you may write to."
        ) from error
    except BrokenProcessPool as error:
        raise SourceError(
            "A drawing process was killed, perhaps for want of memory. Run the same command again: it goes on."
        ) from error


# ---------------------------------------------------------------- captions

_ONE: Final = re.compile(rf"\b(?:just one|only one|a single|one|1) (?=({'|'.join(COLORS)})\b)")
_DIGIT: Final = re.compile(r"\b[23]\b")
_THERE_IS_MANY: Final = re.compile(r"^there is(?= (?:two|three)\b)")
_OPENING_TO_A_PLACE: Final = re.compile(r"^(?:an? \w+ (?:of|with)|there is) (?=on the left )")


# ---------------------------------------------------------------- what goes where


@dataclass(frozen=True, slots=True)
class _Plan:
    """A set and its folder."""

    out: Path
    stamp: Stamp

    def claim(self) -> None:
        """Makes the folder this set's, or raises `BadUserInput` if it holds anything else."""
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / STAMP
        if path.exists():
            found = _read_stamp(path)
            if found == self.stamp:
                return
            known = f"{found.count} of size {found.size} from seed {found.seed}" if found else "of another kind"
            by = ", drawn by another version" if found and found.drawing != self.stamp.drawing else ""
            raise BadUserInput(
                f"{self.out} already holds scenes: {known}{by}. Name another folder, or delete this one."
            )
        if any(not entry.name.startswith(".") for entry in self.out.iterdir()):
            raise BadUserInput(f"{self.out} holds other files. Name a folder that is new or empty.")
        _write(path, orjson.dumps(asdict(self.stamp), option=orjson.OPT_APPEND_NEWLINE))

    def scene(self, number: int) -> Scene:
        return sample(scene_seed(self.stamp.seed, number))

    def folder(self, number: int) -> Path:
        """The folder of a picture; it is named after its first one."""
        if self.stamp.count <= _FOLDER:
            return self.out
        return self.out / f"{(number - 1) // _FOLDER * _FOLDER + 1:06d}"

    def picture(self, number: int) -> Path:
        return self.folder(number) / f"scene-{number:06d}.jpg"

    def firsts(self) -> range:
        """The number of the first picture of every folder."""
        return range(1, self.stamp.count + 1, _FOLDER)


def _read_stamp(path: Path) -> Stamp | None:
    try:
        return Stamp(**orjson.loads(path.read_bytes()))
    except (ValueError, TypeError):
        return None


@cache
def _drawing() -> str:
    """12 hex characters that change when scenes are sampled, drawn, described or stored differently.

    They are made from small pictures, not from a number that someone has to remember to raise.
    """
    digest = hashlib.sha256()
    for scene in map(sample, range(_PROBES)):
        digest.update(_jpeg(scene, _PROBE_PX))
        digest.update(_line("", scene))
    return digest.hexdigest()[:12]


def _jpeg(scene: Scene, size: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(render(scene, size)).save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()


def _line(name: str, scene: Scene) -> bytes:
    record = {"file": name, **scene.metadata(describe(scene))}
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _is_complete(path: Path) -> bool:
    """Whether a picture is there to its end: after a power failure a file can have its name and not its contents."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_JPEG_END), os.SEEK_END)
            return file.read() == _JPEG_END
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    """Writes a file that has its name only once it is whole."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


# ---------------------------------------------------------------- drawing on all cores


def _complete(plan: _Plan, progress: Progress) -> None:
    """Draws whatever is missing; a few pieces of work wait, the rest is not begun."""
    count = plan.stamp.count
    missing = [number for number in range(1, count + 1) if not _is_complete(plan.picture(number))]
    there = count - len(missing)
    progress(there, count)
    undescribed = [first for first in plan.firsts() if not (plan.folder(first) / METADATA).is_file()]
    if not missing and not undescribed:
        return
    cores = os.cpu_count() or 1
    workers = min(cores, len(undescribed) + len(missing) // _CHUNK + 1)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    running: set[Future[int]] = set()
    try:
        for work in _work(plan, undescribed, missing):
            running.add(pool.submit(work))
            if len(running) >= 3 * workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                there += sum(future.result() for future in done)
                progress(there, count)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            there += sum(future.result() for future in done)
            progress(there, count)
    finally:
        pool.shutdown(cancel_futures=True)


def _work(plan: _Plan, undescribed: Sequence[int], missing: Sequence[int]) -> Iterator[Callable[[], int]]:
    """Pieces of work, each returning how many pictures it drew. Words come first: no picture is without them."""
    for first in undescribed:
        yield partial(_describe_folder, plan, first)
    for start in range(0, len(missing), _CHUNK):
        yield partial(_draw, plan, missing[start : start + _CHUNK])


def _describe_folder(plan: _Plan, first: int) -> int:
    numbers = range(first, min(first + _FOLDER, plan.stamp.count + 1))
    lines = [_line(plan.picture(number).name, plan.scene(number)) for number in numbers]
    _write(plan.folder(first) / METADATA, b"".join(lines))
    return 0


def _draw(plan: _Plan, numbers: Sequence[int]) -> int:
    for number in numbers:
        _write(plan.picture(number), _jpeg(plan.scene(number), plan.stamp.size))
    return len(numbers)


def _begin_worker() -> None:
    """Ctrl-C is for the parent, who stops its workers; if it is killed and can't, they end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent  # noqa: S101 - this runs in workers only
    parent.join()
    os._exit(1)
