"""Pictures as a model wants them: one size, three channels of bytes. Without PyTorch, and just as open_clip.

What is left of open_clip's transform, dividing by 255 and normalizing, happens inside the model's graph: bytes are four
times less to move than floats, and multiplying them is free there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps
from PIL.Image import Image, Resampling

_FILTERS: Final = {"bilinear": Resampling.BILINEAR}  # open_clip takes everything else for bicubic


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a model's pictures are prepared, in the terms of open_clip's PreprocessCfg. `size` is (height, width).

    `resize_mode` "shortest" fills the size and crops what stands out, "longest" fits inside it and pads with `fill`,
    "squash" ignores the picture's shape. `mean` and `std` are those of each channel, for values from 0 to 1.
    Lists do for the tuples, so `Preprocessing(**json.loads(…))` is the same again.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    fill: int

    def apply(
        self,
        image: Image,
        whole: tuple[int, int] | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> NDArray[np.uint8]:
        """A picture of any PIL mode as (h, w, 3) bytes.

        A picture that was made smaller already has a size of its own, which was rounded: `whole` is (width, height)
        before that, and `box` (left, top, right, bottom) the part of `image` that shows that much and no more.
        """
        return np.array(self._fitted(rgb(image), whole or image.size, box), dtype=np.uint8)

    def _fitted(self, image: Image, whole: tuple[int, int], box: tuple[float, float, float, float] | None) -> Image:
        height, width = self.size
        resample = _FILTERS.get(self.interpolation, Resampling.BICUBIC)
        if self.resize_mode == "squash":
            return image.resize((width, height), resample, box)
        if self.resize_mode == "longest":
            ratio = max(whole[0] / width, whole[1] / height)
        elif height == width:
            side, short, long = height, min(whole), max(whole)
            longer = int(side * long / short)
            size = (side, longer) if whole[0] <= whole[1] else (longer, side)
            return self._cropped(image.resize(size, resample, box))
        else:
            ratio = min(whole[0] / width, whole[1] / height)
            resample = Resampling.BICUBIC
        size = max(1, round(whole[0] / ratio)), max(1, round(whole[1] / ratio))
        return self._cropped(image.resize(size, resample, box))

    def _cropped(self, image: Image) -> Image:
        """The middle of a picture; what is missing at the sides is filled."""
        height, width = self.size
        wide, high = max(0, width - image.width), max(0, height - image.height)
        if wide or high:
            border = (wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2)
            image = ImageOps.expand(image, border, (self.fill,) * 3)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


def rgb(image: Image) -> Image:
    """A picture of any PIL mode in RGB: what is transparent becomes white, and more than 8 bits become 8.

    In the modes I and F white is not defined, and the brightest value becomes it.
    """
    image.load()
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 257) + 0).convert("L").convert("RGB")
    if image.mode in ("I", "F"):
        low, high = cast("tuple[float, float]", image.getextrema())
        scale = 255 / ((high - low) or 1)
        return image.point(lambda value: value * scale - low * scale).convert("L").convert("RGB")
    if image.has_transparency_data:
        white = PILImage.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
