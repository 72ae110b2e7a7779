"""Jobs as they are shown: pages of them, the words for their states, their places in the queue."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, func, literal, or_, select
from sqlalchemy.orm import Session

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.jobs import Job, JobError, JobState, JobStatus, JobWarning, Progress
from gammabeta.store import leases
from gammabeta.store.tables import JobRow, Words, moment


def find(
    session: Session,
    project_id: str,
    *,
    statuses: Iterable[JobStatus] = (),
    kind: str | None = None,
    model: str | None = None,
    metadata: dict[str, str] | None = None,
    after: str | None = None,
    limit: int = 20,
    ascending: bool = False,
) -> list[JobRow]:
    """A page of jobs in the order of their ids, which is the order of submission. `statuses`: any of them; empty: all.

    Raises:
        InvalidRequest: a key of `metadata` cannot be searched for.
    """
    query = select(JobRow).where(JobRow.project_id == project_id)
    if statuses:
        query = query.where(or_(*(_shows(status) for status in statuses)))
    if kind is not None:
        query = query.where(JobRow.kind == kind)
    if model is not None:
        query = query.where(JobRow.model == model)
    for key, value in (metadata or {}).items():
        query = query.where(_labelled(key, value))
    if after is not None:
        query = query.where(JobRow.id > after if ascending else JobRow.id < after)
    return list(session.scalars(query.order_by(JobRow.id if ascending else JobRow.id.desc()).limit(limit)))


def of_project(session: Session, project_id: str, job_ids: Iterable[str]) -> set[str]:
    """Those of these jobs that the project has."""
    query = select(JobRow.id).where(JobRow.project_id == project_id, JobRow.id.in_(list(job_ids)))
    return set(session.scalars(query))


def _shows(status: JobStatus) -> ColumnElement[bool]:
    match status:
        case "queued" | "retrying":
            again = JobRow.fence > 0 if status == "retrying" else JobRow.fence == 0
            return and_(JobRow.state == JobState.QUEUED, again)
        case "running" | "cancelling":
            asked = JobRow.cancel_requested_ms.is_not(None)
            return and_(JobRow.state == JobState.RUNNING, asked if status == "cancelling" else ~asked)
        case _:
            return JobRow.state == status


def _labelled(key: str, value: str) -> ColumnElement[bool]:
    if not key.isprintable() or '"' in key or "\\" in key:
        raise InvalidRequest.of("metadata", "must be searched by a key without quotes, backslashes and controls", key)
    found: ColumnElement[str] = JobRow.labels[key].as_string()
    return found == literal(value, Words())


def status_of(row: JobRow) -> JobStatus:
    """The word that is shown for the state."""
    match JobState(row.state):
        case JobState.QUEUED if row.fence > 0:
            return "retrying"
        case JobState.RUNNING if row.cancel_requested_ms is not None:
            return "cancelling"
        case state:
            return state.value


def queue_position(session: Session, row: JobRow) -> int | None:
    """1: the next of its lane. All that stand before it are counted, those too that are passed over for now: since they
    wait before they are repeated, since a limit on running jobs holds them back, or since they wait for a newer worker.
    None unless queued."""
    if row.state != JobState.QUEUED:
        return None
    place = {"its_lane": row.lane, "its_priority": row.priority, "its_created_ms": row.created_ms, "its_id": row.id}
    return 1 + (session.scalar(_COUNT_AHEAD, place) or 0)


_ITS_PRIORITY: BindParameter[int] = bindparam("its_priority")
_ITS_CREATED_MS: BindParameter[int] = bindparam("its_created_ms")
_EQUAL = leases.JOBS.c.priority == _ITS_PRIORITY
_AHEAD = or_(
    leases.JOBS.c.priority > _ITS_PRIORITY,
    and_(_EQUAL, leases.JOBS.c.created_ms < _ITS_CREATED_MS),
    and_(_EQUAL, leases.JOBS.c.created_ms == _ITS_CREATED_MS, leases.JOBS.c.id < bindparam("its_id")),
)
_COUNT_AHEAD = select(func.count()).where(
    leases.in_state(JobState.QUEUED), leases.JOBS.c.lane == bindparam("its_lane"), _AHEAD
)


def _progress(row: JobRow) -> Progress | None:
    if row.progress is None:
        return None
    progress = Progress.model_validate(row.progress)
    return progress if row.state == JobState.RUNNING else progress.model_copy(update={"eta_seconds": None})


def to_schema(row: JobRow, *, queue_position: int | None = None) -> Job:
    """The job as the service shows it."""
    failed = row.state == JobState.FAILED
    return Job(
        id=row.id,
        kind=row.kind,
        status=status_of(row),
        queue_position=queue_position,
        progress=_progress(row),
        attempt=row.fence,
        model=row.model,
        version=None if row.version is None else str(row.version),
        dataset=row.dataset_id,
        device=row.device,
        result=row.result,
        error=JobError(code=row.reason or "failed", message=row.message or "") if failed else None,
        warnings=tuple(JobWarning.model_validate(each) for each in row.warnings),
        metadata=row.labels,
        created_at=moment(row.created_ms),
        started_at=None if row.started_ms is None else moment(row.started_ms),
        finished_at=None if row.finished_ms is None else moment(row.finished_ms),
        request=row.request,
    )
