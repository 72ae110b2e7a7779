"""What an attempt has to tell the database: kept in order, written together, and kept again while it is away.

Where the connection breaks between a commit and its answer, it is written again. Of that, events may be seen twice;
points of a series, warnings and checkpoints are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gammabeta import logs
from gammabeta.errors import NoSpace, NotReady
from gammabeta.store import events
from gammabeta.store.engine import Database, Session
from gammabeta.store.jobs import Claim
from worker.messages import MetricsRow

log = logs.get(__name__)

Write = Callable[[Session], bool]
"""False: the fence is lost, and nothing was written."""


class Outbox:
    """Writes of one attempt. Used by one thread."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._waiting: list[Write] = []
        self._metrics: list[events.MetricRow] = []

    def add(self, write: Write) -> None:
        """Have something written with the next flush."""
        self._close_metrics()
        self._waiting.append(write)

    def event(self, name: str, data: dict[str, object]) -> None:
        job_id, fence = self._claim.job_id, self._claim.fence
        self.add(lambda session: events.add_event(session, job_id=job_id, fence=fence, type=name, data=data))

    def warning(self, code: str, message: str) -> None:
        job_id, fence = self._claim.job_id, self._claim.fence
        self.add(lambda session: events.add_warning(session, job_id=job_id, fence=fence, code=code, message=message))

    def metrics(self, row: MetricsRow) -> None:
        self._metrics.append(events.MetricRow(step=row.step, epoch=row.epoch, values=row.values))

    def _close_metrics(self) -> None:
        rows: Sequence[events.MetricRow] = self._metrics
        if rows:
            self._metrics = []
            job_id, fence = self._claim.job_id, self._claim.fence
            self._waiting.append(lambda session: events.add_metrics(session, job_id=job_id, fence=fence, rows=rows))

    def write(self, session: Session) -> bool:
        """Everything that waits, in the caller's transaction; `clear` after it was committed. False: fence lost."""
        self._close_metrics()
        return all(write(session) for write in self._waiting)

    def clear(self) -> None:
        self._waiting.clear()

    def flush(self, db: Database) -> bool:
        """Everything that waits, in a transaction of its own; it waits on while the database is away. False: the fence
        is lost."""
        self._close_metrics()
        if not self._waiting:
            return True
        try:
            with db.write() as session:
                held = self.write(session)
        except (NotReady, NoSpace) as error:
            log.warning("reports not written", job=self._claim.job_id, waiting=len(self._waiting), why=str(error))
            return True
        self.clear()
        return held
