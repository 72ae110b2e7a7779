"""Preprocessing: what the user asks for, and what was fitted on the rows that were trained on.

The fitted numbers travel with the model, so that raw values go in at prediction, and the same arithmetic runs.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from gammabeta.schemas.base import Answer, Request


class PreprocessingSpec(Request):
    """How raw features become numbers for the network."""

    numeric: Literal["standard", "minmax", "none"] = "standard"
    """standard: (x - mean) / std; minmax: (x - min) / (max - min). Of each column, or each channel (last axis) of an
    array."""
    image: Literal["unit", "standard", "binary", "none"] = "unit"
    """unit: x / 255; standard: (x - mean) / std over all pixels; binary: x > 127."""
    missing: Literal["mean", "median", "error"] = "mean"
    """What stands in for a missing number; `error` refuses data with missing values."""


class NumericColumn(Answer):
    """`(x - offset) / scale`, a missing x replaced by `fill` first."""

    kind: Literal["numeric"] = "numeric"
    name: str
    fill: float | None
    """None: a missing value is an error."""
    offset: float = 0.0
    scale: float = 1.0
    mean: float | None = None
    """Of the rows it was fitted on. Here and in `std` None where offset and scale are these already, and in older
    versions."""
    std: float | None = None

    @property
    def width(self) -> int:
        return 1


class CategoricalColumn(Answer):
    """One number per category, 1 where it matches. An unseen category gives zeros; a missing value has a place of its
    own where the training rows had missing values, and else gives zeros too."""

    kind: Literal["categorical"] = "categorical"
    name: str
    categories: tuple[str, ...]
    missing_indicator: bool = False

    @property
    def width(self) -> int:
        return len(self.categories) + int(self.missing_indicator)


Column: TypeAlias = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="kind")]


class FittedTable(Answer):
    """A table of columns: x: [B, columns] float64, categories as codes (-1 unseen, NaN missing) -> [B, width]
    float32."""

    kind: Literal["table"] = "table"
    columns: tuple[Column, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a row after preprocessing."""
        return (sum(column.width for column in self.columns),)


class FittedArray(Answer):
    """An array feature: `(x - offset) / scale`, channel by channel; x: [B, *shape] -> [B, *shape]."""

    kind: Literal["array"] = "array"
    shape: tuple[int, ...]
    offset: tuple[float, ...] = ()
    """One per channel (last axis); in older versions one per element in C order; empty: 0."""
    scale: tuple[float, ...] = ()
    """One per channel (last axis); in older versions one per element in C order; empty: 1."""
    mean: tuple[float, ...] = ()
    """Of the rows it was fitted on, one per channel. Here and in `std` empty where offset and scale are these already,
    and in older versions."""
    std: tuple[float, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.shape


class FittedImage(Answer):
    """An image: `(x - offset) / scale`, or `x > threshold`; x: [B, H, W] or [B, H, W, C] -> [B, H, W, C]."""

    kind: Literal["image"] = "image"
    shape: tuple[int, ...]
    offset: float = 0.0
    scale: float = 1.0
    threshold: float | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.shape if len(self.shape) == 3 else (*self.shape, 1)


FittedPreprocessing: TypeAlias = Annotated[FittedTable | FittedArray | FittedImage, Field(discriminator="kind")]
