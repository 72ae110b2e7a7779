"""Whether what is stored holds together: the invariants of the queue, and the blobs that rows name.

    rows     I1 the fence never decreases            I6 a cancelled job never succeeds
             I2 running, worker and lease together   I7 every accepted job is terminal, paused or claimable
             I3 succeeded training: one version      I8 the states of batch norm have their digests
             I4 terminal states never change         I9 each checkpoint's path is of its own attempt
             I5 no artifact is from the future       I10 every claim ends exactly once
    blobs    I8 what a row names is there with its bytes

It changes no row, and may be asked while programs work: its rows are those of one moment, and what is missing from the
blobs counts only if a row still names it after the look. As any reader, it brings back a blob that was set aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Integer, Row, and_, cast, exists, func, not_, or_, select
from sqlalchemy.orm import Session, aliased

from gammabeta.errors import ArtifactCorrupt
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import models, references
from gammabeta.store.deleting import DELETED
from gammabeta.store.engine import Database
from gammabeta.store.jobs import ENDED, INGEST, LIVE, MAX_PAUSE_MS, RESTORED, TRAIN
from gammabeta.store.references import Named
from gammabeta.store.stored import MANIFEST, Blobs, incomplete
from gammabeta.store.tables import CheckpointRow, DatasetRow, EventRow, JobRow, ModelRow, VersionRow, now_ms

LONGEST_PAUSE_MS = round(1.2 * MAX_PAUSE_MS)
"""Before an attempt, with what is drawn on top."""
AT_ONCE = 1_000
"""How many rows are in memory."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An invariant that does not hold, and of what."""

    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was looked at, and what was found."""

    jobs: int
    versions: int
    blobs: int
    checkpoints: int
    findings: tuple[Finding, ...]


def report(db: Database, stored: Blobs, *, deep: bool = False) -> Report:
    """All of it. `deep`: every byte is read and hashed; else a blob must be there with the size that its row says.

    Raises:
        NotReady: the database, or the store of the blobs, does not answer.
    """
    with db.read(snapshot=True) as session:
        counts = [session.scalar(select(func.count()).select_from(table)) or 0 for table in (JobRow, VersionRow)]
        findings, wanted = list(rows(session)), _wanted(session)
    findings += _stored(db, stored, wanted, deep=deep)
    return Report(
        jobs=counts[0],
        versions=counts[1],
        blobs=len(wanted.blobs),
        checkpoints=len(wanted.checkpoints),
        findings=tuple(findings),
    )


def rows(session: Session) -> Iterator[Finding]:
    """What the rows alone can show. On PostgreSQL the transaction should see one moment: `db.read(snapshot=True)`."""
    events = groupby(session.execute(_EVENTS), key=lambda event: event.job_id)
    ahead = next(events, None)
    jobs: Iterable[Row[Any]] = session.execute(_JOBS)
    for job in jobs:
        own: list[Row[Any]] = []
        if ahead is not None and ahead[0] == job.id:
            own, ahead = list(ahead[1]), next(events, None)
        for invariant, what in _job(job, own):
            yield Finding(invariant=invariant, what=f"{what} ({job.id})")
    for found in (_stuck(session), _validating(session), _checkpoints(session), _published(session)):
        for invariant, what in found:
            yield Finding(invariant=invariant, what=what)


_SEEN = (
    JobRow.id,
    JobRow.kind,
    JobRow.state,
    JobRow.fence,
    JobRow.worker_id,
    JobRow.lease_until_ms,
    JobRow.version,
    JobRow.project_id,
    JobRow.model,
    JobRow.result,
)
_JOBS = (
    select(*_SEEN, VersionRow.number, VersionRow.fence.label("published"))
    .outerjoin(VersionRow, VersionRow.job_id == JobRow.id)
    .order_by(JobRow.id)
    .execution_options(yield_per=AT_ONCE)
)
_EVENTS = (
    select(EventRow.job_id, EventRow.fence, EventRow.type, EventRow.data)
    .order_by(EventRow.job_id, EventRow.id)
    .execution_options(yield_per=AT_ONCE)
)

_Found = Iterator[tuple[str, str]]
"""Invariants that do not hold, and of what."""


def _job(job: Row[Any], events: list[Row[Any]]) -> _Found:
    fences = [event.fence for event in events]
    if fences != sorted(fences) or any(fence > job.fence for fence in fences):
        yield "I1", f"events have the fences {fences}, the job {job.fence}"
    held = job.worker_id is not None and job.lease_until_ms is not None
    if (job.state == JobState.RUNNING) != held:
        yield "I2", f"{job.state} with worker {job.worker_id} and lease {job.lease_until_ms}"
    yield from _version(job, events)
    yield from _order(job, events)
    types = [event.type for event in events]
    if types.count("submitted") != 1 or job.state not in list(JobState):
        yield "I7", f"state {job.state}, events {types}"
    yield from _claims(job, events)


def _version(job: Row[Any], events: list[Row[Any]]) -> _Found:
    published = job.kind == TRAIN and job.state == JobState.SUCCEEDED
    deleted = (job.result or {}).get(DELETED)
    if published and deleted is not None:
        made = [(event.data["model"], event.data["version"]) for event in events if event.type == "succeeded"]
        if made != [(job.model, deleted)] or job.version is not None:
            yield "I3", f"deleted is version {deleted}, the job shows {job.version}, and made {made}"
    expected = published and deleted is None
    if (job.number is not None) != expected:
        yield "I3", f"{job.state} with {int(job.number is not None)} versions"
    if job.number is not None and (job.number != job.version or job.published != job.fence):
        yield "I5", f"version {job.number} of fence {job.published}, job {job.version} of {job.fence}"


def _deleted(session: Session) -> _Found:
    """The number of a version that was deleted is that of no other one, and never will be."""
    number = cast(JobRow.result[DELETED].as_string(), Integer)
    named = and_(ModelRow.project_id == JobRow.project_id, ModelRow.name == JobRow.model)
    again = and_(VersionRow.model_id == ModelRow.id, VersionRow.number == number)
    found = (
        select(JobRow.id, JobRow.model, number.label("number"))
        .outerjoin(ModelRow, named)
        .outerjoin(VersionRow, again)
        .where(JobRow.state == JobState.SUCCEEDED, JobRow.result[DELETED].as_string().is_not(None))
        .where(or_(ModelRow.id.is_(None), ModelRow.last_version < number, VersionRow.number.is_not(None)))
    )
    for job in session.execute(found):
        yield "I3", f"version {job.number} of {job.model} was deleted, and may be, or is, there again ({job.id})"


def _order(job: Row[Any], events: list[Row[Any]]) -> _Found:
    ended, cancelling = None, False
    for event in events:
        if event.type == "retry_requested":
            ended, cancelling = None, False
        elif ended is not None and event.type != RESTORED:
            yield "I4", f"{event.type} after {ended}"
        if event.type == "succeeded" and cancelling:
            yield "I6", "succeeded after a cancel was accepted"
        cancelling = cancelling or event.type == "cancel_requested"
        ended = event.type if event.type in ENDED else ended
    if (ended or "") != (job.state if job.state in ENDED else ""):
        yield "I4", f"the last event says {ended}, the job {job.state}"


def _claims(job: Row[Any], events: list[Row[Any]]) -> _Found:
    claimed = [event.fence for event in events if event.type == "claimed"]
    expected, last = [], 0
    for event in events:
        if event.type == "claimed":
            expected.append(last := last + 1)
        elif event.type == RESTORED:
            last = event.fence
    if claimed != expected or job.fence != last:
        yield "I10", f"claims {claimed}, fence {job.fence}"
    ends = sorted(event.fence for event in events if "outcome" in event.data)
    if job.state == JobState.RUNNING:
        ends.append(job.fence)
    if ends != claimed:
        yield "I10", f"claims {claimed}, ends {ends}"


def _stuck(session: Session) -> _Found:
    """Queued jobs that no claim would ever find."""
    claimable = and_(
        JobRow.lane.in_([lane.value for lane in Lane]),
        JobRow.run_after_ms <= now_ms() + LONGEST_PAUSE_MS,
        JobRow.cancel_requested_ms.is_(None),
        JobRow.finished_ms.is_(None),
    )
    for job_id in session.scalars(select(JobRow.id).where(JobRow.state == JobState.QUEUED, not_(claimable))):
        yield "I7", f"{job_id} is queued, and no claim will find it"


def _validating(session: Session) -> _Found:
    """Data sets that wait for an ingestion which has ended."""
    over, other = aliased(JobRow), aliased(JobRow)
    ended = and_(over.dataset_id == DatasetRow.id, over.kind == INGEST, over.state.in_(ENDED))
    live = and_(other.dataset_id == DatasetRow.id, other.kind == INGEST, other.state.in_(LIVE))
    query = select(DatasetRow.id).where(DatasetRow.state == "validating", exists().where(ended), ~exists().where(live))
    for dataset_id in session.scalars(query):
        yield "I7", f"the data set {dataset_id} is validating, and its ingestion has ended"


def _checkpoints(session: Session) -> _Found:
    query = select(CheckpointRow, JobRow.fence).join(JobRow, JobRow.id == CheckpointRow.job_id)
    for row, fence in session.execute(query.execution_options(yield_per=AT_ONCE)):
        if row.fence > fence:
            yield "I5", f"a checkpoint of fence {row.fence}, the job has {fence} ({row.job_id})"
        if not names_its_attempt(row):
            yield "I9", f"the attempt {row.fence} of {row.job_id} has written {row.uri}"


def names_its_attempt(row: CheckpointRow) -> bool:
    """Where each path does, no two attempts can share one."""
    return row.uri.startswith(f"jobs/{row.job_id}/f{row.fence:06d}/")


def _published(session: Session) -> _Found:
    newest = select(ModelRow.name, ModelRow.last_version, func.max(VersionRow.number)).join(
        VersionRow, VersionRow.model_id == ModelRow.id
    )
    for name, last, number in session.execute(newest.group_by(ModelRow.id, ModelRow.name, ModelRow.last_version)):
        if number > last:
            yield "I3", f"version {number} of {name}, whose last is {last}"
    yield from _deleted(session)
    for version in session.scalars(select(VersionRow).execution_options(yield_per=AT_ONCE)):
        try:
            models.batchnorm_state(session, version)
        except ArtifactCorrupt as corrupt:
            yield "I8", str(corrupt)


def blobs(session: Session, stored: Blobs, *, deep: bool = False) -> Iterator[Finding]:
    """What rows name and the store does not have, or has otherwise."""
    for what in _missing(stored, _wanted(session), deep=deep).values():
        yield Finding(invariant="I8", what=what)


def _stored(db: Database, stored: Blobs, wanted: _Wanted, *, deep: bool) -> list[Finding]:
    """The same of a database at work: what went meanwhile, its row too, is no loss."""
    missing = _missing(stored, wanted, deep=deep)
    if not missing:
        return []
    with db.read(snapshot=True) as session:
        still = _wanted(session).keys
    return [Finding(invariant="I8", what=what) for key, what in missing.items() if key in still]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What rows name."""

    blobs: tuple[Named, ...]
    checkpoints: tuple[CheckpointRow, ...]
    uploads: tuple[str, ...]
    """Data sets whose file is still to be read."""

    @property
    def keys(self) -> set[str]:
        return {each.sha256 for each in self.blobs} | {row.uri for row in self.checkpoints} | {*self.uploads}


