from __future__ import annotations

import hashlib
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from engine.preprocess import Preprocessing
from indexing.decode import Decoded, Failure, Reason, Rules, decode


def model(size: int = 16, resize_mode: str = "squash") -> Preprocessing:
    """What a model with pictures of so many pixels asks for."""
    return Preprocessing((size, size), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", resize_mode, 0)


RULES = Rules(max_bytes=10**7, max_pixels=10**6, thumbnail_px=64, preprocessing=model())


def picture(path: Path, rules: Rules = RULES) -> Decoded:
    """What decoding gives for a file that must be a picture."""
    outcome = decode(str(path), rules)
    assert isinstance(outcome, Decoded), outcome
    return outcome


def reason(path: Path, rules: Rules = RULES) -> Reason:
    """Why decoding refuses a file that must not be a picture."""
    outcome = decode(str(path), rules)
    assert isinstance(outcome, Failure), outcome
    return outcome.reason


def pixel(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    """One pixel of the 16 x 16 that the model would see."""
    return tuple(int(value) for value in picture(path).pixels[y, x])


def close(found: tuple[int, ...], wanted: tuple[int, ...], by: int = 6) -> bool:
    """Whether two colours differ by no more than lossy formats may change them."""
    return all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


def noise(size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A picture that no format can make small."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_known_by_its_content(tmp_path: Path, kind: str):
    """Every format is read under a name that says something else."""
    path = tmp_path / "wrong.txt"
    Image.new("RGB", (48, 32), (200, 40, 40)).save(path, kind)
    decoded = picture(path)
    assert (decoded.width, decoded.height) == (48, 32)
    assert close(pixel(path, 7, 7), (200, 40, 40))
    assert decoded.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(tmp_path: Path, kind: str):
    """A picture that lies on its side stands up: width and height are swapped, and so are the pixels."""
    path = tmp_path / "turned"
    lying = Image.new("RGB", (64, 32), "blue")
    lying.paste("red", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it right
    lying.save(path, kind, exif=exif)
    decoded = picture(path)
    assert (decoded.width, decoded.height) == (32, 64)
    assert close(pixel(path, 8, 2), (255, 0, 0), 12)
    assert close(pixel(path, 8, 14), (0, 0, 255), 12)


def test_a_turned_heic_is_turned_once(tmp_path: Path):
    """The HEIC library turns pictures itself; the orientation that is left in EXIF must not turn them again."""
    path = tmp_path / "turned.heic"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32), "blue").save(path, "HEIF", exif=exif.tobytes())
    decoded = picture(path)
    assert (decoded.width, decoded.height) == (32, 64)


def test_the_date_comes_from_exif_with_its_zone(tmp_path: Path):
    """DateTimeOriginal and its offset become RFC 3339."""
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0x9011: "+02:00"})
    noise().save(tmp_path / "a.jpg", exif=exif)
    assert picture(tmp_path / "a.jpg").taken_at == "2024-05-06T07:08:09+02:00"


def test_a_date_without_zone_is_taken_as_utc(tmp_path: Path):
    """Cameras without a zone still get a date that can be compared."""
    exif = Image.Exif()
    exif[0x0132] = "2024:05:06 07:08:09"
    noise().save(tmp_path / "a.jpg", exif=exif)
    assert picture(tmp_path / "a.jpg").taken_at == "2024-05-06T07:08:09Z"


def test_nonsense_in_exif_costs_only_the_date(tmp_path: Path):
    """A picture with a damaged date and orientation is still a picture."""
    exif = Image.Exif()
    exif[0x0132] = "soon"
    exif[0x0112] = 99
    noise().save(tmp_path / "a.jpg", exif=exif)
    assert picture(tmp_path / "a.jpg").taken_at is None


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1-bit key"])
def test_transparency_becomes_white(tmp_path: Path, mode: str):
    """Whatever way transparency is stored, what shows through is white."""
    path = tmp_path / "a.png"
    if mode == "1-bit key":
        Image.new("RGB", (8, 8), (1, 2, 3)).save(path, transparency=(1, 2, 3))
    elif mode == "P":
        Image.new("P", (8, 8), 0).save(path, transparency=0)
    else:
        Image.new(mode, (8, 8), (0,) * len(mode)).save(path)
    assert pixel(path) == (255, 255, 255)


def test_half_transparency_is_mixed_with_white(tmp_path: Path):
    """Red at half strength over white is pink."""
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(tmp_path / "a.png")
    assert close(pixel(tmp_path / "a.png"), (255, 127, 127), 2)


