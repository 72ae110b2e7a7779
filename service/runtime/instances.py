"""Instances of a prediction request as one array: the hot path, so orjson and numpy, column by column.

    {"instances": [{"age": 39, "workclass": "Private"}, …]}      table: objects by column name
    {"instances": [[39, "Private"], …]}                          table: lists in the order of the columns
    {"instances": [[[0, 255, …], …], …]}  or flat                array, image: the feature's shape, or flat

gives x: float32 of shape [B, columns], categories as codes (-1 where unseen) and NaN where missing, or [B, *shape].
What is wrong is looked for only after numpy has refused, so that right bodies do not pay for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gammabeta.errors import InvalidRequest, NotSupported
from gammabeta.schemas.preprocessing import (
    CategoricalColumn,
    Column,
    FittedArray,
    FittedImage,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)
from gammabeta.schemas.problems import shortened
from service.bodies import parsed

Floats: TypeAlias = NDArray[np.float32]

MISSING = math.nan
UNSEEN = -1.0
SHOWN = 20
"""How many column names an error lists."""


def read(body: bytes, preprocessing: FittedPreprocessing) -> Floats:
    """The rows of a request body.

    Raises:
        MalformedRequest: the body is not JSON.
        InvalidRequest: an instance does not fit; the field names instance and column.
    """
    instances = _instances(parsed(body))
    match preprocessing:
        case FittedTable(columns=columns):
            return _table(instances, columns)
        case FittedArray(shape=shape) | FittedImage(shape=shape):
            return _arrays(instances, shape)


def _instances(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        raise InvalidRequest.of("body", 'must be an object such as {"instances": […]}', shortened(value))
    for key in value.keys() - {"instances"}:
        raise InvalidRequest.of(key, "is not a field here. Send only 'instances'.", shortened(value[key]))
    instances = value.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidRequest.of("instances", "must be a list of at least one instance", shortened(instances))
    return instances


# ── tables ──


def _table(instances: list[Any], columns: Sequence[Column]) -> Floats:
    read_column = _by_name(instances, columns) if isinstance(instances[0], dict) else _by_place(instances, columns)
    x = np.empty((len(instances), len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        values = read_column(index)
        x[:, index] = _numbers(values, column) if isinstance(column, NumericColumn) else _codes(values, column)
    return x


def _by_name(instances: list[Any], columns: Sequence[Column]) -> Callable[[int], list[Any]]:
    """An absent key is a missing value."""
    names = [column.name for column in columns]
    known = set(names)
    for row, instance in enumerate(instances):
        if not isinstance(instance, dict):
            _fail(row, None, "must be an object by column name, as the first instance is", instance)
        if not instance.keys() <= known:
            extra = sorted(instance.keys() - known)[0]
            _fail(row, extra, f"is not a column of this model. Leave it out; the columns are {_listed(names)}", extra)
    return lambda index: [instance.get(names[index]) for instance in instances]


def _by_place(instances: list[Any], columns: Sequence[Column]) -> Callable[[int], list[Any]]:
    names = _listed([column.name for column in columns])
    for row, instance in enumerate(instances):
        if not isinstance(instance, list):
            _fail(row, None, "must be an object by column name, or a list, as all of its neighbours", instance)
        if len(instance) != len(columns):
            wanted = f"must have {len(columns)} values, in the order of the columns {names}"
            _fail(row, None, wanted, f"{len(instance)} values")
    return lambda index: [instance[index] for instance in instances]


def _listed(names: list[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _numbers(values: list[Any], column: NumericColumn) -> Floats:
    kinds = set(map(type, values))
    if not kinds <= {int, float, type(None)}:
        row = next(row for row, value in enumerate(values) if type(value) not in (int, float, type(None)))
        _fail(row, column.name, "must be a number, or null where it is missing", values[row])
    if type(None) in kinds:
        if column.fill is None:
            row = values.index(None)
            _fail(row, column.name, "must be a number: the model was trained without missing values", None)
        missing = np.fromiter((value is None for value in values), dtype=bool, count=len(values))
        numbers = _as_floats([0 if value is None else value for value in values])
    else:
        missing, numbers = None, _as_floats(values)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0])
        _fail(row, column.name, "must be finite, also as float32. Send null where the value is missing", values[row])
    if missing is not None:
        numbers[missing] = MISSING
    return numbers


def _as_floats(values: list[Any]) -> Floats:
    """A number too large for float32 becomes infinite, which is refused after this."""
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float64).astype(np.float32)


def _codes(values: list[Any], column: CategoricalColumn) -> Floats:
    """Whole numbers count as the text that stood in the file; a missing value is NaN, an unseen category -1."""
    code_of: dict[str | None, float] = {label: float(code) for code, label in enumerate(column.categories)}
    code_of |= {None: MISSING, "": MISSING}
    for row, kind in enumerate(map(type, values)):
        if kind is int:
            values[row] = str(values[row])
        elif kind is not str and values[row] is not None:
            _fail(row, column.name, "must be a string (a category), or null where it is missing", values[row])
    return np.fromiter((code_of.get(value, UNSEEN) for value in values), dtype=np.float32, count=len(values))


# ── arrays and images ──


def _arrays(instances: list[Any], shape: tuple[int, ...]) -> Floats:
    """`true` counts as 1, as in the bool arrays that may be trained on."""
    wide = _tried(instances)
    if wide is None or not _fits(wide.shape[1:], shape):
        for row, instance in enumerate(instances):
            _explain(row, instance, shape)
        wide = np.array(instances, dtype=np.float64)
    with np.errstate(over="ignore"):
        x = np.asarray(wide, dtype=np.float32).reshape(len(instances), *shape)
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0])
        _fail(row, None, "must hold finite numbers only, also as float32", instances[row])
    return x


def _tried(instances: list[Any]) -> NDArray[Any] | None:
    try:
        array = np.array(instances)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None


def _fits(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return given in (shape, (math.prod(shape),))


def _explain(row: int, instance: Any, shape: tuple[int, ...]) -> None:
    """Say what is wrong with an instance, if anything is."""
    if isinstance(instance, dict) and "b64" in instance:
        message = "an image as 'b64' is not supported yet. Send its pixels as nested lists."
        raise NotSupported.of(f"instances[{row}]", message, shortened(instance))
    wanted = f"must be nested lists of shape {list(shape)}, or a flat list of {math.prod(shape)} numbers"
    for where, value in _leaves(instance, ""):
        if type(value) not in (int, float, bool):
            _fail(row, where, "must be a number", value)
    try:
        given = np.shape(instance)
    except ValueError:
        _fail(row, None, wanted, "lists of different lengths")
    if not _fits(given, shape):
        _fail(row, None, wanted, f"shape {list(given)}")


def _leaves(value: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(value, list):
        return [(where, value)]
    return [leaf for index, each in enumerate(value) for leaf in _leaves(each, f"{where}[{index}]")]


def _fail(row: int, column: str | None, message: str, received: Any) -> NoReturn:
    place = "" if not column else column if column.startswith("[") else f".{column}"
    raise InvalidRequest.of(f"instances[{row}]{place}", message, shortened(received))
