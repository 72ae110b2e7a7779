"""The queue: the table of jobs, and who may move a job from which state to which.

         submit             claim (fence+1)            publish
   ∅ ──────────────► queued ───────────────► running ──────────────► succeeded
                      │ ▲ ▲                  │ │ │ │
                      │ │ └── drain, retry ──┘ │ │ └─ stop (permanent, or failures/losses at their limit) ─► failed
               cancel │ └── resume ── paused ◄─┘ └─── stop or reap while cancel is requested ──► cancelled
                      └──────────────────┴─ cancel ──────────────────────────────────────────► cancelled
   reap (lease expired, losses+1): running ─► queued, or paused, cancelled, failed by the same rules

The lease is for liveness, the fence for safety: a worker may lose its lease and not know it, and then none of its
statements finds a row. Every guard stands in the WHERE of the statement that moves the job; the event is written after
it, in the same transaction. `publishing` has the transitions to succeeded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Update,
    and_,
    bindparam,
    case,
    false,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from gammabeta.errors import DatasetNotFound, JobNotFound, VersionNotFound, WrongState
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import events, hints, leases
from gammabeta.store.limits import NO_QUEUE_LIMITS, NO_RUNNING_LIMITS, QueueLimits, RunningLimits
from gammabeta.store.tables import DatasetRow, JobRow, ModelRow, VersionRow, Words, clean, core, new_id, now_ms
from gammabeta.store.together import on_postgresql

JOBS = leases.JOBS

TRAIN = "train"
"""The kind of job that trains a network."""

INGEST = "ingest"
"""The kind of job that reads an uploaded file."""

PREDICT = "predict"
"""The kind of job that answers a data set into a file."""

LIVE = tuple(state for state in JobState if not state.terminal)
"""What has not ended: it keeps what it uses."""

ENDED = tuple(state for state in JobState if state.terminal)

KINDS = (TRAIN, INGEST, PREDICT)
"""What a worker of this version can run. A newer service beside it may queue others: they wait for a newer worker."""

RESTORED = "restored"
"""The event of a job that came out of a backup; its fence is the one that the job has since."""

MAX_PAUSE_MS = 300_000
"""The longest pause before a lost or failed attempt is repeated."""

_LEASE_EXPIRED = "The worker that ran the job stopped renewing its lease: it was killed, or cut off from the database."


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to be queued. `request` is the resolved one."""

    project_id: str
    owner_id: str
    kind: str
    lane: Lane
    devices: int
    priority: int = 0
    request: dict[str, Any]
    model: str | None = None
    dataset_id: str | None = None
    uses_version: str | None = None
    """Of the model: what answers. It stays until the job has ended."""
    metadata: dict[str, str] = field(default_factory=dict)
    max_failures: int = 3
    """Of those that may pass. An error that would come again fails the job at once."""
    max_losses: int = 3


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the holder of a job knows of it. The pair of `job_id` and `fence` is the attempt."""

    job_id: str
    project_id: str
    kind: str
    fence: int
    request: dict[str, Any]
    dataset_id: str | None
    model: str | None
    losses: int
    failures: int


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the holder is asked to do."""

    cancel_requested: bool
    pause_requested: bool


class Outcome(Enum):
    """How an attempt ended without a result, as its holder saw it."""

    FAILURE = "failure"
    """An error that would come again: the job fails."""
    RETRYABLE_FAILURE = "retryable_failure"
    LOSS = "loss"
    """The trainer was killed by a signal."""
    DRAIN = "drain"
    """The worker stops; charged to no counter."""
    PAUSE = "pause"
    CANCEL = "cancel"

    @property
    def failures(self) -> int:
        return int(self in (Outcome.FAILURE, Outcome.RETRYABLE_FAILURE))

    @property
    def losses(self) -> int:
        return int(self is Outcome.LOSS)


def submit(session: Session, new: NewJob, *, limits: QueueLimits = NO_QUEUE_LIMITS) -> JobRow:
    """Queue a job.

    Raises:
        DatasetNotFound, WrongState: its data set is not there, or not ready to be trained on.
        VersionNotFound: what it uses was deleted.
        QuotaExceeded, QueueFull: as many jobs are queued as `limits` allow.
    """
    if new.dataset_id is not None:
        _check_dataset(session, new)
    if new.uses_version is not None and not _lock_version(session, new.project_id, new.model, new.uses_version):
        raise VersionNotFound(f"The model '{new.model}' has no version '{new.uses_version}' any more.")
    limits.check(session, new.project_id, new.owner_id)
    row: JobRow = session.scalars(_SUBMIT, {f"new_{name}": value for name, value in _columns(new).items()}).one()
    events.record(session, job_id=row.id, fence=0, type="submitted")
    hints.give(session, row.id)
    return row


