"""The protocol's datatypes as numpy's: little-endian, row-major, no padding.

BOOL  UINT8 … UINT64  INT8 … INT64  FP16  BF16 (binary only)  FP32  FP64  BYTES (u32 length, then so many bytes; …)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.errors import InvalidRequest

BYTES = "BYTES"
BF16 = "BF16"
NUMBERS: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    "FP16": np.dtype("<f2"),
    BF16: np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""What one element is in binary. numpy has no bfloat16; its bits are the upper half of a float32."""
_LENGTH = struct.Struct("<I")


def is_whole(datatype: str) -> bool:
    """Whether it holds whole numbers."""
    return "INT" in datatype


def numbers(raw: memoryview, datatype: str) -> NDArray[Any]:
    """All elements in `raw`, flat; its length is a multiple of theirs."""
    # A copy: they begin anywhere in the body, and what is neither aligned nor writable is no tensor.
    values: NDArray[Any] = np.frombuffer(raw, dtype=np.uint8 if datatype == "BOOL" else NUMBERS[datatype]).copy()
    if datatype == "BOOL":
        values = values.astype(np.bool_)
    elif datatype == BF16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values


def texts(raw: memoryview, count: int) -> Iterator[bytes]:
    """Exactly `count` elements of BYTES, one at a time: a list of millions of them would be many times the body.

    Raises:
        InvalidRequest: there are fewer, or more; where their lengths alone would not fit, at once.
    """
    if count * _LENGTH.size > len(raw):
        raise _incomplete(raw, count)
    return _texts(raw, count)


def _texts(raw: memoryview, count: int) -> Iterator[bytes]:
    end = 0
    for _ in range(count):
        start = end + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, end)[0] if start <= len(raw) else start
        if end > len(raw):
            raise _incomplete(raw, count)
        yield bytes(raw[start:end])
    if end != len(raw):
        raise InvalidRequest(f"must have {count:,} elements of BYTES. Received: {len(raw) - end:,} bytes after them.")


def _incomplete(raw: memoryview, count: int) -> InvalidRequest:
    return InvalidRequest(
        f"must have {count:,} elements of BYTES, each after its length as 4 bytes, little-endian. Received: "
        f"{len(raw):,} bytes, which end before that."
    )


def packed(elements: Iterable[bytes]) -> bytes:
    """The elements as BYTES."""
    return b"".join(part for each in elements for part in (_LENGTH.pack(len(each)), each))
