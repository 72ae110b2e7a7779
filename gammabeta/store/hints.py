"""Hints that a job can be claimed, so that nobody has to look for one all the time. On PostgreSQL only.

    submit, resume, retry, requeue ──NOTIFY with the commit──► Listener of each worker ──► its slots look at once
                                     "train 0", "train 1980": the lane, and in how many milliseconds

A hint may be lost, with its connection or behind a pooler that does not pass it on, and may come for a job that another
worker has taken. So it is never more than a reason to look: what the table says is true, and workers ask it from time
to time without any hint.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable

from sqlalchemy import Text, bindparam, cast, func, select
from sqlalchemy.orm import Session

from gammabeta import logs
from gammabeta.errors import NotReady
from gammabeta.schemas.jobs import Lane
from gammabeta.store.engine import Database
from gammabeta.store.tables import JobRow, core, now_ms
from gammabeta.store.together import on_postgresql

log = logs.get(__name__)

CHANNEL = "gammabeta_jobs"
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a lost connection is made anew."""
_LANES = {lane.value: lane for lane in Lane}
LOOK_SECONDS = 0.5
"""How often the listener looks whether it shall end."""


def give(session: Session, job_id: str) -> None:
    """Say with the commit that the job, which is queued now, can be claimed, and when."""
    if on_postgresql(session):
        session.execute(_GIVE, {"hinted": job_id})


_JOBS = core(JobRow)
_DUE_IN = cast(func.greatest(_JOBS.c.run_after_ms - now_ms(), 0), Text)
_GIVE = select(func.pg_notify(CHANNEL, _JOBS.c.lane + " " + _DUE_IN)).where(_JOBS.c.id == bindparam("hinted"))


class Listener(threading.Thread):
    """Calls `on_hint` in this thread when a job of a lane can be claimed, and for every lane whenever it has connected,
    since what it has missed it does not know. Holds one connection of its own, which it makes anew for as long as it
    takes."""

    def __init__(self, db: Database, on_hint: Callable[[Lane], None]) -> None:
        super().__init__(name="hints", daemon=True)  # it may hang in a database that hangs
        self._db, self._on_hint = db, on_hint
        self._stopped = threading.Event()
        self._due: list[tuple[float, Lane]] = []

    def stop(self) -> None:
        """End soon; nobody has to wait for it."""
        self._stopped.set()

    def run(self) -> None:
        """Until stopped."""
        pause = SHORTEST_PAUSE
        while not self._stopped.is_set():
            connected = time.monotonic()
            try:
                self._listen()
            except NotReady as error:
                log.warning("no hints", why=str(error))
            except Exception:
                log.exception("no hints")
            if time.monotonic() - connected > LONGEST_PAUSE:
                pause = SHORTEST_PAUSE
            self._stopped.wait(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, no secret
            pause = min(2 * pause, LONGEST_PAUSE)

    def _listen(self) -> None:
        with self._db.listening(CHANNEL) as payloads:
            for lane in Lane:
                self._on_hint(lane)
            while not self._stopped.is_set():
                for payload in payloads(self._patience()):
                    self._note(payload)
                self._tell()

    def _patience(self) -> float:
        """Seconds until something is due."""
        return min(LOOK_SECONDS, max(0.0, self._due[0][0] - time.monotonic())) if self._due else LOOK_SECONDS

    def _note(self, payload: str) -> None:
        lane, _, ms = payload.partition(" ")
        if lane in _LANES and ms.isdecimal():  # a newer version may say more
            heapq.heappush(self._due, (time.monotonic() + int(ms) / 1_000, _LANES[lane]))

    def _tell(self) -> None:
        told = set()
        while self._due and self._due[0][0] <= time.monotonic():
            told.add(heapq.heappop(self._due)[1])
        for lane in told:
            self._on_hint(lane)
