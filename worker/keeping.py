"""Checkpoints as the supervisor keeps them: first the bytes, synced, then the row.

trainer's folder ──► jobs/<job>/f<fence>/ckpt-<step> ──► row        the newest two of a job; none once it has ended,
                                                                    but for one that a retry goes on with

`sweep` removes the bytes that no row names; expiring.py has what is deleted by its age.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gammabeta import failpoints, logs
from gammabeta.errors import ArtifactCorrupt, NoSpace, NotReady
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import JobState
from gammabeta.store import checkpoints, datasets, jobs, ownership, references
from gammabeta.store.engine import Database, Session
from gammabeta.store.jobs import Claim
from gammabeta.store.stored import ASIDE, Blobs, Kept, is_hash
from gammabeta.store.tables import DatasetRow, JobRow, now_ms
from worker.deadlines import EXCEEDED

log = logs.get(__name__)

KEPT = 2
FORGOTTEN_SECONDS = 86_400
RETRY_DAYS = 7
"""How long the checkpoints stay of a job that failed by its deadline, for a retry to go on from."""


def store(blobs: Blobs, claim: Claim, folder: Path, *, step: int, lease_ms: int) -> Callable[[Session], bool]:
    """Take a checkpoint over. The write that makes it known.

    Raises:
        NoSpace: it is not stored.
    """
    try:
        tree = blobs.put_tree(f"jobs/{claim.job_id}/f{claim.fence:06d}/ckpt-{step}", folder)
    finally:  # also where it found no space, which it would take from the next one
        shutil.rmtree(folder, ignore_errors=True)

    def write(session: Session) -> bool:
        added = checkpoints.add_checkpoint(
            session,
            job_id=claim.job_id,
            fence=claim.fence,
            ttl_ms=lease_ms,
            step=step,
            uri=tree.uri,
            sha256=tree.sha256,
            bytes=tree.bytes,
        )
        failpoints.reached(Failpoint.CHECKPOINT_ROW_BEFORE_COMMIT)
        return added

    return write


def newest_sound(db: Database, blobs: Blobs, job_id: str) -> Path | None:
    """The folder to go on from: the newest checkpoint whose bytes are what they were. None: from the beginning."""
    with db.read() as session:
        rows = checkpoints.checkpoints_of(session, job_id)
    for row in rows:
        try:
            return blobs.tree(row.uri, row.sha256)
        except ArtifactCorrupt as error:
            log.warning("checkpoint passed over", job=job_id, step=row.step, why=str(error))
    return None


def prune(db: Database, blobs: Blobs, claim: Claim) -> None:
    """Drop all but the newest two: first the rows, so that none names what is not there."""
    with db.write() as session:
        dropped = checkpoints.forget_older(session, job_id=claim.job_id, fence=claim.fence, kept=KEPT)
    for uri in dropped:
        failpoints.reached(Failpoint.OLDER_ROWS_DROPPED)
        blobs.delete_prefix(uri)


def drop_if_ended(db: Database, blobs: Blobs, job_id: str) -> bool:
    """Remove what only a job that goes on would need. Whether it was removed."""
    return is_ours(db, blobs) and _drop_if_ended(db, blobs, job_id)


def _drop_if_ended(db: Database, blobs: Blobs, job_id: str) -> bool:
    with db.write() as session:
        row = session.get(JobRow, job_id)
        if row is None or not JobState(row.state).terminal or _goes_on_if_retried(session, row):
            return False
        fence, ingested = row.fence, row.dataset_id if row.kind == jobs.INGEST else None
        checkpoints.forget(session, job_id, fence=fence)
    if ingested is not None:
        _drop_upload(db, blobs, ingested, partial(datasets.upload_is_read, dataset_id=ingested))
    failpoints.reached(Failpoint.CLEANUP_MID)
    _drop_attempts(blobs, job_id, fence)
    return True


def _drop_upload(db: Database, blobs: Blobs, dataset_id: str, over: Callable[[Session], bool]) -> None:
    """Remove the file of a data set, if `over` says that it is of no use."""
    # Asked for outside the transaction: a store that is silent is found out before anybody has to wait for its end.
    keys = blobs.upload_keys(dataset_id)
    with db.write() as session:
        if not over(session):
            return
        # Within it, so that the file of a second upload, which comes to the same place, is not taken.
        for key in keys[:1]:
            blobs.delete(key)
    for key in keys[1:]:
        blobs.delete(key)


def _goes_on_if_retried(session: Session, row: JobRow) -> bool:
    if row.state != JobState.FAILED or row.reason != EXCEEDED:
        return False
    ended_ms = row.finished_ms or 0
    return (session.scalar(now_ms()) or 0) - ended_ms < RETRY_DAYS * 86_400_000


def _drop_attempts(blobs: Blobs, job_id: str, fence: int) -> None:
    """The folders of attempts up to this one: a job that is retried at this moment writes beside them."""
    for name in blobs.names(f"jobs/{job_id}"):
        if name[:1] == "f" and name[1:].isdecimal() and int(name[1:]) <= fence:
            blobs.delete_prefix(f"jobs/{job_id}/{name}")
    blobs.drop_empty(f"jobs/{job_id}")  # another attempt's folder may be in it


def _never() -> bool:
    return False


def sweep(
    db: Database,
    blobs: Blobs,
    *,
    seconds: float = FORGOTTEN_SECONDS,
    orphans: bool = True,
    over: Callable[[], bool] = _never,
) -> None:
    """Remove what nobody is going to need: of jobs that ended without their worker, such as those cancelled while they
    waited, or that were deleted, files that no job is going to read, blobs that no row names, and what programs that
    were killed had begun to write. `seconds`: how long nobody must have touched what no row tells of. `orphans`: look
    for blobs too, of which it takes a list. `over` is asked between two removals, and ends it."""
    if not is_ours(db, blobs):
        return
    for job_id in blobs.names("jobs"):
        if over():
            return
        if not _drop_if_ended(db, blobs, job_id):
            _drop_if_deleted(db, blobs, job_id, seconds=seconds)
    for upload in list(blobs.listed("uploads")):
        if over():
            return
        _by_itself("upload not removed", upload, partial(_sweep_upload, db, blobs, upload, seconds=seconds))
    if orphans:
        _sweep_orphans(db, blobs, seconds=seconds, over=over)
    if over():
        return
    blobs.tidy(seconds=seconds)


def _drop_if_deleted(db: Database, blobs: Blobs, job_id: str, *, seconds: float) -> None:
    """Of a job that is no more: what could not be removed with it, or was written by a worker that did not know."""
    with db.read() as session:
        if session.get(JobRow, job_id) is not None:
            return
    if all(kept.age > seconds for kept in blobs.listed(f"jobs/{job_id}")):
        blobs.delete_prefix(f"jobs/{job_id}")


def is_ours(db: Database, blobs: Blobs) -> bool:
    """Whether the store is that of this database. Otherwise each blob in it would seem to be of use to nobody."""
    with db.read() as session:
        identity = ownership.identity(session)
    owner = blobs.owned(identity)
    if owner != identity:
        log.error(
            "nothing removed: the store belongs to another database", store=blobs.location, owner=owner, this=identity
        )
    return owner == identity


def _sweep_orphans(db: Database, blobs: Blobs, *, seconds: float, over: Callable[[], bool]) -> None:
    """Set aside the blobs that no row names, and remove what has been aside for as long. `stored.py` says why nothing
    that is published meanwhile is lost: what is old is listed first, and the rows are read after that."""
    aside = [kept for kept in blobs.listed(ASIDE) if kept.age > seconds and is_hash(kept.folder)]
    old = [kept for kept in blobs.listed("sha256") if kept.age > seconds and is_hash(kept.name)]
    with db.read() as session:
        named = references.named_blobs(session)
    for kept in aside:
        if over():
            return
        _by_itself("not removed", kept, partial(_remove_for_good, blobs, kept, named))
    for kept in old:
        if over():
            return
        if kept.name not in named:
            _by_itself("not set aside", kept, partial(_set_aside, blobs, kept, seconds=seconds))


def _remove_for_good(blobs: Blobs, aside: Kept, named: set[str]) -> None:
    if aside.folder in named:
        blobs.bring_back(aside.folder)
    blobs.delete(aside.key)
    blobs.drop_empty(f"{ASIDE}/{aside.folder}")


def _set_aside(blobs: Blobs, kept: Kept, *, seconds: float) -> None:
    age = blobs.age(kept.key)  # the listing may be long ago, and somebody have stored it again and handed it out
    if age is not None and age > seconds:
        log.info("blob set aside", sha256=kept.name)
        blobs.set_aside(kept.name)


def _by_itself(otherwise: str, kept: Kept, chore: Callable[[], None]) -> None:
    """Do it for one of many: where it cannot be done, for whatever reason of its own, the others have their turn.

    Raises:
        NotReady, NoSpace: the others could not be done either.
    """
    try:
        chore()
    except ArtifactCorrupt as error:
        log.warning(otherwise, key=kept.key, why=str(error))
    except (NotReady, NoSpace):
        raise
    except Exception:
        log.exception(otherwise, key=kept.key)


def _sweep_upload(db: Database, blobs: Blobs, upload: Kept, *, seconds: float) -> None:
    def over(session: Session) -> bool:
        if session.get(DatasetRow, upload.name) is not None:
            return datasets.upload_is_read(session, upload.name)
        return upload.age > seconds  # still being received, deleted, or in its place before its data set is committed

    _drop_upload(db, blobs, upload.name, over)
