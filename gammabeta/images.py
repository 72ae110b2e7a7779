"""One image from bytes of anybody's: PNG or JPEG, gray or RGB, 8 bits a channel.

    bytes ──signature──► PNG | JPEG ──header──► size, gray or RGB ──decode──► uint8 [H, W] or [H, W, 3]
                 refused before a pixel is decoded ┘                  └ upright, opaque, nothing rounded

Training and prediction see the same pixels because both take them from here. What has several readings is refused
rather than guessed: see `_refuse_ambiguous` and `_plain`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

Pixels: TypeAlias = NDArray[np.uint8]

MAX_BYTES = 64 << 20
"""Of one file."""
BYTES_PER_PIXEL = 8
BYTES_OF_METADATA = 1 << 20
"""What a file of known size may have besides: the readers walk through it in Python, a few bytes at a time."""
MAX_SCANS = 500
"""Of a JPEG; ten are usual. Each is a walk over the whole picture, and may be a dozen bytes (libjpeg-turbo's advice on
untrusted files)."""
START_OF_SCAN = b"\xff\xda"
MAX_PIXELS = 1 << 24
"""Of one image: some 200 MB while it is decoded."""
READERS: dict[bytes, type[ImageFile]] = {b"\x89PNG\r\n\x1a\n": PngImageFile, b"\xff\xd8\xff": JpegImageFile}
"""By the first bytes. `Image.open` would try the formats that a process has registered, and warn of bombs by a switch
that all threads share; here the two classes are named, and the limit on pixels is our own."""
GRAY_MODES = frozenset({"1", "L", "LA"})
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""
SIDEWAYS = frozenset({5, 6, 7, 8})
UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error, UserWarning)
"""What Pillow raises for bytes that are no image; the last one where warnings are errors."""


class ImageRefused(ValueError):
    """The bytes are not an image as it must be. Who has asked says whose image it is.

    Attributes:
        reason: `not_an_image`, `broken_image`, `unsupported_image`, `bad_shape` or `too_large`.
        must: what must hold, as the end of a sentence: "must be …".
    """

    def __init__(self, reason: str, must: str, *, received: str, remedy: str) -> None:
        self.reason, self.must, self.received, self.remedy = reason, must, received, remedy
        super().__init__(f"an image {must}. Received: {received}. {remedy}")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an image says of itself; `height` and `width` are those of the picture held upright."""

    height: int
    width: int
    gray: bool
    """A gray image in RGB, or by a palette, is not gray here."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its pixels where nothing else is asked for."""
        return (self.height, self.width) if self.gray else (self.height, self.width, 3)


def header(data: bytes) -> Header:
    """Read the header alone.

    Raises:
        ImageRefused
    """
    return _header_of(_opened(data))


def pixels(data: bytes, shape: tuple[int, ...]) -> Pixels:
    """The image as pixels of this shape: [H, W] or [H, W, 1] (gray), or [H, W, 3] (RGB).

    A gray image becomes RGB with three equal channels; an RGB image becomes gray only where its three channels are
    equal, so that no rule of weighting colours is chosen silently.

    Raises:
        ImageRefused: it is no such image; one of another size is refused before a pixel of it is decoded.
    """
    image = _opened(data, most=min(MAX_BYTES, BYTES_OF_METADATA + BYTES_PER_PIXEL * shape[0] * shape[1]))
    found = _header_of(image)
    if (found.height, found.width) != shape[:2]:
        wanted = f"must be of {shape[0]} x {shape[1]} pixels (height x width)"
        received = f"{found.height} x {found.width}"
        raise ImageRefused("bad_shape", wanted, received=received, remedy="Resize or crop it.")
    with _reading():
        image.load()
    plain = _plain(image)
    upright = UPRIGHT.get(_orientation(image))
    array = np.array(plain if upright is None else plain.transpose(upright))
    return _rgb(array) if shape[2:] == (3,) else _gray(array).reshape(shape)


