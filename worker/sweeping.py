"""What nobody needs any more is removed by a thread of its own: a store may take hours over it, and a worker has to say
that it lives meanwhile, and to reap.

    every ten minutes ──► what was kept for as long as the settings say, checkpoints and uploads that are over, what
                          was left incomplete
    every hour        ──► blobs that no row names, by the worker that has lived longest
    reaped jobs       ──► at once, one by one

It ends between two removals when the worker drains: the next sweep comes by anyway.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

from gammabeta import logs
from gammabeta.errors import NoSpace, NotReady
from gammabeta.store import workers
from gammabeta.store.engine import Database
from gammabeta.store.retention import Retention
from gammabeta.store.stored import Blobs
from worker import expiring, keeping

SWEEP_SECONDS = 600.0
ORPHANS_SECONDS = 3_600.0
LEAVE_SECONDS = 2.0
"""How long it is waited for at the end. It loses nothing when the process ends first."""

log = logs.get(__name__)


class Sweeper(threading.Thread):
    """Of one worker, until `draining` is set and `stop` is called. An error of a store says nothing about the database,
    so the reaper hears of none."""

    def __init__(
        self, db: Database, blobs: Blobs, *, worker_id: str, draining: threading.Event, keep: Retention
    ) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._db, self._blobs, self._worker_id, self._draining, self._keep = db, blobs, worker_id, draining, keep
        self._ended: SimpleQueue[str | None] = SimpleQueue()
        self._sweep_at = self._orphans_at = time.monotonic()

    def clean(self, job_ids: list[str]) -> None:
        """Remove soon what is left of those of the jobs that have ended."""
        for job_id in job_ids:
            self._ended.put(job_id)

    def stop(self) -> None:
        """Wait for a moment, until the removal that is under way has ended."""
        self._ended.put(None)
        self.join(LEAVE_SECONDS)

    def run(self) -> None:
        while not self._draining.is_set():
            try:
                job_id = self._ended.get(timeout=max(0.0, self._sweep_at - time.monotonic()))
            except Empty:
                self._attempted("not expired", partial(expiring.expire, self._db, self._blobs, self._keep))
                self._attempted("not swept", self._sweep)
                self._sweep_at = time.monotonic() + SWEEP_SECONDS
                continue
            if job_id is not None:
                self._attempted("not cleaned up", partial(keeping.drop_if_ended, self._db, self._blobs, job_id))

    def _sweep(self) -> None:
        orphans = time.monotonic() >= self._orphans_at and self._lives_longest()
        keeping.sweep(self._db, self._blobs, orphans=orphans, over=self._draining.is_set)
        if orphans:
            self._orphans_at = time.monotonic() + ORPHANS_SECONDS

    def _lives_longest(self) -> bool:
        with self._db.read() as session:
            return self._worker_id in [row.id for row in workers.find(session)[:1]]

    def _attempted(self, otherwise: str, chore: Callable[[], object]) -> None:
        try:
            chore()
        except (NotReady, NoSpace) as error:
            log.warning(otherwise, why=str(error))
        except Exception:
            log.exception(otherwise)
