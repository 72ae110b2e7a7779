"""A worker that was told to stop ends in time, whatever holds it up.

SIGTERM ──► ends within the time: as if there were no bound
        └─► does not: it leaves. The kernel ends its children, and the leases of their jobs run out

A thread of its own looks at the clock, since all others may wait for a database that does not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gammabeta import logs

log = logs.get(__name__)


@contextmanager
def in_time(told: threading.Event, *, seconds: float, leave: Callable[[], None]) -> Iterator[None]:
    """The block ends within so many seconds of the event; if it does not, `leave` is called."""
    ended = threading.Event()

    def watch() -> None:
        told.wait()
        if not ended.wait(seconds):
            log.error("worker leaves before its jobs are given back", told_to_stop_seconds_ago=seconds)
            leave()

    threading.Thread(target=watch, name="leaving", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        told.set()
