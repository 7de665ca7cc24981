"""How near a run of `sightline index` comes to its slowest stage, measured on the same pictures in one run.

Decoding, encoding and writing are each run alone, then all together, then as the loop that one would write by hand.
Where stages share cores, the slowest alone can't be reached: what the others compute is taken from it. So there are two
bounds: the slowest stage alone, which holds where the stages have cores or an accelerator of their own, and what the
core time of all stages together allows.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from PIL import Image

from engine.cores import usable_cores
from engine.errors import SourceError
from engine.indexes.edge import EdgeIndex
from engine.ports import Encoder, Point, Vectors
from engine.settings import Settings
from indexing.bench.report import Figure, Report, Target
from indexing.decode import Decoded, Reason
from indexing.encoding import chunk_size, encode
from indexing.entries import Entry, write_thumbnails
from indexing.ledger import Build, Ledger
from indexing.pipeline import index
from indexing.plan import Work
from indexing.sources import FolderSource, Item, Listed
from indexing.workers import DecoderPool

_NAME: Final = "bench"
_WITH_PIXELS: Final = 512  # pictures that the encoder is given again and again: as many as fit any memory
_BY_HAND: Final = 256
_TARGET: Final = 0.9


@dataclass(frozen=True, slots=True)
class Stage:
    """One measurement: so many pictures in so many seconds, which took so many seconds of all cores together."""

    name: str
    pictures: int
    seconds: float
    core_seconds: float

    @property
    def speed(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds

    @property
    def core_ms(self) -> float:
        """Milliseconds of one core for each picture."""
        return 1000 * self.core_seconds / self.pictures

    @property
    def cores_busy(self) -> float:
        """How many cores it kept busy, on average."""
        return self.core_seconds / self.seconds

    def row(self) -> dict[str, Figure]:
        """As a row of a report."""
        return {
            "stage": self.name,
            "pictures_s": self.speed,
            "core_ms_per_picture": self.core_ms,
            "cores_busy": self.cores_busy,
        }


def run(
    source: Path,
    settings: Settings,
    encoder: Encoder,
    *,
    count: int = 1000,
    rounds: int = 2,
    folder: Path = Path("data/bench"),
) -> Report:
    """Measures with the first `count` files of `source`, each stage `rounds` times in turn; its fastest time counts.

    Indexes are made under `folder` and removed. Raises `SourceError` if no file is a picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = _FirstFiles(source, count)
    files.check()
    work = [Work(item, None) for item in files.scan() if isinstance(item, Item)]
    encoder.warm_up()
    measured: list[list[Stage]] = []
    for _ in range(rounds):
        with TemporaryDirectory(dir=folder) as scratch:
            measured.append(_round(files, work, settings.model_copy(update={"index_path": Path(scratch)}), encoder))
    stages = [min(same, key=lambda stage: stage.seconds) for same in zip(*measured, strict=True)]
    *alone, together, by_hand = stages
    slowest = min(alone, key=lambda stage: stage.speed)
    core_ms = sum(stage.core_ms for stage in alone)
    cores = max(stage.cores_busy for stage in alone)  # fewer than there are, where others use the machine too
    allowed = min(1000 * cores / core_ms, slowest.speed) if encoder.device == "cpu" else slowest.speed
    return Report(
        title="Indexing",
        setup={
            "model": encoder.model.name,
            "runtime": encoder.runtime,
            "pictures": together.pictures,
            "source": str(source),
            "workers": settings.index_workers or usable_cores() + 1,
            "rounds": rounds,
        },
        rows=[
            *(stage.row() for stage in stages),
            {"stage": "bound: the slowest alone", "pictures_s": slowest.speed},
            {"stage": "bound: core time of all stages", "pictures_s": allowed, "core_ms_per_picture": core_ms},
        ],
        targets=[
            Target(f"all together against {slowest.name}", together.speed / slowest.speed, ">=", _TARGET),
            Target("all together against what their core time allows", together.speed / allowed, ">=", _TARGET),
            Target("all together against the loop by hand, times", together.speed / by_hand.speed, ">=", 1.0),
        ],
        notes=[
            f"The stages shared {cores:.1f} cores: {allowed / slowest.speed:.0%} of the slowest one's speed is left."
        ],
    )


def _round(files: FolderSource, work: list[Work], settings: Settings, encoder: Encoder) -> list[Stage]:
    """Each stage once."""
    decoding, entries = asyncio.run(_decode(work, settings, encoder))
    if not entries:
        raise SourceError(f"None of the {len(work)} files in {files.path} is a picture. Name a folder with pictures.")
    encoding, vectors = _encode(entries, encoder)
    encoded = [entry.encoded(vectors[at % len(vectors)]) for at, entry in enumerate(entries)]
    writing = asyncio.run(_write(encoded, settings, encoder))
    together = asyncio.run(_together(files, settings, encoder))
    return [decoding, encoding, writing, together, _by_hand(entries, settings, encoder)]


