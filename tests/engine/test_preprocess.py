from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from engine.preprocess import Preprocessing, rgb

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def preprocessing(size: tuple[int, int] = (32, 32), mode: str = "shortest", how: str = "bicubic") -> Preprocessing:
    return Preprocessing(size, MEAN, STD, how, mode, 0)


def photo(mode: str = "RGB", size: tuple[int, int] = (90, 60)) -> Image.Image:
    """A picture of coloured noise."""
    noise = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("how", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [(32, 32), (24, 40)])
@pytest.mark.parametrize("size", [(90, 60), (60, 91), (32, 32), (20, 11), (33, 500)])
def test_equals_open_clip(mode: str, how: str, side: tuple[int, int], size: tuple[int, int]):
    """Pictures of every shape become exactly the pixels of open_clip's own transform, before it normalizes them."""
    cfg = PreprocessCfg(size=side, mean=MEAN, std=STD, resize_mode=mode, interpolation=how)
    theirs = image_transform_v2(cfg, is_train=False)(photo(size=size)).numpy().transpose(1, 2, 0)
    expected = np.rint((theirs * STD + MEAN) * 255).astype(np.uint8)
    pixels = preprocessing(side, mode, how).apply(photo(size=size))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"])
def test_any_mode(mode: str):
    """A picture of any PIL mode becomes three channels."""
    image = (
        photo("L").convert("LA").convert("PA") if mode == "PA" else photo("L" if mode in "IF" else "RGB").convert(mode)
    )
    assert preprocessing().apply(image).shape == (32, 32, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_white(mode: str):
    """What is transparent looks white, whatever colour hides beneath."""
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0)).convert(mode)
    assert rgb(image).getextrema() == ((255, 255),) * 3


def test_sixteen_bits():
    """A picture of 16 bits a pixel looks like the same picture of 8 bits."""
    eight = np.random.default_rng(1).integers(0, 256, (40, 40), dtype=np.uint8)
    sixteen = Image.fromarray(eight.astype(np.uint16) * 257)
    assert sixteen.mode == "I;16"
    assert np.array_equal(np.asarray(rgb(sixteen)), np.asarray(rgb(Image.fromarray(eight))))


@pytest.mark.parametrize("mode", ["shortest", "longest"])
def test_thin_strips(mode: str):
    """A picture a hundred times as wide as high is prepared like any other."""
    assert preprocessing((8, 8), mode).apply(photo(size=(800, 5))).shape == (8, 8, 3)


def test_survives_json():
    """Written as JSON and read again it does the same."""
    again = Preprocessing(**json.loads(json.dumps(asdict(preprocessing()))))
    assert np.array_equal(again.apply(photo()), preprocessing().apply(photo()))
