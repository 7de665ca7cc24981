"""The pictures to train on: drawn once by all cores, kept in one file, read by number.

Drawing costs about as much as a training step; keeping the pictures lets every one be seen several times, each time
with other captions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from indexing import scenes
from indexing.scenes.render import render
from indexing.scenes.scene import sample

PICTURE_PX: Final = 102
"""Side of a kept picture: 96 that the model sees, and room to shift."""

_CHUNK: Final = 500


def _drawing_version() -> str:
    """A digest of the drawing code: other code draws other pictures, so they are kept apart."""
    digest = hashlib.sha256()
    for file in sorted(Path(scenes.__file__).parent.glob("*.py")):
        if file.name not in {"captions.py", "truth.py"}:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _draw(seeds: range) -> NDArray[np.uint8]:
    pictures = np.empty((len(seeds), PICTURE_PX, PICTURE_PX, 3), np.uint8)
    for row, seed in enumerate(seeds):
        drawn = Image.fromarray(render(sample(seed, training=True), 2 * PICTURE_PX))
        pictures[row] = np.asarray(drawn.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BICUBIC))
    return pictures


def pictures(count: int, folder: Path, workers: int, progress: Callable[[int], None]) -> NDArray[np.uint8]:
    """The pictures of training seeds 0 to count - 1, mapped from a file under `folder`: (count, 102, 102, 3) uint8.

    What an earlier call drew is used again; an interrupted one is continued. `progress` is told how many are there.
    """
    path = folder / f"scenes-{_drawing_version()}-{count}.u8"
    done_path = path.with_suffix(".done")
    folder.mkdir(parents=True, exist_ok=True)
    done = int(done_path.read_text()) if done_path.exists() and path.exists() else 0
    kept = np.memmap(path, np.uint8, "r+" if path.exists() else "w+", shape=(count, PICTURE_PX, PICTURE_PX, 3))
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(done, count, _CHUNK)]
    with ProcessPoolExecutor(workers) as executor:
        for chunk, drawn in zip(chunks, executor.map(_draw, chunks), strict=True):
            kept[chunk.start : chunk.stop] = drawn
            done_path.write_text(str(chunk.stop))
            progress(chunk.stop)
    return kept
