"""What it takes to compute so many rows, measured when a version is loaded.

seconds of a batch = batch + row · rows
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[Any]
"""[B, *row_shape], as the network takes them."""
Scores: TypeAlias = NDArray[np.float32]
"""[B, classes], or [B] numbers."""
Compute: TypeAlias = Callable[[Rows], Scores]

HERE_SECONDS = 5e-4
"""Work that may hold up the event loop. To hand it to a thread and back costs a fifth of that."""
MEASURED_ROWS = 16


@dataclass(frozen=True)
class Cost:
    """What a batch takes: so many seconds, and so many for each row."""

    batch: float
    row: float

    def of(self, rows: int) -> float:
        """Seconds for a batch of so many rows."""
        return self.batch + self.row * rows

    def rows_in(self, seconds: float) -> int:
        """The most rows that do not take longer themselves, at least one. What a batch takes however few it has does
        not count: smaller ones would only take it more often."""
        return max(1, int(min(seconds / self.row, sys.maxsize))) if self.row else sys.maxsize

    @classmethod
    def measured(cls, compute: Compute, rows: Callable[[int], Rows]) -> Cost:
        """By the fastest of a few runs with one row and with some. Where one row alone is slow, several are taken to be
        slower in proportion, since to measure them would hold up the loading."""
        one = _fastest(compute, rows(1))
        if one > HERE_SECONDS:
            return cls(0.0, one)
        each = max(0.0, _fastest(compute, rows(MEASURED_ROWS)) - one) / (MEASURED_ROWS - 1)
        return cls(max(0.0, one - each), each)


def _fastest(compute: Compute, x: Rows) -> float:
    """The first run is left out where there are others: it allocates, and chooses its kernels."""
    best, spent = math.inf, 0.0
    for run in range(6):
        start = time.perf_counter()
        compute(x)
        took = time.perf_counter() - start
        best, spent = (took if run < 2 else min(best, took)), spent + took
        if spent > 0.05:
            break
    return best
