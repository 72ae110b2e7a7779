"""What takes its time to find out, and is asked for more often than it changes.

    newest ──► the last answer, for a second ──► it
          └──► asked anew, beside the event loop ──in time──► the answer
                                              └──too late──► None: whoever is asked is away

Who asks waits for a moment at most, however long the answer takes. One question is under way at a time, in a thread
that nobody else needs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

from gammabeta import logs
from gammabeta.errors import NotReady

FRESH_SECONDS = 1.0
PATIENCE_SECONDS = 2.0
"""Prometheus gives a scrape ten seconds by default, and Kubernetes a probe one."""

T = TypeVar("T")

log = logs.get(__name__)


class Remembered(Generic[T]):
    """The answer of `ask`, for the event loop. `otherwise` is what the log says where there is none."""

    def __init__(
        self,
        ask: Callable[[], T],
        *,
        otherwise: str,
        fresh_seconds: float = FRESH_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.ask, self.otherwise = ask, otherwise
        self.fresh_seconds, self.patience_seconds = fresh_seconds, patience_seconds
        self.last: T | None = None
        """The last answer that there was, however old."""
        self._threads = anyio.CapacityLimiter(1)
        self._asking: asyncio.Task[T | None] | None = None
        self._answered = 0.0

    async def newest(self) -> T | None:
        """None: there is no answer in time."""
        asking = self._asking
        if asking is None or (asking.done() and time.monotonic() - self._answered > self.fresh_seconds):
            asking = self._asking = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait((asking,), timeout=self.patience_seconds)
        return asking.result() if done else None

    async def _ask(self) -> T | None:
        try:
            # Abandoned where the service stops: a database that hangs is no reason to stay.
            self.last = await anyio.to_thread.run_sync(self.ask, limiter=self._threads, abandon_on_cancel=True)
            return self.last
        except NotReady as error:
            log.warning(self.otherwise, why=error.message)
        except Exception:
            log.exception(self.otherwise)
        finally:
            self._answered = time.monotonic()
        return None
