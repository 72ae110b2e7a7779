"""Instances of a JSON body as one array: the hot path, so no Python object for each number where that can be.

    {"instances": [{"age": 39, "workclass": "Private"}, …]}      table: objects by column name
    {"instances": [[39, "Private"], …]}                          table: lists in the order of the columns
    {"instances": [[[0, 255, …], …], …]}  or flat                array, image: the feature's shape, or flat
    {"instances": [{"b64": "iVBORw0KGgo…"}, …]}                  image: PNG or JPEG files

    body ──nothing but numbers──► straight.numbers ──finite──► x
      └──anything else, anything wrong──► orjson ──► column by column, or numpy ──► x, or what is wrong with it

Both ways give the same bits. What is wrong is looked for only where reading has failed, so that right bodies do not
pay for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.preprocessing import (
    Column,
    FittedArray,
    FittedImage,
    FittedPreprocessing,
    FittedTable,
    NumericColumn,
)
from gammabeta.schemas.problems import shortened
from service.bodies import parsed
from service.runtime import images, straight
from service.runtime.columns import encoded, listed
from service.runtime.rows import Floats, all_finite, as_float32, check_size, fail

KINDS_OF_NUMBERS = frozenset({int, float, bool})
ONE_ROW = "One row alone stands in a list of its own: [[…]]"
ENCODED = "b64"
"""The only key of an instance that is an image file."""
BYTES_OF_FLOAT32, BYTES_OF_FLOAT64 = 4, 8


def read(body: bytes, preprocessing: FittedPreprocessing) -> Floats:
    """The rows of a request body.

    Raises:
        MalformedRequest: the body is not JSON.
        InvalidRequest: an instance does not fit; the field names instance and column.
        TooLarge: the rows would take more memory than the rows of a request may.
    """
    x = _straight(body, preprocessing)
    return x if x is not None else _one_by_one(_instances(parsed(body)), preprocessing)


def _straight(body: bytes, preprocessing: FittedPreprocessing) -> Floats | None:
    match preprocessing:
        case FittedTable(columns=columns):
            # A number in a column of categories is the text that it is written as.
            if not {NumericColumn}.issuperset(map(type, columns)):
                return None
            x = straight.numbers(body, (len(columns),))
            return x if x is not None and all_finite(as_float32(x)) else None
        case FittedArray(shape=shape) | FittedImage(shape=shape):
            wide = straight.numbers(body, shape)
            if wide is None:
                return None
            narrow = as_float32(wide).reshape(-1, *shape)
            return narrow if all_finite(narrow) else None


def _one_by_one(instances: list[Any], preprocessing: FittedPreprocessing) -> Floats:
    match preprocessing:
        case FittedTable(columns=columns):
            return _table(instances, columns)
        case FittedImage(shape=shape) if any(isinstance(each, dict) and ENCODED in each for each in instances):
            return _image_files(instances, shape)
        case FittedArray(shape=shape):
            return _arrays(instances, shape, _wanted(shape))
        case FittedImage(shape=shape):
            return _arrays(instances, shape, f'{_wanted(shape)}, or {{"{ENCODED}": "…"}} with the file of an image')


def _instances(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        raise InvalidRequest.of("body", 'must be an object such as {"instances": […]}', shortened(value))
    for key in value.keys() - {"instances"}:
        remedy = f"Write it in the address: ?{key}=…" if key in ("version", "alias") else "Send only 'instances'."
        raise InvalidRequest.of(key, f"is not a field here. {remedy}", shortened(value[key]))
    instances = value.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidRequest.of("instances", "must be a list of at least one instance", shortened(instances))
    return instances


# ── tables ──


def _table(instances: list[Any], columns: Sequence[Column]) -> Floats:
    check_size(len(instances), len(columns) * BYTES_OF_FLOAT64)
    read_column = _by_name(instances, columns) if isinstance(instances[0], dict) else _by_place(instances, columns)
    x = np.empty((len(instances), len(columns)), dtype=np.float64)
    for index, column in enumerate(columns):
        x[:, index] = encoded(read_column(index), column)
    return x


def _by_name(instances: list[Any], columns: Sequence[Column]) -> Callable[[int], list[Any]]:
    """An absent key is a missing value."""
    names = [column.name for column in columns]
    known = set(names)
    for row, instance in enumerate(instances):
        if not isinstance(instance, dict):
            fail(row, None, "must be an object by column name, as the first instance is", instance)
        if not instance.keys() <= known:
            extra = sorted(instance.keys() - known)[0]
            fail(row, extra, f"is not a column of this model. Leave it out; the columns are {listed(columns)}", extra)
    return lambda index: [instance.get(names[index]) for instance in instances]


def _by_place(instances: list[Any], columns: Sequence[Column]) -> Callable[[int], list[Any]]:
    for row, instance in enumerate(instances):
        if not isinstance(instance, list):
            fail(row, None, "must be an object by column name, or a list, as all of its neighbours", instance)
        if len(instance) != len(columns):
            wanted = f"must have {len(columns)} values, in the order of the columns {listed(columns)}"
            fail(row, None, wanted, f"{len(instance)} values")
    return lambda index: [instance[index] for instance in instances]


# ── arrays and images ──


def _image_files(instances: list[Any], shape: tuple[int, ...]) -> Floats:
    check_size(len(instances), math.prod(shape) * BYTES_OF_FLOAT32)
    # As float32, though bytes would do: rows of one model are of one type, however they are spelled.
    x = np.empty((len(instances), *shape), dtype=np.float32)
    for row, instance in enumerate(instances):
        if not isinstance(instance, dict) or instance.keys() != {ENCODED}:
            fail(row, None, 'must be an object such as {"b64": "…"}, as all of its neighbours', instance)
        x[row] = images.from_base64(instance[ENCODED], shape, field=f"instances[{row}].{ENCODED}")
    return x


def _arrays(instances: list[Any], shape: tuple[int, ...], wanted: str) -> Floats:
    """`true` counts as 1, as in the bool arrays that may be trained on. `wanted`: what an instance must be."""
    wide = _tried(instances, shape)
    if wide is None:
        for row, instance in enumerate(instances):
            _explain(row, instance, shape, wanted)
        raise InvalidRequest.of("instances", wanted, "instances that differ")
    x = as_float32(wide).reshape(len(instances), *shape)
    if not all_finite(x):
        row = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0])
        fail(row, None, "must hold finite numbers only, also as float32", instances[row])
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
    return array if KINDS_OF_NUMBERS.issuperset(map(type, leaves)) else None


def _wanted(shape: tuple[int, ...]) -> str:
    return f"must be nested lists of shape {list(shape)}, or a flat list of {math.prod(shape)} numbers"


def _explain(row: int, instance: Any, shape: tuple[int, ...], wanted: str) -> None:
    """Say what is wrong with an instance, if anything is."""
    if type(instance) in KINDS_OF_NUMBERS:
        fail(row, None, f"{wanted}. {ONE_ROW}", instance)
    if not isinstance(instance, list):
        fail(row, None, wanted, instance)
    if len(instance) not in (shape[0], math.prod(shape)):
        fail(row, None, wanted, f"a list of {len(instance)}")
    for where, value in _leaves(instance, "", len(shape)):
        if isinstance(value, list):
            fail(row, None, wanted, "lists that are nested deeper")
        if value is None:
            fail(row, where, "must be a number; null is what JSON has for NaN, too", value)
        if type(value) not in KINDS_OF_NUMBERS:
            fail(row, where, "must be a number", value)
    try:
        given = np.shape(instance)
    except ValueError:
        fail(row, None, wanted, "lists of different lengths")
    if given not in (shape, (math.prod(shape),)):
        fail(row, None, f"{wanted}. {ONE_ROW}", f"shape {list(given)}")


def _leaves(value: Any, where: str, depth: int) -> Iterator[tuple[str, Any]]:
    """What stands in the lists, down to so many levels."""
    if depth == 0 or not isinstance(value, list):
        yield where, value
    else:
        for index, each in enumerate(value):
            yield from _leaves(each, f"{where}[{index}]", depth - 1)