def _wanted(session: Session) -> _Wanted:
    live = (JobRow.kind == INGEST, JobRow.state.in_(LIVE), JobRow.dataset_id.is_not(None))
    return _Wanted(
        blobs=tuple({each.sha256: each for each in references.named(session)}.values()),
        checkpoints=tuple(session.scalars(select(CheckpointRow))),
        uploads=tuple(each for each in session.scalars(select(JobRow.dataset_id).where(*live)) if each),
    )


def _missing(stored: Blobs, wanted: _Wanted, *, deep: bool) -> dict[str, str]:
    """A sentence for each that is not as it must be."""
    found = {each.sha256: f"{what} It is {each.by}." for each in wanted.blobs if (what := _blob(stored, each, deep))}
    for row in wanted.checkpoints:
        if what := checkpoint(stored, row, deep=deep):
            found[row.uri] = f"{what} The job goes on from the one before it, or begins anew."
    received = set(stored.names("uploads")) if wanted.uploads else set()
    for dataset_id in set(wanted.uploads) - received:
        found[dataset_id] = f"The file of the data set {dataset_id} must be there to be read. Upload it again."
    return found


def _blob(stored: Blobs, named: Named, deep: bool) -> str | None:
    try:
        if deep:
            stored.check_hash(named.sha256)
        size = stored.bytes_of(named.sha256)
    except ArtifactCorrupt as corrupt:
        return corrupt.message
    if named.bytes in (size, None):
        return None
    return f"The blob {named.sha256} must have {named.bytes:,} bytes. Received: {size:,}. Restore it from a backup."


def checkpoint(stored: Blobs, row: CheckpointRow, *, deep: bool = False) -> str | None:
    """What is wrong with the files of a checkpoint; without `deep`, whether its manifest is there."""
    if not deep:
        return None if MANIFEST in stored.names(row.uri) else incomplete(row.uri, row.sha256)
    try:
        stored.tree(row.uri, row.sha256)
    except ArtifactCorrupt as corrupt:
        return corrupt.message
    return None
