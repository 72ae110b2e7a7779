"""What the queue has come to, asked of the database when somebody wants to know, and not more often than so.

    newest ──► the last answer, for a second ──► it
          └──► asked anew, beside the event loop ──in time──► the answer
                                              └──too late──► None: the database is away

Who asks waits for a moment at most, whatever the database does. One question is under way at a time.
"""

from __future__ import annotations

import asyncio
import time

import anyio
import anyio.to_thread

from gammabeta import logs
from gammabeta.errors import NotReady
from gammabeta.store import census
from gammabeta.store.census import Census
from gammabeta.store.engine import Database

FRESH_SECONDS = 1.0
PATIENCE_SECONDS = 2.0
"""Prometheus gives a scrape ten seconds by default."""

log = logs.get(__name__)


class Backlog:
    """For the event loop."""

    def __init__(
        self, database: Database, *, fresh_seconds: float = FRESH_SECONDS, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._database, self._fresh, self._patience = database, fresh_seconds, patience_seconds
        self._threads = anyio.CapacityLimiter(1)
        self._asking: asyncio.Task[Census | None] | None = None
        self._asked = 0.0

    async def newest(self) -> Census | None:
        """None: the database does not answer."""
        asking = self._asking
        if asking is None or (asking.done() and time.monotonic() - self._asked > self._fresh):
            self._asked = time.monotonic()
            asking = self._asking = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait((asking,), timeout=self._patience)
        return asking.result() if done else None

    async def _ask(self) -> Census | None:
        try:
            # Abandoned where the service stops: a database that hangs is no reason to stay.
            return await anyio.to_thread.run_sync(self._count, limiter=self._threads, abandon_on_cancel=True)
        except NotReady as error:
            log.warning("queue not counted", why=error.message)
        except Exception:
            log.exception("queue not counted")
        return None

    def _count(self) -> Census:
        with self._database.read() as session:
            return census.take(session)
