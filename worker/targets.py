"""What is predicted: classes or numbers, told from the values; and which rows become the test split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.errors import DatasetInvalid
from gammabeta.schemas.datasets import Category, Target

MAX_CLASSES = 1_000
MAX_INTEGER_CLASSES = 100
"""A csv column of integers with more distinct values than this is a number."""
MAX_LABEL = 256
"""Characters of a class or category label."""


def classes_of(name: str, labels: list[str], codes: NDArray[np.int64], trained: NDArray[np.bool_]) -> Target:
    """A target of classes; `codes`: [N], indices into `labels`; `trained`: [N], the rows of the training split.

    Raises:
        DatasetInvalid: there are too many classes, or one only.
    """
    if len(labels) > MAX_CLASSES:
        raise too_many_classes(name, len(labels))
    if len(labels) < 2:
        raise DatasetInvalid(
            "one_class_only",
            f"The target '{name}' must have at least two classes. Received: '{labels[0]}' in each of the {len(codes)} "
            "rows. Name another target, or add rows of another class.",
        )
    check_labels(name, labels)
    counts = np.bincount(codes[trained], minlength=len(labels))
    return Target(
        name=name,
        kind="class",
        classes=tuple(Category(label=label, count=int(n)) for label, n in zip(labels, counts, strict=True)),
    )


def numbers_of(name: str, values: NDArray[np.float32], trained: NDArray[np.bool_]) -> Target:
    """A target of numbers; `values`: [N], finite.

    Raises:
        DatasetInvalid: all are the same.
    """
    kept = values[trained].astype(np.float64)
    if values.min() == values.max():
        raise DatasetInvalid(
            "constant_target",
            f"The target '{name}' must vary. Received: {values[0]:g} in each of the {len(values)} rows. Name another "
            "target.",
        )
    return Target(
        name=name,
        kind="number",
        min=float(kept.min()),
        max=float(kept.max()),
        mean=float(kept.mean()),
        std=float(kept.std()),
    )


def too_many_classes(name: str, found: int) -> DatasetInvalid:
    """The refusal of a target that is an identifier or a text."""
    return DatasetInvalid(
        "too_many_classes",
        f"The target '{name}' must have at most {MAX_CLASSES:,} classes. Received: {found:,} or more distinct values. "
        "Name another target, or save it as numbers to predict a number.",
    )


def unknown_class(name: str, label: str, where: str, known: tuple[str, ...]) -> DatasetInvalid:
    """The refusal of a class that the training rows do not have."""
    shown = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
    return DatasetInvalid(
        "unknown_class",
        f"Each class of the target '{name}' must be in the training rows, which have {shown}. Received: '{label}' "
        f"{where}. Correct it, or upload both splits again with rows of that class in the training split.",
    )


def check_labels(name: str, labels: Iterable[str]) -> None:
    """Refuse labels that no JSON text or table could show."""
    for label in labels:
        if len(label) > MAX_LABEL:
            raise DatasetInvalid(
                "text_too_long",
                f"The labels of '{name}' must have at most {MAX_LABEL} characters. Received: {label[:40]!r}… with "
                f"{len(label):,}. Leave free text out with ignore={name}.",
            )
        try:
            label.encode()
        except UnicodeEncodeError:
            raise DatasetInvalid(
                "bad_text", f"The labels of '{name}' must be valid Unicode. Received: {label!r}. Correct it."
            ) from None


def test_rows(y: NDArray[Any], *, is_class: bool, fraction: float | None, seed: int) -> NDArray[np.bool_]:
    """Which rows go to the test split: [N]. `fraction` of each class (of all rows for numbers), drawn by `seed`; each
    class keeps a training row."""
    chosen = np.zeros(len(y), dtype=np.bool_)
    if not fraction:
        return chosen
    random = np.random.default_rng(seed)
    groups = [np.flatnonzero(y == code) for code in np.unique(y)] if is_class else [np.arange(len(y))]
    for rows in groups:
        count = min(round(len(rows) * fraction), len(rows) - 1)
        chosen[random.permutation(rows)[:count]] = True
    if not chosen.any():
        raise DatasetInvalid(
            "too_few_rows",
            f"test_fraction={fraction:g} must leave a row to the test split. Received: {len(y)} rows. Give a "
            "larger fraction, or more rows.",
        )
    return chosen
