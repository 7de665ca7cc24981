"""The encoder on the processor, compiled by OpenVINO: the same vectors as PyTorch's, several times sooner.

It needs an exported model and neither PyTorch nor open_clip, so a server that searches by words starts in a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from PIL.Image import Image

from engine.cores import usable_cores
from engine.encoders.exported import ExportedModel
from engine.encoders.passes import Pass, Precision, Tower, compiled
from engine.encoders.precision import PRECISIONS, chosen
from engine.encoders.texts import ClipTokenizer, Tokenizer
from engine.encoders.warm import warm_up
from engine.errors import EncoderUnavailable, ModelUnavailable
from engine.ports import ModelInfo, Pixels, Vectors
from engine.preprocess import Preprocessing
from engine.settings import Settings

_MANY_TEXTS: Final = 4
"""Texts in one pass that are worth all threads: so many have gathered because the encoder is what others wait for."""

_COPIES: Final = 8
"""Of the text tower: nine of ten passes of one to three queries of usual lengths find one that has their shape."""

_WORTH_COPIES_S: Final = 0.002
"""That one text takes at least: of sightline-small's 0.7 ms, choosing a copy would take as much as it saves."""


class OpenVinoEncoder:
    """An `Encoder` over an exported model. Any thread may call it; each tower makes one pass at a time.

    Unlike on PyTorch, a text does not wait for a batch of pictures: the towers share the cores, not a lock.
    """

    def __init__(
        self,
        exported: ExportedModel,
        tokenizer: Tokenizer,
        precision: Mapping[Tower, Precision],
        threads: int = 0,
        max_batch: int = 64,
        text_threads: int = 0,
    ) -> None:
        """Compiles both towers. `threads` of 0 takes one for each core that this process may use.

        `text_threads` of 0 takes as many for a few texts as for many, and for pictures.
        """
        self._threads = threads = threads or usable_cores()
        self._text_threads = text_threads = text_threads or threads
        self._exported = exported
        self._tokenizer = tokenizer
        self._precision = dict(precision)
        self._max_batch = max_batch
        self._few_texts = self._many_texts = compiled(exported, "text", precision["text"], text_threads)
        if text_threads != threads and max_batch >= _MANY_TEXTS:
            self._many_texts = compiled(exported, "text", precision["text"], threads)
        self._image = compiled(exported, "image", precision["image"], threads)
        self._text_lock = threading.Lock()
        self._image_lock = threading.Lock()

    @classmethod
    def load(cls, exported: ExportedModel, settings: Settings) -> OpenVinoEncoder:
        """The encoder of an exported model. Raises `EncoderUnavailable` for a precision that OpenVINO has not."""
        tokenizer = load_tokenizer(exported)
        wanted, text_threads = settings.clip_precision, settings.clip_threads
        if wanted == "auto":
            best = chosen(exported, tokenizer, settings.clip_threads or usable_cores())
            precision, text_threads = best.precision, text_threads or best.text_threads
        elif wanted in PRECISIONS:
            precision = {"text": wanted, "image": wanted}
        else:
            raise EncoderUnavailable(
                f"On the CPU, OpenVINO computes in {', '.join(PRECISIONS)}, not in {wanted}. Set CLIP_PRECISION=auto."
            )
        return cls(exported, tokenizer, precision, settings.clip_threads, settings.max_batch("cpu"), text_threads)

    @property
    def model(self) -> ModelInfo:
        """The model behind the vectors."""
        return self._exported.info

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    @property
    def runtime(self) -> str:
        """How it computes."""
        text, image = self._precision["text"], self._precision["image"]
        return f"OpenVINO {text}" if text == image else f"OpenVINO {text} for texts, {image} for pictures"

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures are prepared."""
        return self._exported.preprocessing

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embeddings of texts, (n, d). Any number: `max_batch` are encoded at a time, or fewer if they are long."""
        vectors = np.empty((len(texts), self.model.dimension), dtype=np.float32)
        if not texts:
            return vectors
        for rows, inputs in self._exported.text.passes(self._tokenizer(texts), self._max_batch):
            encode = self._few_texts if len(rows) < _MANY_TEXTS else self._many_texts
            with self._text_lock:
                vectors[rows] = encode(*inputs)[: len(rows)]
        return vectors

    def preprocess(self, image: Image) -> Pixels:
        """One picture of any PIL mode as the model wants it, (h, w, 3) bytes; what is transparent becomes white."""
        return self._exported.preprocessing.apply(image)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """Embeddings of preprocessed pictures, (n, h, w, 3) to (n, d), in one pass: the caller chooses n."""
        if not len(pixels):
            return np.empty((0, self.model.dimension), dtype=np.float32)
        with self._image_lock:
            return self._image(np.ascontiguousarray(pixels))

    def warm_up(self) -> None:
        """Encodes texts and one picture, so that kernels are chosen and memory is there before the first request."""
        warm_up(self)

    def speed_up(self) -> None:
        """Compiles the text tower in copies for texts of several lengths, in some seconds, unless that is no gain."""
        if not self._exported.text.cut or self._one_text_s() < _WORTH_COPIES_S:
            return
        one_for_all = self._many_texts is self._few_texts
        self._few_texts = self._in_copies(self._text_threads)
        self._many_texts = self._few_texts if one_for_all else self._in_copies(self._threads)

    def _in_copies(self, threads: int) -> Pass:
        """The text tower in copies, each of which was used once: the first pass takes longer than others."""
        copies = compiled(self._exported, "text", self._precision["text"], threads, _COPIES)
        for words in range(3, 3 + 2 * _COPIES, 2):
            for _, inputs in self._exported.text.passes(self._tokenizer(["word " * words]), 1):
                copies(*inputs)
        return copies

    def _one_text_s(self) -> float:
        """Seconds that a short text takes, at best: others may be encoded meanwhile."""
        took = []
        for _ in range(5):
            started = time.perf_counter()
            self.encode_texts(["a boat"])
            took.append(time.perf_counter() - started)
        return min(took)


def load_tokenizer(exported: ExportedModel) -> Tokenizer:
    """The tokenizer of an exported model. Only CLIP's own is exported; raises `ModelUnavailable` without another's."""
    if exported.tokenizer.is_file():
        return ClipTokenizer.load(exported.tokenizer)
    try:
        from engine.models import named_tokenizer  # noqa: PLC0415 - brings PyTorch, which few exported models need

        return named_tokenizer(exported.info.name)
    except ImportError as error:
        raise ModelUnavailable(
            f"{exported.info.name} has a tokenizer of its own, which needs open_clip: {error}. Install all of "
            "Sightline's requirements, or choose a model with CLIP's tokenizer, such as ViT-H-14."
        ) from error
