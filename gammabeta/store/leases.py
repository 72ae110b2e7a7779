"""The fence: the guard under which every write of an attempt stands.

An INSERT on behalf of an attempt follows a statement that locks the job's row under this guard, in the same
transaction. An `INSERT … WHERE EXISTS(… fence …)` would not do: on PostgreSQL it can commit after the job was claimed
again, and a lock on the row cannot.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, literal, select
from sqlalchemy.orm import Session

from gammabeta.schemas.jobs import JobState
from gammabeta.store.tables import JobRow, Words


def held(job_id: str, fence: int) -> ColumnElement[bool]:
    """Whether this attempt still holds the job."""
    return and_(JobRow.id == job_id, JobRow.fence == fence, JobRow.state == JobState.RUNNING)


def lock(session: Session, job_id: str, fence: int) -> bool:
    """Keep the job with this attempt until the transaction ends. False: the fence is lost."""
    return session.scalar(select(JobRow.id).where(held(job_id, fence)).with_for_update()) is not None


def in_state(state: JobState) -> ColumnElement[bool]:
    """Written into the statement as text, since a planner uses the partial indexes only for a state that it can see."""
    return JobRow.state == literal(state.value, Words(), literal_execute=True)
