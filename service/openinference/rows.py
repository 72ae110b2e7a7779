"""Inputs of a request as the rows that the runtime takes.

Every datatype of numbers is taken where FP32 is declared, if nothing of a whole number is lost:

    array, image   float32: FP64 is rounded, as numbers in JSON are; a whole number must be one in float32
    table          float64: a timestamp keeps its seconds until the offset of its column is gone; NaN is a missing value
    categories     BYTES in UTF-8, empty for a missing one; whole numbers are the text that stood in the file
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)
from service.openinference.datatypes import BYTES, is_whole
from service.openinference.signature import X
from service.openinference.tensors import Tensor
from service.runtime.columns import MISSING, UNSEEN
from service.runtime.rows import Floats, all_finite, as_float32, check_size

FLOAT32, FLOAT64 = 4, 8
"""Bytes."""


def rows_of(given: Mapping[str, Tensor], preprocessing: FittedPreprocessing) -> Floats:
    """Every input of the model by name -> float64 [B, columns], categories as codes, or float32 [B, *shape].

    Raises:
        InvalidRequest: shape, datatype or values of an input are not what the model takes.
        TooLarge: the rows would take more memory than the rows of a request may.
    """
    if isinstance(preprocessing, FittedTable):
        return _table(given, preprocessing)
    return _array(given[X], preprocessing.shape)


def _array(tensor: Tensor, shape: tuple[int, ...]) -> Floats:
    _check_rows(tensor, (shape, (math.prod(shape),)))
    check_size(tensor.shape[0], FLOAT32 * math.prod(shape))
    values = _numbers(tensor)
    x = as_float32(values)
    if is_whole(tensor.datatype):
        _check_held(tensor, values, x)
    if not all_finite(x):
        row = int(np.flatnonzero(~np.isfinite(x).reshape(tensor.shape[0], -1).all(axis=1))[0])
        raise tensor.refusal("must hold finite numbers only, also as float32", f"others in row {row}")
    return x.reshape(tensor.shape[0], *shape)


def _table(given: Mapping[str, Tensor], table: FittedTable) -> Floats:
    tensors = [given[column.name] for column in table.columns]
    for tensor in tensors:
        _check_rows(tensor, ((), (1,)))
        if tensor.shape[0] != tensors[0].shape[0]:
            first = f"{tensors[0].shape[0]} rows, as the input '{tensors[0].name}' has"
            raise tensor.refusal(f"must have {first}", f"{tensor.shape[0]} rows")
    check_size(tensors[0].shape[0], FLOAT64 * len(tensors))
    columns = [
        _numeric(tensor, column) if isinstance(column, NumericColumn) else _codes(tensor, column)
        for tensor, column in zip(tensors, table.columns, strict=True)
    ]
    return np.column_stack(columns)


def _check_rows(tensor: Tensor, shapes: tuple[tuple[int, ...], ...]) -> None:
    """One row at least, each of one of the shapes."""
    if not tensor.shape or tensor.shape[0] < 1 or tensor.shape[1:] not in shapes:
        known = " or ".join(str(["rows", *each]).replace("'", "") for each in shapes)
        raise tensor.refusal(f"must have the shape {known}, with one row at least", list(tensor.shape))


def _numbers(tensor: Tensor) -> NDArray[Any]:
    if tensor.datatype == BYTES:
        raise tensor.refusal("must hold numbers, such as FP32", BYTES)
    return tensor.numbers()


def _numeric(tensor: Tensor, column: NumericColumn) -> NDArray[np.float64]:
    values = _numbers(tensor)
    x = values.astype(np.float64)
    if is_whole(tensor.datatype):
        _check_held(tensor, values, x)
    missing = np.isnan(x)
    if column.fill is None and missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise tensor.refusal("must have no missing values: the model was trained without", f"none in row {row}")
    beyond = ~(np.isfinite(as_float32(x)) | missing)
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        raise tensor.refusal(f"must be finite, also as float32, in row {row}", float(x[row]))
    return x


def _check_held(tensor: Tensor, values: NDArray[Any], x: NDArray[Any]) -> None:
    """Whole numbers, and what became of them: rounding them would be a silent loss, of an id for instance."""
    bounds = np.iinfo(values.dtype)
    if values.itemsize * 2 <= x.itemsize:
        return
    within = (x >= bounds.min) & (x < float(bounds.max) + 1)  # what is not comes back as any number at all
    with np.errstate(invalid="ignore"):
        held = within & (x.astype(values.dtype) == values)
    if not held.all():
        first = values[np.flatnonzero(~held)[0]].item()
        raise tensor.refusal(f"must hold whole numbers that {x.dtype} has too. Send FP64, which is rounded", first)


def _codes(tensor: Tensor, column: CategoricalColumn) -> NDArray[np.float64]:
    """NaN: missing, -1: unseen."""
    code_of = {label.encode(): float(code) for code, label in enumerate(column.categories)} | {b"": MISSING}
    texts = _categories(tensor)
    codes = np.empty(tensor.shape[0], dtype=np.float64)
    for row, text in enumerate(texts):
        code = code_of.get(text)
        if code is None:
            _check_utf8(tensor, text, row)
        codes[row] = UNSEEN if code is None else code
    return codes


def _categories(tensor: Tensor) -> Iterator[bytes]:
    if tensor.datatype == BYTES:
        return tensor.texts()
    if is_whole(tensor.datatype):
        return (str(each).encode() for each in tensor.numbers().tolist())
    raise tensor.refusal("must hold categories, as BYTES", tensor.datatype)


def _check_utf8(tensor: Tensor, text: bytes, row: int) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as exc:
        wanted = f"must hold texts in UTF-8; the one in row {row} is not"
        raise tensor.refusal(wanted, text[:40].decode(errors="replace")) from exc
