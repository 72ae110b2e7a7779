"""Which worker programs live. For people to look at: no decision about a job is made from these rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from gammabeta.store.tables import WorkerRow, now_ms


def register(
    session: Session, worker_id: str, *, hostname: str, pid: int, devices: list[str], slots: dict[str, Any]
) -> None:
    """A worker began; an older row under its id is replaced."""
    forget(session, worker_id)
    row = {"id": worker_id, "hostname": hostname, "pid": pid, "devices": devices, "slots": slots}
    session.execute(insert(WorkerRow).values(**row, started_ms=now_ms(), beat_ms=now_ms()))


def beat(session: Session, worker_id: str, *, slots: dict[str, Any] | None = None) -> bool:
    """The worker lives. False: it is not registered (any more)."""
    news: dict[str, Any] = {"beat_ms": now_ms()} | ({} if slots is None else {"slots": slots})
    statement = update(WorkerRow).where(WorkerRow.id == worker_id).values(**news).returning(WorkerRow.id)
    return session.scalar(statement.execution_options(synchronize_session=False)) is not None


def forget(session: Session, worker_id: str) -> None:
    """The worker ended."""
    statement = delete(WorkerRow).where(WorkerRow.id == worker_id)
    session.execute(statement.execution_options(synchronize_session=False))


def forget_silent(session: Session, *, silent_ms: int) -> None:
    """Drop the rows of workers that have not said for so long that they live."""
    statement = delete(WorkerRow).where(WorkerRow.beat_ms < now_ms() - silent_ms)
    session.execute(statement.execution_options(synchronize_session=False))


def find(session: Session) -> list[WorkerRow]:
    """All, the oldest first."""
    return list(session.scalars(select(WorkerRow).order_by(WorkerRow.started_ms, WorkerRow.id)))
