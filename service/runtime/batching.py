"""Requests that wait for the same network are computed together.

    rows ──cheap, and nobody waits──► compute, here and now
      └──► line of the version ──a thread is free──► batch: all that waits, up to max_batch_rows ──► each its own rows

A lone request never waits for others: it is on its way in the next turn of the event loop, and with it go those that
came in the same turn. Batches that take hardly longer than a change of threads are computed on the event loop itself. A
large request goes in pieces, in turn with those that came after it. Lines take turns too. Only so many rows may wait,
only so many bytes, and only for so long: beyond that a request is refused at once. One that is cancelled takes its rows
out of the line, and one that fails does not touch its neighbours.

Everything here happens on the event loop; lines.py has what waits, and costs.py what it will take.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import numpy as np

from gammabeta.errors import Overloaded
from service.runtime.costs import HERE_SECONDS, Rows, Scores
from service.runtime.lines import Computed, Line, Piece, Ticket

PIECE = 512
"""The most rows of one request that are computed at once, however many a batch may have, so that a large body of small
images does not make gigabytes of activations."""
PIECE_SECONDS = 0.05
"""How long rows may take that are computed at once, and no longer than a request may wait: nobody waits for all of a
large body, nor for a whole batch of a slow network, which would be hardly faster than its rows one by one."""
STRAIGHT_SECONDS = 1e-4
"""Work that is done by the time anything else could have been arranged."""
CLOCK_SECONDS = 1e-3
"""The event loop's clock ticks in milliseconds, and may be early by as much."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How batches are made."""

    batch_rows: int = 64
    wait_seconds: float = 0.0
    queued_rows: int = 1_024
    queued_seconds: float = 1.0
    queued_bytes: int = 256 << 20


