"""Turns one untrusted file into pixels, a thumbnail and facts, or into a reason why not.

It runs in worker processes (`indexing.worker`), so it imports nothing heavy: Pillow and NumPy, no runtime of models.
A file is judged by its content, never by its name, and by its header before anything large is allocated. Pixels that
neither the model nor the thumbnail would show are left out as early as the format lets them.
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
from typing import Final

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from engine.ports import Pixels
from engine.preprocess import Preprocessing, rgb

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
HEAD_BYTES: Final = 64
"""As many bytes of a file tell what it is."""
_QUARTER_TURNS: Final = (5, 6, 7, 8)  # values of EXIF's orientation that make rows columns
_MIRRORED: Final = (2, 3, 6, 7)  # those that bring to the left what was stored last
_FLIPPED: Final = (3, 4, 7, 8)  # and those that bring it to the top
_MARGIN: Final = 2
"""Pixels that a reduced picture keeps, each way, for one that the model sees. README.md has what that changes."""
_THUMBNAIL_QUALITY: Final = 80
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
    UNREACHABLE = "unreachable"
    MISSING = "missing"

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
    Reason.UNREACHABLE: "It could not be fetched; the next run tries again.",
    Reason.MISSING: "Nothing is at its address any more; the next run tries again.",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What decoding may cost, and what it makes: thumbnails of so many pixels, and pictures as a model wants them."""

    max_bytes: int
    max_pixels: int
    thumbnail_px: int
    preprocessing: Preprocessing


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture that was read.

    `width` and `height` are the picture's own, orientation applied; `pixels` are ready for the encoder, (h, w, 3);
    `thumbnail` is a JPEG file; `taken_at` is RFC 3339; `content_hash` is the SHA-256 of the file, hex.
    """

    content_hash: str
    width: int
    height: int
    taken_at: str | None
    pixels: Pixels
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
        or (head[4:8] == b"ftyp" and any(brand in head[8:HEAD_BYTES] for brand in _ISO_BRANDS))
    )


def refusal(head: bytes) -> Reason | None:
    """Why a file that begins so (64 bytes are enough) is not worth reading further; None if it may be a picture."""
    if not head:
        return Reason.EMPTY
    if looks_like_picture(head):
        return None
    return Reason.UNSUPPORTED if head.lstrip().startswith(_OTHER_PICTURES) else Reason.NOT_AN_IMAGE


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
            reason = refusal(file.read(HEAD_BYTES))
            if reason:
                raise _RefusedError(reason)
            size = file.seek(0, 2)
            if size > max_bytes:
                raise _RefusedError(Reason.TOO_LARGE, f"{size} bytes, {max_bytes} are allowed")
            file.seek(0)
            return file.read(size)
    except OSError as error:
        raise _RefusedError(Reason.UNREADABLE, error.strerror or str(error)) from error


def _finish(image: Image.Image, content_hash: str, rules: Rules) -> Decoded:
    taken_at = _taken_at(image)
    picture = _loaded(image, rules)
    pixels = picture.reduced(picture.spare_for(rules.preprocessing)).preprocessed(rules.preprocessing)
    width, height = picture.whole
    return Decoded(content_hash, width, height, taken_at, pixels, picture.thumbnail(rules.thumbnail_px))


@dataclass(frozen=True, slots=True)
class _Picture:
    """An RGB picture, upright, perhaps already reduced.

    `whole` is its own (width, height); `box` (left, top, right, bottom) is where those lie in `image`, whose last row
    or column may show less than a full one after it was reduced by a whole factor.
    """

    image: Image.Image
    whole: tuple[int, int]
    box: tuple[float, float, float, float]

    def spare_for(self, preprocessing: Preprocessing) -> int:
        """The factor after which the model's own resizing still has twice the pixels that it leaves, both ways."""
        return int(min(self._size) / (_MARGIN * max(preprocessing.size)))

    def spare(self, rules: Rules) -> int:
        """The factor by which it may be reduced for the model and for the thumbnail."""
        return min(self.spare_for(rules.preprocessing), int(max(self._size) / rules.thumbnail_px))

    def reduced(self, factor: int) -> _Picture:
        """The picture made smaller by a whole factor, each pixel the mean of those before; itself for less than 2."""
        if factor < 2:  # noqa: PLR2004 - the first factor that does something
            return self
        left, top, right, bottom = self.box
        box = left / factor, top / factor, right / factor, bottom / factor
        return _Picture(self.image.reduce(factor), self.whole, box)

    def preprocessed(self, preprocessing: Preprocessing) -> Pixels:
        """What the model sees of it, (h, w, 3)."""
        return preprocessing.apply(self.image, self.whole, self.box)

    def thumbnail(self, longest: int) -> bytes:
        """A JPEG file whose longer side has at most so many pixels, with nothing in it but the picture."""
        ratio = max(1, *(side / longest for side in self.whole))
        width, height = (max(1, round(side / ratio)) for side in self.whole)
        small = self.image.resize((width, height), Image.Resampling.HAMMING, self.box, reducing_gap=_MARGIN)
        file = BytesIO()
        small.save(file, "JPEG", quality=_THUMBNAIL_QUALITY, comment=b"")
        return file.getvalue()

    @property
    def _size(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return right - left, bottom - top


def _loaded(image: Image.Image, rules: Rules) -> _Picture:
    """The picture that a file holds, turned as its EXIF says, and reduced by what neither model nor thumbnail need."""
    width, height = image.size
    spare = _Picture(image, image.size, (0, 0, width, height)).spare(rules)
    drafted = image.draft(None, (width // spare, height // spare)) if spare > 1 else None  # a JPEG can be read smaller
    turned = _turn_upright(image)
    upright = rgb(image)
    picture = _Picture(upright, upright.size, (0, 0, upright.width, upright.height))
    if drafted:
        _, (_, _, wide, high) = drafted
        whole = width, height
        if turned in _QUARTER_TURNS:
            whole, wide, high = (height, width), high, wide
        left = upright.width - wide if turned in _MIRRORED else 0
        top = upright.height - high if turned in _FLIPPED else 0
        picture = _Picture(upright, whole, (left, top, left + wide, top + high))
    return picture.reduced(picture.spare(rules))


def _turn_upright(image: Image.Image) -> int | None:
    """Turns a picture as its EXIF says, and returns what that says. With damaged EXIF it stays as it lies."""
    with suppress(SyntaxError, ValueError, TypeError, struct.error):
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        ImageOps.exif_transpose(image, in_place=True)
        return orientation
    return None


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
