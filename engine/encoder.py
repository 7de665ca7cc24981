"""The encoder over OpenCLIP: words and pictures in, unit vectors out, on whatever device the machine has.

Most of a query's time is the text tower, and OpenCLIP pads every text to 77 tokens. In a causal tower the padding
comes after the token whose state is the embedding, and can't change it; so the text is cut there, which is exact
(differences of 1e-7) and two to three times faster. Towers that look both ways get the padding they were trained with.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from open_clip import CLIP
from open_clip.transform import image_transform_v2
from open_clip.transformer import TextTransformer
from PIL import Image as PILImage
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional

from engine import models
from engine.errors import EncoderUnavailable
from engine.models import LoadedModel
from engine.ports import ModelInfo, Pixels, Vectors
from engine.settings import Settings

_BUCKET = 8
"""Texts are cut to a multiple of this many tokens: few shapes, so that kernels and buffers are reused."""

_LONGEST_TOKEN = 32
"""Characters in the longest token of CLIP's vocabulary; beyond context_length times this no character matters."""

_REMEMBERED_WORDS = 100_000
"""Words whose tokens OpenCLIP's tokenizer may remember, about 20 MB. By itself it remembers all it ever saw."""


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

    Two locks keep threads apart. `_tokenizing`: tokenizers keep state, OpenCLIP's a growing dictionary and those of
    Hugging Face a Rust object that panics when two threads set its padding. `_computing`: one pass uses all cores (or
    the GPU); two at once take longer than one after the other, because each brings its own team of OpenMP threads,
    and they need twice the memory. The model itself is only read.
    """

    def __init__(self, loaded: LoadedModel, device: str, threads: int = 0, max_batch: int = 64) -> None:
        """Takes over a loaded model. `threads` above 0 sets PyTorch's number of CPU threads, for the whole process."""
        if threads:
            torch.set_num_threads(threads)
        self._info = loaded.info
        self._device = device
        self._max_batch = max_batch
        # Half precision doubles the speed of a GPU. CPUs without AVX-512 are five times slower with it.
        self._dtype = torch.float16 if device == "cuda" else torch.float32
        self._model: Any = loaded.model.to(device=device, dtype=self._dtype).eval()
        self._tower = _CausalTower.of(loaded.model)
        self._tokenizer: Any = loaded.tokenizer
        self._transform: Any = image_transform_v2(loaded.preprocess, is_train=False)
        self._tokenizing = threading.Lock()
        self._computing = threading.Lock()

    @classmethod
    def load(cls, settings: Settings) -> OpenClipEncoder:
        """The encoder that the settings ask for. Raises `ModelUnavailable` or `EncoderUnavailable`."""
        device = choose_device(settings.clip_device)
        loaded = models.load(settings.clip_model, settings.clip_pretrained, device)
        return cls(loaded, device, settings.clip_threads, settings.clip_max_batch)

    @property
    def model(self) -> ModelInfo:
        """The model behind the vectors."""
        return self._info

    @property
    def device(self) -> str:
        """Where it computes: "cuda", "mps" or "cpu"."""
        return self._device

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embeddings of texts, (n, d). Any number: they are sorted by length and encoded `max_batch` at a time."""
        vectors = np.empty((len(texts), self._info.dimension), dtype=np.float32)
        if not texts:
            return vectors
        tokens = self._tokenize(texts)
        ends = self._ends(tokens)
        by_length = ends.argsort(stable=True)  # alike texts go together, so that little padding is computed
        for start in range(0, len(texts), self._max_batch):
            rows = by_length[start : start + self._max_batch]
            with self._computing, torch.inference_mode():
                vectors[rows.numpy()] = self._unit(self._encode_tokens(tokens[rows], ends[rows]))
        return vectors

    def preprocess(self, image: Image) -> Pixels:
        """One picture of any PIL mode as the model wants it, (3, h, w); what is transparent becomes white."""
        pixels: Pixels = self._transform(_rgb(image)).numpy()
        return pixels

    def encode_images(self, pixels: Pixels) -> Vectors:
        """Embeddings of preprocessed pictures, (n, 3, h, w) to (n, d), in one pass: the caller chooses n."""
        if not len(pixels):
            return np.empty((0, self._info.dimension), dtype=np.float32)
        batch = torch.from_numpy(np.require(pixels, np.float32, ["C", "W"]))  # PyTorch warns of read-only memory
        with self._computing, torch.inference_mode():
            return self._unit(self._model.encode_image(batch.to(self._device, self._dtype)))

    def warm_up(self) -> None:
        """Encodes one text and one picture, so that kernels are chosen and memory is there before the first request."""
        self.encode_texts(["a photo of a red car at night"])
        self.encode_images(self.preprocess(PILImage.new("RGB", (640, 480), "red"))[None])

    def _tokenize(self, texts: Sequence[str]) -> Tensor:
        # OpenCLIP's tokenizer takes quadratic time for a word without end, so that one is cut before it gets there.
        longest = self._info.context_length * _LONGEST_TOKEN
        with self._tokenizing:
            remembered = getattr(self._tokenizer, "cache", None)
            if isinstance(remembered, dict) and len(remembered) > _REMEMBERED_WORDS:
                special = len(self._tokenizer.all_special_ids)  # these come first, and must stay
                for word in list(remembered)[special : len(remembered) // 2]:
                    del remembered[word]
            tokens: Tensor = self._tokenizer([text.strip()[:longest] for text in texts])
            return tokens

    def _ends(self, tokens: Tensor) -> Tensor:
        """Where each text ends, (n,): the position whose state is pooled, or the last where it can't be cut."""
        if self._tower is None:
            return torch.full((len(tokens),), tokens.shape[1] - 1)
        if self._tower.end_token is None:
            return tokens.argmax(dim=-1)
        return (tokens == self._tower.end_token).int().argmax(dim=-1)

    def _encode_tokens(self, tokens: Tensor, ends: Tensor) -> Tensor:
        if self._tower is None:
            features: Tensor = self._model.encode_text(tokens.to(self._device))
            return features
        length = min(-(-(int(ends.max()) + 1) // _BUCKET) * _BUCKET, tokens.shape[1])
        return self._tower.encode(tokens[:, :length].to(self._device), ends.to(self._device))

    def _unit(self, features: Tensor) -> Vectors:
        vectors: Vectors = functional.normalize(features.float(), dim=-1).cpu().numpy()
        return vectors


@dataclass(frozen=True, slots=True)
class _CausalTower:
    """A text tower whose texts may be cut: `parts` has its layers, `end_token` is None if it is the highest number."""

    parts: Any
    end_token: int | None

    @classmethod
    def of(cls, model: nn.Module) -> _CausalTower | None:
        """The model's text tower if it is OpenCLIP's own, causal and pooled at the end token; else None."""
        parts: Any = model if type(model) is CLIP else getattr(model, "text", None)
        if type(parts) is CLIP:
            pool_type, end_token = parts.text_pool_type, parts.text_eos_id
        elif type(parts) is TextTransformer and parts.cls_emb is None:
            pool_type, end_token = parts.pool_type, parts.eos_id
        else:
            return None
        if parts.attn_mask is None or pool_type not in ("argmax", "eos"):
            return None
        return cls(parts, end_token if pool_type == "eos" else None)

    def encode(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """What encode_text does, which in open_clip 3.3 adds a positional table and a mask of full length only."""
        parts, length = self.parts, tokens.shape[1]
        x = parts.token_embedding(tokens) + parts.positional_embedding[:length]
        x = parts.transformer(x, attn_mask=parts.attn_mask[:length, :length])
        x = parts.ln_final(x[torch.arange(len(x), device=x.device), ends])  # the norm is of each position alone
        projection = parts.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        features: Tensor = x
        return features


def _rgb(image: Image) -> Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PILImage.alpha_composite(PILImage.new("RGBA", image.size, "white"), image)
    elif image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip to white
        image = PILImage.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
