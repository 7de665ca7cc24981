"""Folders of pictures for tests, and what an index made of them holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from engine.generations import generations_of
from engine.ports import Point
from engine.settings import Settings


def paint(path: Path, color: str | tuple[int, ...] = "red", size: tuple[int, int] = (40, 30), **options: Any) -> Path:
    """One picture of one colour with a few dots, in the format that the name says (or `format`); makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)  # type: ignore[arg-type]
    dots = Random(path.name)  # so that no two files have one content
    for _ in range(8):
        image.putpixel((dots.randrange(size[0]), dots.randrange(size[1])), tuple(dots.randrange(256) for _ in range(3)))
    image.save(path, **options)
    return path


def paint_many(folder: Path, count: int) -> list[Path]:
    """Pictures of changing colours, `000.png` and on, a third of them in a folder of its own."""
    colors = ("red", "green", "blue", "yellow", "black", "white")
    names = [f"{'deep/' if number % 3 == 0 else ''}{number:03}.png" for number in range(count)]
    return [paint(folder / name, colors[number % len(colors)]) for number, name in enumerate(names)]


@dataclass(frozen=True, slots=True)
class Contents:
    """What serves: the manifest as it lies on disk, and the index's points by object key."""

    generation: str
    manifest: str
    points: dict[str, Point]

    @property
    def items(self) -> dict[str, Any]:
        """The manifest's files by key."""
        parsed: dict[str, Any] = json.loads(self.manifest)["items"]
        return parsed

    def reasons(self) -> dict[str, str]:
        """The skipped files by key."""
        return {key: item["reason"] for key, item in self.items.items() if item["state"] == "skipped"}


async def contents(settings: Settings, index: str) -> Contents:
    """Reads the serving generation."""
    async with generations_of(settings, index) as store:
        generation = await store.current()
        assert generation, "nothing serves"
        opened = await store.create_index(generation)  # in this process, which is quicker
        try:
            points = await opened.retrieve(await opened.ids(), vectors=True)
        finally:
            await opened.close()
    manifest = (generation.path / "manifest.json").read_text(encoding="utf-8")
    return Contents(generation.id, manifest, {point.payload["objectKey"]: point for point in points})
