"""How a version reads a data set that it may never have seen, and what it says of it. The submission, the dry run and
the worker all come through here, so that they agree.

    PredictDatasetRequest + Version + DatasetManifest ──resolve──► ResolvedPredictRequest ──dry_run──► PredictDryRun
                            preprocessing + manifest ──reading──► where the model's columns stand, whose codes they have

Columns go by their names, categories and classes by their labels: two data sets count the same ones in other orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.datasets import DatasetManifest, Feature, Split, Target
from gammabeta.schemas.jobs import PredictDatasetRequest, PredictDryRun, ResolvedPredictRequest
from gammabeta.schemas.models import Version
from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    Column,
    FittedArray,
    FittedImage,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)

ROW, LABEL, VALUE, TARGET, SCORE = "row", "label", "value", "target", "score_"
UNKNOWN = -1
"""The code of a category, or a class, that the model has not seen."""
FEW = 5
"""How many names a message lists."""

Codes: TypeAlias = tuple[int, ...]
"""The model's code of each category, or class, by the data set's code."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Where the columns of the model stand in the rows of a data set."""

    places: tuple[int, ...] | None = None
    """None: the rows are one feature, which is read as it is."""
    codes: tuple[tuple[int, Codes], ...] = ()
    """Of the model's columns of categories: which one, and its codes."""


def resolve(
    request: PredictDatasetRequest, *, version: Version, dataset_id: str, manifest: DatasetManifest
) -> ResolvedPredictRequest:
    """Settle version, data set and split.

    Raises:
        InvalidRequest: the data set has no such split, or its features are not those that the model reads.
    """
    split = _split(request.split, manifest)
    reading(version.preprocessing, manifest)
    _check_missing(version.preprocessing, manifest, split)
    return ResolvedPredictRequest(
        model=version.model,
        version=version.version,
        dataset=dataset_id,
        split=split,
        format=request.format,
        priority=request.priority,
        max_seconds=request.max_seconds,
        metadata=request.metadata,
    )


def dry_run(request: ResolvedPredictRequest, version: Version, manifest: DatasetManifest) -> PredictDryRun:
    """What the run would be."""
    read = version.preprocessing.columns if isinstance(version.preprocessing, FittedTable) else ()
    names = {column.name for column in read}
    unused = [each.name for each in manifest.features if read and each.name not in names]
    return PredictDryRun(
        request=request,
        rows=manifest.splits[request.split].n,
        columns=columns(version.classes),
        unused=tuple(unused),
        measured=target_codes(version.classes, manifest.target) is not None,
    )


def columns(classes: Sequence[str] | None) -> tuple[str, ...]:
    """Of a file of answers. The prefix keeps a class that is called `label` apart from the label."""
    if classes is None:
        return (ROW, VALUE, TARGET)
    return (ROW, LABEL, *(f"{SCORE}{label}" for label in classes), TARGET)


def reading(preprocessing: FittedPreprocessing, manifest: DatasetManifest) -> Reading:
    """How the model reads the rows.

    Raises:
        InvalidRequest: they are not what the model reads; the message names the column.
    """
    match preprocessing:
        case FittedTable(columns=read):
            return _of_table(read, manifest)
        case FittedArray(shape=shape):
            return _of_array("array", shape, manifest)
        case FittedImage(shape=shape):
            return _of_array("image", shape, manifest)


def target_codes(classes: Sequence[str] | None, target: Target) -> Codes | None:
    """The model's code of each class of the target; empty where both are numbers. None: the answers cannot be measured
    by these targets, since they are of another kind, or a class is unknown to the model."""
    if classes is None or target.kind == "number":
        return () if classes is None and target.kind == "number" else None
    found = _codes(classes, target.labels)
    return None if UNKNOWN in found else found


def _codes(known: Sequence[str], labels: Sequence[str]) -> Codes:
    place = {label: code for code, label in enumerate(known)}
    return tuple(place.get(label, UNKNOWN) for label in labels)


def _split(asked: Split | None, manifest: DatasetManifest) -> Split:
    if asked is None:
        return "test" if "test" in manifest.splits else "train"
    if asked not in manifest.splits:
        there = " and ".join(sorted(manifest.splits))
        raise InvalidRequest.of("split", f"must be one that the data set has, which is {there}", asked)
    return asked


def _of_table(read: Sequence[Column], manifest: DatasetManifest) -> Reading:
    if manifest.kind != "table":
        raise _unfit(f"must be a table, with the columns {_listed([each.name for each in read])}", _described(manifest))
    place = {feature.name: at for at, feature in enumerate(manifest.features)}
    missing = [column.name for column in read if column.name not in place]
    if missing:
        wanted = f"must have each column that the model reads. Missing: {_listed(missing)}"
        if manifest.target.name in missing:
            wanted += f". '{manifest.target.name}' is the target here: upload the file with another one"
        raise _unfit(wanted, f"columns {_listed([*place])}")
    found = [manifest.features[place[column.name]] for column in read]
    for column, feature in zip(read, found, strict=True):
        _check_kind(column, feature)
    codes = (
        (at, _codes(column.categories, [each.label for each in feature.categories or ()]))
        for at, (column, feature) in enumerate(zip(read, found, strict=True))
        if isinstance(column, CategoricalColumn)
    )
    return Reading(places=tuple(place[column.name] for column in read), codes=tuple(codes))


def _check_kind(column: Column, feature: Feature) -> None:
    if column.kind == feature.kind:
        return
    wanted = f"must have {_holds(column.kind)} in column '{column.name}', as the model read it"
    if column.kind == "categorical":
        wanted += f". Upload the file with categorical={column.name}"
    raise _unfit(wanted, _holds(feature.kind))


def _holds(kind: str) -> str:
    return "numbers" if kind == "numeric" else "categories"


def _of_array(kind: str, shape: tuple[int, ...], manifest: DatasetManifest) -> Reading:
    if manifest.kind != kind or manifest.row_shape != shape:
        raise _unfit(f"must have rows that are an {kind} of shape {list(shape)}", _described(manifest))
    return Reading()


def _described(manifest: DatasetManifest) -> str:
    if manifest.kind == "table":
        return f"a table with the columns {_listed([each.name for each in manifest.features])}"
    return f"an {manifest.kind} of shape {list(manifest.row_shape)}"


def _check_missing(preprocessing: FittedPreprocessing, manifest: DatasetManifest, split: Split) -> None:
    """What is known of the training split. In another one the worker finds it."""
    if not isinstance(preprocessing, FittedTable) or split != "train":
        return
    missing = {feature.name: feature.missing for feature in manifest.features}
    for column in preprocessing.columns:
        if isinstance(column, NumericColumn) and column.fill is None and missing[column.name]:
            raise _unfit(
                f"must have no missing values in column '{column.name}', since the model was trained to refuse them",
                f"{missing[column.name]:,} of them",
            )


def _unfit(wanted: str, received: str) -> InvalidRequest:
    return InvalidRequest.of("dataset", wanted, received)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return ", ".join(f"'{name}'" for name in names[:FEW]) + more
