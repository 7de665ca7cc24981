"""Turns one untrusted file into pixels, a thumbnail and facts, or into a reason why not.

It runs in worker processes (`indexing.worker`), so it imports nothing heavy: Pillow, and no torch. A file is judged
by its content, never by its name, and by its header before anything large is allocated.
"""

from __future__ import annotations

import hashlib
import struct
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Final, Literal, cast

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

register_heif_opener()
Image.MAX_IMAGE_PIXELS = None  # `Rules.max_pixels` is checked here instead, for every format in the same way

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
_MAGIC_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a", *_MAGIC_TIFF)
_ISO_BRANDS: Final = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OTHER_PICTURES: Final = (
    b"8BPS",
    b"\0\0\1\0",
    b"\0\0\0\x0cjP  ",
    b"\xff\x0a",
    b"\0\0\0\x0cJXL ",
    b"qoif",
    b"DDS ",
    b"<svg",
    b"P6\n",
    b"P5\n",
    b"P4\n",
)
_HEAD_BYTES: Final = 64
_EXIF_DATES: Final = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.OffsetTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.OffsetTimeDigitized),
    (ExifTags.Base.DateTime, ExifTags.Base.OffsetTime),
)


class Reason(StrEnum):
    """Why a file is not in the index. The values are stable: manifests and scripts read them."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED = "unsupported"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    UNREADABLE = "unreadable"
    BAD_NAME = "bad_name"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_DIED = "worker_died"

    @property
    def sentence(self) -> str:
        """The reason for people, with what to do where something can be done."""
        return _SENTENCES[self]

    @property
    def lies_in_file(self) -> bool:
        """Whether the file itself is at fault, so that trying again is useless until it changes."""
        return self in _LIES_IN_FILE


_LIES_IN_FILE: Final = frozenset(
    (Reason.EMPTY, Reason.NOT_AN_IMAGE, Reason.UNSUPPORTED, Reason.TRUNCATED, Reason.CORRUPT, Reason.BAD_NAME)
)
_SENTENCES: Final = {
    Reason.EMPTY: "The file is empty.",
    Reason.NOT_AN_IMAGE: "The content is not a picture.",
    Reason.UNSUPPORTED: "A picture of a kind that is not read; convert it to JPEG or PNG.",
    Reason.TRUNCATED: "The picture ends too early; copy it again.",
    Reason.CORRUPT: "The picture is damaged.",
    Reason.TOO_LARGE: "The file is larger than INDEX_MAX_BYTES.",
    Reason.TOO_MANY_PIXELS: "The picture has more pixels than INDEX_MAX_PIXELS.",
    Reason.UNREADABLE: "The file can't be read; check its permissions.",
    Reason.BAD_NAME: "The name is not valid UTF-8; rename it.",
    Reason.TIMEOUT: "Decoding took longer than INDEX_DECODE_TIMEOUT_S.",
    Reason.OUT_OF_MEMORY: "Decoding needs more memory than INDEX_WORKER_MEMORY_MB.",
    Reason.WORKER_DIED: "The decoder crashed on this file.",
}


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture is made smaller for the encoder without changing what the encoder sees.

    `shape`: "crop" makes the shorter side `size` and cuts the middle square out, "inside" makes the longer side `size`,
    "squash" makes both so. `resample` is Pillow's filter number.
    """

    shape: Literal["crop", "inside", "squash"]
    resample: int
    size: int

    def apply(self, image: Image.Image) -> Image.Image:
        """The picture made smaller or larger; sizes and the cut are rounded as torchvision rounds them."""
        width, height = image.size
        size = self.size
        if self.shape == "squash":
            return image.resize((size, size), self.resample)
        if self.shape == "inside":
            ratio = max(width, height) / size
            return image.resize((max(1, round(width / ratio)), max(1, round(height / ratio))), self.resample)
        if width <= height:
            width, height = size, int(size * height / width)
        else:
            width, height = int(size * width / height), size
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.resize((width, height), self.resample).crop((left, top, left + size, top + size))


@dataclass(frozen=True, slots=True)
class Rules:
    """What decoding may cost and what it makes. `fit` None keeps every pixel for the encoder."""

    max_bytes: int
    max_pixels: int
    thumbnail_px: int
    fit: Fit | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture that was read.

    `width` and `height` are the picture's own, orientation applied; `pixels` are RGB bytes of `pixels_size` (width,
    height); `thumbnail` is a WebP file; `taken_at` is RFC 3339; `content_hash` is the SHA-256 of the file, hex.
    """

    content_hash: str
    width: int
    height: int
    taken_at: str | None
    pixels_size: tuple[int, int]
    pixels: bytes
    thumbnail: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that gave no picture. `detail` is the decoder's own word, or empty."""

    reason: Reason
    detail: str = ""


