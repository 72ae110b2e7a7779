"""The columns of a csv file, learnt a batch at a time: which are numbers, which are categories, what is predicted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gammabeta.errors import DatasetInvalid
from gammabeta.schemas.datasets import Category, Feature
from worker import targets
from worker.arrayfiles import Moments
from worker.sheets import Sheet

MAX_CATEGORIES = 10_000
"""Of one feature."""


@dataclass(frozen=True)
class Cell:
    """A cell that says something about its column."""

    row: int
    text: str


def numbers_in(cells: pl.Series) -> pl.Series:
    """float64, so that a timestamp keeps its seconds until its mean is subtracted: null where a cell is missing or no
    number."""
    return cells.str.strip_chars().cast(pl.Float64, strict=False)


def _first(wrong: pl.Series, cells: pl.Series, start: int) -> Cell | None:
    if not wrong.any():
        return None
    row = int(wrong.arg_max() or 0)
    return Cell(start + row, cells[row])


def first_text(cells: pl.Series, numbers: pl.Series, start: int) -> Cell | None:
    """The first cell that is no number."""
    return _first(numbers.is_null() & cells.is_not_null(), cells, start)


def first_infinite(cells: pl.Series, numbers: pl.Series, start: int) -> Cell | None:
    """The first cell whose number is not finite, or beyond what the network's 32 bits can hold."""
    return _first(~numbers.cast(pl.Float32).is_finite().fill_null(True), cells, start)


def not_a_number(sheet: Sheet, name: str, cell: Cell) -> DatasetInvalid:
    """The refusal of a text where the first file had numbers."""
    return DatasetInvalid(
        "not_a_number",
        f"The column '{name}' must have numbers, as in the first file. Received: {cell.text[:80]!r} "
        f"{sheet.at(cell.row, name)}. Correct it, or leave the cell empty.",
    )


def non_finite(sheet: Sheet, name: str, cell: Cell) -> DatasetInvalid:
    """The refusal of NaN, infinity and what float32 cannot hold."""
    return DatasetInvalid(
        "non_finite",
        f"Numbers must be finite and fit into 32 bits. Received: {cell.text[:80]!r} {sheet.at(cell.row, name)}. "
        "Correct it; a missing value is an empty cell.",
    )


@dataclass
class FeatureColumn:
    """What is known of a feature so far. `counts`: its distinct values among the training rows, as far as they may be
    wanted as categories; `present`, `missing`: training rows with and without a value."""

    name: str
    categorical: bool = False
    categories: tuple[str, ...] = ()
    present: int = 0
    missing: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    overflowed: bool = False
    text: Cell | None = None
    infinite: Cell | None = None

    @classmethod
    def of(cls, feature: Feature) -> FeatureColumn:
        """A column as the first file had it."""
        categories = tuple(each.label for each in feature.categories or ())
        return cls(name=feature.name, categorical=feature.kind == "categorical", categories=categories)

    def survey(self, start: int, cells: pl.Series, trained: NDArray[np.bool_]) -> None:
        """Take in a batch."""
        training = cells.filter(pl.Series(trained))
        self.missing += training.null_count()
        self.present += len(training) - training.null_count()
        if not self.overflowed:
            for value, count in training.drop_nulls().value_counts().iter_rows():
                self.counts[value] += count
            self.overflowed = len(self.counts) > MAX_CATEGORIES
        if not self.categorical:
            numbers = numbers_in(cells)
            self.text = first_text(cells, numbers, start)
            self.categorical = self.text is not None
            self.infinite = self.infinite or first_infinite(cells, numbers, start)

    def settle(self, sheet: Sheet) -> None:
        """Decide after the last batch.

        Raises:
            DatasetInvalid: no values, numbers that are not finite, or too many categories.
        """
        if not self.present:
            raise DatasetInvalid(
                "empty_column",
                f"Each feature must have a value in some training row. Received: only empty cells in column "
                f"'{self.name}'. Leave it out with ignore={self.name}.",
            )
        if not self.categorical:
            if self.infinite is not None:
                raise non_finite(sheet, self.name, self.infinite)
            self.counts.clear()
            return
        if self.overflowed:
            raise self._too_many_categories(sheet)
        self.categories = tuple(sorted(self.counts))
        targets.check_labels(self.name, self.categories)

    def _too_many_categories(self, sheet: Sheet) -> DatasetInvalid:
        because = f" (no number: {self.text.text[:40]!r} in line {sheet.line(self.text.row)})" if self.text else ""
        return DatasetInvalid(
            "too_many_categories",
            f"A column that is not numeric must have at most {MAX_CATEGORIES:,} distinct values. Received: more in "
            f"column '{self.name}'{because}. Leave it out with ignore={self.name}, or correct the cells that are no "
            "numbers.",
        )

    def encode(self, start: int, cells: pl.Series, sheet: Sheet) -> NDArray[np.float64]:
        """[n]: numbers, or codes of categories, -1 for one that is not known; NaN where the cell is missing.

        Raises:
            DatasetInvalid: a cell of a numeric column is no finite number.
        """
        if self.categorical:
            codes = {label: code for code, label in enumerate(self.categories)}
            coded = cells.replace_strict(codes, default=-1, return_dtype=pl.Float64)
            return coded.set(cells.is_null(), None).to_numpy()
        numbers = numbers_in(cells)
        if text := first_text(cells, numbers, start):
            raise not_a_number(sheet, self.name, text)
        if infinite := first_infinite(cells, numbers, start):
            raise non_finite(sheet, self.name, infinite)
        return numbers.to_numpy()

    def feature(self, moments: Moments, place: int, median: float) -> Feature:
        """How the manifest describes it."""
        if self.categorical:
            found = tuple(Category(label=label, count=self.counts[label]) for label in self.categories)
            return Feature(name=self.name, kind="categorical", missing=self.missing, categories=found)
        return Feature(
            name=self.name,
            kind="numeric",
            missing=self.missing,
            min=float(moments.min[place]),
            max=float(moments.max[place]),
            mean=float(moments.mean[place]),
            std=float(moments.std[place]),
            median=median,
        )


