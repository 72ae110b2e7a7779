"""The invariants of the queue, checked on a database as it stands: `audit(session)` says which are broken.

Checkpoints end with their job. What their rows must be while it runs, `of_running` says to whoever looks at it.

I1 the fence never decreases            I6 a cancelled job never succeeds
I2 running, worker and lease together   I7 every accepted job is terminal, paused or claimable
I3 succeeded training: one version      I8 what is named is stored and sound (where blobs are given)
I4 terminal states never change         I9 no checkpoint path is written by two attempts (where blobs are given)
I5 no artifact is from the future       I10 every claim ends exactly once
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import and_, not_, select
from sqlalchemy.orm import Session

from gammabeta.errors import ArtifactCorrupt
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import checkpoints, datasets, models
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.deleting import DELETED
from gammabeta.store.jobs import INGEST, MAX_PAUSE_MS, PREDICT
from gammabeta.store.tables import CheckpointRow, DatasetRow, EventRow, JobRow, ModelRow, StateRow, VersionRow, now_ms

TERMINAL = [state.value for state in JobState if state.terminal]
LONGEST_PAUSE_MS = round(1.2 * MAX_PAUSE_MS)
"""Before an attempt, with what is drawn on top."""


def audit(session: Session, blobs: FolderBlobs | None = None) -> list[str]:
    """The broken invariants, each with the job or version that breaks it. Empty: all hold."""
    broken = []
    for job in session.scalars(select(JobRow)):
        events = list(session.scalars(select(EventRow).where(EventRow.job_id == job.id).order_by(EventRow.id)))
        broken += [f"{problem} ({job.id})" for problem in _job(session, job, events)]
    broken += _stuck(session)
    broken += _published(session)
    if blobs is not None:
        broken += _stored(session, blobs)
    return broken


def _job(session: Session, job: JobRow, events: list[EventRow]) -> Iterator[str]:
    fences = [event.fence for event in events]
    if fences != sorted(fences) or any(fence > job.fence for fence in fences):
        yield f"I1: events have the fences {fences}, the job {job.fence}"
    held = job.worker_id is not None and job.lease_until_ms is not None
    if (job.state == JobState.RUNNING) != held:
        yield f"I2: {job.state} with worker {job.worker_id} and lease {job.lease_until_ms}"
    yield from _versions(session, job)
    yield from _order(job, events)
    yield from _checkpoints(session, job)
    if [event.type for event in events].count("submitted") != 1 or job.state not in list(JobState):
        yield f"I7: state {job.state}, events {[event.type for event in events]}"
    yield from _claims(job, events)
    yield from _dataset(session, job)


def _versions(session: Session, job: JobRow) -> Iterator[str]:
    versions = list(session.scalars(select(VersionRow).where(VersionRow.job_id == job.id)))
    publishes = job.kind not in (INGEST, PREDICT) and job.state == JobState.SUCCEEDED
    deleted = (job.result or {}).get(DELETED)
    if publishes and deleted is not None:
        yield from _deleted(session, job, deleted)
    expected = int(publishes and deleted is None)
    if len(versions) != expected:
        yield f"I3: {job.state} with {len(versions)} versions"
    for version in versions:
        if version.number != job.version or version.fence != job.fence:
            yield f"I5: version {version.number} of fence {version.fence}, job {job.version} of {job.fence}"


def _deleted(session: Session, job: JobRow, version: str) -> Iterator[str]:
    """The version that a job made is deleted only if it was there, and its number is that of no other one."""
    succeeded = select(EventRow.data).where(EventRow.job_id == job.id, EventRow.type == "succeeded")
    made = [(each["model"], each["version"]) for each in session.scalars(succeeded)]
    if made != [(job.model, version)] or job.version is not None:
        yield f"I3: deleted is version {version}, the job shows {job.version}, and made {made}"
    named = (ModelRow.project_id == job.project_id, ModelRow.name == job.model)
    model = session.scalars(select(ModelRow).where(*named)).one_or_none()
    if model is None or model.last_version < int(version) or session.get(VersionRow, (model.id, int(version))):
        yield f"I3: version {version} of {job.model} was deleted, and may be, or is, there again"


def _order(job: JobRow, events: list[EventRow]) -> Iterator[str]:
    ended, cancelling = None, False
    for event in events:
        if event.type == "retry_requested":
            ended, cancelling = None, False
        elif ended is not None:
            yield f"I4: {event.type} after {ended}"
        if event.type == "succeeded" and cancelling:
            yield "I6: succeeded after a cancel was accepted"
        cancelling = cancelling or event.type == "cancel_requested"
        ended = event.type if event.type in TERMINAL else ended
    if (ended or "") != (job.state if job.state in TERMINAL else ""):
        yield f"I4: the last event says {ended}, the job {job.state}"


def _checkpoints(session: Session, job: JobRow) -> Iterator[str]:
    rows = checkpoints.checkpoints_of(session, job.id)
    if any(row.fence > job.fence for row in rows):
        yield f"I5: a checkpoint of fence {max(row.fence for row in rows)}, the job has {job.fence}"


def of_running(rows: Iterable[CheckpointRow], job: JobRow) -> Iterator[str]:
    """What is wrong with the checkpoints of a job that was read after them."""
    for row in rows:
        if row.fence > job.fence:
            yield f"I5: a checkpoint of fence {row.fence}, the job has {job.fence} ({job.id})"
        yield from _another_path(row)


def _another_path(row: CheckpointRow) -> Iterator[str]:
    """Where each path names its attempt, no two attempts can share one."""
    if not row.uri.startswith(f"jobs/{row.job_id}/f{row.fence:06d}/"):
        yield f"I9: the attempt {row.fence} of {row.job_id} has written {row.uri}"


def _stuck(session: Session) -> Iterator[str]:
    """Queued jobs that no claim would ever find."""
    claimable = and_(
        JobRow.lane.in_([lane.value for lane in Lane]),
        JobRow.run_after_ms <= now_ms() + LONGEST_PAUSE_MS,
        JobRow.cancel_requested_ms.is_(None),
        JobRow.finished_ms.is_(None),
    )
    for job_id in session.scalars(select(JobRow.id).where(JobRow.state == JobState.QUEUED, not_(claimable))):
        yield f"I7: {job_id} is queued, and no claim will find it"


def _claims(job: JobRow, events: list[EventRow]) -> Iterator[str]:
    claimed = [event.fence for event in events if event.type == "claimed"]
    if claimed != list(range(1, job.fence + 1)):
        yield f"I10: claims {claimed}, fence {job.fence}"
    ends = sorted(event.fence for event in events if "outcome" in event.data)
    if job.state == JobState.RUNNING:
        ends.append(job.fence)
    if ends != claimed:
        yield f"I10: claims {claimed}, ends {ends}"


def _dataset(session: Session, job: JobRow) -> Iterator[str]:
    dataset = session.get(DatasetRow, job.dataset_id) if job.kind == INGEST and job.dataset_id else None
    if dataset is not None and dataset.state == "validating" and job.state in TERMINAL:
        others = select(JobRow.id).where(
            JobRow.dataset_id == dataset.id, JobRow.kind == INGEST, JobRow.state.not_in(TERMINAL)
        )
        if session.scalar(others) is None:
            yield f"the data set is validating, and its ingestion {job.state}"


def _published(session: Session) -> Iterator[str]:
    for model in session.scalars(select(ModelRow)):
        numbers = list(session.scalars(select(VersionRow.number).where(VersionRow.model_id == model.id)))
        if max(numbers, default=0) > model.last_version:
            yield f"I3: version {max(numbers)} of {model.name}, whose last is {model.last_version}"
    for version in session.scalars(select(VersionRow)):
        state = session.get_one(StateRow, version.batchnorm_digest)
        try:
            if len(models.batchnorm_state(session, version).layers) != state.layers:
                yield f"I8: {state.digest} lacks layers"
        except ArtifactCorrupt as corrupt:
            yield f"I8: {corrupt}"


def _stored(session: Session, blobs: FolderBlobs) -> Iterator[str]:
    for sha256 in {*session.scalars(select(VersionRow.weights_sha256)), *_arrays(session), *_files(session)}:
        try:
            blobs.verify(sha256, again=True)
        except ArtifactCorrupt as corrupt:
            yield f"I8: {corrupt}"
    for checkpoint in session.scalars(select(CheckpointRow)):
        yield from _another_path(checkpoint)
        try:
            blobs.tree(checkpoint.uri, checkpoint.sha256)
        except ArtifactCorrupt as corrupt:
            yield f"I8: {corrupt}"


def _files(session: Session) -> Iterator[str]:
    """The hashes that jobs which answered a data set name."""
    done = (JobRow.kind == PREDICT, JobRow.state == JobState.SUCCEEDED)
    for result in session.scalars(select(JobRow.result).where(*done)):
        yield (result or {}).get("sha256", "a hash that is not there")


def _arrays(session: Session) -> Iterator[str]:
    """The hashes that data sets in use name."""
    for dataset in session.scalars(select(DatasetRow).where(DatasetRow.state == "ready")):
        manifest = datasets.manifest(dataset)
        if manifest is not None:
            yield from (array.sha256 for split in manifest.splits.values() for array in (split.x, split.y))
