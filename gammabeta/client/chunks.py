"""Rows of any kind, as JSON bodies of a bounded size.

numpy arrays go straight through orjson: float32 keeps its shortest spelling, so that the service reads back the same
float32. NaN becomes null, which is a missing value. Infinity has no JSON, and is refused here rather than sent as null.
Image files go as {"b64": …}; those named by a path are read as their chunk is made.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from gammabeta.errors import InvalidRequest

Rows: TypeAlias = NDArray[Any] | Sequence[Any]
"""`[N, …]`: an array, a list of lists, a list of objects by column name, or a list of image files: bytes or `Path`s."""

MAX_BYTES = 8 * 2**20
"""The largest body that is sent, unless a single row is larger."""

_SAMPLE = 16


def bodies(instances: Rows, *, max_bytes: int = MAX_BYTES) -> Iterator[bytes]:
    """`{"instances": […]}` bodies that hold the rows in their order; one body where there are no rows."""
    rows = _prepared(instances)
    if len(rows) == 0:
        yield _encoded(rows)
        return
    per_row = len(_encoded(rows[:_SAMPLE])) / min(len(rows), _SAMPLE)
    step = max(1, int(max_bytes / per_row))
    for start in range(0, len(rows), step):
        yield from _halved(rows[start : start + step], max_bytes)


def _halved(rows: Rows, max_bytes: int) -> Iterator[bytes]:
    """One body, or more where these rows are longer than the sample promised."""
    body = _encoded(rows)
    if len(body) <= max_bytes or len(rows) == 1:
        yield body
        return
    middle = len(rows) // 2
    yield from _halved(rows[:middle], max_bytes)
    yield from _halved(rows[middle:], max_bytes)


def _encoded(rows: Rows) -> bytes:
    try:
        return orjson.dumps({"instances": rows}, default=_image_file, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as exc:
        raise InvalidRequest.of("instances", f"must be numbers, text, lists, objects or image files ({exc})") from exc


def _image_file(value: Any) -> dict[str, str]:
    if isinstance(value, Path):
        value = value.read_bytes()
    if isinstance(value, bytes):
        return {"b64": b64encode(value).decode()}
    raise TypeError(type(value).__name__)


def _prepared(instances: Rows) -> Rows:
    if isinstance(instances, Mapping | str | bytes) or not isinstance(instances, np.ndarray | Sequence):
        raise InvalidRequest.of(
            "instances",
            "must be a list of rows or an array. Write [row], if it is a single row.",
            type(instances).__name__,
        )
    if isinstance(instances, np.ndarray):
        return _prepared_array(instances)
    for index, row in enumerate(instances):
        if _has_infinity(row):
            raise _not_finite(index)
        if isinstance(row, Path) and not row.is_file():
            raise InvalidRequest.of(f"instances[{index}]", "must be a file that exists. Look at its path.", str(row))
    return list(instances)


def _prepared_array(rows: NDArray[Any]) -> Rows:
    if rows.ndim == 0:
        raise InvalidRequest.of("instances", "must have rows. Write array[None], if it is a single row.", rows.item())
    if rows.dtype.kind not in "biuf":
        return _prepared(rows.tolist())
    if rows.dtype.kind == "f" and len(bad := np.argwhere(np.isinf(rows))):
        raise _not_finite(int(bad[0][0]))
    return np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("="))


def _has_infinity(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return math.isinf(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" and bool(np.isinf(value).any())
    if isinstance(value, Mapping):
        return any(map(_has_infinity, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_infinity, value))


def _not_finite(index: int) -> InvalidRequest:
    return InvalidRequest.of(
        f"instances[{index}]", "numbers must be finite. Write null (or NaN), if the value is missing.", "Infinity"
    )
