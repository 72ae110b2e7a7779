"""One input of a request: its name, datatype, shape, and its values in the JSON or after it.

Nothing of the size that a shape claims is made before that many values were found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.problems import shortened
from service.openinference import datatypes
from service.openinference.datatypes import BF16, BYTES, NUMBERS
from service.runtime.rows import all_finite

WHOLE: frozenset[type] = frozenset({int})
FLOATS: frozenset[type] = frozenset({int, float, type(None)})
JSON_TYPES: dict[str, frozenset[type]] = {
    **{name: WHOLE if datatypes.is_whole(name) else FLOATS for name in NUMBERS},
    "BOOL": frozenset({bool}),
    BYTES: frozenset({str, type(None)}),
}
"""Of the elements in JSON; null is a missing value."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input as it was given. Its values are read when its shape was found to be what the model takes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any = None
    """From the JSON: lists, nested or flat, or the flat array that `numeric` made of them."""
    raw: memoryview | None = None
    """From behind the JSON."""

    @property
    def count(self) -> int:
        """How many values the shape asks for; never the size of anything before they were counted."""
        return math.prod(self.shape)

    def numbers(self) -> NDArray[Any]:
        """Flat; floats from JSON as float64 whichever is declared, since they have their digits, and NaN for null.

        Raises:
            InvalidRequest: too few values, too many, or others than the datatype says.
        """
        return self._from_json() if self.raw is None else self._from_binary(self.raw)

    def texts(self) -> Iterator[bytes]:
        """Of BYTES, one at a time; an empty one for null.

        Raises:
            InvalidRequest: too few values, too many, or others than texts; at once, or on the way.
        """
        if self.raw is None:
            return ((each or "").encode() for each in self._leaves())
        with self._naming():
            found = datatypes.texts(self.raw, self.count)
        return self._named(found)

    def refusal(self, wanted: str, received: Any) -> InvalidRequest:
        """The error that says what must hold for this input."""
        return InvalidRequest(f"Input {shortened(self.name)!r} {wanted}. Received: {shortened(received)}.")

    def _named(self, texts: Iterator[bytes]) -> Iterator[bytes]:
        with self._naming():
            yield from texts

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except InvalidRequest as exc:
            raise InvalidRequest(f"Input {shortened(self.name)!r} {exc.message}") from exc

    def _from_binary(self, raw: memoryview) -> NDArray[Any]:
        wanted = self.count * NUMBERS[self.datatype].itemsize
        if len(raw) != wanted:
            message = f"must have a binary_data_size of {wanted:,} bytes, for {self.datatype} of shape "
            raise self.refusal(f"{message}{list(self.shape)}", f"{len(raw):,}")
        return datatypes.numbers(raw, self.datatype)

    def _from_json(self) -> NDArray[Any]:
        if self.datatype == BF16:
            raise self.refusal("must come as a binary tensor, since BF16 has no form in JSON", "data in JSON")
        if isinstance(self.data, np.ndarray):  # as many as the shape asks for
            return self.data
        if JSON_TYPES[self.datatype] is FLOATS:
            values = self._straight()
            return self._floats() if values is None else values
        leaves = self._leaves()
        if datatypes.is_whole(self.datatype):
            self._check_bounds(leaves)
        return np.array(leaves, dtype=NUMBERS[self.datatype])

    def _check_bounds(self, leaves: list[int]) -> None:
        bounds = np.iinfo(NUMBERS[self.datatype])
        for each in (min(leaves), max(leaves)):
            if not bounds.min <= each <= bounds.max:
                raise self.refusal(f"must hold {self.datatype}, from {bounds.min} to {bounds.max}", each)

    def _straight(self) -> NDArray[np.float64] | None:
        """By numpy, which knows nested lists; None where anything is missing or wrong, which others look for."""
        try:
            values = np.array(self.data, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            return None
        if values.shape not in (self.shape, (self.count,)) or not all_finite(values):
            return None
        leaves: Iterable[Any] = self.data
        for _ in values.shape[1:]:
            leaves = chain.from_iterable(leaves)
        return values.reshape(-1) if FLOATS.issuperset(map(type, leaves)) else None

    def _floats(self) -> NDArray[np.float64]:
        leaves = self._leaves()
        values = np.array(leaves, dtype=np.float64)
        for index in np.flatnonzero(~np.isfinite(values)):
            if leaves[index] is not None:
                raise self.refusal(
                    "must hold finite numbers, since JSON has no others. Send null where a value is missing, or NaN in "
                    "a binary tensor",
                    leaves[index],
                )
        return values

    def _leaves(self) -> list[Any]:
        """The values in a list, row-major."""
        if not isinstance(self.data, list):
            raise self.refusal("must have 'data', a list of its values, or a binary_data_size", self.data)
        nested = len(self.shape) > 1 and self.data and isinstance(self.data[0], list)
        leaves = self._flattened() if nested else self.data
        if len(leaves) != self.count:
            raise self.refusal(
                f"must have {self.count:,} values, for shape {list(self.shape)}", f"{len(leaves):,} values"
            )
        kinds = JSON_TYPES[self.datatype]
        if not kinds.issuperset(map(type, leaves)):
            raise self.refusal(
                f"must hold {self.datatype} in lists as its shape says, or in one flat list",
                next(each for each in leaves if type(each) not in kinds),
            )
        return leaves

    def _flattened(self) -> list[Any]:
        lists: list[Any] = [self.data]
        for size in self.shape:
            wrong = next((each for each in lists if not isinstance(each, list) or len(each) != size), None)
            if wrong is not None:
                received = f"a list of {len(wrong)}" if isinstance(wrong, list) else wrong
                raise self.refusal(f"must have lists nested as its shape {list(self.shape)} says", received)
            lists = list(chain.from_iterable(lists))
        return lists
