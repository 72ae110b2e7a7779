"""The requests that wait for one version: who is next, how many rows that is, and what each gets.

    join ──► waiting ──take──► pieces ──compute──► outcomes, one for each piece
                ▲                 │
                └── what has more ┘

Everything here happens on the event loop, but for `Line.compute`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gammabeta.errors import InvalidRequest
from service.runtime.costs import Compute, Cost, Rows, Scores
from service.runtime.counting import Statistics
from service.runtime.rows import all_finite

MOST_SLOWNESS = 8.0
"""A batch that took longer, of what it costs, says nothing of the next one."""
NOT_FINITE = "must be within what the model can compute; its answer is not finite. Send values near those trained on."


@dataclass(eq=False)
class Ticket:
    """A request that waits."""

    x: Rows
    answer: asyncio.Future[Scores]
    piece: int
    """The most rows of it that are computed at once."""
    since_ns: int = field(default_factory=time.perf_counter_ns)
    taken: int = 0
    """Rows that are computed, or being so."""
    queue_ns: int = 0
    compute_ns: int = 0
    done: dict[int, Scores] = field(default_factory=dict)
    """By the first row of each piece."""

    @property
    def next(self) -> int:
        """Rows of the next piece."""
        return min(self.left, self.piece)

    @property
    def left(self) -> int:
        """Rows that are not computed, nor being so."""
        return len(self.x) - self.taken

    @property
    def counts(self) -> int:
        """As how many rows it counts where they are limited: what goes before a request that comes after it."""
        return min(len(self.x), self.piece)


@dataclass(frozen=True)
class Piece:
    """Rows of one request in a batch."""

    ticket: Ticket
    start: int
    x: Rows


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A batch, computed: for each piece its scores, or why there are none."""

    outcomes: list[Scores | Exception]
    started_ns: int
    ended_ns: int


class Line:
    """The requests that wait for one version."""

    def __init__(self, compute: Compute, cost: Cost, statistics: Statistics) -> None:
        self._compute, self.cost, self.statistics = compute, cost, statistics
        self.slowness = 1.0
        """How long batches in threads take of late, of what they cost: the machine has other things to do, too."""
        self._waiting: deque[Ticket] = deque()
        self.rows = 0
        """How many wait, as far as they count."""
        self.bytes = 0
        """What those that wait take."""
        self.timed_ns = 0
        """Since when the one waits who was last held back: the end of that is set."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def first(self) -> Ticket:
        """Who waits longest."""
        return self._waiting[0]

    @property
    def alone(self) -> bool:
        """Whether only one request waits."""
        return len(self._waiting) == 1

    def seconds(self, rows: int) -> float:
        """For a batch of so many rows, as things are now."""
        return self.slowness * self.cost.of(rows)

    def took(self, rows: int, seconds: float) -> None:
        """A thread has computed a batch of so many rows."""
        if cost := self.cost.of(rows):
            found = min(max(seconds / cost, 1 / MOST_SLOWNESS), MOST_SLOWNESS)
            self.slowness += (found - self.slowness) / 8

    def ahead_of(self, ticket: Ticket) -> int:
        """Rows that are computed before a request is. A large one takes turns with all that others have left; a small
        one waits for one piece of each."""
        return self.rows if ticket.counts == len(ticket.x) else sum(each.left for each in self._waiting)

    def join(self, ticket: Ticket) -> None:
        self._waiting.append(ticket)
        self._count(ticket, 1)

    def _count(self, ticket: Ticket, sign: int) -> None:
        self.rows += sign * ticket.counts
        self.bytes += sign * ticket.x.nbytes

    def leave(self, ticket: Ticket) -> None:
        """It wants no more; what is being computed of it is thrown away."""
        if ticket.next and ticket in self._waiting:
            self._waiting.remove(ticket)
            self._count(ticket, -1)

    def upcoming(self, limit: int) -> list[Ticket]:
        """Those of the next batch: as many as fit, and at least one."""
        chosen: list[Ticket] = []
        rows = 0
        for ticket in self._waiting:
            rows += ticket.next
            if chosen and rows > limit:
                break
            chosen.append(ticket)
        return chosen

    def take(self, tickets: Sequence[Ticket]) -> list[Piece]:
        """The next piece of each of the first requests. What has more goes to the end of the line."""
        pieces = []
        for ticket in tickets:
            self._waiting.popleft()
            start, ticket.taken = ticket.taken, ticket.taken + ticket.next
            pieces.append(Piece(ticket, start, ticket.x[start : ticket.taken]))
            if ticket.next:
                self._waiting.append(ticket)
            else:
                self._count(ticket, -1)
        return pieces

    def at_once(self, x: Rows) -> Scores:
        """The scores of a request that does not wait.

        Raises:
            InvalidRequest: an instance gives something that is not finite.
        """
        start = time.perf_counter_ns()
        scores = self._checked(x, 0)
        spent = time.perf_counter_ns() - start
        self.statistics.executed(len(x), spent)
        self.statistics.answered(len(x), queue_ns=0, compute_ns=spent)
        return scores

    def compute(self, pieces: Sequence[Piece]) -> Computed:
        """All pieces in one batch. Where that fails, each by itself, so that each answers for itself. In any thread."""
        start = time.perf_counter_ns()
        try:
            outcomes = self._together(pieces)
        except Exception as error:  # whatever it is: it belongs to the requests, and the line goes on
            outcomes = [error] if len(pieces) == 1 else [self._alone(each) for each in pieces]
        return Computed(outcomes=outcomes, started_ns=start, ended_ns=time.perf_counter_ns())

    def _together(self, pieces: Sequence[Piece]) -> list[Scores | Exception]:
        if len(pieces) == 1:
            return [self._checked(pieces[0].x, pieces[0].start)]
        scores = self._compute(np.concatenate([each.x for each in pieces]))
        ends = np.cumsum([len(each.x) for each in pieces])
        parts = np.split(scores, ends[:-1])
        return [_problem(part, each.start) or part for each, part in zip(pieces, parts, strict=True)]

    def _alone(self, piece: Piece) -> Scores | Exception:
        try:
            return self._checked(piece.x, piece.start)
        except Exception as error:  # as above
            return error

    def _checked(self, x: Rows, start: int) -> Scores:
        scores = self._compute(x)
        problem = _problem(scores, start)
        if problem is not None:
            raise problem
        return scores


def _problem(scores: Scores, start: int) -> InvalidRequest | None:
    """What is wrong with the scores of rows from `start` on, if anything is."""
    if all_finite(scores):
        return None
    row = start + int(np.flatnonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1))[0])
    return InvalidRequest.of(f"instances[{row}]", NOT_FINITE, "values whose answer is not finite")
