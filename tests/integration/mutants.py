"""Mistakes that could be made in the statements of the queue, made on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import null, select, update
from sqlalchemy.orm import Session

from gammabeta.schemas.jobs import JobState
from gammabeta.store import checkpoints, events, jobs, leases, publishing
from gammabeta.store.jobs import Claim, Flags, Outcome
from gammabeta.store.tables import JobRow, now_ms
from tests.integration import protocol
from tests.integration.protocol import Protocol
from tests.integration.samples import TTL

Answer = TypeVar("Answer")


def without_fence(operation: Callable[..., Answer]) -> Callable[..., Answer]:
    """`AND fence = :f` dropped: it works with any."""

    def wrong(session: Session, *, job_id: str, fence: int, **rest: Any) -> Answer:
        present = session.scalars(select(JobRow.fence).where(JobRow.id == job_id)).one()
        return operation(session, job_id=job_id, fence=present, **rest)

    return wrong


def without_state(operation: Callable[..., Answer]) -> Callable[..., Answer]:
    """`AND state = 'running'` dropped: it works on an attempt that ended, too."""

    def wrong(session: Session, *, job_id: str, fence: int, **rest: Any) -> Answer:
        lease = {"worker_id": "w1", "lease_until_ms": now_ms() + TTL, "finished_ms": null()}
        ended = (JobRow.id == job_id, JobRow.fence == fence, JobRow.state != JobState.RUNNING)
        _execute(session, update(JobRow).where(*ended).values(state=JobState.RUNNING, **lease))
        return operation(session, job_id=job_id, fence=fence, **rest)

    return wrong


def reaps_whatever_runs(session: Session, seen: Sequence[str]) -> list[tuple[str, JobState]]:
    _expire(session, JobRow.state == JobState.RUNNING)
    return protocol.reap(session, seen)


def looks(session: Session) -> list[str]:
    expired = select(JobRow.id).where(leases.in_state(JobState.RUNNING), JobRow.lease_until_ms < now_ms())
    return list(session.scalars(expired))


def reaps_by_id(session: Session, seen: Sequence[str]) -> list[tuple[str, JobState]]:
    """What it saw before, too, whose lease may have been renewed since, late."""
    _expire(session, JobRow.state == JobState.RUNNING, JobRow.id.in_(seen))
    return protocol.reap(session, seen)


def reaps_without_counting(session: Session, seen: Sequence[str]) -> list[tuple[str, JobState]]:
    reaped = protocol.reap(session, seen)
    moved = JobRow.id.in_([job_id for job_id, _ in reaped])
    _execute(session, update(JobRow).where(moved, JobRow.losses > 0).values(losses=JobRow.losses - 1))
    return reaped


def reaps_a_little_early(session: Session, seen: Sequence[str]) -> list[tuple[str, JobState]]:
    _expire(session, JobRow.state == JobState.RUNNING, JobRow.lease_until_ms <= now_ms())
    return protocol.reap(session, seen)


def retries_from_fence_0(session: Session, project_id: str, job_id: str) -> JobRow:
    row = jobs.retry(session, project_id, job_id)
    _execute(session, update(JobRow).where(JobRow.id == job_id).values(fence=0))
    return row


def retries_with_its_old_losses(session: Session, project_id: str, job_id: str) -> JobRow:
    losses = jobs.get(session, project_id, job_id).losses
    row = jobs.retry(session, project_id, job_id)
    _execute(session, update(JobRow).where(JobRow.id == job_id).values(losses=losses))
    return row


def publishes_what_was_cancelled(session: Session, *, job_id: str, fence: int, **rest: Any) -> str | None:
    _execute(session, update(JobRow).where(leases.held(job_id, fence)).values(cancel_requested_ms=null()))
    return publishing.publish_version(session, job_id=job_id, fence=fence, **rest)


def claims_with_the_old_fence(session: Session, **rest: Any) -> Claim | None:
    claim = jobs.claim(session, **rest)
    if claim is None or claim.fence == 1:
        return claim
    _execute(session, update(JobRow).where(JobRow.id == claim.job_id).values(fence=claim.fence - 1))
    return replace(claim, fence=claim.fence - 1)


def claims_too_soon(session: Session, **rest: Any) -> Claim | None:
    _execute(session, update(JobRow).where(JobRow.state == JobState.QUEUED).values(run_after_ms=0))
    return jobs.claim(session, **rest)


def hides_the_cancel_request(session: Session, **rest: Any) -> Flags | None:
    flags = jobs.heartbeat(session, **rest)
    return flags and replace(flags, cancel_requested=False)


def charges_for_a_drain(session: Session, *, outcome: Outcome, **rest: Any) -> JobState | None:
    charged = Outcome.LOSS if outcome is Outcome.DRAIN else outcome
    return jobs.stop(session, outcome=charged, **rest)


def resumes_with_the_request_to_pause(session: Session, project_id: str, job_id: str) -> JobRow:
    row = jobs.resume(session, project_id, job_id)
    _execute(session, update(JobRow).where(JobRow.id == job_id).values(pause_requested_ms=now_ms()))
    return row


MUTANTS = {
    "heartbeat, any fence": Protocol(heartbeat=without_fence(jobs.heartbeat)),
    "checkpoint, any fence": Protocol(checkpoint=without_fence(checkpoints.add_checkpoint)),
    "prune, any fence": Protocol(prune=without_fence(checkpoints.forget_older)),
    "report, any fence": Protocol(report=without_fence(events.add_event)),
    "metrics, any fence": Protocol(measure=without_fence(events.add_metrics)),
    "warning, any fence": Protocol(warn=without_fence(events.add_warning)),
    "publish, any fence": Protocol(publish=without_fence(publishing.publish_version)),
    "data set, any fence": Protocol(publish_dataset=without_fence(publishing.publish_dataset)),
    "stop, any fence": Protocol(stop=without_fence(jobs.stop)),
    "heartbeat, any state": Protocol(heartbeat=without_state(jobs.heartbeat)),
    "checkpoint, any state": Protocol(checkpoint=without_state(checkpoints.add_checkpoint)),
    "report, any state": Protocol(report=without_state(events.add_event)),
    "metrics, any state": Protocol(measure=without_state(events.add_metrics)),
    "warning, any state": Protocol(warn=without_state(events.add_warning)),
    "publish, any state": Protocol(publish=without_state(publishing.publish_version)),
    "data set, any state": Protocol(publish_dataset=without_state(publishing.publish_dataset)),
    "stop, any state": Protocol(stop=without_state(jobs.stop)),
    "publish, cancelled": Protocol(publish=publishes_what_was_cancelled),
    "reap, any lease": Protocol(reap=reaps_whatever_runs),
    "reap, by id": Protocol(look=looks, reap=reaps_by_id),
    "reap, no loss": Protocol(reap=reaps_without_counting),
    "reap, a millisecond early": Protocol(reap=reaps_a_little_early),
    "retry, fence 0": Protocol(retry=retries_from_fence_0),
    "retry, old losses": Protocol(retry=retries_with_its_old_losses),
    "claim, old fence": Protocol(claim=claims_with_the_old_fence),
    "claim, too soon": Protocol(claim=claims_too_soon),
    "heartbeat, cancel hidden": Protocol(heartbeat=hides_the_cancel_request),
    "stop, drain charged": Protocol(stop=charges_for_a_drain),
    "resume, still to pause": Protocol(resume=resumes_with_the_request_to_pause),
}
"""By its name: a protocol that the machine must find to be wrong."""


def _expire(session: Session, *which: Any) -> None:
    """Make the lease of these look expired, so that the store's own reaper takes them."""
    _execute(session, update(JobRow).where(*which).values(lease_until_ms=now_ms() - 1))


def _execute(session: Session, statement: Any) -> None:
    session.execute(statement.execution_options(synchronize_session=False))