class Batcher:
    """Makes batches of what waits in the lines of all versions, as threads become free."""

    def __init__(self, pool: Executor, *, workers: int, limits: Limits) -> None:
        self._pool, self._workers, self._free, self._limits = pool, workers, workers, limits
        self._lines: deque[Line] = deque()
        """Those in which somebody waits, in the order of their turns."""
        self._ends: dict[asyncio.Future[Computed], float] = {}
        """When, by the event loop's clock, the threads that are busy will be free, as far as costs tell."""
        self._turn: asyncio.Handle | None = None

    def straight(self, line: Line, x: Rows) -> Scores | None:
        """The scores of rows that take next to no time and find nobody waiting; None for others.

        Raises:
            InvalidRequest: an instance gives something that is not finite.
        """
        if line or line.cost.of(len(x)) > STRAIGHT_SECONDS or len(x) > self._piece(line):
            return None
        return line.at_once(x)

    async def scores(self, line: Line, x: Rows) -> Scores:
        """The scores of rows, when it is their turn.

        Raises:
            Overloaded: too much waits already.
            InvalidRequest: an instance gives something that is not finite.
        """
        ticket = Ticket(x, asyncio.get_running_loop().create_future(), self._piece(line))
        self._admit(line, ticket)
        try:
            return await ticket.answer
        finally:
            line.leave(ticket)

    def check_room(self, line: Line) -> None:
        """Whether a request may stand in line of whose body nothing is known, since nobody has read it.

        Raises:
            Overloaded: too much waits already.
        """
        if line:
            self._check_rows(line, 1)
        self._check_wait(line, line.rows)

    def _admit(self, line: Line, ticket: Ticket) -> None:
        if line:
            self._check_rows(line, ticket.counts)
        self._check_wait(line, line.ahead_of(ticket))
        self._check_bytes(line, ticket.x.nbytes)
        if line not in self._lines:
            self._lines.append(line)
        line.join(ticket)
        self._soon()

    def _check_rows(self, line: Line, counts: int) -> None:
        if line.rows + counts > self._limits.queued_rows:
            self._refuse(
                line,
                f"At most {self._limits.queued_rows:,} rows may wait for a version. Received: a request for more, "
                f"while {line.rows:,} wait",
                "GAMMABETA_MAX_QUEUED_ROWS",
            )

    def _check_wait(self, line: Line, rows: int) -> None:
        wait = self._wait(line, rows)
        if wait > self._limits.queued_seconds:
            self._refuse(
                line,
                f"A request may have to wait at most {1_000 * self._limits.queued_seconds:,.0f} ms. Received: one that "
                f"would wait {1_000 * wait:,.0f} ms, behind {rows:,} rows and what is being computed",
                "GAMMABETA_MAX_QUEUED_MS",
            )

    def _wait(self, line: Line, rows: int) -> float:
        """Seconds that somebody waits behind so many rows: until a thread is free, and then for the batches before that
        of his own, of other versions too, which the threads share. Those that need no thread wait for none."""
        most = self._most(line)
        batches = rows // most
        before = batches * line.seconds(most)
        if line.cost.of(rows % most + 1) <= HERE_SECONDS:
            return before / self._workers
        before += sum(self._before(batches + 1, other) for other in self._lines if other is not line)
        return self._until_free() + before / self._workers

    def _before(self, turns: int, other: Line) -> float:
        """Seconds of the batches that another line has in so many turns."""
        most = self._most(other)
        return min(turns, math.ceil(other.rows / most)) * other.seconds(min(other.rows, most))

    def _until_free(self) -> float:
        if self._free:
            return 0.0
        return max(0.0, min(self._ends.values()) - asyncio.get_running_loop().time())

    def _check_bytes(self, line: Line, size: int) -> None:
        """In all lines together, since they share one memory."""
        waiting = sum(each.bytes for each in self._lines)
        if waiting and waiting + size > self._limits.queued_bytes:
            self._refuse(
                line,
                f"Rows that wait must take at most {self._limits.queued_bytes:,} bytes. Received: {size:,} more, while "
                f"{waiting:,} wait",
                "GAMMABETA_MAX_QUEUED_BYTES",
            )

    def _refuse(self, line: Line, why: str, setting: str) -> NoReturn:
        error = Overloaded(f"{why}. Send it again after Retry-After seconds, or raise {setting}.")
        all_of_them = line.rows + self._most(line) - 1  # in whole batches
        error.retry_after = max(1.0, math.ceil(self._wait(line, all_of_them)))
        raise error

    def _piece(self, line: Line) -> int:
        """The most rows of one request that are computed at once."""
        return min(PIECE, self._most(line))

    def _most(self, line: Line) -> int:
        """The most rows that are computed at once."""
        return min(self._limits.batch_rows, line.cost.rows_in(min(PIECE_SECONDS, self._limits.queued_seconds)))

    def _soon(self) -> None:
        """In the next turn of the event loop, when all that came in this one stands in line."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Give each line its turn. Those that had one stand behind those that had none."""
        self._turn = None
        lines, served = [line for line in self._lines if line], []
        self._lines.clear()
        for line in lines:
            if self._start(line):
                served.append(line)
            else:
                self._lines.append(line)
        self._lines.extend(line for line in served if line)
        if served and self._lines:
            self._soon()

    def _start(self, line: Line) -> bool:
        """Compute the next batch of a line, if that may be now."""
        most = self._most(line)
        tickets = line.upcoming(most)
        rows = sum(each.next for each in tickets)
        here = line.cost.of(rows) <= HERE_SECONDS
        if not (here or self._free) or self._holds_back(line, rows, most):
            return False
        pieces = line.take(tickets)
        if here:
            _hand_out(line, pieces, line.compute(pieces))
        else:
            loop = asyncio.get_running_loop()
            computing = loop.run_in_executor(self._pool, line.compute, pieces)
            self._free -= 1
            self._ends[computing] = loop.time() + line.seconds(rows)
            computing.add_done_callback(partial(self._done, line, pieces))
        return True

    def _done(self, line: Line, pieces: Sequence[Piece], computing: asyncio.Future[Computed]) -> None:
        self._free += 1
        del self._ends[computing]
        if not computing.cancelled():
            computed = computing.result()
            line.took(sum(len(each.x) for each in pieces), (computed.ended_ns - computed.started_ns) / 1e9)
            _hand_out(line, pieces, computed)
        self._soon()

    def _holds_back(self, line: Line, rows: int, most: int) -> bool:
        """Whether those that wait together shall wait for more."""
        if line.alone or rows >= most or not self._limits.wait_seconds:
            return False
        rest = self._limits.wait_seconds - (time.perf_counter_ns() - line.first.since_ns) / 1e9
        if rest > 0 and line.timed_ns != line.first.since_ns:
            line.timed_ns = line.first.since_ns
            asyncio.get_running_loop().call_later(rest + CLOCK_SECONDS, self._soon)
        return rest > 0


def _hand_out(line: Line, pieces: Sequence[Piece], computed: Computed) -> None:
    spent = computed.ended_ns - computed.started_ns
    line.statistics.executed(sum(len(each.x) for each in pieces), spent)
    for piece, outcome in zip(pieces, computed.outcomes, strict=True):
        ticket = piece.ticket
        if ticket.answer.done():
            continue
        if isinstance(outcome, Exception):
            ticket.answer.set_exception(outcome)
            continue
        if not ticket.done:
            ticket.queue_ns = computed.started_ns - ticket.since_ns
        ticket.compute_ns += spent
        ticket.done[piece.start] = outcome
        if sum(map(len, ticket.done.values())) == len(ticket.x):
            _answer(line, ticket)


def _answer(line: Line, ticket: Ticket) -> None:
    parts = [ticket.done[start] for start in sorted(ticket.done)]
    line.statistics.answered(len(ticket.x), queue_ns=ticket.queue_ns, compute_ns=ticket.compute_ns)
    ticket.answer.set_result(parts[0] if len(parts) == 1 else np.concatenate(parts))
