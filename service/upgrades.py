"""Whether the database still serves this version, which another version may have upgraded meanwhile.

migrations.complaint ──every few seconds──► Upgrades.complaint ──► 503 not_ready for whoever asks the database
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio.to_thread

from gammabeta import logs
from gammabeta.errors import NotReady
from gammabeta.store import migrations
from gammabeta.store.engine import Database

log = logs.get(__name__)


class Upgrades:
    """`complaint`: why this version must not use the database any more, as far as is known."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = anyio.CapacityLimiter(1)
        self.complaint: str | None = None

    def check(self) -> None:
        """Go on where there is no complaint.

        Raises:
            NotReady: the database must not be used.
        """
        if self.complaint is not None:
            raise NotReady(self.complaint)

    async def watch(self, *, every: float) -> None:
        """Look for as long as the service runs."""
        while True:
            with suppress(NotReady):  # whoever asks it learns that it does not answer
                complaint = await anyio.to_thread.run_sync(migrations.complaint, self._database, limiter=self._threads)
                if complaint is not None and complaint != self.complaint:
                    log.error("the database must not be used", why=complaint)
                self.complaint = complaint
            await asyncio.sleep(every)
