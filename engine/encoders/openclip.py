"""The encoder on PyTorch: OpenCLIP's own models, on any device that PyTorch knows."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional

from engine import models
from engine.encoders.towers import ImageGraph, TextGraph, text_tower
from engine.encoders.warm import warm_up
from engine.errors import EncoderUnavailable
from engine.models import LoadedModel
from engine.ports import ModelInfo, Pixels, Vectors
from engine.preprocess import Preprocessing
from engine.settings import Settings

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BUCKET: Final = 8  # a compiled tower gets multiples of this many tokens: few shapes, each compiled once


def choose_device(wanted: str) -> str:
    """The device for "auto", "cuda", "mps" or "cpu". Raises `EncoderUnavailable` for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device in there if there[device])
    if not there[wanted]:
        raise EncoderUnavailable(
            f"CLIP_DEVICE is {wanted}, but PyTorch {torch.__version__} finds no such device. Set CLIP_DEVICE=auto, or "
            "install a driver and a PyTorch built for it."
        )
    return wanted


class OpenClipEncoder:
    """An `Encoder` over one OpenCLIP model. Every method may be called from any thread.

    One pass uses all cores (or the GPU); two at once take longer than one after the other, because each brings its own
    team of OpenMP threads, and they need twice the memory. So a lock lets one in. The model itself is only read.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        device: str,
        threads: int = 0,
        max_batch: int = 64,
        *,
        precision: str = "auto",
        compiled: bool = False,
    ) -> None:
        """Takes over a loaded model. `threads` above 0 sets PyTorch's number of CPU threads, for the whole process.

        `precision` is "fp32", "bf16" or "fp16"; "auto" is fp16 on CUDA, which doubles its speed, and fp32 elsewhere.
        With `compiled` the towers go through torch.compile, which takes a minute at the first pass.
        """
        if threads:
            torch.set_num_threads(threads)
        if precision == "auto":
            precision = "fp16" if device == "cuda" else "fp32"
        if precision not in _DTYPES:
            raise EncoderUnavailable(
                f"PyTorch computes in {', '.join(_DTYPES)}, not in {precision}. Set CLIP_PRECISION to one of these, or "
                "CLIP_RUNTIME=openvino."
            )
        self._info = loaded.info
        self._device = device
        self._precision = precision
        self._compiled = compiled
        self._max_batch = max_batch
        dtype = _DTYPES[precision]
        self._model: Any = loaded.model.to(device=device, dtype=dtype).eval()
        self._text = text_tower(loaded.model)
        self._tokenizer = loaded.tokenizer
        self._preprocessing = loaded.preprocessing
        text: Any = TextGraph(self._model)
        image: Any = ImageGraph(self._model, self._preprocessing, dtype)
        mode = "reduce-overhead" if device == "cuda" else "default"  # the former records CUDA graphs
        self._encode_text: Any = torch.compile(text, mode=mode) if compiled else text
        self._encode_image: Any = torch.compile(image, mode=mode) if compiled else image
        self._computing = threading.Lock()

    @classmethod
    def load(cls, settings: Settings) -> OpenClipEncoder:
        """The encoder that the settings ask for. Raises `ModelUnavailable` or `EncoderUnavailable`."""
        device = choose_device(settings.clip_device)
        loaded = models.load(settings.clip_model, settings.clip_pretrained, device)
        return cls(
            loaded,
            device,
            settings.clip_threads,
            settings.max_batch(device),
            precision=settings.clip_precision,
            compiled=settings.clip_runtime == "torch-compile",
        )

    @property
    def model(self) -> ModelInfo:
        """The model behind the vectors."""
        return self._info

    @property
    def device(self) -> str:
        """Where it computes: "cuda", "mps" or "cpu"."""
        return self._device

    @property
    def runtime(self) -> str:
        """How it computes."""
        return f"PyTorch {self._precision}{', compiled' if self._compiled else ''}"

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures are prepared."""
        return self._preprocessing

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embeddings of texts, (n, d). Any number: they are sorted by length and encoded `max_batch` at a time."""
        vectors = np.empty((len(texts), self._info.dimension), dtype=np.float32)
        if not texts:
            return vectors
        for rows, tokens, ends in self._text.batches(self._tokenizer(texts), self._max_batch):
            padded = tokens
            if self._compiled and self._text.cut:
                length = min(-(-tokens.shape[1] // _BUCKET) * _BUCKET, self._info.context_length)
                padded = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
            with self._computing, torch.inference_mode():
                features = self._encode_text(
                    torch.from_numpy(padded).to(self._device), torch.from_numpy(ends).to(self._device)
                )
                vectors[rows] = _unit(features)
        return vectors

    def preprocess(self, image: Image) -> Pixels:
        """One picture of any PIL mode as the model wants it, (h, w, 3) bytes; what is transparent becomes white."""
        return self._preprocessing.apply(image)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """Embeddings of preprocessed pictures, (n, h, w, 3) to (n, d), in one pass: the caller chooses n."""
        if not len(pixels):
            return np.empty((0, self._info.dimension), dtype=np.float32)
        batch = torch.from_numpy(np.require(pixels, np.uint8, ["C", "W"]))  # PyTorch warns of read-only memory
        with self._computing, torch.inference_mode():
            return _unit(self._encode_image(batch.to(self._device)))

    def warm_up(self) -> None:
        """Encodes one text and one picture, so that kernels are chosen and memory is there before the first request."""
        warm_up(self)

    def speed_up(self) -> None:
        """Has nothing further to make."""


def _unit(features: Tensor) -> Vectors:
    vectors: Vectors = functional.normalize(features.float(), dim=-1).cpu().numpy()
    return vectors
