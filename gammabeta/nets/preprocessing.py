"""Raw features to network input, as part of the network: fitted once on the training rows, stored with the model.

    manifest + x + rows ──fit──► FittedPreprocessing (numbers) ──preprocess_of──► module: raw [B, …] -> float32 [B, …]

`x` may be a memory map larger than memory: it is read in chunks. All sums are float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.datasets import DatasetManifest, Feature
from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    Column,
    FittedArray,
    FittedImage,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
    PreprocessingSpec,
)

Rows: TypeAlias = NDArray[np.int64] | None
"""Indices of the rows to fit on; None: all of them."""

CHUNK_ELEMENTS = 1 << 20
MEDIAN_ELEMENTS = 1 << 24
"""A median needs whole columns: so many numbers of them at a time, and at least one column."""


def fit(spec: PreprocessingSpec, manifest: DatasetManifest, x: NDArray[Any], rows: Rows = None) -> FittedPreprocessing:
    """Fit on the given rows of `x` (the training split), and on nothing else.

    Raises:
        InvalidRequest: `missing` is `error` and a numeric column has missing values.
    """
    match manifest.kind:
        case "table":
            return _fit_table(spec, manifest.features, x, rows)
        case "array":
            return _fit_array(spec, manifest.row_shape, _of_channels(_moments(x, rows)))
        case "image":
            return _fit_image(spec, manifest.row_shape, x, rows)


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """Of each element of a row, over its values that are not missing; float64 of the row's shape. An element without
    any has 0 everywhere."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    """Of the population (1/n)."""
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def _chunks(x: NDArray[Any], rows: Rows) -> Iterator[NDArray[Any]]:
    """In the order of the file, whatever the order of the rows."""
    count = len(x) if rows is None else len(rows)
    order = None if rows is None else np.sort(rows)
    size = max(1, CHUNK_ELEMENTS // max(1, int(np.prod(x.shape[1:]))))
    for start in range(0, count, size):
        yield x[start : start + size] if order is None else x[order[start : start + size]]


def _moments(x: NDArray[Any], rows: Rows) -> _Moments:
    """Means and squared deviations of the chunks, pooled exactly (Chan, Golub & LeVeque 1983)."""
    shape = x.shape[1:]
    seen, mean, squares = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    for chunk in _chunks(x, rows):
        values = chunk.astype(np.float64)
        known = ~np.isnan(values)
        n = known.sum(axis=0)
        chunk_mean = values.sum(axis=0, where=known) / np.maximum(n, 1)
        apart, total = chunk_mean - mean, np.maximum(seen + n, 1)
        squares += np.square(values - chunk_mean).sum(axis=0, where=known) + apart**2 * seen * n / total
        mean += apart * n / total
        seen += n
        low = np.minimum(low, values.min(axis=0, initial=np.inf, where=known))
        high = np.maximum(high, values.max(axis=0, initial=-np.inf, where=known))
    std = np.sqrt(squares / np.maximum(seen, 1))
    return _Moments(mean=mean, std=std, low=np.where(seen > 0, low, 0.0), high=np.where(seen > 0, high, 0.0))


def _of_channels(moments: _Moments) -> _Moments:
    """Of each channel, the last axis of a row, over all its places: a scale for each place would make the same pattern
    another number wherever it stands. Rows of one dimension stay as they are."""
    places = tuple(range(moments.mean.ndim - 1))
    mean = moments.mean.mean(axis=places)
    # Every place has as many values: arrays have no missing ones.
    variance = (np.square(moments.std) + np.square(moments.mean - mean)).mean(axis=places)
    low, high = moments.low.min(axis=places), moments.high.max(axis=places)
    return _Moments(mean=mean, std=np.sqrt(variance), low=low, high=high)


def _affine(
    how: Literal["standard", "minmax", "none"], moments: _Moments
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offset and scale, 1 for a constant. Its range tells a constant: its standard deviation may be rounding noise."""
    constant = moments.low == moments.high
    match how:
        case "standard":
            return moments.mean, np.where(constant, 1.0, moments.std)
        case "minmax":
            return moments.low, np.where(constant, 1.0, moments.high - moments.low)
        case "none":
            return np.zeros_like(moments.mean), np.ones_like(moments.mean)


