"""What happened to jobs, and what they measured.

A type of event that is the name of a terminal state ends the job. Behind it there are events only of one that was
retried, and `restored`, of a database that came out of a backup. The event that ends an attempt carries
`data.outcome`: success, failure, loss, drain, pause or cancel. An attempt that goes on from a checkpoint says so with
an event `resumed` and `data.step`: that is where readers cut what older attempts wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CTE, Insert, bindparam, insert, literal_column, select, update
from sqlalchemy.orm import Session

from gammabeta.schemas.jobs import Event, Metrics, Series
from gammabeta.store import leases
from gammabeta.store.tables import EventRow, JobRow, PointRow, core, moment, now_ms

LARGEST_CURSOR = 2**63 - 1
MAX_WARNINGS = 50

_EVENTS = core(EventRow)
RECORD = (
    insert(_EVENTS)
    .values(
        job_id=bindparam("of_job"),
        fence=bindparam("of_fence"),
        type=bindparam("event"),
        data=bindparam("event_data"),
        created_ms=now_ms(),
    )
    .inline()
)
"""Append an event, given by `given`."""
_MEASURE = insert(core(PointRow)).inline()


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """The values at one step. None: not finite."""

    step: int
    epoch: int
    values: dict[str, float | None]


def record(session: Session, *, job_id: str, fence: int, type: str, data: dict[str, Any] | None = None) -> None:
    """Append an event. The caller's transaction holds the lock of the job's row."""
    session.execute(RECORD, given(job_id, fence, type, data))


def given(job_id: str, fence: int, type: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `RECORD` is given."""
    return {"of_job": job_id, "of_fence": fence, "event": type, "event_data": data or {}}


def recording(moved: CTE, type: str) -> Insert:
    """An event of each job that a statement moves, as a part of it: `moved` has its `job_id` and `fence`. Only where
    `together.on_postgresql`. The data are given as `event_data`."""
    data = bindparam("event_data", type_=_EVENTS.c.data.type)
    each = select(moved.c.job_id, moved.c.fence, literal_column(f"'{type}'"), data, now_ms())
    return insert(_EVENTS).from_select(["job_id", "fence", "type", "data", "created_ms"], each)


def add_event(session: Session, *, job_id: str, fence: int, type: str, data: dict[str, Any]) -> bool:
    """An event of the attempt. False: the fence is lost, and nothing was written."""
    if not leases.lock(session, job_id, fence):
        return False
    record(session, job_id=job_id, fence=fence, type=type, data=data)
    return True


def add_metrics(session: Session, *, job_id: str, fence: int, rows: Sequence[MetricRow]) -> bool:
    """Points of the attempt's series. False: the fence is lost, and nothing was written. The same ones may be written
    again, by who could not know that they were: `metrics_of` counts each step once."""
    if not leases.lock(session, job_id, fence):
        return False
    points = [
        {"job_id": job_id, "fence": fence, "step": row.step, "epoch": row.epoch, "values": row.values} for row in rows
    ]
    if points:
        session.execute(_MEASURE, points)
    return True


def add_warning(session: Session, *, job_id: str, fence: int, code: str, message: str) -> bool:
    """A warning that the job shows from now on; the same one again, by a later attempt, counts once. False: the fence
    is lost, and nothing was written."""
    if not leases.lock(session, job_id, fence):
        return False
    warning = {"code": code, "message": message}
    warnings = session.scalars(select(JobRow.warnings).where(JobRow.id == job_id)).one()
    if warning in warnings or len(warnings) >= MAX_WARNINGS:
        return True
    session.execute(update(JobRow).where(leases.held(job_id, fence)).values(warnings=[*warnings, warning]))
    record(session, job_id=job_id, fence=fence, type="warning", data=warning)
    return True


def events_of(session: Session, job_id: str, *, after: int = 0, limit: int = 100) -> list[EventRow]:
    """The job's events behind the cursor, oldest first."""
    behind = select(EventRow).where(EventRow.job_id == job_id, EventRow.id > _bounded(after))
    return list(session.scalars(behind.order_by(EventRow.id).limit(limit)))


def events_after(session: Session, cursors: dict[str, int]) -> list[EventRow]:
    """What is new for readers of several jobs: the events of each behind its own cursor, oldest first."""
    if not cursors:
        return []
    query = select(EventRow).where(EventRow.job_id.in_(cursors), EventRow.id > _bounded(min(cursors.values())))
    return [row for row in session.scalars(query.order_by(EventRow.id)) if row.id > cursors[row.job_id]]


def _bounded(cursor: int) -> int:
    return max(0, min(cursor, LARGEST_CURSOR))


def to_schema(row: EventRow) -> Event:
    """The event as the service shows it."""
    return Event(
        id=row.id,
        job=row.job_id,
        type=row.type,
        attempt=row.fence,
        data=row.data,
        created_at=moment(row.created_ms),
    )


def metrics_of(session: Session, job_id: str, names: Iterable[str] | None = None) -> Metrics:
    """The series of a job as if it had never been interrupted: what an attempt wrote past the step from which a later
    one went on is left out, and a step that was written twice counts once. `names=None`: all."""
    points = list(session.scalars(select(PointRow).where(PointRow.job_id == job_id).order_by(PointRow.id)))
    ends = _ends(points, _resume_steps(session, job_id))
    wanted = None if names is None else set(names)
    found: dict[str, dict[int, tuple[int, float | None]]] = {}
    for point in points:
        if point.step > ends[point.fence]:
            continue
        for name, value in point.values.items():
            if wanted is None or name in wanted:
                found.setdefault(name, {})[point.step] = (point.epoch, value)
    return Metrics(job=job_id, series=tuple(_series(name, by_step) for name, by_step in found.items()))


def _series(name: str, by_step: dict[int, tuple[int, float | None]]) -> Series:
    epochs, values = zip(*by_step.values(), strict=True)
    return Series(name=name, step=list(by_step), epoch=list(epochs), value=list(values))


def _resume_steps(session: Session, job_id: str) -> dict[int, int]:
    """The step from which an attempt went on, by fence."""
    query = select(EventRow.fence, EventRow.data).where(EventRow.job_id == job_id, EventRow.type == "resumed")
    return {fence: int(data["step"]) for fence, data in session.execute(query)}


def _ends(points: list[PointRow], resumed: dict[int, int]) -> dict[int, int]:
    """The last step, by fence, that counts of what the attempt wrote. An attempt that did not say where it began
    counts from its first point."""
    first: dict[int, int] = {}
    for point in points:
        first[point.fence] = min(point.step, first.get(point.fence, point.step))
    end, ends = LARGEST_CURSOR, {}
    for fence in sorted(first.keys() | resumed.keys(), reverse=True):
        ends[fence] = end
        end = min(end, resumed[fence] if fence in resumed else first[fence] - 1)
    return ends
