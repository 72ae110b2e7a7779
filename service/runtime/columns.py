"""Values of one column, whatever the body was, as the numbers that the model's table has there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gammabeta.schemas.preprocessing import CategoricalColumn, Column, NumericColumn
from service.runtime.rows import Floats, as_float32, fail

MISSING = math.nan
UNSEEN = -1.0
SHOWN = 20
"""How many column names an error lists."""


def encoded(values: list[Any], column: Column, *, first: int = 0) -> Floats:
    """[n] float64: numbers, or codes of categories; None is a missing value. `first`: the row of the first value.

    Raises:
        InvalidRequest: a value does not fit the column; names row and column.
    """
    if isinstance(column, NumericColumn):
        return _numbers(values, column, first)
    return _codes(values, column, first)


def listed(columns: Sequence[Column]) -> str:
    """The names of the first columns."""
    more = f", … ({len(columns)} in all)" if len(columns) > SHOWN else ""
    return ", ".join(column.name for column in columns[:SHOWN]) + more


def _numbers(values: list[Any], column: NumericColumn, first: int) -> Floats:
    kinds = set(map(type, values))
    if not kinds <= {int, float, type(None)}:
        row = next(row for row, value in enumerate(values) if type(value) not in (int, float, type(None)))
        fail(first + row, column.name, "must be a number, or null where it is missing", values[row])
    if type(None) in kinds:
        if column.fill is None:
            row = values.index(None)
            fail(first + row, column.name, "must be a number: the model was trained without missing values", None)
        missing = np.fromiter((value is None for value in values), dtype=bool, count=len(values))
        numbers = np.array([0 if value is None else value for value in values], dtype=np.float64)
    else:
        missing, numbers = None, np.array(values, dtype=np.float64)
    beyond = ~np.isfinite(as_float32(numbers))
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        message = "must be finite, also as float32. A missing value is null, and in a csv file an empty cell"
        fail(first + row, column.name, message, values[row])
    if missing is not None:
        numbers[missing] = MISSING
    return numbers


def _codes(values: list[Any], column: CategoricalColumn, first: int) -> Floats:
    """Whole numbers count as the text that stood in the file; a missing value is NaN, an unseen category -1."""
    code_of: dict[str | None, float] = {label: float(code) for code, label in enumerate(column.categories)}
    code_of |= {None: MISSING, "": MISSING}
    for row, kind in enumerate(map(type, values)):
        if kind is int:
            values[row] = str(values[row])
        elif kind is not str and values[row] is not None:
            message = "must be a string (a category), or null where it is missing"
            fail(first + row, column.name, message, values[row])
    return np.fromiter((code_of.get(value, UNSEEN) for value in values), dtype=np.float64, count=len(values))