def _fit_array(spec: PreprocessingSpec, shape: tuple[int, ...], moments: _Moments) -> FittedArray:
    offset, scale = (_flat(each) for each in _affine(spec.numeric, moments))
    if spec.numeric == "standard":
        return FittedArray(shape=shape, offset=offset, scale=scale)
    return FittedArray(shape=shape, offset=offset, scale=scale, mean=_flat(moments.mean), std=_flat(moments.std))


def _flat(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.ravel().tolist())


def _fit_table(spec: PreprocessingSpec, features: tuple[Feature, ...], x: NDArray[Any], rows: Rows) -> FittedTable:
    if spec.missing == "error":
        _refuse_missing(features)
    moments = _moments(x, rows)
    offset, scale = _affine(spec.numeric, moments)
    numeric = [at for at, feature in enumerate(features) if feature.kind == "numeric"]
    fill = _medians(x, rows, numeric) if spec.missing == "median" else moments.mean

    def column(at: int, feature: Feature) -> Column:
        if feature.kind == "categorical":
            labels = tuple(category.label for category in feature.categories or ())
            return CategoricalColumn(name=feature.name, categories=labels, missing_indicator=feature.missing > 0)
        stand_in = None if spec.missing == "error" else float(fill[at])
        scaled = NumericColumn(name=feature.name, fill=stand_in, offset=float(offset[at]), scale=float(scale[at]))
        if spec.numeric == "standard":
            return scaled
        return scaled.model_copy(update={"mean": float(moments.mean[at]), "std": float(moments.std[at])})

    return FittedTable(columns=tuple(column(at, feature) for at, feature in enumerate(features)))


def _refuse_missing(features: tuple[Feature, ...]) -> None:
    for feature in features:
        if feature.kind == "numeric" and feature.missing:
            raise InvalidRequest.of(
                "preprocessing.missing",
                f"'error' refuses missing values, and column '{feature.name}' has {feature.missing}. "
                'Write "mean" or "median", or fill them in the file.',
                "error",
            )


