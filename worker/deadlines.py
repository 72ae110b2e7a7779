"""The longest that one attempt may take, as `max_seconds` of its job says.

claim ──► in time: as if there were none
      └─► passed: the child is killed; what it had stored as a checkpoint stays for a retry
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from worker.lease import boot_seconds

EXCEEDED = "deadline_exceeded"
"""The code of a job that failed by its deadline."""


class Deadline:
    """Watched from its `with` to the end of it, by a thread that waits for no child and no database. Seconds count
    from when this was made, those that the machine sleeps too. `on_passed` is called in that thread."""

    def __init__(
        self, seconds: float | None, *, on_passed: Callable[[], None], clock: Callable[[], float] = boot_seconds
    ) -> None:
        self.seconds = seconds
        self._on_passed, self._clock = on_passed, clock
        self._began = clock()
        self._passed, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)

    def __enter__(self) -> Deadline:
        if self.seconds is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        if self.seconds is not None:
            self._thread.join()

    @property
    def passed(self) -> bool:
        return self._passed.is_set()

    def _watch(self) -> None:
        while (left := self._left()) > 0:
            if self._closed.wait(min(1, left)):  # a wait does not count the time that the machine sleeps
                return
        self._passed.set()
        self._on_passed()

    def _left(self) -> float:
        return self._began + (self.seconds or 0) - self._clock()
