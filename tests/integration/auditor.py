"""The invariants of the queue, checked on a database as it stands: `audit(session)` says which are broken.

`gammabeta.store.audit` has them, for operators too; here every byte is read. Checkpoints end with their job. What their
rows must be while it runs, `of_running` says to whoever looks at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy.orm import Session

from gammabeta.store.audit import blobs as of_blobs
from gammabeta.store.audit import names_its_attempt, rows
from gammabeta.store.stored import Blobs
from gammabeta.store.tables import CheckpointRow, JobRow


def audit(session: Session, blobs: Blobs | None = None) -> list[str]:
    """The broken invariants, each with the job or version that breaks it. Empty: all hold."""
    found = [*rows(session)]
    if blobs is not None:
        found += of_blobs(session, blobs, deep=True)
    return [str(each) for each in found]


def of_running(seen: Iterable[CheckpointRow], job: JobRow) -> Iterator[str]:
    """What is wrong with the checkpoints of a job that was read after them."""
    for row in seen:
        if row.fence > job.fence:
            yield f"I5: a checkpoint of fence {row.fence}, the job has {job.fence} ({job.id})"
        if not names_its_attempt(row):
            yield f"I9: the attempt {row.fence} of {row.job_id} has written {row.uri}"
