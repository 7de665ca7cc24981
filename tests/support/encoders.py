"""A small real encoder for tests: words and pictures meet in one space, without torch and without weights."""

from __future__ import annotations

import hashlib
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

import engine.encoders.choice  # noqa: F401 - takes a second, which a test's first search has not
from engine.errors import ModelUnavailable
from engine.ports import Encoder, ModelInfo, Pixels, Vectors
from engine.preprocess import Preprocessing
from engine.settings import Settings

PALETTE = {
    "red": (220, 30, 30),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 40),
    "green": (40, 160, 60),
    "blue": (35, 80, 220),
    "purple": (130, 45, 170),
    "pink": (250, 130, 185),
    "brown": (120, 72, 35),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
"""The colours that pictures are named by, RGB from 0 to 255."""

_SIDE = 8
_COLOURS = np.array(list(PALETTE.values()), dtype=np.float32) / 255


class WordEncoder:
    """Text is a bag of its lower-cased words; a picture is its colour's word, and a little of its pixels.

    So "red" finds red pictures before others, "a red car" finds them too, and equal inputs have equal vectors on
    every machine. It holds no state that changes: any number of threads may call it.
    """

    def __init__(self, dimension: int = 64, name: str = "words", *, space: str = "") -> None:
        """Encoders of another `space` agree in nothing, though their vectors look alike."""
        self._space = space
        fingerprint = hashlib.sha256(f"{name} {dimension}{space}".encode()).hexdigest()[:16]
        self._model = ModelInfo(
            name=name,
            pretrained="",
            dimension=dimension,
            image_size=_SIDE,
            context_length=77,
            fingerprint=fingerprint,
        )
        self._projection = np.stack([self._word(f"pixel {number}") for number in range(3 * _SIDE * _SIDE)])
        self._colour_words = np.stack([self._word(colour) for colour in PALETTE])

    @property
    def model(self) -> ModelInfo:
        """Describes this encoder; its fingerprint changes with name and dimension."""
        return self._model

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    @property
    def runtime(self) -> str:
        """Always "NumPy"."""
        return "NumPy"

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Sums of word vectors, (n, d); a text without words has a vector of its own."""
        if not texts:
            return np.zeros((0, self._model.dimension), dtype=np.float32)
        return _unit(np.stack([self._bag(text) for text in texts]))

    @property
    def preprocessing(self) -> Preprocessing:
        """Pictures are squashed to 8 x 8 pixels."""
        return Preprocessing((_SIDE, _SIDE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", "squash", 0)

    def preprocess(self, image: Image) -> Pixels:
        """The picture at 8 x 8 pixels: (8, 8, 3)."""
        return self.preprocessing.apply(image)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """The word of the mean colour, moved by how the pixels differ from that colour: (n, d)."""
        if not len(pixels):
            return np.zeros((0, self._model.dimension), dtype=np.float32)
        bright = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
        mean = bright.mean(axis=(2, 3))
        nearest = np.linalg.norm(mean[:, None] - _COLOURS, axis=2).argmin(axis=1)
        rest = bright - _COLOURS[nearest][:, :, None, None]
        # Divided so that pixels move a vector by at most its own length, and by far less in a picture of one colour.
        moved = rest.reshape(len(pixels), -1) @ self._projection / np.sqrt(len(self._projection))
        return _unit(self._colour_words[nearest] + moved)

    def warm_up(self) -> None:
        """Has nothing to warm."""

    def speed_up(self) -> None:
        """Is as fast as it gets."""

    def _bag(self, text: str) -> Vectors:
        words = re.findall(r"\w+", text.lower()) or [""]
        bag: Vectors = np.stack([self._word(word) for word in words]).sum(axis=0)
        return bag

    def _word(self, word: str) -> Vectors:
        """A random direction that only the word decides."""
        seed = int.from_bytes(hashlib.sha256((self._space + word).encode()).digest()[:8])
        direction: Vectors = _unit(np.random.default_rng(seed).standard_normal((1, self._model.dimension)))[0]
        return direction


def loading(*encoders: Encoder) -> Callable[[Settings], Encoder]:
    """Stands for loading a model: the one of these that CLIP_MODEL names, else the first."""
    named = {encoder.model.name: encoder for encoder in encoders}
    return lambda settings: named.get(settings.clip_model, encoders[0])


class Shelf:
    """Models that can be loaded by name: a new encoder each time, in a space of its own, which nothing here keeps."""

    def __init__(self, dimension: int = 16) -> None:
        self.alive: weakref.WeakSet[WordEncoder] = weakref.WeakSet()
        self.loads: list[str] = []
        self.missing: set[str] = set()
        self.faults: dict[str, Exception] = {}
        self.most_at_once = 0
        self.gate = threading.Event()
        self.gate.set()
        self._dimension = dimension
        self._at_once = 0

    def encoder(self, name: str) -> WordEncoder:
        """What loading brings."""
        return WordEncoder(self._dimension, name, space=name)

    def names(self) -> list[str]:
        """The models in memory."""
        return sorted(encoder.model.name for encoder in self.alive)

    def __call__(self, settings: Settings) -> Encoder:
        """Loads CLIP_MODEL once the gate is open, unless it is missing or faulty."""
        name = settings.clip_model
        self.loads.append(name)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if not self.gate.wait(60):
                raise TimeoutError("nobody opened the gate")
            if name in self.missing:
                raise ModelUnavailable(f"The weights of {name} are not here.")
            if name in self.faults:
                raise self.faults[name]
        finally:
            self._at_once -= 1
        encoder = self.encoder(name)
        self.alive.add(encoder)
        return encoder


def _unit(vectors: NDArray[np.floating[Any]]) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit
