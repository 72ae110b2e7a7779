"""The lease of one attempt, renewed by a thread of its own: whatever the rest of the attempt waits for, it goes on.

renewed            ──► what is asked: cancel, pause
no row             ──► lost: another attempt may be running. Kill the trainer, publish nothing
no answer          ──► go on; lost after `max_blind_seconds`, by a second thread, since a database that hangs instead
                       of refusing holds up the first
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from gammabeta import failpoints, logs
from gammabeta.errors import NoSpace, NotReady
from gammabeta.failpoints import Failpoint
from gammabeta.store import jobs
from gammabeta.store.engine import Database, Session
from worker.metrics import Metrics
from worker.settings import WorkerSettings

log = logs.get(__name__)

NOTHING_ASKED = jobs.Flags(cancel_requested=False, pause_requested=False)


def boot_seconds() -> float:
    """A clock that does not stop while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """Held from its `with` to the end of it. `on_lost` is called at once, in the thread that finds out."""

    def __init__(
        self,
        db: Database,
        claim: jobs.Claim,
        settings: WorkerSettings,
        *,
        on_lost: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self._db, self._claim, self._settings, self._on_lost = db, claim, settings, on_lost
        self._metrics = metrics
        self.flags = NOTHING_ASKED
        self.lost, self._losing = threading.Event(), threading.Lock()
        self._closed = threading.Event()
        self._turn, self._ended = threading.Lock(), False
        self._progress: dict[str, Any] | None = None
        self._telling = threading.Lock()
        self._answered = True
        self._renewed = boot_seconds()
        self._threads = [
            threading.Thread(target=target, name=f"lease {claim.job_id}", daemon=True)
            for target in (self._run, self._watch)
        ]

    def __enter__(self) -> Lease:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def report(self, progress: dict[str, Any]) -> None:
        """Have the progress written with one of the next renewals."""
        with self._telling:
            self._progress = progress

    def lose(self) -> None:
        """The fence was found lost. Several threads may find out at the same time; it is told of once."""
        with self._losing:
            if self.lost.is_set():
                return
            self.lost.set()
        log.warning("fence lost", job=self._claim.job_id, fence=self._claim.fence)
        self._metrics.leases_lost.inc()
        self._on_lost()

    @contextmanager
    def last_word(self) -> Iterator[None]:
        """Within it the end of the attempt is written, and is committed when the block ends without an error. A
        heartbeat that crosses it finds no row, and that is no loss."""
        with self._turn:
            yield
            self._ended = True

    def renew(self) -> None:
        """One heartbeat."""
        progress = self._progress
        try:
            with self._db.write() as session:
                flags = self.renew_within(session)
                failpoints.reached(Failpoint.LEASE_BEFORE_COMMIT)
        except (NotReady, NoSpace) as error:
            self._answered = False
            self._metrics.renewals_failed.inc()
            log.warning(
                "lease not renewed", job=self._claim.job_id, blind_seconds=self._blind_seconds(), why=str(error)
            )
            return
        self._answered = True
        if flags is not None:
            self.flags, self._renewed = flags, boot_seconds()
            with self._telling:
                if self._progress is progress:  # else a newer one waits already
                    self._progress = None
            return
        with self._turn:
            if not self._ended:
                self.lose()

    def renew_within(self, session: Session) -> jobs.Flags | None:
        """The heartbeat as part of a transaction, with the newest progress. None: the fence is lost."""
        return jobs.heartbeat(
            session,
            job_id=self._claim.job_id,
            fence=self._claim.fence,
            ttl_ms=self._settings.lease_ms,
            progress=self._progress,
        )

    def _blind_seconds(self) -> float:
        return round(boot_seconds() - self._renewed, 1)

    def _watch(self) -> None:
        """No SQL here."""
        while not self._closed.wait(min(1, self._settings.heartbeat_seconds)) and not self.lost.is_set():
            if boot_seconds() - self._renewed > self._settings.max_blind_seconds:
                log.warning("blind for too long", job=self._claim.job_id, blind_seconds=self._blind_seconds())
                self.lose()

    def _run(self) -> None:
        tried = boot_seconds()
        while not self._closed.wait(min(self._settings.report_seconds, self._settings.heartbeat_seconds)):
            if self.lost.is_set():
                return
            news = self._progress is not None and self._answered  # else it waits for the next heartbeat
            if news or boot_seconds() - tried >= self._settings.heartbeat_seconds:
                tried = boot_seconds()
                try:
                    self.renew()
                except Exception:
                    log.exception("lease not renewed", job=self._claim.job_id)
                    self.lose()
