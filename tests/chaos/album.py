"""A folder of pictures that changes from round to round, and what an index of it has to hold.

What is expected is worked out here from what was written to the folder. Nothing of it comes from the code under test,
but the tests' own encoder.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from engine.ports import Vectors
from tests.support.encoders import PALETTE, WordEncoder

_SUFFIXES = (".png", ".jpg", ".bmp", ".webp")
_FOLDERS = ("", "a/", "a/deep/er/", "b-1/", "Ünïcode/")
_CATEGORIES = ("animals", "cities", "food")
_NAMELESS = b"no-\xff-name.png"
_LOOP = "loop.png"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that has to be in the index: the SHA-256 of its file, its vector (d,), the category beside it."""

    id: str
    content_hash: str
    vector: Vectors
    category: str | None


@dataclass(frozen=True, slots=True)
class Expected:
    """What an index of the folder holds: the pictures by key, and all other files' reasons by key."""

    pictures: dict[str, Picture]
    reasons: dict[str, str]


class Album:
    """A folder at `path`, filled and changed as `random` says. Pictures are of one colour with dots of others."""

    def __init__(self, path: Path, index: str, random: Random, size: int) -> None:
        self.path = path
        self._namespace = uuid.uuid5(uuid.NAMESPACE_URL, f"sightline:{index}")
        self._random = random
        self._encoder = WordEncoder()
        self._made = 0
        self._files: dict[str, Picture | str] = {}
        path.mkdir(parents=True)
        for _ in range(size):
            self._add()
        for _ in range(size // 12):
            self._copy()
            self._spoil_new()
        (path / os.fsdecode(_NAMELESS)).write_bytes(b"a picture whose name is no text")
        (path / _LOOP).symlink_to(_LOOP)  # cannot be read, not even by root

    def change(self, files: int) -> None:
        """So many files are added, changed, copied, moved, removed, spoilt, mended, touched, or get other words."""
        ways: list[tuple[Callable[[], None], int]] = [
            (self._add, 8),
            (self._repaint, 8),
            (self._remove, 10),
            (self._say, 3),
            (self._copy, 2),
            (self._move, 2),
            (self._touch, 2),
            (self._spoil, 1),
            (self._spoil_new, 1),
            (self._mend, 1),
        ]
        for way in self._random.choices([way for way, _ in ways], [weight for _, weight in ways], k=files):
            way()

    def expected(self) -> Expected:
        """What an index has to hold of the folder as it is now."""
        assert set(self._files) == set(self._listed()), "the test itself is wrong about the folder"
        pictures = {key: what for key, what in self._files.items() if isinstance(what, Picture)}
        reasons = {key: what for key, what in self._files.items() if isinstance(what, str)}
        return Expected(pictures, {**reasons, _LOOP: "unreadable", "no-\\udcff-name.png": "bad_name"})

    # ---------------------------------------------------------------- ways to change

    def _add(self) -> None:
        self._write(self._new_key(), self._paint())

    def _repaint(self) -> None:
        self._write(self._any_picture(), self._paint())

    def _copy(self) -> None:
        """The same bytes under two keys, which may be two workers' at once."""
        self._write(self._new_key(), self._at(self._any_picture()).read_bytes())

    def _move(self) -> None:
        old = self._any_picture()
        content = self._at(old).read_bytes()
        self._delete(old)
        self._write(self._new_key(), content)

    def _remove(self) -> None:
        if len(self._files) > 40:
            self._delete(self._random.choice(sorted(self._files)))

    def _touch(self) -> None:
        os.utime(self._at(self._any_picture()))

    def _say(self) -> None:
        """Other words beside a picture, which is what it was."""
        key = self._any_picture()
        path = self._at(key + ".json")
        if path.exists() and self._random.random() < 0.3:
            path.unlink()
        else:
            path.write_text(json.dumps({"category": self._random.choice(_CATEGORIES), "words": self._token()}))
        self._note(key)

    def _spoil(self) -> None:
        """A picture becomes something else."""
        self._write(self._any_picture(), self._garbage())

    def _spoil_new(self) -> None:
        self._write(self._new_key(), self._garbage())

    def _mend(self) -> None:
        bad = sorted(key for key, what in self._files.items() if isinstance(what, str))
        if bad:
            self._write(self._random.choice(bad), self._paint())

    # ---------------------------------------------------------------- files

    def _paint(self) -> bytes:
        size = (self._random.randrange(16, 32), self._random.randrange(16, 32))  # too small to be reduced first
        image = Image.new("RGB", size, self._random.choice(list(PALETTE.values())))
        for _ in range(12):
            at = (self._random.randrange(size[0]), self._random.randrange(size[1]))
            image.putpixel(at, tuple(self._random.randrange(256) for _ in range(3)))
        file = BytesIO()
        image.save(file, self._random.choice(["PNG", "JPEG", "BMP", "WEBP"]), lossless=True)
        return file.getvalue()

    def _garbage(self) -> bytes:
        return self._random.choice([b"", f"no picture {self._token()}".encode()])

    def _write(self, key: str, content: bytes) -> None:
        path = self._at(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._note(key)

    def _delete(self, key: str) -> None:
        self._at(key).unlink()
        self._at(key + ".json").unlink(missing_ok=True)
        del self._files[key]

    def _note(self, key: str) -> None:
        """Works out what the index has to make of a file."""
        content = self._at(key).read_bytes()
        if not content:
            self._files[key] = "empty"
            return
        if content.startswith(b"no picture"):
            self._files[key] = "not_an_image"
            return
        with Image.open(BytesIO(content)) as image:
            vector = self._encoder.encode_images(np.stack([self._encoder.preprocess(image.convert("RGB"))]))[0]
        words = self._at(key + ".json")
        category = json.loads(words.read_text())["category"] if words.exists() else None
        id_ = str(uuid.uuid5(self._namespace, key))
        self._files[key] = Picture(id_, hashlib.sha256(content).hexdigest(), vector, category)

    def _listed(self) -> Iterator[str]:
        for path in self.path.rglob("*"):
            key = str(path.relative_to(self.path))
            if path.is_file() and path.suffix != ".json" and os.fsencode(key) != _NAMELESS:
                yield key

    def _at(self, key: str) -> Path:
        return self.path / key

    def _any_picture(self) -> str:
        return self._random.choice(sorted(key for key, what in self._files.items() if isinstance(what, Picture)))

    def _new_key(self) -> str:
        self._made += 1
        return f"{self._random.choice(_FOLDERS)}{self._made:05}{self._random.choice(_SUFFIXES)}"

    def _token(self) -> str:
        return f"{self._random.getrandbits(32):08x}"
