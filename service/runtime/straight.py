"""Numbers of a JSON body straight into an array, where the body is nothing but lists of numbers.

    {"instances": [[0, 255, 7], [1, 2.5, 7]]}         simdjson ──► [B · numbers], and where the lists were is forgotten
    {"instances": [[[0, 255], [1, 2.5]], [[3, …

simdjson reads many times as fast as a parser that makes a Python object of each number, but it flattens. That each row
is of its shape is seen by what the body leaves without all that numbers and white space are made of:

    {"instancs":[[[,],[,]],[[,],[,]]]}

JSON has room for one number at most between two of its commas and brackets, so as many numbers as places means one in
each. Flat rows that are long show it sooner, by their lengths and the number of brackets. A body that is anything else
is None here, and somebody else's to read.
"""

from __future__ import annotations

import re
import threading
from functools import lru_cache
from math import prod

import numpy as np
import simdjson
from numpy.typing import NDArray

OPENING = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"instances"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*\[')
"""A look at the first bytes, so that other bodies do not pay for a look at all of them."""
DROPPED = b"0123456789+-.eE \t\r\n"
HEAD, TAIL = b'{"instances":['.translate(None, DROPPED), b"]}"
LONG = 32
"""Numbers of a row, from which on looking at each row costs less than looking at each byte."""
KEPT_BYTES = 1 << 20
"""A parser keeps some 15 times the largest body that it has read, so larger ones have a parser each."""


class _Parsers(threading.local):
    """One for each thread: a parser holds one document at a time."""

    def __init__(self) -> None:
        self.kept = simdjson.Parser(KEPT_BYTES)


_parsers = _Parsers()


def parser_for(body: bytes) -> simdjson.Parser:
    """For this thread, until its next body."""
    return _parsers.kept if len(body) <= KEPT_BYTES else simdjson.Parser()


def numbers(body: bytes, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """[B, numbers of the shape], or None where the body has to be looked at value by value: it is something else, not
    JSON, or has integers that 64 bits do not hold.

    The rows are nested as in `shape`, or flat; all in the same way.
    """
    if not OPENING.match(body):
        return None
    try:
        document = parser_for(body).parse(body)
        if not isinstance(document, simdjson.Object) or not isinstance(rows := document["instances"], simdjson.Array):
            return None
        flat = np.frombuffer(rows.as_buffer(of_type="d"), dtype=np.float64)
    except (ValueError, RuntimeError, TypeError):  # no JSON, integers beyond 64 bits, values that are no numbers
        return None
    width = prod(shape)
    count = _long_rows(body, document, rows, width) or _short_or_nested_rows(body, shape)
    return flat.reshape(count, width) if count and flat.size == count * width else None


def _long_rows(body: bytes, document: simdjson.Object, rows: simdjson.Array, width: int) -> int | None:
    """How many rows, if each is a list of so many values. Everything in the rows being numbers, and nothing being
    beside them, each bracket is a list: those of the rows leave none for lists within a row."""
    if width < LONG or len(document) != 1 or body.count(b"[") != 1 + len(rows):
        return None
    fit = all(isinstance(row, simdjson.Array) and len(row) == width for row in rows)
    return len(rows) if fit else None


def _short_or_nested_rows(body: bytes, shape: tuple[int, ...]) -> int | None:
    """How many rows, if each is of the shape, or each is flat."""
    rest = body.translate(None, DROPPED)
    return _rows_left(rest, shape) or _rows_left(rest, (prod(shape),))


def _rows_left(rest: bytes, shape: tuple[int, ...]) -> int | None:
    """How many rows of the shape leave this."""
    row = _rest_of_a_row(shape)
    count, more = divmod(len(rest) - len(HEAD) - len(TAIL) + len(","), len(row))
    fit = count > 0 and not more and rest == HEAD + (row * count)[: -len(",")] + TAIL
    return count if fit else None


@lru_cache(maxsize=64)
def _rest_of_a_row(shape: tuple[int, ...]) -> bytes:
    """What a row of the shape leaves, and the comma after it."""
    rest = b""
    for extent in reversed(shape):
        rest = b"[" + b",".join([rest] * extent) + b"]"
    return rest + b","
