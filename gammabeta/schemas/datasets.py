"""Data sets as the service shows them, and the manifest by which a worker finds their arrays."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from gammabeta.schemas.base import Answer

DatasetState: TypeAlias = Literal["validating", "ready", "failed"]
DatasetFormat: TypeAlias = Literal["csv", "npz", "image_zip"]
Split: TypeAlias = Literal["train", "test"]


class Category(Answer):
    """A value of a categorical feature or a class of the target, and how many training rows have it."""

    label: str
    count: int


class Feature(Answer):
    """One feature, as the training split has it. `shape` is `[]` for a column."""

    name: str
    kind: Literal["numeric", "categorical", "image"]
    shape: tuple[int, ...] = ()
    missing: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    """Of the population (1/n)."""
    median: float | None = None
    categories: tuple[Category, ...] | None = None


class Target(Answer):
    """What is predicted. `classes` in the order of their codes."""

    name: str
    kind: Literal["class", "number"]
    classes: tuple[Category, ...] | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(each.label for each in self.classes or ())


class ArrayFile(Answer):
    """One array as a `.npy` blob that can be memory-mapped."""

    sha256: str
    """64 hex digits: the blob's key."""
    bytes: int
    dtype: str
    shape: tuple[int, ...]


class SplitFiles(Answer):
    """`x`: [N, columns] float64 for a table (categories as codes, NaN missing), [N, *shape] for an array or image.
    `y`: [N] int64 class codes or float32 numbers."""

    n: int
    x: ArrayFile
    y: ArrayFile


class DatasetManifest(Answer):
    """All that training needs to know of a data set."""

    kind: Literal["table", "array", "image"]
    features: tuple[Feature, ...]
    target: Target
    splits: dict[Split, SplitFiles]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a stored row."""
        return (len(self.features),) if self.kind == "table" else self.features[0].shape


class DatasetError(Answer):
    """Why a file was refused."""

    code: str
    message: str


class Dataset(Answer):
    """A data set. Features, target and splits are empty until it is `ready`."""

    id: str
    name: str
    state: DatasetState
    error: DatasetError | None = None
    format: DatasetFormat
    bytes: int
    sha256: str
    splits: dict[Split, int] = {}
    features: tuple[Feature, ...] = ()
    target: Target | None = None
    created_at: datetime


class Preview(Answer):
    """The first rows of a split, as JSON values by feature name, the target under its own name."""

    split: Split
    rows: list[dict[str, object]]
