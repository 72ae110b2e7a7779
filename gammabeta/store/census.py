"""How many jobs wait and run, and since when the first of them waits: counted by the indexes of those two states, never
by a look at all jobs."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, literal_column, null, select, union_all
from sqlalchemy.orm import Session

from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store.leases import JOBS, in_state
from gammabeta.store.tables import now_ms

COUNTED = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Census:
    """Of all projects, at one moment."""

    jobs: dict[tuple[JobState, Lane], int]
    """Queued and running ones of each lane; 0 where there are none."""
    oldest_seconds: dict[Lane, float]
    """For how long the queued job of the lane that waits longest could have run; 0 where none waits. A job that comes
    back to the queue begins anew, and its pause before it is repeated does not count."""


def take(session: Session) -> Census:
    """Count now."""
    jobs = {(state, lane): 0 for state in COUNTED for lane in Lane}
    oldest = dict.fromkeys(Lane, 0.0)
    for state, lane, count, waited_ms in session.execute(_COUNT):
        jobs[JobState(state), Lane(lane)] = count
        if waited_ms is not None:
            oldest[Lane(lane)] = max(0, waited_ms) / 1_000
    return Census(jobs=jobs, oldest_seconds=oldest)


_COUNT = union_all(
    select(literal_column("'queued'"), JOBS.c.lane, func.count(), now_ms() - func.min(JOBS.c.run_after_ms))
    .where(in_state(JobState.QUEUED))
    .group_by(JOBS.c.lane),
    select(literal_column("'running'"), JOBS.c.lane, func.count(), null())
    .where(in_state(JobState.RUNNING))
    .group_by(JOBS.c.lane),
)