def _medians(x: NDArray[Any], rows: Rows, columns: list[int]) -> NDArray[np.float64]:
    """Of the given columns, 0 elsewhere and where a column has no value."""
    medians = np.zeros(x.shape[1])
    count = max(1, len(x) if rows is None else len(rows))
    order = slice(None) if rows is None else np.sort(rows)[:, None]
    size = max(1, MEDIAN_ELEMENTS // count)
    for start in range(0, len(columns), size):
        block = columns[start : start + size]
        values = np.sort(x[order, block].astype(np.float64), axis=0)  # NaN goes last
        known, place = (~np.isnan(values)).sum(axis=0), np.arange(len(block))
        middle = (values[np.maximum(known - 1, 0) // 2, place] + values[known // 2, place]) / 2
        medians[block] = np.where(known > 0, middle, 0.0)
    return medians


def _fit_image(spec: PreprocessingSpec, shape: tuple[int, ...], x: NDArray[Any], rows: Rows) -> FittedImage:
    match spec.image:
        case "unit":
            return FittedImage(shape=shape, scale=255.0)
        case "standard":
            mean, std = _pixel_moments(x, rows)
            return FittedImage(shape=shape, offset=mean, scale=std or 1.0)
        case "binary":
            return FittedImage(shape=shape, threshold=127.0)
        case "none":
            return FittedImage(shape=shape)


def _pixel_moments(x: NDArray[Any], rows: Rows) -> tuple[float, float]:
    """Mean and standard deviation over all uint8 pixels, exactly: from the counts of their 256 values."""
    counts = np.zeros(256)
    for chunk in _chunks(x, rows):
        counts += np.bincount(chunk.ravel(), minlength=256)
    values, n = np.arange(256.0), max(1.0, counts.sum())
    mean = float(values @ counts / n)
    return mean, float(np.sqrt(np.square(values - mean) @ counts / n))


def preprocess_of(fitted: FittedPreprocessing) -> Preprocess:
    """Fitted preprocessing as a module."""
    match fitted:
        case FittedTable():
            return _Table(fitted)
        case FittedArray():
            return _Array(fitted)
        case FittedImage():
            return _Image(fitted)


class Preprocess(nn.Module):
    """raw [B, …] of any dtype -> float32 [B, …], images with their channel axis. A number that is missing where none
    may be stays NaN. The fitted numbers follow the module to its device and stand in no state_dict."""

    def keep(self, name: str, values: ArrayLike, dtype: torch.dtype = torch.float32) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)


class _Table(Preprocess):
    """x: [B, columns] -> [B, width]: one gather and one write for the numbers and one for the categories, however many
    columns there are."""

    numeric: Tensor
    numeric_place: Tensor
    fill: Tensor
    offset: Tensor
    scale: Tensor
    categorical: Tensor
    start: Tensor
    last: Tensor
    missing_code: Tensor

    def __init__(self, fitted: FittedTable) -> None:
        super().__init__()
        (self.width,) = fitted.input_shape
        starts = np.cumsum([0, *(column.width for column in fitted.columns)]).tolist()
        numbers = [(at, c) for at, c in enumerate(fitted.columns) if isinstance(c, NumericColumn)]
        words = [(at, c) for at, c in enumerate(fitted.columns) if isinstance(c, CategoricalColumn) and c.width]
        self.only_numbers = len(numbers) == len(fitted.columns)
        self.keep("numeric", [at for at, _ in numbers], torch.int64)
        self.keep("numeric_place", [starts[at] for at, _ in numbers], torch.int64)
        # float64 until the offset is gone: of a timestamp in float32, two minutes would be left.
        self.keep("fill", [float("nan") if c.fill is None else c.fill for _, c in numbers], torch.float64)
        self.keep("offset", [c.offset for _, c in numbers], torch.float64)
        self.keep("scale", [c.scale for _, c in numbers], torch.float64)
        self.keep("categorical", [at for at, _ in words], torch.int64)
        self.keep("start", [starts[at] for at, _ in words], torch.int64)
        self.keep("last", [c.width - 1 for _, c in words], torch.int64)
        self.keep("missing_code", [len(c.categories) if c.missing_indicator else -1 for _, c in words], torch.int64)

    def forward(self, raw: Tensor) -> Tensor:
        x = raw.double()
        if self.only_numbers:
            return self._numbers(x)
        row = torch.zeros(len(x), self.width, device=x.device)
        row.index_copy_(1, self.numeric_place, self._numbers(x.index_select(1, self.numeric)))
        codes = x.index_select(1, self.categorical)
        codes = torch.where(codes.isnan(), self.missing_code, codes).long()
        place = codes.clamp(min=0).minimum(self.last)
        return row.scatter_(1, self.start + place, (codes == place).float())

    def _numbers(self, x: Tensor) -> Tensor:
        return ((torch.where(x.isnan(), self.fill, x) - self.offset) / self.scale).float()


class _Array(Preprocess):
    """x: [B, *shape] -> [B, *shape]."""

    offset: Tensor
    scale: Tensor

    def __init__(self, fitted: FittedArray) -> None:
        super().__init__()
        self.keep("offset", _laid_out(fitted.offset, fitted.shape) if fitted.offset else 0.0)
        self.keep("scale", _laid_out(fitted.scale, fitted.shape) if fitted.scale else 1.0)

    def forward(self, raw: Tensor) -> Tensor:
        return (raw.float() - self.offset) / self.scale


def _laid_out(values: tuple[float, ...], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """As they apply to a row: one for each channel, or one for each element, as versions of old have them."""
    return np.reshape(values, shape[-1:] if len(values) == shape[-1] else shape)


class _Image(Preprocess):
    """x: [B, H, W] or [B, H, W, C] -> [B, H, W, C]."""

    scale: Tensor

    def __init__(self, fitted: FittedImage) -> None:
        super().__init__()
        self.threshold, self.offset, self.adds_channel = fitted.threshold, fitted.offset, len(fitted.shape) == 2
        self.keep("scale", fitted.scale)

    def forward(self, raw: Tensor) -> Tensor:
        if self.threshold is not None:
            x = (raw > self.threshold).float()
        elif self.offset:
            x = (raw.float() - self.offset) / self.scale
        else:
            x = raw.float() / self.scale
        return x.unsqueeze(-1) if self.adds_channel else x
