"""csv: a header row, one column to predict, the rest features. Empty and blank cells are missing values.

    file ──sheets──► every row as long as the header
         ──target──► classes or numbers, and which rows are test
         ──survey──► kind of each feature, its categories
         ──encode──► x float64 [N, features] on disk

Each arrow is a walk over the file. What is kept in memory is one batch, the target and the categories, however large
the file is.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from gammabeta.errors import DatasetInvalid
from gammabeta.schemas.datasets import DatasetManifest, Split, SplitFiles, Target
from worker import targets
from worker.arrayfiles import ArrayWriter, Moments, medians, write_whole
from worker.columns import FeatureColumn, TargetColumn
from worker.messages import IngestFile
from worker.sheets import Sheet, listed, open_sheet

Rows = dict[Split, NDArray[np.bool_]]
"""Which rows of the file each split has."""
Answers = NDArray[np.int64] | NDArray[np.float32]


def read(order: IngestFile) -> DatasetManifest:
    """Ingest a csv file.

    Raises:
        DatasetInvalid: it breaks a rule.
    """
    sheet = open_sheet(order.upload, max_rows=order.limits.rows)
    return _read_first(order, sheet) if order.existing is None else _read_second(order, sheet, order.existing)


def _read_first(order: IngestFile, sheet: Sheet) -> DatasetManifest:
    name = _target_name(order, sheet)
    names = _feature_names(order, sheet)
    column = TargetColumn(sheet, name)
    is_class = column.is_class(forced=name in order.options.categorical)
    y = column.codes(tuple(column.labels)) if is_class else column.numbers()
    test = targets.test_rows(y, is_class=is_class, fraction=order.options.test_fraction, seed=order.options.seed)
    target = _target(name, column, y, ~test, is_class=is_class)
    columns = _survey(sheet, names, frozenset(order.options.categorical), ~test)
    rows: Rows = {"train": ~test, "test": test} if test.any() else {"train": ~test}
    splits, moments = _write(order, sheet, columns, y, rows)
    middle = medians(order.scratch / "train-x.npy", (splits["train"].n, len(columns)))
    features = tuple(each.feature(moments, place, float(middle[place])) for place, each in enumerate(columns))
    return DatasetManifest(kind="table", features=features, target=target, splits=splits)


def _target(name: str, column: TargetColumn, y: Answers, trained: NDArray[np.bool_], *, is_class: bool) -> Target:
    if is_class:
        return targets.classes_of(name, column.labels, y.astype(np.int64), trained)
    return targets.numbers_of(name, y.astype(np.float32), trained)


def _read_second(order: IngestFile, sheet: Sheet, existing: DatasetManifest) -> DatasetManifest:
    """The test split in a file of its own: columns, categories and classes are those of the first file."""
    if existing.kind != "table":
        raise DatasetInvalid(
            "wrong_format",
            f"The second file must be of the format of the first. Received: a csv file for a data set of kind "
            f"'{existing.kind}'. Upload an npz file with x_test and y_test.",
        )
    needed = (*(feature.name for feature in existing.features), existing.target.name)
    missing = [name for name in needed if name not in sheet.header]
    if missing:
        raise DatasetInvalid(
            "missing_columns",
            f"The second file must have every column of the first. Received: no column {listed(missing)}. Add them, "
            "with empty cells where a value is not known.",
        )
    column = TargetColumn(sheet, existing.target.name)
    y = column.codes(existing.target.labels) if existing.target.kind == "class" else column.numbers()
    columns = [FeatureColumn.of(feature) for feature in existing.features]
    splits, _ = _write(order, sheet, columns, y, {"test": np.ones(sheet.n, dtype=np.bool_)})
    return existing.model_copy(update={"splits": {**existing.splits, **splits}})


def _target_name(order: IngestFile, sheet: Sheet) -> str:
    name, ignored = order.options.target, order.options.ignore
    candidates = listed([each for each in sheet.header if each not in ignored])
    if not name:
        raise DatasetInvalid(
            "no_target",
            f"A csv file must come with the column to predict. Received: none. Add target= with one of {candidates}.",
        )
    if name not in sheet.header or name in ignored:
        raise DatasetInvalid(
            "no_target",
            f"The target must be a column that is not ignored. Received: '{name}'. Name one of {candidates}.",
        )
    return name


def _feature_names(order: IngestFile, sheet: Sheet) -> tuple[str, ...]:
    options, limit = order.options, order.limits.decoded_bytes
    unknown = [name for name in (*options.categorical, *options.ignore) if name not in sheet.header]
    if unknown:
        raise DatasetInvalid(
            "unknown_column",
            f"categorical= and ignore= must name columns of the file. Received: {listed(unknown)}. It has "
            f"{listed(sheet.header)}.",
        )
    names = tuple(name for name in sheet.header if name != options.target and name not in options.ignore)
    if not names:
        raise DatasetInvalid(
            "no_features", "A column besides the target must be left to predict from. Received: none. Ignore fewer."
        )
    if sheet.n * len(names) * 8 > limit:
        raise DatasetInvalid(
            "too_large",
            f"The table must take at most {limit:,} bytes as float64. Received: {sheet.n:,} rows of {len(names):,} "
            "features. Upload fewer, or raise GAMMABETA_INGEST_DECODED_BYTES.",
        )
    return names


def _survey(
    sheet: Sheet, names: tuple[str, ...], categorical: frozenset[str], trained: NDArray[np.bool_]
) -> list[FeatureColumn]:
    columns = [FeatureColumn(name=name, categorical=name in categorical) for name in names]
    for start, batch in sheet.batches(names):
        for column, cells in zip(columns, batch, strict=True):
            column.survey(start, cells, trained[start : start + len(cells)])
    for column in columns:
        column.settle(sheet)
    return columns


def _write(
    order: IngestFile,
    sheet: Sheet,
    columns: list[FeatureColumn],
    y: Answers,
    rows: Rows,
) -> tuple[dict[Split, SplitFiles], Moments]:
    """The arrays of each split on disk, and the moments of the training rows."""
    moments = Moments(len(columns))
    splits: dict[Split, SplitFiles] = {}
    with ExitStack() as open_files:
        writers = {
            split: open_files.enter_context(
                ArrayWriter(order.scratch / f"{split}-x.npy", dtype="<f8", shape=(int(mine.sum()), len(columns)))
            )
            for split, mine in rows.items()
        }
        for start, batch in sheet.batches(tuple(column.name for column in columns)):
            x = np.stack([each.encode(start, cells, sheet) for each, cells in zip(columns, batch, strict=True)], axis=1)
            for split, mine in rows.items():
                writers[split].write(x[mine[start : start + len(x)]])
            if "train" in rows:
                moments.add(x[rows["train"][start : start + len(x)]])
        for split, mine in rows.items():
            y_file = write_whole(order.scratch / f"{split}-y.npy", y[mine], dtype=y.dtype.str)
            splits[split] = SplitFiles(n=int(mine.sum()), x=writers[split].finish(), y=y_file)
    return splits, moments
