"""A csv file whose rows all have the cells that its header promises, and how to walk over it in batches.

The csv reader of the standard library counts the cells, since it knows the lines; polars, which is faster and forgives
short rows, then reads the values.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import polars as pl

from gammabeta.errors import DatasetInvalid
from worker.targets import check_labels

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

MAX_COLUMNS = 10_000
MAX_LINE = 16 << 20
MAX_CELLS = 2_000_000
"""In memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """`blank`: the records that are empty lines, which do not count as rows."""

    path: Path
    header: tuple[str, ...]
    n: int
    blank: frozenset[int]

    def batches(self, names: tuple[str, ...]) -> Iterator[tuple[int, list[pl.Series]]]:
        """The cells of some columns, each batch with the number of its first row; null where a cell is missing.

        Raises:
            DatasetInvalid: polars reads other rows than the csv reader did.
        """
        # By place, not by name: polars takes a column that is called '*' or '^a.*$' for a pattern.
        places = [f"c{self.header.index(name)}" for name in names]
        filled = [pl.when(pl.col(place).str.strip_chars() != "").then(pl.col(place)).alias(place) for place in places]
        start = 0
        for batch in self._records(places, rows=max(256, min(65_536, MAX_CELLS // len(names)))):
            yield start, batch.select(filled).get_columns()
            start += batch.height
        if start != self.n:
            raise not_csv(
                f"Received lines that can be read as {self.n} or as {start} rows. End each line with a line feed, and "
                "put cells with quotes or line breaks between quotes."
            )

    def _records(self, places: list[str], *, rows: int) -> Iterator[pl.DataFrame]:
        every = [f"c{place}" for place in range(len(self.header))]
        frame = pl.scan_csv(self.path, new_columns=every, infer_schema=False, low_memory=True, glob=False)
        seen = 0
        try:
            for batch in frame.select(places).collect_batches(chunk_size=rows, maintain_order=True):
                yield self._without_blank(batch, seen)
                seen += batch.height
        except pl.exceptions.PolarsError as error:
            raise not_csv(f"Received a file that cannot be read: {str(error).splitlines()[0]}.") from error

    def _without_blank(self, batch: pl.DataFrame, first: int) -> pl.DataFrame:
        dropped = [row - first for row in self.blank if first <= row < first + batch.height]
        return batch.filter(~pl.int_range(pl.len()).is_in(dropped)) if dropped else batch

    def line(self, row: int) -> int:
        """The line of the file on which a row ends, counted from 1."""
        with self.path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            next(reader)
            next(islice((record for record in reader if record), row, None))
            return reader.line_num

    def at(self, row: int, column: str) -> str:
        """Where a cell is, in words."""
        return f"in line {self.line(row)}, column '{column}'"


def open_sheet(path: Path, *, max_rows: int) -> Sheet:
    """Check header and rows.

    Raises:
        DatasetInvalid: not a csv file, without rows, or with rows of another length than the header.
    """
    _refuse_binary(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(_lines(file), strict=True)
        try:
            header = _checked(next(reader, []))
            blank: list[int] = []
            n = sum(1 for _ in _rows(reader, len(header), blank, max_rows))
        except UnicodeDecodeError as error:
            raise not_csv(
                f"Received bytes that are not UTF-8 ({error.object[error.start]:#04x} soon after line "
                f"{reader.line_num}). Save the file with the encoding UTF-8."
            ) from error
        except csv.Error as error:
            raise not_csv(
                f"Received in line {reader.line_num}: {error}. Check the quotes before it: a quote inside a quoted "
                "cell is written twice."
            ) from error
    if n == 0:
        raise DatasetInvalid(
            "empty_file", "The file must have rows after its header. Received: a header and no row. Upload it again."
        )
    return Sheet(path=path, header=header, n=n, blank=frozenset(blank))


def not_csv(received: str) -> DatasetInvalid:
    """The refusal of what is no csv file."""
    return DatasetInvalid("not_csv", f"The file must be a csv file with a header row. {received}")


def listed(names: list[str] | tuple[str, ...]) -> str:
    """The first names of a list, in quotes."""
    return ", ".join(f"'{name}'" for name in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _refuse_binary(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(1 << 16)
    if b"\0" in start:
        raise not_csv("Received a binary file. Save the table as csv, or name its format, as in format=npz.")


def _lines(file: TextIO) -> Iterator[str]:
    """The lines, none of which is so long that it fills the memory."""
    n = 0
    while line := file.readline(MAX_LINE + len("\r\n")):
        n += 1
        if len(line) > MAX_LINE and len(line.rstrip("\r\n")) > MAX_LINE:
            raise DatasetInvalid(
                "too_large",
                f"A line must have at most {MAX_LINE:,} characters. Received: more, in line {n:,}. End each row with a "
                "line feed.",
            )
        yield line


def _checked(header: list[str]) -> tuple[str, ...]:
    if len(header) < 2:
        raise not_csv(
            f"Received a first line without a comma: {''.join(header)[:80]!r}. Separate the names of the columns, at "
            "least a feature and the target, by commas."
        )
    if len(header) > MAX_COLUMNS:
        raise DatasetInvalid(
            "too_large",
            f"The file must have at most {MAX_COLUMNS:,} columns. Received: {len(header):,}. Upload the values as an "
            "npz file.",
        )
    unnamed = next((place for place, name in enumerate(header, 1) if not name.strip()), None)
    if unnamed is not None:
        raise DatasetInvalid(
            "unnamed_column",
            f"Each column must have a name. Received: none for column {unnamed}. Name it in the first line, or leave "
            "the column out (with pandas: to_csv(index=False)).",
        )
    repeated = [name for name, times in Counter(header).items() if times > 1]
    if repeated:
        raise DatasetInvalid(
            "duplicate_columns",
            f"The names of the columns must differ. Received {listed(repeated)} more than once. Rename or drop one.",
        )
    check_labels("the header", header)
    return tuple(header)


def _rows(reader: CsvReader, width: int, blank: list[int], max_rows: int) -> Iterator[list[str]]:
    """The records that are rows; those that are empty lines are noted in `blank`."""
    n = 0
    for record in reader:
        if not record:
            blank.append(n + len(blank))
            continue
        if len(record) != width:
            raise DatasetInvalid(
                "ragged_rows",
                f"Each row must have {width} cells, like the header. Received: {len(record)} in line "
                f"{reader.line_num}. Correct that line; a cell with a comma in it must stand between quotes.",
            )
        n += 1
        if n > max_rows:
            raise DatasetInvalid(
                "too_large",
                f"The file must have at most {max_rows:,} rows. Received: more. Upload fewer, or raise "
                "GAMMABETA_INGEST_ROWS.",
            )
        yield record