Outcome = Decoded | Failure


def looks_like_picture(head: bytes) -> bool:
    """Whether a file that begins so (64 bytes are enough) claims to be of a kind that is read here."""
    return (
        head.startswith(_MAGIC)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and any(brand in head[8:_HEAD_BYTES] for brand in _ISO_BRANDS))
    )


def decode(path: str, rules: Rules) -> Outcome:
    """Reads one file. Never raises for a bad one."""
    data = b""
    try:
        data = _read(Path(path), rules.max_bytes)
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > rules.max_pixels:
                detail = f"{width} x {height} pixels, {rules.max_pixels} are allowed"
                return Failure(Reason.TOO_MANY_PIXELS, detail)
            return _finish(image, hashlib.sha256(data).hexdigest(), rules)
    except _RefusedError as refused:
        return Failure(refused.reason, refused.detail)
    except MemoryError:
        return Failure(Reason.OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001 - on hostile bytes decoders raise anything; it is listed with the file
        detail = "its header is damaged" if isinstance(error, UnidentifiedImageError) else str(error)
        short = "truncated" in detail.lower() or _ends_early(data)
        return Failure(Reason.TRUNCATED if short else Reason.CORRUPT, detail or type(error).__name__)


class _RefusedError(Exception):
    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def _read(path: Path, max_bytes: int) -> bytes:
    """The whole file, once its first bytes and its size have earned it."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if not head:
                raise _RefusedError(Reason.EMPTY)
            if not looks_like_picture(head):
                other = head.lstrip().startswith(_OTHER_PICTURES)
                raise _RefusedError(Reason.UNSUPPORTED if other else Reason.NOT_AN_IMAGE)
            size = file.seek(0, 2)
            if size > max_bytes:
                raise _RefusedError(Reason.TOO_LARGE, f"{size} bytes, {max_bytes} are allowed")
            file.seek(0)
            return file.read(size)
    except OSError as error:
        raise _RefusedError(Reason.UNREADABLE, error.strerror or str(error)) from error


def _finish(image: Image.Image, content_hash: str, rules: Rules) -> Decoded:
    taken_at = _taken_at(image)
    with suppress(SyntaxError, ValueError, TypeError, struct.error):  # damaged EXIF: the picture stays as it lies
        ImageOps.exif_transpose(image, in_place=True)
    picture = _to_rgb(image)
    reduced = rules.fit.apply(picture) if rules.fit else picture
    thumbnail = picture.copy() if reduced is picture else picture
    thumbnail.thumbnail((rules.thumbnail_px, rules.thumbnail_px), Image.Resampling.LANCZOS)
    file = BytesIO()
    thumbnail.save(file, "WEBP", quality=80, method=2)
    width, height = image.size
    return Decoded(content_hash, width, height, taken_at, reduced.size, reduced.tobytes(), file.getvalue())


def _to_rgb(image: Image.Image) -> Image.Image:
    """Eight bits of red, green and blue; what is transparent becomes white."""
    image.load()
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 257) + 0).convert("L").convert("RGB")
    if image.mode in ("I", "F"):  # their white is not defined: the brightest value is
        low, high = cast("tuple[float, float]", image.getextrema())
        scale = 255 / ((high - low) or 1)
        return image.point(lambda value: value * scale - low * scale).convert("L").convert("RGB")
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(transparent)
        return white.convert("RGB")
    return image.convert("RGB")


def _taken_at(image: Image.Image) -> str | None:
    """When the picture was taken, RFC 3339. A camera that knows no time zone is taken to run on UTC."""
    try:
        exif = image.getexif()
        tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything, and costs only the date
        return None
    for date_tag, offset_tag in _EXIF_DATES:
        date, offset = str(tags.get(date_tag, "")).strip("\0 "), str(tags.get(offset_tag, "")).strip("\0 ")
        with suppress(ValueError):
            taken = datetime.strptime(f"{date} {offset or '+00:00'}", "%Y:%m:%d %H:%M:%S %z")
            return taken.isoformat().replace("+00:00", "Z")
    return None


def _ends_early(data: bytes) -> bool:
    """Whether a picture that could not be read lacks its end, by the sizes and end marks of its own format."""
    if data.startswith(_MAGIC_TIFF):
        return int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big") >= len(data)
    if data.startswith(b"RIFF"):
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if data[4:8] == b"ftyp":
        at = 0
        while at + 8 <= len(data) and (size := int.from_bytes(data[at : at + 4], "big")) >= 8:  # noqa: PLR2004 - a header
            at += size
        return at > len(data)
    mark = b"\xff\xd9" if data.startswith(b"\xff\xd8") else b"IEND" if data.startswith(b"\x89PNG") else b""
    return mark not in data[-4096:]