async def _decode(work: list[Work], settings: Settings, encoder: Encoder) -> tuple[Stage, list[Entry]]:
    """The workers alone; their results are kept, of the first ones with pixels."""
    pool = DecoderPool(settings, encoder.preprocessing, ahead=2 * chunk_size(encoder))
    nothing = np.zeros(1, dtype=np.float32)
    entries: list[Entry] = []
    clock = _Clock()
    async with aclosing(pool.decode(work)) as results:
        async for task, outcome in results:
            if isinstance(outcome, Decoded):
                entry = Entry(task, outcome)
                entries.append(entry if len(entries) < _WITH_PIXELS else entry.encoded(nothing))
    return clock.stage("decoding alone", len(work)), entries


def _encode(entries: list[Entry], encoder: Encoder) -> tuple[Stage, Vectors]:
    """The encoder alone, on pixels that are there."""
    pictures = [entry.outcome for entry in entries[:_WITH_PIXELS] if isinstance(entry.outcome, Decoded)]
    size = chunk_size(encoder)
    chunks = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    done, clock = 0, _Clock()
    while done < len(entries):
        vectors = []
        for chunk in chunks:
            vectors.append(encode(encoder, chunk))
            done += len(chunk)
    return clock.stage("encoding alone", done), np.concatenate(vectors)


async def _write(entries: list[Entry], settings: Settings, encoder: Encoder) -> Stage:
    """Thumbnails, vectors and ledger alone, in the batches of a run."""
    root = settings.index_path / "written"
    index = EdgeIndex.create(root / "shard", encoder.model.dimension, settings)
    ledger = Ledger.open(settings, root.name)
    ledger.adopt(Build(_NAME, None, "", "", promoted=False))
    clock = _Clock()
    for start in range(0, len(entries), settings.index_batch_size):
        batch = entries[start : start + settings.index_batch_size]
        write_thumbnails(root, batch)
        points = [entry.point(_NAME) for entry in batch]
        await index.upsert([point for point in points if point])
        ledger.record(_NAME, [entry.row(_NAME, point) for entry, point in zip(batch, points, strict=True)])
    stage = clock.stage("writing alone", len(entries))
    await index.close()
    ledger.close()
    return stage


async def _together(files: FolderSource, settings: Settings, encoder: Encoder) -> Stage:
    """A run as `sightline index` makes it, from the first file to the last; the graph is built after that."""
    progress = _Watching()
    report = await index(files, settings=settings, encoder_factory=lambda: encoder, index_name=_NAME, progress=progress)
    return Stage("all together", progress.total, report.encoding_seconds, progress.core_seconds)


def _by_hand(entries: list[Entry], settings: Settings, encoder: Encoder) -> Stage:
    """One picture after the other: opened, prepared, encoded; no thumbnail, no checks, written in one go at the end."""
    index = EdgeIndex.create(settings.index_path / "by-hand", encoder.model.dimension, settings)
    points: list[Point] = []
    clock = _Clock()
    for entry in entries[:_BY_HAND]:
        with Image.open(entry.work.item.path) as image:
            (vector,) = encoder.encode_images(encoder.preprocess(image)[None])
        point = entry.encoded(vector).point(_NAME)
        assert point  # noqa: S101 - all entries are pictures
        points.append(point)
    asyncio.run(index.upsert(points))
    stage = clock.stage("by hand, one by one", len(points))
    asyncio.run(index.close())
    return stage


class _FirstFiles(FolderSource):
    """The first files of a folder, with the words beside them."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        self._count = count

    def scan(self) -> Iterator[Listed]:
        """As many as were asked for."""
        return islice(super().scan(), self._count)


class _Clock:
    """Counts the time that passes, and that of all cores: this process's and that of its children that have ended."""

    def __init__(self) -> None:
        self._started, self._cores = time.perf_counter(), _core_seconds()

    def stage(self, name: str, pictures: int) -> Stage:
        """What has passed until now."""
        return Stage(name, pictures, time.perf_counter() - self._started, _core_seconds() - self._cores)


class _Watching:
    """A progress display that notes the core time between the first file and the last."""

    def __init__(self) -> None:
        self.total = 0
        self.core_seconds = 0.0

    def stage(self, name: str) -> None:
        """After the last file comes checking."""
        if name == "checking":
            self.core_seconds += _core_seconds()

    def start(self, total: int) -> None:
        """The first file comes."""
        self.total += total
        self.core_seconds -= _core_seconds()

    def advance(self, key: str, reason: Reason | None) -> None:
        """Of no interest."""


def _core_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def scenes_or(source: Path | None, count: int, say: Callable[[str], None]) -> Path:
    """The folder named, or one with `count` drawn scenes of 512 pixels, which are drawn if they are not there."""
    if source:
        return source
    from indexing.scenes.dataset import write_scenes  # noqa: PLC0415 - brings what draws

    folder = Path(f"data/bench/scenes-{count}")
    say(f"Drawing {count:,} scenes into {folder}, unless they are there …")
    write_scenes(count, 1, folder, 512)
    return folder
