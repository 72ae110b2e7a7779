"""The fence: the guard under which every write of an attempt stands.

An INSERT on behalf of an attempt follows a statement that locks the job's row under this guard, in the same
transaction. An `INSERT … WHERE EXISTS(… fence …)` would not do: on PostgreSQL it can commit after the job was claimed
again, and a lock on the row cannot.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, FromClause, and_, bindparam, literal_column, select
from sqlalchemy.orm import Session

from gammabeta.schemas.jobs import JobState
from gammabeta.store.tables import JobRow, core, now_ms

JOBS = core(JobRow)


def in_state(state: JobState, jobs: FromClause = JOBS) -> ColumnElement[bool]:
    """Written into the statement as text, since a planner uses the partial indexes only for a state that it can see."""
    return jobs.c.state == literal_column(f"'{state.value}'")


HELD = and_(JOBS.c.id == bindparam("held_id"), JOBS.c.fence == bindparam("held_fence"), in_state(JobState.RUNNING))
"""Whether an attempt, given by `attempt`, still holds the job."""
RENEWED = now_ms() + bindparam("ttl_ms")
"""Until when its lease goes, if it is renewed now."""

_LOCK = select(JOBS.c.id).where(HELD).with_for_update()


def attempt(job_id: str, fence: int) -> dict[str, Any]:
    """What a statement with `HELD` is given."""
    return {"held_id": job_id, "held_fence": fence}


def held(job_id: str, fence: int) -> ColumnElement[bool]:
    """`HELD` for this attempt."""
    return and_(JobRow.id == job_id, JobRow.fence == fence, JobRow.state == JobState.RUNNING)


def lock(session: Session, job_id: str, fence: int) -> bool:
    """Keep the job with this attempt until the transaction ends. False: the fence is lost."""
    return session.scalar(_LOCK, attempt(job_id, fence)) is not None
