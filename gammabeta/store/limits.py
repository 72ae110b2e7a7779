"""How many jobs may wait, and how many may run: counted in the transaction that would make it one more.

    submit ──► QueueLimits.check ──► QuotaExceeded, QueueFull       jobs that are queued
    claim  ──► RunningLimits.room ─► what the claim leaves queued   trainings, and predictions of data sets, that run

Each is exact: transactions that count take turns, on SQLite since there is one writer, on PostgreSQL by a lock that
lasts until the transaction ends. With no limit set nothing is counted and nobody waits. A job that comes back to the
queue (drained, lost, resumed, retried) was accepted once, and is never refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_
from sqlalchemy.orm import Session

from gammabeta.errors import QueueFull, QuotaExceeded
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import leases
from gammabeta.store.together import on_postgresql

JOBS = leases.JOBS

SUBMITTING, CLAIMING, STORING = 0x67616D6D62, 0x67616D6D63, 0x67616D6D64
"""PostgreSQL's advisory locks of those who count; the migrations have the one before."""


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How many jobs may be queued in all, and by one owner; None: any number."""

    jobs: int | None = None
    of_owner: int | None = None

    def check(self, session: Session, project_id: str, owner_id: str) -> None:
        """Whether one more may be queued now.

        Raises:
            QuotaExceeded: as many of this owner's are.
            QueueFull: as many in all are.
        """
        if self.jobs is None and self.of_owner is None:
            return
        take_turns(session, SUBMITTING)
        own = (JOBS.c.project_id == project_id, JOBS.c.owner_id == owner_id)
        if self.of_owner is not None and _queued(session, self.of_owner, *own) >= self.of_owner:
            raise QuotaExceeded(
                f"At most {self.of_owner:,} jobs of one key may be queued, and as many are. Wait until one of them "
                "runs, or cancel one."
            )
        if self.jobs is not None and _queued(session, self.jobs) >= self.jobs:
            raise QueueFull(f"At most {self.jobs:,} jobs may be queued, and as many are. Wait until one of them runs.")


@dataclass(frozen=True, kw_only=True)
class RunningLimits:
    """How many trainings, and predictions of data sets, may run at a time of one model, and of one owner; None: any
    number."""

    of_model: int | None = None
    of_owner: int | None = None

    def room(self, session: Session, lane: Lane) -> list[ColumnElement[bool]]:
        """The conditions under which a queued job of the lane may run now. To be used in this transaction."""
        if lane is not Lane.TRAIN or (self.of_model is None and self.of_owner is None):
            return []
        take_turns(session, CLAIMING)
        conditions = []
        if self.of_model is not None:
            model = tuple_(JOBS.c.project_id, JOBS.c.model)
            conditions.append(or_(JOBS.c.model.is_(None), model.not_in(_full("model", self.of_model))))
        if self.of_owner is not None:
            owner = tuple_(JOBS.c.project_id, JOBS.c.owner_id)
            conditions.append(owner.not_in(_full("owner_id", self.of_owner)))
        return conditions


NO_QUEUE_LIMITS, NO_RUNNING_LIMITS = QueueLimits(), RunningLimits()


def take_turns(session: Session, lock: int) -> None:
    """Wait until the transactions of those who count the same have ended. Each statement after this one sees what they
    committed: at READ COMMITTED it looks anew."""
    if on_postgresql(session):
        session.execute(select(func.pg_advisory_xact_lock(lock)))


def _queued(session: Session, limit: int, *which: ColumnElement[bool]) -> int:
    """How many are, counted no further than the limit."""
    found = select(JOBS.c.id).where(leases.in_state(JobState.QUEUED), *which).limit(limit).subquery()
    return session.scalar(select(func.count()).select_from(found)) or 0


def _full(column: str, limit: int) -> Select[tuple[str, str]]:
    """Of which projects and models, say, as many such jobs run as may. It is read once for a claim, not for each job
    in the queue."""
    running = JOBS.alias("busy")
    counted = running.c[column]
    in_lane = (
        leases.in_state(JobState.RUNNING, running),
        running.c.lane == Lane.TRAIN.value,
        counted.is_not(None),
    )
    grouped = select(running.c.project_id, counted).where(*in_lane).group_by(running.c.project_id, counted)
    return grouped.having(func.count() >= limit)
