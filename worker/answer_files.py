"""Answers as a file: csv or Parquet, written a part at a time.

scores ──Sheet──► frames of at most `PART_NUMBERS` numbers ──csv──────► appended to the file
                                                           └─parquet──► parts/…, then streamed into one file
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gammabeta.schemas import readings
from gammabeta.schemas.datasets import Target
from gammabeta.schemas.jobs import AnswerFormat

Frame: TypeAlias = pl.DataFrame

PART_NUMBERS = 1 << 22
"""Of scores in a part, 16 MiB."""
PART_ROWS = 1 << 16
"""At most in a part, which is a row group of Parquet."""


class Sheet:
    """Gathers answers until they are worth a frame."""

    def __init__(self, classes: tuple[str, ...] | None, target: Target) -> None:
        self._names = readings.columns(classes)
        self._classes = None if classes is None else pl.Series(classes, dtype=pl.String)
        self._labels = pl.Series(target.labels, dtype=pl.String) if target.kind == "class" else None
        self._rows = max(1, min(PART_ROWS, PART_NUMBERS // len(self._names)))
        self._scores: list[NDArray[np.float32]] = []
        self._targets: list[NDArray[Any]] = []
        self._done = self._held = 0

    def add(self, scores: NDArray[np.float32], targets: NDArray[Any]) -> Iterator[Frame]:
        """scores: [B, classes] or [B] values; targets: [B] codes of the data set, or numbers. The frame that is full
        now, if one is."""
        self._scores.append(scores)
        self._targets.append(targets)
        self._held += len(scores)
        if self._held >= self._rows:
            yield from self.rest()

    def rest(self) -> Iterator[Frame]:
        """What has not become a frame yet, if anything."""
        if not self._held:
            return
        scores, targets = np.concatenate(self._scores), np.concatenate(self._targets)
        row = np.arange(self._done, self._done + self._held)
        self._done, self._held, self._scores, self._targets = self._done + self._held, 0, [], []
        columns = [pl.Series(row), *self._answers(scores), self._truth(targets)]
        yield pl.DataFrame([each.rename(name) for each, name in zip(columns, self._names, strict=True)])

    def _answers(self, scores: NDArray[np.float32]) -> list[pl.Series]:
        if self._classes is None:
            return [pl.Series(scores)]
        by_class = np.ascontiguousarray(scores.T)
        return [self._classes.gather(scores.argmax(axis=1)), *map(pl.Series, by_class)]

    def _truth(self, targets: NDArray[Any]) -> pl.Series:
        return pl.Series(targets) if self._labels is None else self._labels.gather(targets)


def written(frames: Iterable[Frame], path: Path, format: AnswerFormat) -> Path:
    """The file of all frames, at least one. A disk that is full is an OSError."""
    if format == "csv":
        _write_csv(frames, path)
    else:
        _write_parquet(frames, path)
    return path


def _write_csv(frames: Iterable[Frame], path: Path) -> None:
    with path.open("xb") as file:
        for number, frame in enumerate(frames):
            frame.write_csv(file, include_header=number == 0)


def _write_parquet(frames: Iterable[Frame], path: Path) -> None:
    """polars writes a frame as a whole, and a file of many only from files: so memory never holds more than some."""
    parts = path.with_suffix(".parts")
    parts.mkdir()
    for number, frame in enumerate(frames):
        frame.write_parquet(parts / f"{number:08d}.parquet")
    pl.scan_parquet(sorted(parts.iterdir())).sink_parquet(path)
    shutil.rmtree(parts)
