"""The checkpoints of a job, in the database; their bytes are blobs."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.orm import Session

from gammabeta.store import events, leases
from gammabeta.store.tables import CheckpointRow, core, now_ms

_ROWS = core(CheckpointRow)
_RENEW = update(leases.JOBS).where(leases.HELD).values(lease_until_ms=leases.RENEWED).returning(leases.JOBS.c.id)
_REPLACED = delete(_ROWS).where(
    _ROWS.c.job_id == bindparam("job"), _ROWS.c.fence == bindparam("attempt"), _ROWS.c.step == bindparam("at")
)
_ADD = insert(_ROWS).values(created_ms=now_ms()).inline()


def add_checkpoint(
    session: Session, *, job_id: str, fence: int, ttl_ms: int, step: int, uri: str, sha256: str, bytes: int
) -> bool:
    """Note a checkpoint whose bytes are stored, and renew the lease. False: the fence is lost, nothing was written."""
    if session.scalar(_RENEW, leases.attempt(job_id, fence) | {"ttl_ms": ttl_ms}) is None:
        return False
    session.execute(_REPLACED, {"job": job_id, "attempt": fence, "at": step})
    place = {"job_id": job_id, "fence": fence, "step": step, "uri": uri, "sha256": sha256, "bytes": bytes}
    session.execute(_ADD, place)
    events.record(session, job_id=job_id, fence=fence, type="checkpoint", data={"step": step, "bytes": bytes})
    return True


def checkpoints_of(session: Session, job_id: str) -> list[CheckpointRow]:
    """Newest first: a reader takes the first whose bytes are sound."""
    newest_first = (CheckpointRow.fence.desc(), CheckpointRow.step.desc())
    return list(session.scalars(select(CheckpointRow).where(CheckpointRow.job_id == job_id).order_by(*newest_first)))


def forget_older(session: Session, *, job_id: str, fence: int, kept: int) -> list[str]:
    """Drop all rows of the job but the newest `kept`: the places whose bytes can go once this is committed. None are
    dropped where the fence is lost."""
    if not leases.lock(session, job_id, fence):
        return []
    older = checkpoints_of(session, job_id)[kept:]
    for row in older:
        session.delete(row)
    session.flush()
    return [row.uri for row in older]


def forget(session: Session, job_id: str, *, fence: int) -> None:
    """Drop the rows of a job that ended with this fence; one that was queued again since has others."""
    statement = delete(CheckpointRow).where(CheckpointRow.job_id == job_id, CheckpointRow.fence <= fence)
    session.execute(statement.execution_options(synchronize_session=False))
