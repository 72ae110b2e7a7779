"""Checkpoints as the supervisor keeps them: first the bytes, synced, then the row.

trainer's folder ──► jobs/<job>/f<fence>/ckpt-<step> ──► row        the newest two of a job; none once it has ended
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from gammabeta import logs
from gammabeta.errors import ArtifactCorrupt
from gammabeta.schemas.jobs import JobState
from gammabeta.store import checkpoints, datasets, jobs
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database, Session
from gammabeta.store.jobs import Claim
from gammabeta.store.tables import JobRow

log = logs.get(__name__)

KEPT = 2


def store(blobs: FolderBlobs, claim: Claim, folder: Path, *, step: int, lease_ms: int) -> Callable[[Session], bool]:
    """Take a checkpoint over. The write that makes it known.

    Raises:
        NoSpace: it is not stored.
    """
    tree = blobs.put_tree(f"jobs/{claim.job_id}/f{claim.fence:06d}/ckpt-{step}", folder)
    shutil.rmtree(folder, ignore_errors=True)

    def write(session: Session) -> bool:
        return checkpoints.add_checkpoint(
            session,
            job_id=claim.job_id,
            fence=claim.fence,
            ttl_ms=lease_ms,
            step=step,
            uri=tree.uri,
            sha256=tree.sha256,
            bytes=tree.bytes,
        )

    return write


def newest_sound(db: Database, blobs: FolderBlobs, job_id: str) -> Path | None:
    """The folder to go on from: the newest checkpoint whose bytes are what they were. None: from the beginning."""
    with db.read() as session:
        rows = checkpoints.checkpoints_of(session, job_id)
    for row in rows:
        try:
            return blobs.tree(row.uri, row.sha256)
        except ArtifactCorrupt as error:
            log.warning("checkpoint passed over", job=job_id, step=row.step, why=str(error))
    return None


def prune(db: Database, blobs: FolderBlobs, claim: Claim) -> None:
    """Drop all but the newest two: first the rows, so that none names what is not there."""
    with db.write() as session:
        dropped = checkpoints.forget_older(session, job_id=claim.job_id, fence=claim.fence, kept=KEPT)
    for uri in dropped:
        blobs.delete_prefix(uri)


def drop_if_ended(db: Database, blobs: FolderBlobs, job_id: str) -> bool:
    """Remove what only a job that goes on would need. Whether it has ended."""
    with db.write() as session:
        row = session.get(JobRow, job_id)
        if row is None or not JobState(row.state).terminal:
            return False
        checkpoints.forget(session, job_id)
        # Inside the transaction, so that the file of a second upload, which comes to the same place, is not taken.
        if row.kind == jobs.INGEST and row.dataset_id and datasets.upload_is_read(session, row.dataset_id):
            blobs.delete(f"uploads/{row.dataset_id}")
    blobs.delete_prefix(f"jobs/{job_id}")
    return True


def sweep(db: Database, blobs: FolderBlobs) -> None:
    """Do so for all jobs that have something left, such as those that were cancelled while they waited to go on."""
    for folder in sorted((blobs.root / "jobs").glob("*")):
        drop_if_ended(db, blobs, folder.name)
