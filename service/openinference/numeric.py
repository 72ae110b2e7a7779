"""The JSON of an inference request, the numbers of its tensors straight into arrays.

    {"inputs": [{"name": "x", …, "data": [0, 255, 7]}], …}      simdjson ──► the same, with data: float64 [n]

A parser that makes a Python object of each number takes many times as long, and holds up every other thread meanwhile.
simdjson flattens what it reads: that a tensor is flat, or nested as its shape says, is seen by the lengths of its
lists, and that there are no others within them by the brackets of the body, one for each list that was found. A body
that is anything else is None here, and somebody else's to read.
"""

from __future__ import annotations

import re
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import simdjson

from service.openinference.datatypes import BF16, NUMBERS, is_whole
from service.runtime.straight import parser_for

OPENING = re.compile(rb"[ \t\r\n]*\{")
"""simdjson would let a byte order mark stand before it."""
WORTH, LARGE = 2_048, 16 << 20
"""Bytes. A shorter body is read as fast in any way; of a longer one simdjson would keep too much, and beyond 16,777,215
elements it does not count them."""
MOST = 100_000
"""Of the lists, objects and quotes of a body, that each become an object of Python."""
MOST_NAMES, MOST_AXES = 16, 32
FLOATS = frozenset(name for name in NUMBERS if not is_whole(name) and name not in (BF16, "BOOL"))


def read(body: bytes) -> dict[str, Any] | None:
    """The request as `bodies.parsed` gives it, but that the `data` of a tensor of floats is a float64 array."""
    if not WORTH <= len(body) <= LARGE or b'"FP' not in body or not OPENING.match(body):
        return None
    if sum(body.count(each) for each in (b"[", b"{", b'"')) > MOST:
        return None
    try:
        document: Any = parser_for(body).parse(body)
        fields, lists = _fields(document, but="inputs")
        given: Any = document["inputs"]
        inputs = [_tensor(each) for each in given]
    except (ValueError, RuntimeError, TypeError, LookupError, AttributeError):  # no JSON, or of another form
        return None
    lists += 1 + sum(each for _, each in inputs)
    return fields | {"inputs": [tensor for tensor, _ in inputs]} if lists == body.count(b"[") else None


def _tensor(given: Any) -> tuple[dict[str, Any], int]:
    """With how many lists it has."""
    fields, lists = _fields(given, but="data")
    data, shape = given["data"], fields["shape"]
    if fields["datatype"] not in FLOATS or not isinstance(fields["name"], str) or not _is_shape(shape):
        raise ValueError
    within = _lists(data, shape)
    values = np.frombuffer(data.as_buffer(of_type="d"), dtype=np.float64)
    if values.size != prod(shape):
        raise ValueError
    return fields | {"data": values}, lists + within


def _is_shape(shape: Any) -> bool:
    """Before anything is multiplied: texts, and integers without end, would be as long as they say."""
    return (
        isinstance(shape, list)
        and len(shape) <= MOST_AXES
        and all(type(size) is int and 0 <= size <= LARGE for size in shape)
    )


def _fields(given: Any, *, but: str) -> tuple[dict[str, Any], int]:
    """What an object has but for one, and how many lists stand there."""
    names = list(given.keys())
    # simdjson finds a name by looking at all; and of those that are there twice, another parser takes the last.
    if len(names) > MOST_NAMES or len(set(names)) < len(names):
        raise ValueError
    values = {name: given[name] for name in names if name != but}
    found = {name: _plain(value) for name, value in values.items()}
    return found, sum(isinstance(value, simdjson.Array) for value in values.values())


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _lists(data: Any, shape: list[int]) -> int:
    """How many lists a flat tensor has, or one that is nested as its shape."""
    if len(data) == prod(shape) and not isinstance(data[0], simdjson.Array):
        return 1
    level, count = [data], 1
    for size in shape[:-1]:
        _check_lengths(level, size)
        level = list(chain.from_iterable(level))
        count += len(level)
    _check_lengths(level, shape[-1])
    return count


def _check_lengths(lists: list[Any], size: int) -> None:
    if not all(isinstance(each, simdjson.Array) and len(each) == size for each in lists):
        raise ValueError