class TargetColumn:
    """The column to predict, read as labels and as numbers at once, until one of the two is out of the question."""

    def __init__(self, sheet: Sheet, name: str) -> None:
        self._sheet, self._name = sheet, name
        self._codes_of: dict[str, int] = {}
        self._codes: list[NDArray[np.int64]] = []
        self._numbers: list[NDArray[np.float64]] = []
        self._text: Cell | None = None
        self._infinite: Cell | None = None
        self._integers = True
        for start, (cells,) in sheet.batches((name,)):
            self._add(start, cells)

    def _add(self, start: int, cells: pl.Series) -> None:
        if missing := _first(cells.is_null(), cells, start):
            raise DatasetInvalid(
                "target_missing_values",
                f"Each row must have a value of the target. Received: an empty cell "
                f"{self._sheet.at(missing.row, self._name)}. Fill it in, or leave the row out.",
            )
        if len(self._codes_of) <= targets.MAX_CLASSES:
            for label in cells.unique(maintain_order=True):
                self._codes_of.setdefault(label, len(self._codes_of))
            self._codes.append(cells.replace_strict(self._codes_of, return_dtype=pl.Int64).to_numpy())
        numbers = numbers_in(cells)
        self._text = self._text or first_text(cells, numbers, start)
        self._infinite = self._infinite or first_infinite(cells, numbers, start)
        self._integers = self._integers and bool(cells.str.contains(r"^\s*[+-]?[0-9]+\s*$").all())
        self._numbers.append(numbers.to_numpy())

    @property
    def labels(self) -> list[str]:
        """The distinct values: integers by size, texts by alphabet."""
        if self._integers:
            return sorted(self._codes_of, key=lambda label: (int(label), label))
        return sorted(self._codes_of)

    def is_class(self, *, forced: bool) -> bool:
        """Whether these are classes.

        Raises:
            DatasetInvalid: they are, and too many, or too long.
        """
        few = len(self._codes_of) <= targets.MAX_INTEGER_CLASSES
        found = forced or self._text is not None or (self._integers and few)
        if found and len(self._codes_of) > targets.MAX_CLASSES:
            raise targets.too_many_classes(self._name, len(self._codes_of))
        if found:
            targets.check_labels(self._name, self._codes_of)
        return found

    def codes(self, labels: tuple[str, ...]) -> NDArray[np.int64]:
        """[N], indices into `labels`.

        Raises:
            DatasetInvalid: a label is not among them.
        """
        known = {label: place for place, label in enumerate(labels)}
        mine = np.concatenate(self._codes)
        for label, code in self._codes_of.items():
            if label not in known:
                where = self._sheet.at(int(np.argmax(mine == code)), self._name)
                raise targets.unknown_class(self._name, label, where, labels)
        return np.array([known[label] for label in self._codes_of], dtype=np.int64)[mine]

    def numbers(self) -> NDArray[np.float32]:
        """[N], finite.

        Raises:
            DatasetInvalid: a cell is no finite number.
        """
        if self._text is not None:
            raise not_a_number(self._sheet, self._name, self._text)
        if self._infinite is not None:
            raise non_finite(self._sheet, self._name, self._infinite)
        return np.concatenate(self._numbers).astype(np.float32)