def _columns(new: NewJob) -> dict[str, Any]:
    named = {
        each.name: getattr(new, each.name) for each in fields(new) if each.name not in ("metadata", "uses_version")
    }
    labels = {clean(key): clean(value) for key, value in new.metadata.items()}
    return named | {"id": new_id("job"), "lane": new.lane.value, "metadata": labels}


_GIVEN = ("id", *(each.name for each in fields(NewJob) if each.name != "uses_version"))
_NEW: dict[str, Any] = {name: bindparam(f"new_{name}") for name in _GIVEN}
_BEGUN = {"state": JobState.QUEUED.value, "fence": 0, "failures": 0, "losses": 0, "warnings": []}
_SUBMIT = select(JobRow).from_statement(
    insert(JOBS).values({**_NEW, **_BEGUN, "created_ms": now_ms(), "run_after_ms": now_ms()}).returning(JOBS)
)


def _check_dataset(session: Session, new: NewJob) -> None:
    state = session.scalar(_LOCK_DATASET, {"its_id": new.dataset_id, "its_project": new.project_id})
    if state is None:
        raise DatasetNotFound(f"There is no data set '{new.dataset_id}'. GET /v1/datasets lists those that exist.")
    if new.kind != INGEST and state != "ready":
        raise WrongState(f"The data set must be ready. Received one that is {state}: wait for it, or upload another.")


def _lock_version(session: Session, project_id: str, model: str | None, version: str) -> bool:
    """Whether it is there. It stays so until this transaction ends."""
    named = {"its_project": project_id, "its_model": model, "its_number": int(version)}
    return session.scalar(_LOCK_VERSION, named) is not None


_DATASETS, _MODELS, _VERSIONS = core(DatasetRow), core(ModelRow), core(VersionRow)
# The lock keeps the data set as it is until the job is there to protect it.
_LOCK_DATASET = (
    select(_DATASETS.c.state)
    .where(_DATASETS.c.id == bindparam("its_id"), _DATASETS.c.project_id == bindparam("its_project"))
    .with_for_update(read=True)
)
_LOCK_VERSION = (
    select(_VERSIONS.c.number)
    .join(_MODELS, _MODELS.c.id == _VERSIONS.c.model_id)
    .where(_MODELS.c.project_id == bindparam("its_project"), _MODELS.c.name == bindparam("its_model"))
    .where(_VERSIONS.c.number == bindparam("its_number"))
    .with_for_update(read=True, of=_VERSIONS)
)


def get(session: Session, project_id: str, job_id: str) -> JobRow:
    """The job.

    Raises:
        JobNotFound: the project has none with this id.
    """
    row = _read(session, project_id, job_id)
    if row is None:
        raise JobNotFound(f"There is no job '{job_id}'. GET /v1/jobs lists those that exist.")
    return row


def _read(session: Session, project_id: str, job_id: str, *, lock: bool = False) -> JobRow | None:
    query = select(JobRow).where(JobRow.id == job_id, JobRow.project_id == project_id)
    query = query.with_for_update() if lock else query
    return session.scalar(query.execution_options(populate_existing=True))


def claim(
    session: Session,
    *,
    worker_id: str,
    lane: Lane,
    free: int,
    ttl_ms: int,
    device: str,
    limits: RunningLimits = NO_RUNNING_LIMITS,
) -> Claim | None:
    """Take the next job of the lane that needs at most `free` devices: the highest priority, then the oldest, so that
    a drained or retried job keeps its place. Those that `limits` hold back are passed over. None: there is none."""
    room = limits.room(session, lane)
    wanted = {"in_lane": lane.value, "free": free, "claimer": worker_id, "ttl_ms": ttl_ms, "its_device": device}
    data = {"worker": worker_id, "device": device}
    if on_postgresql(session):
        statement = _recorded(_taking(*room)) if room else _TAKE_AND_RECORD
        found = session.execute(statement, wanted | {"event_data": data}).one_or_none()
        return None if found is None else Claim(**found._mapping)
    found = session.execute(_taking(*room) if room else _TAKE, wanted).one_or_none()
    if found is None:
        return None
    events.record(session, job_id=found.job_id, fence=found.fence, type="claimed", data=data)
    return Claim(**found._mapping)


