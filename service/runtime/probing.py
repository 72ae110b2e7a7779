"""Rows on which two engines are compared: drawn from what preprocessing was fitted to, always the same ones.

table    numbers around their mean by their standard deviation, missing where they may be; as many categories as there
         are rows for, an unseen one, none
array    likewise for each channel; the first row is the mean itself
image    black, white, a gradient along each axis, noise
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    Column,
    FittedArray,
    FittedImage,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)

Raw: TypeAlias = NDArray[Any]
"""Rows as `service.runtime.instances` reads them: [B, columns] float64, [B, *shape] float32 or uint8."""

ROWS = 64
FEWEST_ROWS = 6
"""Of rows that are huge."""
MOST_NUMBERS = 1 << 20
"""In all rows together, as the network reads them."""


def knows_rows(preprocessing: FittedPreprocessing) -> bool:
    """Whether it says where the rows lay that it was fitted on. Older versions that leave numbers as they are do not,
    and a probe around 0 would prove nothing about rows around a million."""
    match preprocessing:
        case FittedTable(columns=columns):
            numbers = [each for each in columns if isinstance(each, NumericColumn)]
            return not numbers or any(each.mean is not None or (each.offset, each.scale) != (0, 1) for each in numbers)
        case FittedArray():
            scaled = any(preprocessing.offset) or any(each != 1 for each in preprocessing.scale)
            return bool(preprocessing.mean) or scaled
        case FittedImage():
            return True  # pixels are 0 … 255


def probe_of(preprocessing: FittedPreprocessing) -> Raw:
    """The rows: 64, fewer where they are huge, more where a column has more categories, as far as `MOST_NUMBERS` go:
    of a column of over a thousand categories (less where others are wide too), some stand in no row."""
    draws = np.random.default_rng(0)
    most = max(FEWEST_ROWS, MOST_NUMBERS // max(1, math.prod(preprocessing.input_shape)))
    match preprocessing:
        case FittedTable(columns=columns):
            longest = max((len(each.categories) for each in columns if isinstance(each, CategoricalColumn)), default=0)
            return _table(columns, min(most, max(ROWS, longest + 2)), draws)
        case FittedArray():
            return _array(preprocessing, min(most, ROWS), draws)
        case FittedImage(shape=shape):
            return _image(shape, min(most, ROWS), draws)


def _table(columns: tuple[Column, ...], rows: int, draws: np.random.Generator) -> Raw:
    x = np.empty((rows, len(columns)))
    for at, column in enumerate(columns):
        if isinstance(column, CategoricalColumn):
            codes = [math.nan, -1.0, *range(len(column.categories))]
            x[:, at] = draws.permutation(np.resize(codes, rows))
        else:
            mean = column.offset if column.mean is None else column.mean
            # The deviation of a constant is 0, and what comes to be predicted need not be that constant.
            x[:, at] = mean + (column.std or column.scale) * draws.standard_normal(rows)
            if column.fill is not None:
                x[draws.random(rows) < 0.1, at] = math.nan
    return x


def _array(fitted: FittedArray, rows: int, draws: np.random.Generator) -> Raw:
    apart = draws.standard_normal((rows, *fitted.shape))
    apart[0] = 0.0
    given = (fitted.mean or fitted.offset or (0.0,), fitted.std or (0.0,), fitted.scale or (1.0,))
    mean, std, scale = (_laid_out(values, fitted.shape) for values in given)
    return (mean + np.where(std > 0, std, scale) * apart).astype(np.float32)


def _laid_out(values: tuple[float, ...], shape: tuple[int, ...]) -> Raw:
    """One number, one for each channel, or one for each element."""
    return np.reshape(values, shape if len(values) == math.prod(shape) else (-1,))


def _image(shape: tuple[int, ...], rows: int, draws: np.random.Generator) -> Raw:
    x = draws.integers(0, 256, (rows, *shape), dtype=np.uint8)
    height, width = shape[:2]
    down, right = np.linspace(0, 255, height).astype(np.uint8), np.linspace(0, 255, width).astype(np.uint8)
    rest = (1,) * (len(shape) - 2)
    x[0], x[1] = 0, 255
    x[2], x[3] = down.reshape(height, 1, *rest), right.reshape(1, width, *rest)
    return x