def _opened(data: bytes, *, most: int = MAX_BYTES) -> ImageFile:
    """The header has been read, the pixels have not."""
    if len(data) > most:
        raise ImageRefused(
            "too_large",
            f"must be a file of at most {most:,} bytes",
            received=f"{len(data):,}",
            remedy="Resize it, or save it without metadata.",
        )
    reader = next((reader for signature, reader in READERS.items() if data.startswith(signature)), None)
    if reader is None:
        raise ImageRefused(
            "not_an_image",
            "must be a PNG or JPEG file",
            received=f"bytes that begin with {data[:8]!r}" if data else "no bytes",
            remedy="Convert it to PNG.",
        )
    if reader is JpegImageFile and data.count(START_OF_SCAN) > MAX_SCANS:
        raise ImageRefused(
            "unsupported_image", f"must have at most {MAX_SCANS} scans", received="more", remedy="Save it again."
        )
    with _reading():
        return reader(BytesIO(data))


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise ImageRefused(
            "broken_image",
            "must be a PNG or JPEG file that is whole",
            received=f"one that cannot be read ({str(error)[:200]})",
            remedy="Save it again.",
        ) from error


def _header_of(image: ImageFile) -> Header:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageRefused(
            "too_large",
            f"must have at most {MAX_PIXELS:,} pixels",
            received=f"{height:,} x {width:,}",
            remedy="Resize it.",
        )
    _refuse_ambiguous(image)
    if _orientation(image) in SIDEWAYS:
        width, height = height, width
    return Header(height=height, width=width, gray=image.mode in GRAY_MODES)


def _refuse_ambiguous(image: ImageFile) -> None:
    """16 bits do not fit into 8; CMYK is a colour only with the profile of a press; an animation is many images."""
    must, received = "must be gray or RGB of 8 bits a channel", None
    stored = {str(tile.args) for tile in image.tile}
    if any("16" in each for each in stored):
        received, remedy = "16 bits a channel", "Scale its values to 0 … 255 and save it with 8 bits."
    elif image.mode == "CMYK":
        received, remedy = "CMYK", "Convert it to RGB."
    elif image.custom_mimetype is not None:
        must, received, remedy = "must be a single image", "an animation", "Save one of its frames."
    elif "transparency" in image.info and stored & {"L;2", "L;4"}:  # Pillow widens its pixels, and not its key
        received, remedy = "2 or 4 bits with a transparent gray", "Save it with 8 bits, and opaque."
    if received is not None:
        raise ImageRefused("unsupported_image", must, received=received, remedy=remedy)


def _orientation(image: ImageFile) -> int:
    """How a JPEG is to be turned, as cameras write it and as viewers show it. A PNG is as it is stored, and so is a
    JPEG whose EXIF block cannot be read."""
    if not isinstance(image, JpegImageFile):
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return found if isinstance(found, int) else 1


def _plain(image: Image.Image) -> Image.Image:
    """As L or RGB. An alpha channel is let go where all of it is opaque: behind what shines through would have to be
    a colour that the file does not name."""
    gray = image.mode in GRAY_MODES
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise ImageRefused(
                "unsupported_image",
                "must be opaque",
                received="transparent pixels",
                remedy="Flatten it onto a background of your choice.",
            )
        # The channels of a gray pixel are equal; "L" would be their weighted sum.
        return image.getchannel("R") if gray else image.convert("RGB")
    plain = "L" if gray else "RGB"
    return image if image.mode == plain else image.convert(plain)


def _rgb(array: Pixels) -> Pixels:
    """[H, W] or [H, W, 3] -> [H, W, 3]."""
    return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=-1)


def _gray(array: Pixels) -> Pixels:
    """[H, W] or [H, W, 3] -> [H, W]."""
    if array.ndim == 2:
        return array
    first = array[..., 0]
    if not (np.array_equal(first, array[..., 1]) and np.array_equal(first, array[..., 2])):
        raise ImageRefused(
            "bad_shape",
            "must be gray",
            received="an image with colours",
            remedy="Convert it to gray, as those that were trained on.",
        )
    return np.ascontiguousarray(first)
