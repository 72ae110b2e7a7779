"""Parsing and writing: on the event loop where it is short, else at a workbench, where only so much may wait.

work ──short, at the pace of such work before──► event loop
  └──► workbench: a thread is free, or little waits ──► thread
                    └──too much waits──► Overloaded
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from gammabeta.errors import Overloaded

T = TypeVar("T")

SHORT_NS = 1_000_000
"""What may hold up the event loop. The parsers keep the interpreter's lock, so that in a thread they would hold it up
as well, but for the pauses that the interpreter makes."""
SMALL_BYTES = 16_384
"""Too few to tell a pace from."""


class Pace:
    """How long one kind of work on so many bytes takes, as learned from the work before.

    Counted is the processor's time of the thread: how long it waits for others says nothing of the work.
    """

    def __init__(self, ns_per_byte: float = 10.0) -> None:
        self._ns_per_byte = ns_per_byte

    def is_short(self, size: int) -> bool:
        """Whether work on so many bytes may be done on the event loop."""
        return size < SMALL_BYTES or self.expected_ns(size) <= SHORT_NS

    def expected_ns(self, size: int) -> float:
        """How long work on so many bytes will take."""
        return size * self._ns_per_byte

    def kept(self, work: Callable[[], T], size: int) -> T:
        """Do the work, and learn. In any thread: what is lost between two of them is learned again."""
        if size < SMALL_BYTES:
            return work()
        start = time.thread_time_ns()
        result = work()
        self._ns_per_byte += ((time.thread_time_ns() - start) / size - self._ns_per_byte) / 8
        return result


class Workbench:
    """Threads for work that would hold up the event loop. All methods run on it.

    Who waits for a thread does so here, not in the queue of the pool, which would hold the bodies of those that have
    gone until a thread comes upon them.
    """

    def __init__(self, pool: Executor, *, threads: int, seconds: float, size: int, doing: str) -> None:
        """
        Args:
            seconds: how long one may have to wait for a thread.
            size: how many bytes may wait.
            doing: what is done here to a body or an answer, such as "read", for the message of a refusal.
        """
        self._pool, self._threads, self._turns = pool, threads, asyncio.Semaphore(threads)
        self._seconds, self._size, self._doing = seconds, size, doing
        self._ns, self._bytes = 0.0, 0

    @property
    def wait_seconds(self) -> float:
        """How long who comes now waits, as far as the paces tell."""
        return self._ns / self._threads / 1e9 if self._turns.locked() else 0.0

    def check_room(self, held: int = 0) -> None:
        """Whether somebody who holds so many bytes may wait. Where a thread is free, anybody may.

        Raises:
            Overloaded: too much waits already.
        """
        wait = self.wait_seconds
        if not self._turns.locked() or (wait <= self._seconds and self._bytes + held <= self._size):
            return
        error = Overloaded(
            f"At most {1_000 * self._seconds:,.0f} ms of work and {self._size:,} bytes may wait to be {self._doing}. "
            f"Received: {held:,} bytes more, while {1_000 * wait:,.0f} ms and {self._bytes:,} bytes wait. Send it "
            "again after Retry-After seconds, or raise GAMMABETA_MAX_QUEUED_MS or GAMMABETA_MAX_QUEUED_BYTES."
        )
        error.retry_after = max(1.0, math.ceil(wait))
        raise error

    async def do(self, work: Callable[[], T], size: int, pace: Pace, *, held: int) -> T:
        """Do the work, which `held` bytes wait for, in a thread as soon as one is free. Who gives up while he waits has
        no work done."""
        working: asyncio.Future[T] | None = None
        expected = pace.expected_ns(size)
        self._ns, self._bytes = self._ns + expected, self._bytes + held
        try:
            await self._turns.acquire()
            working = asyncio.get_running_loop().run_in_executor(self._pool, pace.kept, work, size)
            working.add_done_callback(self._ended)
            # A thread cannot be stopped: its turn ends when it does, not when the work is given up.
            return await asyncio.shield(working)
        finally:
            # An error knows this frame, and would be known by it: a ring that keeps what was read, until it is found.
            working = None
            self._ns, self._bytes = self._ns - expected, self._bytes - held

    def _ended(self, working: asyncio.Future[T]) -> None:
        self._turns.release()
        if not working.cancelled():
            working.exception()  # asked for, so that the log has no word of one whose client has gone
