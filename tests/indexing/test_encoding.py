from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from engine.ports import Pixels
from indexing.decode import Decoded
from indexing.encoding import encode, find_fit
from tests.support.encoders import WordEncoder


def noise(width: int, height: int) -> Image.Image:
    """A picture in which every pixel counts."""
    pixels: NDArray[np.uint8] = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Preprocessing(WordEncoder):
    """An encoder whose preprocessing is OpenCLIP's own."""

    def __init__(self, **config: object) -> None:
        super().__init__()
        self._transform = image_transform_v2(PreprocessCfg(size=8, **config), is_train=False)  # type: ignore[arg-type]

    def preprocess(self, image: Image.Image) -> Pixels:
        """What OpenCLIP makes of a picture."""
        pixels: Pixels = self._transform(image).numpy()
        return pixels


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_workers_shrink_pictures_as_open_clip_does(mode: str, interpolation: str):
    """For each way in which OpenCLIP preprocesses a way is found that leaves the same pixels, to the bit."""
    encoder = Preprocessing(resize_mode=mode, interpolation=interpolation)
    fit = find_fit(encoder)
    assert fit
    for size in ((640, 480), (333, 500), (7, 5), (8, 8), (300, 40), (1, 1)):
        picture = noise(*size)
        np.testing.assert_array_equal(encoder.preprocess(fit.apply(picture)), encoder.preprocess(picture))


def test_a_strip_keeps_one_pixel_of_its_short_side():
    """A picture so thin that OpenCLIP would round its height to nothing can be encoded all the same."""
    encoder = Preprocessing(resize_mode="longest")
    fit = find_fit(encoder)
    assert fit
    assert fit.apply(noise(300, 17)).size == (8, 1)
    assert encoder.preprocess(fit.apply(noise(300, 17))).shape == (3, 8, 8)


def test_where_shrinking_would_change_pixels_whole_pictures_are_sent():
    """An encoder that looks at the picture's size gets it as it is."""

    class Odd(WordEncoder):
        def preprocess(self, image: Image.Image) -> Pixels:
            return super().preprocess(image) * (image.width % 7)

    assert find_fit(Odd()) is None


def test_decoded_pictures_are_encoded_like_the_pictures_themselves():
    """What travels from a worker gives the same vector as the picture would."""
    encoder = WordEncoder()
    fit = find_fit(encoder)
    assert fit
    picture = noise(50, 40)
    small = fit.apply(picture)
    decoded = Decoded("", 50, 40, None, small.size, small.tobytes(), b"")
    wanted = encoder.encode_images(encoder.preprocess(picture)[None])
    np.testing.assert_array_equal(encode(encoder, [decoded]), wanted)
