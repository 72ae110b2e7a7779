"""Rows of a table as csv: a header row with columns of the model by name, in any order; then a row a line.

    age,workclass
    39,Private
    ,"Self-emp, not inc"          an empty or blank cell is a missing value, and so is a column that is left out

Cells are read as those of a training file are: numbers with blanks around them, categories as they stand. Empty lines
are no rows. Errors name instances as those of JSON do: `instances[0]` is the first row after the header.

    body ──numbers in every cell──► [1.5,2],[3,4], which is JSON ──► straight.numbers ──► x
      └──anything else, anything wrong──► csv ──► column by column ──► x, or what is wrong with it
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO, TextIOWrapper
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from gammabeta.errors import InvalidRequest, MalformedRequest, UnsupportedMediaType
from gammabeta.schemas.preprocessing import Column, FittedPreprocessing, FittedTable, NumericColumn
from gammabeta.schemas.problems import shortened
from service.runtime import straight
from service.runtime.columns import encoded, listed
from service.runtime.rows import Floats, all_finite, as_float32, check_size, fail

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

CELLS_AT_ONCE = 1 << 16
"""As Python strings, which take many times the room of the body."""
BYTES_OF_FLOAT64 = 8


def read(body: bytes, preprocessing: FittedPreprocessing) -> Floats:
    """The rows of a request body: float64 [B, columns].

    Raises:
        UnsupportedMediaType: the model does not take columns.
        MalformedRequest: the body is not csv.
        InvalidRequest: the header or a row does not fit; the field names instance and column.
        TooLarge: the rows would take more memory than the rows of a request may.
    """
    if not isinstance(preprocessing, FittedTable):
        raise UnsupportedMediaType(
            "Content-Type must be application/json: text/csv is for models of columns, and this one takes rows of kind "
            f"'{preprocessing.kind}'. Send {{\"instances\": […]}}."
        )
    x = _straight(body, preprocessing.columns)
    return x if x is not None else _one_by_one(body, preprocessing.columns)


def _straight(body: bytes, columns: Sequence[Column]) -> Floats | None:
    """The rows of a body with a number in every cell, some thirty times as fast; None for any other body."""
    header, _, lines = body.partition(b"\n")
    names = header.strip().split(b",")
    wanted = [column.name.encode() for column in columns if isinstance(column, NumericColumn)]
    # A bracket of the body's own would begin a list among those that stand for its lines.
    if len(wanted) != len(columns) or sorted(names) != sorted(wanted) or b"[" in lines:
        return None
    rows = lines.rstrip(b"\r\n").replace(b"\n", b"],[")
    x = straight.numbers(b'{"instances":[[' + rows + b"]]}", (len(columns),))
    if x is None or not all_finite(as_float32(x)):
        return None
    place_of = {name: place for place, name in enumerate(names)}
    return x.take([place_of[name] for name in wanted], axis=1)


def _one_by_one(body: bytes, columns: Sequence[Column]) -> Floats:
    if b"\0" in body:
        raise _not_csv("a binary file")
    reader = csv.reader(TextIOWrapper(BytesIO(body), encoding="utf-8-sig", newline=""), strict=True)
    try:
        parts = list(_parts(reader, columns))
    except UnicodeDecodeError as exc:
        raise _not_csv(f"bytes that are not UTF-8 ({exc.object[exc.start]:#04x})") from exc
    except csv.Error as exc:
        raise _not_csv(f"{exc}, in line {reader.line_num}") from exc
    if not parts:
        raise InvalidRequest.of("instances", "must be at least one row after the header", "a header and no row")
    return np.concatenate(parts)


def _not_csv(received: str) -> MalformedRequest:
    return MalformedRequest(
        f"The body must be csv in UTF-8 with a header row. Received: {received}. Separate cells by commas; a cell with "
        "a comma, a quote or a line break in it stands between quotes, and a quote in it is written twice."
    )


def _parts(reader: CsvReader, columns: Sequence[Column]) -> Iterator[Floats]:
    """The rows in the order of the body, some at a time."""
    header = next(reader, [])
    places = _places(header, columns)
    rows, first = (row for row in reader if row), 0
    size = max(1, CELLS_AT_ONCE // len(header))
    while batch := list(islice(rows, size)):
        _check_lengths(batch, first, len(header))
        check_size(first + len(batch), len(columns) * BYTES_OF_FLOAT64)
        yield _encoded(list(zip(*batch, strict=True)), len(batch), places, columns, first)
        first += len(batch)


def _places(header: list[str], columns: Sequence[Column]) -> list[int | None]:
    """Where each column of the model stands in a row; None: nowhere."""
    known = {column.name for column in columns}
    for name, times in Counter(header).items():
        if name not in known:
            message = f"must name columns of this model, separated by commas. They are {listed(columns)}"
            raise InvalidRequest.of("header", message, shortened(name))
        if times > 1:
            raise InvalidRequest.of("header", "must name each column once", shortened(name))
    if not header:
        raise InvalidRequest.of("header", f"must name columns of this model: {listed(columns)}", "an empty line")
    place_of = {name: place for place, name in enumerate(header)}
    return [place_of.get(column.name) for column in columns]


def _check_lengths(rows: list[list[str]], first: int, width: int) -> None:
    if {width}.issuperset(map(len, rows)):
        return
    row, cells = next((row, cells) for row, cells in enumerate(rows, first) if len(cells) != width)
    message = f"must have {width} cells, as the header has. A cell with a comma in it must stand between quotes"
    fail(row, None, message, f"{len(cells)} cells")


def _encoded(
    cells: list[tuple[str, ...]], count: int, places: list[int | None], columns: Sequence[Column], first: int
) -> Floats:
    """`cells`: a tuple for each column of the header."""
    x = np.empty((count, len(columns)), dtype=np.float64)
    for index, (column, place) in enumerate(zip(columns, places, strict=True)):
        values = [None] * count if place is None else _values(cells[place], column, first)
        x[:, index] = encoded(values, column, first=first)
    return x


def _values(cells: tuple[str, ...], column: Column, first: int) -> list[Any]:
    """Numbers or texts; None where a cell is missing."""
    if not isinstance(column, NumericColumn):
        return [cell if cell.strip() else None for cell in cells]
    if _are_plain("".join(cells)):
        with suppress(ValueError):
            return [float(cell) if cell and not cell.isspace() else None for cell in cells]
    return [_number(cell, column, row) for row, cell in enumerate(cells, first)]


def _are_plain(text: str) -> bool:
    """Python reads 1_000 and the digits of every script as numbers, which a training file does not."""
    return text.isascii() and "_" not in text


def _number(cell: str, column: Column, row: int) -> float | None:
    """One cell, where one of its column is no number."""
    text = cell.strip()
    if text and not _are_plain(text):
        _fail_number(cell, column, row)
    try:
        return float(text) if text else None
    except ValueError:
        _fail_number(cell, column, row)


def _fail_number(cell: str, column: Column, row: int) -> NoReturn:
    fail(row, column.name, "must be a number, or an empty cell where it is missing", cell)
