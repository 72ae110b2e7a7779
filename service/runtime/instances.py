"""Instances of a prediction request as one array: the hot path, so orjson and numpy, column by column.

    {"instances": [{"age": 39, "workclass": "Private"}, …]}      table: objects by column name
    {"instances": [[39, "Private"], …]}                          table: lists in the order of the columns
    {"instances": [[[0, 255, …], …], …]}  or flat                array, image: the feature's shape, or flat

gives x: float64 [B, columns], categories as codes (-1 where unseen) and NaN where missing, or float32 [B, *shape].
What is wrong is looked for only after numpy has refused, so that right bodies do not pay for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
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

Floats: TypeAlias = NDArray[np.floating[Any]]

NUMBERS = frozenset({int, float, bool})
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
    x = np.empty((len(instances), len(columns)), dtype=np.float64)
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
        numbers = np.array([0 if value is None else value for value in values], dtype=np.float64)
    else:
        missing, numbers = None, np.array(values, dtype=np.float64)
    beyond = ~np.isfinite(_as_float32(numbers))
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        _fail(row, column.name, "must be finite, also as float32. Send null where the value is missing", values[row])
    if missing is not None:
        numbers[missing] = MISSING
    return numbers


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """A number too large for it becomes infinite, which is refused after this."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32)


def _codes(values: list[Any], column: CategoricalColumn) -> Floats:
    """Whole numbers count as the text that stood in the file; a missing value is NaN, an unseen category -1."""
    code_of: dict[str | None, float] = {label: float(code) for code, label in enumerate(column.categories)}
    code_of |= {None: MISSING, "": MISSING}
    for row, kind in enumerate(map(type, values)):
        if kind is int:
            values[row] = str(values[row])
        elif kind is not str and values[row] is not None:
            _fail(row, column.name, "must be a string (a category), or null where it is missing", values[row])
    return np.fromiter((code_of.get(value, UNSEEN) for value in values), dtype=np.float64, count=len(values))


# ── arrays and images ──


def _arrays(instances: list[Any], shape: tuple[int, ...]) -> Floats:
    """`true` counts as 1, as in the bool arrays that may be trained on."""
    wide = _tried(instances, shape)
    if wide is None:
        for row, instance in enumerate(instances):
            _explain(row, instance, shape)
        raise InvalidRequest.of("instances", _wanted(shape), "instances that differ")
    x = _as_float32(wide).reshape(len(instances), *shape)
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0])
        _fail(row, None, "must hold finite numbers only, also as float32", instances[row])
    return x


def _tried(instances: list[Any], shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """[B, *shape] or [B, numbers]; None where something is wrong."""
    if not all(isinstance(each, list) for each in instances):
        return None
    try:
        # Named float64, numpy makes no array of texts, of which each would be as wide as the widest; but it reads "1".
        array = np.array(instances, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    if array.shape[1:] not in (shape, (math.prod(shape),)):
        return None
    leaves: Iterable[Any] = instances
    for _ in array.shape[1:]:
        leaves = chain.from_iterable(leaves)
    return array if NUMBERS.issuperset(map(type, leaves)) else None


def _wanted(shape: tuple[int, ...]) -> str:
    return f"must be nested lists of shape {list(shape)}, or a flat list of {math.prod(shape)} numbers"


def _explain(row: int, instance: Any, shape: tuple[int, ...]) -> None:
    """Say what is wrong with an instance, if anything is."""
    if isinstance(instance, dict) and "b64" in instance:
        message = "an image as 'b64' is not supported yet. Send its pixels as nested lists."
        raise NotSupported.of(f"instances[{row}]", message, shortened(instance))
    if isinstance(instance, list) and len(instance) not in (shape[0], math.prod(shape)):
        _fail(row, None, _wanted(shape), f"a list of {len(instance)}")
    for where, value in _leaves(instance, "", len(shape)):
        if isinstance(value, list):
            _fail(row, None, _wanted(shape), "lists that are nested deeper")
        if type(value) not in NUMBERS:
            _fail(row, where, "must be a number", value)
    try:
        given = np.shape(instance)
    except ValueError:
        _fail(row, None, _wanted(shape), "lists of different lengths")
    if given not in (shape, (math.prod(shape),)):
        _fail(row, None, _wanted(shape), f"shape {list(given)}")


def _leaves(value: Any, where: str, depth: int) -> Iterator[tuple[str, Any]]:
    """What stands in the lists, down to so many levels."""
    if depth == 0 or not isinstance(value, list):
        yield where, value
    else:
        for index, each in enumerate(value):
            yield from _leaves(each, f"{where}[{index}]", depth - 1)


def _fail(row: int, column: str | None, message: str, received: Any) -> NoReturn:
    place = "" if not column else column if column.startswith("[") else f".{column}"
    raise InvalidRequest.of(f"instances[{row}]{place}", message, shortened(received))