def test_cmyk_keeps_its_colours(tmp_path: Path):
    """A JPEG for print is not shown as its negative."""
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = pixel(tmp_path / "a.jpg", 8, 8)
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(tmp_path: Path, kind: str):
    """A 16-bit grey is the same grey in 8 bits, not clipped to white."""
    grey = np.full((16, 16), 32896, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a", kind)
    assert close(pixel(tmp_path / "a"), (128, 128, 128), 1)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_white_are_stretched(tmp_path: Path, dtype: type):
    """Of a scientific TIFF the darkest value is black and the brightest white."""
    values = np.kron(np.array([[-5, 0], [5, 15]]), np.ones((8, 8))).astype(dtype)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert pixel(tmp_path / "a.tif", 0, 0) == (0, 0, 0)
    assert pixel(tmp_path / "a.tif", 15, 15) == (255, 255, 255)
    assert close(pixel(tmp_path / "a.tif", 0, 15), (127, 127, 127), 1)


def test_of_an_animation_the_first_frame_counts(tmp_path: Path):
    """An animated GIF is its first frame."""
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert close(pixel(tmp_path / "a.gif"), (255, 0, 0))


def test_the_thumbnail_is_a_small_jpeg(tmp_path: Path):
    """Its longer side is what the rules say, its shape the picture's; small pictures are not blown up."""
    noise((640, 320)).save(tmp_path / "big.png")
    noise((20, 10)).save(tmp_path / "small.png")
    for name, size in (("big.png", (64, 32)), ("small.png", (20, 10))):
        with Image.open(BytesIO(picture(tmp_path / name).thumbnail)) as thumbnail:
            assert (thumbnail.format, thumbnail.size) == ("JPEG", size)


def test_a_thumbnail_tells_nothing_that_the_picture_does_not_show(tmp_path: Path):
    """Comments and EXIF, where cameras write the place, stay behind."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    noise().save(tmp_path / "a.jpg", comment=b"at home", exif=exif)
    with Image.open(BytesIO(picture(tmp_path / "a.jpg").thumbnail)) as thumbnail:
        assert "comment" not in thumbnail.info
        assert not thumbnail.getexif()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest", "longest"])
def test_pixels_are_what_the_model_makes_of_the_picture(tmp_path: Path, kind: str, resize_mode: str):
    """To the bit, as long as the picture has less than twice the pixels per side that are wanted for anything."""
    noise((100, 60)).save(tmp_path / "a", kind)
    rules = Rules(10**7, 10**6, 64, model(31, resize_mode))
    with Image.open(tmp_path / "a") as image:
        np.testing.assert_array_equal(picture(tmp_path / "a", rules).pixels, rules.preprocessing.apply(image))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_pictures_are_reduced_first_and_look_the_same(tmp_path: Path, kind: str, orientation: int):
    """Beyond that pixels differ by little, whichever way it lies; the facts are the picture's own."""
    stored = noise((40, 30)).resize((2333, 1707), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a", kind, exif=exif, **{"quality": 95} if kind == "JPEG" else {"compress_level": 1})
    rules = Rules(10**8, 10**7, 320, model(96, "shortest"))
    found = picture(tmp_path / "a", rules)
    with Image.open(tmp_path / "a") as image:
        upright = ImageOps.exif_transpose(image)
    assert np.abs(found.pixels.astype(int) - rules.preprocessing.apply(upright)).mean() < 1
    assert (found.width, found.height) == upright.size
    with Image.open(BytesIO(found.thumbnail)) as thumbnail:
        assert thumbnail.size == ((320, 234) if orientation < 5 else (234, 320))
        small = upright.resize(thumbnail.size, Image.Resampling.HAMMING)
        assert np.abs(np.asarray(thumbnail).astype(int) - np.asarray(small)).mean() < 6  # JPEG halves the colours


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_file_is_truncated(tmp_path: Path, kind: str, share: float):
    """Half a download of any format is told as such."""
    whole = BytesIO()
    noise().save(whole, kind)
    data = whole.getvalue()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    assert reason(tmp_path / "cut") == Reason.TRUNCATED


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", Reason.EMPTY),
        (b"just words", Reason.NOT_AN_IMAGE),
        (b"<?php system('ls');", Reason.NOT_AN_IMAGE),
        (b"%PDF-1.7 ...", Reason.NOT_AN_IMAGE),
        (b"8BPS" + b"\0" * 60, Reason.UNSUPPORTED),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Reason.UNSUPPORTED),
        (b"\xff\xd8\xff\xe0\0\x10" + b"\x55" * 500 + b"\xff\xd9", Reason.CORRUPT),
        (b"GIF89a\0\0", Reason.CORRUPT),
    ],
)
def test_what_is_no_picture_has_a_reason(tmp_path: Path, content: bytes, wanted: Reason):
    """Empty, fake, foreign and damaged files are told apart, whatever their name."""
    (tmp_path / "fake.jpg").write_bytes(content)
    assert reason(tmp_path / "fake.jpg") == wanted


def test_a_flipped_bit_is_damage(tmp_path: Path):
    """A PNG whose checksum does not hold is corrupt, not truncated."""
    noise().save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[20] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    assert reason(tmp_path / "a.png") == Reason.CORRUPT


def test_a_missing_file_is_unreadable(tmp_path: Path):
    """A file that vanished after it was listed does not stop anything."""
    assert reason(tmp_path / "gone.png") == Reason.UNREADABLE


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path):
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels is refused before its 10 GB are made."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9999))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert reason(tmp_path / "bomb.png") == Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "AVIF", "HEIF", "BMP", "WEBP"])
def test_the_pixel_limit_holds_for_every_format(tmp_path: Path, kind: str):
    """One pixel more than allowed is too many, and exactly as many as allowed are not."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a", kind)
    assert reason(tmp_path / "a", Rules(10**7, 64 * 64 - 1, 64, model())) == Reason.TOO_MANY_PIXELS
    assert picture(tmp_path / "a", Rules(10**7, 64 * 64, 64, model())).width == 64


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path):
    """A sparse file of 8 GB that begins like a JPEG costs nothing."""
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(8 * 10**9)
    assert reason(tmp_path / "huge.jpg") == Reason.TOO_LARGE


def test_every_reason_has_a_sentence():
    """Whatever is skipped can be explained."""
    assert all(each.sentence.endswith(".") for each in Reason)
