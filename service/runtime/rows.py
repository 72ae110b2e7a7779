"""What every reader of a request body comes to: rows of raw values within bounds, or an error that names the place."""

from __future__ import annotations

from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gammabeta.errors import InvalidRequest, TooLarge
from gammabeta.schemas.problems import shortened

Floats: TypeAlias = NDArray[np.floating[Any]]
"""Tables: float64 [B, columns], categories as codes (-1 where unseen) and NaN where missing. Arrays and images: float32
[B, *shape]."""

MAX_BYTES = 256 << 20
"""Of the rows of one request as an array: what 64 MiB of one-digit numbers come to as float64. Without it a few bytes
of body, such as an object without keys or an image of one colour, would stand for any amount of memory."""


def check_size(count: int, per_row: int) -> None:
    """Refuse more rows than fit, of so many bytes each, before there is an array of them.

    Raises:
        TooLarge
    """
    if count * per_row > MAX_BYTES:
        raise TooLarge(
            f"The rows of a request must take at most {MAX_BYTES:,} bytes once they are numbers. Received: {count:,} "
            f"rows of {per_row:,} bytes. Send at most {MAX_BYTES // per_row:,} rows at a time."
        )


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """A number too large for it becomes infinite, which is refused after this."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32)


def all_finite(x: Floats) -> bool:
    """Whether every value is. Their sum tells, for a third of what looking at each one costs; where it is not finite,
    so may be one of them, or nothing but the sum."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(x, axis=None))) or bool(np.isfinite(x).all())


def fail(row: int, column: str | None, message: str, received: Any) -> NoReturn:
    """Refuse a value.

    Raises:
        InvalidRequest: at `instances[row]`, and there at a column, or at a place such as `[0][2]`.
    """
    place = "" if not column else column if column.startswith("[") else f".{column}"
    raise InvalidRequest.of(f"instances[{row}]{place}", message, shortened(received))
