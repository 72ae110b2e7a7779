"""Image files as pixels: what is read exactly, and what is refused because it has several readings."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gammabeta import images
from gammabeta.images import ImageRefused
from tests.pictures import encoded, noise

GRAY, RGB = noise(0, 6, 9), noise(1, 6, 9, 3)
RAMP = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def refused(data: bytes, shape: tuple[int, ...] = (6, 9)) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        images.pixels(data, shape)
    return caught.value


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *, depth: int = 8, colour: int = 0, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG by hand, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def oriented(array: NDArray[np.uint8], orientation: int, format: str) -> bytes:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    return encoded(array, format, exif=exif, **({"quality": 100} if format == "JPEG" else {}))


# ── read ──


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"compress_level": 0}, {"dpi": (300, 300)}])
def test_pixels_of_a_png_are_those_that_were_saved(options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(images.pixels(encoded(GRAY, **options), (6, 9)), GRAY)
    np.testing.assert_array_equal(images.pixels(encoded(RGB, **options), (6, 9, 3)), RGB)


def test_pixels_are_bytes_that_may_be_written_to() -> None:
    for shape in ((6, 9), (6, 9, 1), (6, 9, 3)):
        read = images.pixels(encoded(GRAY), shape)
        assert (read.shape, read.dtype, read.flags.writeable, read.flags.c_contiguous) == (shape, np.uint8, True, True)


def test_pixels_of_a_jpeg_are_those_of_every_other_reader() -> None:
    for array, shape in ((RAMP, (8, 8)), (np.stack([RAMP, RAMP.T, RAMP], axis=-1), (8, 8, 3))):
        for options in ({}, {"progressive": True}, {"subsampling": 0} if array.ndim == 3 else {"quality": 10}):
            data = encoded(array, "JPEG", **options)
            with Image.open(io.BytesIO(data)) as image:
                np.testing.assert_array_equal(images.pixels(data, shape), np.asarray(image))


def test_the_header_tells_size_and_colour() -> None:
    assert images.header(encoded(GRAY)) == images.Header(height=6, width=9, gray=True)
    assert images.header(encoded(RGB)).shape == (6, 9, 3)
    assert images.header(encoded(RGB, "JPEG")) == images.Header(height=6, width=9, gray=False)
    assert images.header(encoded(GRAY, "JPEG")).shape == (6, 9)


def test_one_two_and_four_bits_reach_from_black_to_white() -> None:
    one = images.pixels(encoded(Image.fromarray(GRAY > 127)), (6, 9))
    np.testing.assert_array_equal(one, np.where(GRAY > 127, 255, 0))
    four = images.pixels(png_of(2, 2, depth=4, rows=b"\0\x0f\0\x81"), (2, 2))
    assert four.tolist() == [[0, 255], [136, 17]]
    two = images.pixels(png_of(4, 1, depth=2, rows=b"\0\x1b"), (1, 4))
    assert two.tolist() == [[0, 85, 170, 255]]


def test_interlaced_images_are_read() -> None:
    seven_passes = b"\0\x10" + b"\0\x20" + b"\0\x30\x40"
    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(seven_passes))
    assert images.pixels(data + chunk(b"IEND", b""), (2, 2)).tolist() == [[16, 32], [48, 64]]


def test_a_palette_is_looked_up() -> None:
    palette = Image.fromarray(GRAY).convert("P")
    assert not images.header(encoded(palette)).gray
    np.testing.assert_array_equal(images.pixels(encoded(palette), (6, 9)), GRAY)
    coloured = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(images.pixels(encoded(coloured), (6, 9, 3)), np.asarray(coloured.convert("RGB")))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_alpha_channel_that_is_opaque_is_let_go(mode: str) -> None:
    data = encoded(Image.fromarray(GRAY).convert(mode))
    np.testing.assert_array_equal(images.pixels(data, (6, 9)), GRAY)


def test_gray_becomes_rgb_with_three_equal_channels() -> None:
    np.testing.assert_array_equal(images.pixels(encoded(GRAY), (6, 9, 3)), np.repeat(GRAY[..., None], 3, axis=-1))


def test_rgb_becomes_gray_where_its_channels_are_equal_and_else_is_refused() -> None:
    triple = np.repeat(GRAY[..., None], 3, axis=-1)
    np.testing.assert_array_equal(images.pixels(encoded(triple), (6, 9)), GRAY)
    triple[5, 8, 2] ^= 1
    assert refused(encoded(triple)).must == "must be gray"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_held_upright_as_its_exif_says(orientation: int) -> None:
    flat = RAMP[:6].copy()
    data = oriented(flat, orientation, "JPEG")
    shape = (8, 6) if orientation >= 5 else (6, 8)
    assert images.header(data).shape == shape
    with Image.open(io.BytesIO(data)) as image:
        stored = np.asarray(image)
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).T,
        8: np.rot90(stored),
    }[orientation]
    np.testing.assert_array_equal(images.pixels(data, shape), turned)
    if orientation >= 5:
        assert refused(data, (6, 8)).reason == "bad_shape"


def test_a_png_is_as_it_is_stored_and_so_is_a_jpeg_whose_exif_says_nothing() -> None:
    np.testing.assert_array_equal(images.pixels(oriented(GRAY, 6, "PNG"), (6, 9)), GRAY)
    assert images.header(encoded(GRAY, "JPEG", exif=b"Exif\0\0 no such thing")).shape == (6, 9)
    assert images.header(oriented(GRAY, 77, "JPEG")).shape == (6, 9)


# ── refused ──


def deep(mode: str) -> bytes:
    if mode == "gray":
        return encoded(Image.fromarray(GRAY.astype(np.uint16) * 257))
    return png_of(9, 6, depth=16, colour=2, rows=6 * bytes(1 + 9 * 6))


def cmyk() -> bytes:
    return encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG")


def animated() -> bytes:
    frames = [Image.fromarray(noise(seed, 6, 9)) for seed in range(2)]
    return encoded(frames[0], save_all=True, append_images=frames[1:])


def half_transparent() -> bytes:
    return encoded(np.dstack([RGB, noise(2, 6, 9)]))


def palette_with_transparency() -> bytes:
    return encoded(Image.fromarray(GRAY).convert("P"), transparency=int(GRAY[0, 0]))


def gray_with_transparency() -> bytes:
    return encoded(Image.fromarray(GRAY), transparency=int(GRAY[0, 0]))


def four_bits_with_transparency() -> bytes:
    return png_of(2, 2, depth=4, rows=b"\0\x0f\0\x81", extra=chunk(b"tRNS", b"\0\x0f"))


@pytest.mark.parametrize(
    ("data", "reason", "received"),
    [
        (lambda: b"", "not_an_image", "no bytes"),
        (lambda: encoded(GRAY, "GIF"), "not_an_image", "GIF8"),
        (lambda: encoded(GRAY, "BMP"), "not_an_image", "BM"),
        (lambda: b"P5 9 6 255\n" + GRAY.tobytes(), "not_an_image", "P5"),
        (lambda: encoded(GRAY)[:-30], "broken_image", "truncated"),
        (lambda: encoded(GRAY)[:60], "broken_image", "cannot be read"),
        (lambda: encoded(RGB, "JPEG")[:-40], "broken_image", "truncated"),
        (lambda: b"\xff\xd8\xff", "broken_image", "cannot be read"),
        (lambda: png_of(0, 6), "broken_image", "cannot be read"),
        (lambda: deep("gray"), "unsupported_image", "16 bits"),
        (lambda: deep("rgb"), "unsupported_image", "16 bits"),
        (cmyk, "unsupported_image", "CMYK"),
        (animated, "unsupported_image", "animation"),
        (half_transparent, "unsupported_image", "transparent"),
        (palette_with_transparency, "unsupported_image", "transparent"),
        (gray_with_transparency, "unsupported_image", "transparent"),
        (four_bits_with_transparency, "unsupported_image", "4 bits"),
        (lambda: encoded(noise(0, 9, 6)), "bad_shape", "9 x 6"),
        (lambda: encoded(noise(0, 6, 10), "JPEG"), "bad_shape", "6 x 10"),
    ],
)
def test_what_has_several_readings_or_none_is_refused(data: Callable[[], bytes], reason: str, received: str) -> None:
    found = refused(data())
    assert found.reason == reason
    assert received in found.received
    assert str(found).startswith("an image must ")
    assert found.remedy.endswith(".")


@pytest.mark.parametrize("side", [5_000, 30_000, 2**31 - 1])
def test_pixels_are_counted_before_one_is_decoded(side: int) -> None:
    data = png_of(side, side, rows=bytes(1_000_000))
    tracemalloc.start()
    assert refused(data, (side, side)).reason == "too_large"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_size_is_checked_before_a_pixel_is_decoded() -> None:
    broken = bytearray(png_of(4_000, 4_000, rows=bytes(4_000 * 4_001)))
    broken[-60:-40] = bytes(20)  # decoding would find this
    assert refused(bytes(broken), (28, 28)).reason == "bad_shape"


def test_a_second_header_inside_a_png_does_not_hide_its_size() -> None:
    again = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    assert refused(png_of(9, 6, rows=bytes(60), extra=again)).reason == "too_large"


def test_text_that_unpacks_to_megabytes_is_refused() -> None:
    text = chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(64 << 20)))
    assert refused(png_of(9, 6, rows=bytes(60), extra=text)).reason == "broken_image"


def test_a_file_of_more_bytes_than_an_image_needs_is_refused_unread() -> None:
    """Five million chunks of nothing, or markers of it, would keep a thread for half a minute."""
    for size, many in (((6, 9), 2 << 20), ((4_096, 4_096), images.MAX_BYTES)):
        for data in (png_of(*size, extra=chunk(b"miNe", b"") * (many // 12)), encoded(GRAY, "JPEG") + bytes(many)):
            assert refused(data, size).reason == "too_large"


def test_a_jpeg_of_more_scans_than_anybody_needs_is_refused() -> None:
    data = encoded(RGB, "JPEG", progressive=True)
    at = data.rindex(images.START_OF_SCAN)
    many = data[:at] + data[at:-2] * 1_000 + data[-2:]
    found = refused(many, (6, 9, 3))
    assert (found.reason, found.must) == ("unsupported_image", "must have at most 500 scans")


WHOLE = [encoded(GRAY), encoded(RGB), encoded(RAMP, "JPEG"), oriented(GRAY, 6, "JPEG"), half_transparent(), animated()]


@given(st.sampled_from(WHOLE), st.data())
def test_bytes_that_were_tampered_with_are_read_or_refused_and_nothing_else(whole: bytes, draw: st.DataObject) -> None:
    data = bytearray(whole)
    for place in draw.draw(st.lists(st.integers(8, len(data) - 1), min_size=1, max_size=4)):
        data[place] = draw.draw(st.integers(0, 255))
    try:
        images.pixels(bytes(data[: draw.draw(st.integers(8, len(data)))]), (6, 9))
    except ImageRefused:
        return


def test_threads_decode_beside_each_other() -> None:
    files = [encoded(noise(seed, 40, 40), "PNG" if seed % 2 else "JPEG") for seed in range(16)]
    alone = [images.pixels(each, (40, 40)) for each in files]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: images.pixels(each, (40, 40)), files))
    np.testing.assert_array_equal(alone, together)