def _taking(*room: ColumnElement[bool]) -> ReturningUpdate[Any]:
    """The claim, of the jobs for which there is room."""
    # MATERIALIZED: the choice is made once, and SKIP LOCKED lets concurrent claims choose different rows.
    ready = (leases.in_state(JobState.QUEUED), JOBS.c.run_after_ms <= now_ms(), JOBS.c.kind.in_(KINDS))
    chosen = (
        select(JOBS.c.id)
        .where(*ready, JOBS.c.lane == bindparam("in_lane"), JOBS.c.devices <= bindparam("free"), *room)
        .order_by(JOBS.c.priority.desc(), JOBS.c.created_ms, JOBS.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("chosen")
        .prefix_with("MATERIALIZED")
    )
    taken = update(JOBS).where(JOBS.c.id == chosen.c.id, leases.in_state(JobState.QUEUED))
    raised = taken.values(
        state=JobState.RUNNING.value,
        fence=JOBS.c.fence + 1,
        worker_id=bindparam("claimer"),
        lease_until_ms=leases.RENEWED,
        started_ms=now_ms(),
        device=bindparam("its_device"),
        reason=null(),
        message=null(),
    )
    others = (each.name for each in fields(Claim) if each.name != "job_id")
    return raised.returning(JOBS.c.id.label("job_id"), *(JOBS.c[name] for name in others))


def _recorded(taking: ReturningUpdate[Any]) -> Select[Any]:
    taken = taking.cte("taken")
    return select(taken).add_cte(events.recording(taken, "claimed").cte("recorded"))


_TAKE = _taking()
_TAKE_AND_RECORD = _recorded(_TAKE)


def heartbeat(
    session: Session, *, job_id: str, fence: int, ttl_ms: int, progress: dict[str, Any] | None = None
) -> Flags | None:
    """Renew the lease, note the progress, and learn what is asked, in one statement. None: the fence is lost; kill the
    trainer and publish nothing."""
    renewed = leases.attempt(job_id, fence) | {"ttl_ms": ttl_ms}
    if progress is None:
        found = session.execute(_RENEW, renewed).one_or_none()
    else:
        found = session.execute(_RENEW_WITH_PROGRESS, renewed | {"so_far": progress}).one_or_none()
    if found is None:
        return None
    return Flags(
        cancel_requested=found.cancel_requested_ms is not None,
        pause_requested=found.pause_requested_ms is not None,
    )


_FLAGS = (JOBS.c.cancel_requested_ms, JOBS.c.pause_requested_ms)
_RENEW = update(JOBS).where(leases.HELD).values(lease_until_ms=leases.RENEWED).returning(*_FLAGS)
_RENEW_WITH_PROGRESS = _RENEW.values(progress=bindparam("so_far"))


def stop(
    session: Session,
    *,
    job_id: str,
    fence: int,
    outcome: Outcome,
    reason: str | None = None,
    message: str | None = None,
    backoff_ms: int = 0,
) -> JobState | None:
    """End the attempt without a result. The state that the job has now; None: the fence was lost. `backoff_ms`: the
    pause after the first loss or failure, see `_pause`."""
    worn_out = JobRow.losses + outcome.losses >= JobRow.max_losses
    failed = or_(
        literal(outcome is Outcome.FAILURE), JobRow.failures + outcome.failures >= JobRow.max_failures, worn_out
    )
    statement = update(JobRow).where(leases.held(job_id, fence))
    cancelled = JobRow.cancel_requested_ms.is_not(None)
    ended = _move(
        session,
        statement.values(
            **_release(failed, _pause_after(outcome, backoff_ms)),
            failures=JobRow.failures + outcome.failures,
            losses=JobRow.losses + outcome.losses,
            reason=case((and_(worn_out, ~cancelled), "poison"), else_=literal(reason, Words())),
            message=message,
        ),
    )
    for row in ended:
        _record_end(session, row, outcome)
        return JobState(row.state)
    return None


def reap(session: Session, *, backoff_ms: int = 2_000) -> list[tuple[str, JobState]]:
    """End the attempts whose lease has expired, of all workers: `(job id, its state now)`. One statement, so that two
    reapers, or a reaper and a late renewal, cannot both have a row."""
    statement = update(JobRow).where(leases.in_state(JobState.RUNNING), JobRow.lease_until_ms < now_ms())
    reaped = _move(
        session,
        statement.values(
            **_release(JobRow.losses + 1 >= JobRow.max_losses, _pause_after(Outcome.LOSS, backoff_ms)),
            losses=JobRow.losses + 1,
            reason="lease_expired",
            message=_LEASE_EXPIRED,
        ),
    )
    for row in reaped:
        _record_end(session, row, Outcome.LOSS)
    return [(row.id, JobState(row.state)) for row in reaped]


def give_all_back(session: Session) -> int:
    """End all attempts of all workers as if they drained: how many there were. For a database in which none of them
    goes on."""
    ended = _move(
        session,
        update(JobRow)
        .where(leases.in_state(JobState.RUNNING))
        .values(**_release(false(), 0), reason=RESTORED, message="The database was restored from a backup."),
    )
    for row in ended:
        _record_end(session, row, Outcome.DRAIN)
    return len(ended)


def _pause_after(outcome: Outcome, backoff_ms: int) -> int | ColumnElement[int]:
    """Before the next attempt: doubled with each loss, or failure, that came before, give or take a fifth so that jobs
    that were lost together do not come back together. None where nothing is charged."""
    if not (outcome.losses or outcome.failures):
        return 0
    jitter = random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, no secret
    pauses = [round(min(MAX_PAUSE_MS, backoff_ms * 2**before) * jitter) for before in range(16)]
    charged = JobRow.losses if outcome.losses else JobRow.failures
    return case(dict(enumerate(pauses)), value=charged, else_=pauses[-1])


def _release(failed: ColumnElement[bool], backoff_ms: int | ColumnElement[int]) -> dict[str, Any]:
    """The columns of an attempt that ends without a result."""
    cancelled, paused = JobRow.cancel_requested_ms.is_not(None), JobRow.pause_requested_ms.is_not(None)
    return {
        "state": case(
            (cancelled, JobState.CANCELLED.value),
            (failed, JobState.FAILED.value),
            (paused, JobState.PAUSED.value),
            else_=JobState.QUEUED.value,
        ),
        "finished_ms": case((or_(cancelled, failed), now_ms()), else_=null()),
        "run_after_ms": now_ms() + backoff_ms,
        "worker_id": None,
        "lease_until_ms": None,
    }


def _record_end(session: Session, row: JobRow, outcome: Outcome) -> None:
    """The event of an attempt that ended. What was charged to no counter is named by where it led."""
    uncharged = {JobState.CANCELLED: "cancel", JobState.PAUSED: "pause"}.get(JobState(row.state), "drain")
    charged = "failure" if outcome.failures else "loss" if outcome.losses else None
    data = {"outcome": charged or uncharged, "reason": row.reason, "message": row.message}
    type = "requeued" if row.state == JobState.QUEUED else row.state
    events.record(session, job_id=row.id, fence=row.fence, type=type, data=data)
    if row.state == JobState.QUEUED:
        hints.give(session, row.id)
    if JobState(row.state).terminal and row.kind == INGEST:
        _release_dataset(session, row)


def _release_dataset(session: Session, row: JobRow) -> None:
    """The ingestion ended without a result: its data set has failed too, unless it was ready before the file came."""
    validating = (DatasetRow.id == row.dataset_id, DatasetRow.state == "validating")
    query = select(DatasetRow).where(*validating).with_for_update()
    dataset = session.scalar(query.execution_options(populate_existing=True))
    if dataset is None:
        return
    if dataset.manifest is None:
        _fail_dataset(dataset, row)
    else:
        _forget_second_file(dataset)
    session.flush()


def _fail_dataset(dataset: DatasetRow, row: JobRow) -> None:
    code, message = row.reason or "failed", row.message
    if row.state == JobState.CANCELLED:
        code, message = "cancelled", "The ingestion was cancelled. Upload the file again."
    dataset.state, dataset.error_code, dataset.error_message = "failed", code, message


def _forget_second_file(dataset: DatasetRow) -> None:
    """As if it had never come; why it was refused stays with its job. See `datasets.begin_second_split`."""
    options = dict(dataset.options)
    second = options.pop("second")
    dataset.state, dataset.bytes, dataset.options = "ready", dataset.bytes - second["bytes"], options


def request_cancel(session: Session, project_id: str, job_id: str) -> JobRow:
    """Cancel a queued or paused job now; ask the holder of a running one to stop. After this the job cannot succeed.

    Raises:
        JobNotFound.
        WrongState: it has ended; the message names the state.
    """
    before = locked(session, project_id, job_id, "cancel", (JobState.QUEUED, JobState.PAUSED, JobState.RUNNING))
    if before.cancel_requested_ms is not None:
        return before
    idle = JobRow.state.in_((JobState.QUEUED, JobState.PAUSED))
    row = _change(
        session,
        before,
        cancel_requested_ms=now_ms(),
        state=case((idle, JobState.CANCELLED.value), else_=JobRow.state),
        finished_ms=case((idle, now_ms()), else_=null()),
    )
    ended = row.state == JobState.CANCELLED
    events.record(session, job_id=row.id, fence=row.fence, type="cancelled" if ended else "cancel_requested")
    if ended and row.kind == INGEST:
        _release_dataset(session, row)
    return row


def request_pause(session: Session, project_id: str, job_id: str) -> JobRow:
    """Ask the holder to stop at a checkpoint and give the job back as paused."""
    before = locked(session, project_id, job_id, "pause", (JobState.RUNNING,))
    if before.pause_requested_ms is not None:
        return before
    events.record(session, job_id=job_id, fence=before.fence, type="pause_requested")
    return _change(session, before, pause_requested_ms=now_ms())


def resume(session: Session, project_id: str, job_id: str) -> JobRow:
    """Queue a paused job again, in its old place."""
    before = locked(session, project_id, job_id, "resume", (JobState.PAUSED,))
    events.record(session, job_id=job_id, fence=before.fence, type="resume_requested")
    row = _change(session, before, state=JobState.QUEUED, pause_requested_ms=None, run_after_ms=now_ms())
    hints.give(session, job_id)
    return row


def retry(session: Session, project_id: str, job_id: str) -> JobRow:
    """Queue a failed or cancelled job again with its counters at 0; its fence stays. It starts from the beginning,
    since checkpoints go when a job ends, but for those of a job that ran too long. Its progress and warnings go.

    Raises:
        JobNotFound.
        WrongState: it has not ended, or has succeeded; or what it would need was deleted.
    """
    before = locked(session, project_id, job_id, "retry", (JobState.FAILED, JobState.CANCELLED))
    if before.kind == INGEST:
        raise WrongState("The uploaded file is gone. Upload it again instead of retrying its ingestion.")
    _check_needs(session, before)
    events.record(session, job_id=job_id, fence=before.fence, type="retry_requested")
    cleared = dict.fromkeys(("cancel_requested_ms", "pause_requested_ms", "finished_ms", "reason", "message"))
    counters: dict[str, Any] = {"failures": 0, "losses": 0, "warnings": [], "progress": None}
    row = _change(session, before, **cleared, **counters, state=JobState.QUEUED, run_after_ms=now_ms())
    hints.give(session, job_id)
    return row


def _check_needs(session: Session, row: JobRow) -> None:
    """Under the locks of `submit`, since what an ended job used may have been deleted."""
    its_dataset = {"its_id": row.dataset_id, "its_project": row.project_id}
    if row.dataset_id is not None and session.scalar(_LOCK_DATASET, its_dataset) is None:
        raise WrongState(f"To retry a job, its data set must be there. {row.dataset_id} was deleted: submit a new job.")
    version = row.request.get("version") if row.kind == PREDICT else None
    if version is not None and not _lock_version(session, row.project_id, row.model, version):
        raise WrongState(
            f"To retry a job, its version must be there. Version {version} of '{row.model}' was deleted: submit a new "
            "job."
        )


def locked(session: Session, project_id: str, job_id: str, verb: str, states: tuple[JobState, ...]) -> JobRow:
    """The job, which stays in one of these states until the transaction ends. `verb`: what is to be done to it.

    Raises:
        JobNotFound.
        WrongState: it is in another one.
    """
    row = _read(session, project_id, job_id, lock=True)
    if row is None:
        raise JobNotFound(f"There is no job '{job_id}'. GET /v1/jobs lists those that exist.")
    if row.state not in states:
        raise WrongState(f"To {verb} a job, it must be {' or '.join(states)}. This one is {row.state}.")
    return row


def _change(session: Session, row: JobRow, **values: Any) -> JobRow:
    guarded = update(JobRow).where(JobRow.id == row.id, JobRow.state == row.state, JobRow.fence == row.fence)
    return _move(session, guarded.values(**values))[0]


def _move(session: Session, statement: Update) -> list[JobRow]:
    """The rows that the statement moved, as they are now."""
    moved = statement.returning(JobRow).execution_options(synchronize_session=False, populate_existing=True)
    return list(session.scalars(moved))
