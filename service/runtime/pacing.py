"""Parsing and writing: on the event loop where it is short, else in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

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
        return size < SMALL_BYTES or size * self._ns_per_byte <= SHORT_NS

    def kept(self, work: Callable[[], T], size: int) -> T:
        """Do the work, and learn. In any thread: what is lost between two of them is learned again."""
        if size < SMALL_BYTES:
            return work()
        start = time.thread_time_ns()
        result = work()
        self._ns_per_byte += ((time.thread_time_ns() - start) / size - self._ns_per_byte) / 8
        return result
