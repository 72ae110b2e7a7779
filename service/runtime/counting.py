"""What a version has done in this process: counts and nanoseconds, as Triton's statistics tell them.

    request   success or fail        the whole of it, its body already read
              compute_input          rows read from the body
              queue                  rows waiting for a thread and for each other
              compute_infer          the network; each request of a batch counts all of the batch's time
              compute_output         the answer written
    execution                        one batch: the rows of one request or of several

They are changed on the event loop only, so that nothing is lost and no lock is needed. `service/metrics.py` reads them
beside it: of a request that is counted at that moment it may see a part.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType

from gammabeta.errors import Overloaded


@dataclass
class Spent:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


@dataclass(kw_only=True)
class Statistics:
    """Since the version was loaded."""

    success: Spent = field(default_factory=Spent)
    fail: Spent = field(default_factory=Spent)
    queue: Spent = field(default_factory=Spent)
    compute_input: Spent = field(default_factory=Spent)
    compute_infer: Spent = field(default_factory=Spent)
    compute_output: Spent = field(default_factory=Spent)
    rows: int = 0
    """Rows that were answered."""
    refused: int = 0
    """Requests that were refused because too much waited; `fail` counts them too."""
    batches: defaultdict[int, Spent] = field(default_factory=lambda: defaultdict(Spent))
    """Executions by their rows, and the time of the network."""
    last_ms: int = 0
    """When the last rows were answered: Unix time in milliseconds; 0 for never."""

    @property
    def executions(self) -> int:
        """Batches that were computed."""
        return sum(each.count for each in self.batches.values())

    def request(self) -> Timed:
        """`with statistics.request():` counts the block as a request, which fails if the block raises."""
        return Timed(self)

    def executed(self, rows: int, ns: int) -> None:
        """A batch was computed."""
        self.batches[rows].add(ns)

    def answered(self, rows: int, *, queue_ns: int, compute_ns: int) -> None:
        """A request has its scores."""
        self.rows += rows
        self.queue.add(queue_ns)
        self.compute_infer.add(compute_ns)
        self.last_ms = time.time_ns() // 1_000_000


class Timed:
    """A request in progress."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics, self._start = statistics, 0

    def __enter__(self) -> None:
        self._start = time.perf_counter_ns()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        counted = self._statistics.success if kind is None else self._statistics.fail
        counted.add(time.perf_counter_ns() - self._start)
        if kind is Overloaded:
            self._statistics.refused += 1
