"""What has been kept for as long as the settings say is deleted, by the rules of who deletes it by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gammabeta import logs
from gammabeta.errors import NoSpace, NotFound, NotReady, WrongState
from gammabeta.store import datasets, deleting, retention
from gammabeta.store.engine import Database
from gammabeta.store.retention import Retention
from gammabeta.store.stored import Blobs
from worker import keeping

log = logs.get(__name__)

AT_ONCE = 200
"""So that whoever expires is not kept from other chores for long; what is left goes the next time."""


def expire(db: Database, blobs: Blobs, keep: Retention, *, limit: int = AT_ONCE) -> None:
    """Delete what has been kept for as long as the settings say, at most so many jobs, versions and data sets. Each in
    a transaction of its own, and by the rules of who deletes it by hand: what has come into use meanwhile stays. Bytes
    go after all rows, and only from a store of this database: one that it came from may have the same jobs."""
    with db.read() as session:
        versions = retention.surplus_versions(session, keep, limit=limit)
        old = retention.old_jobs(session, keep, limit=limit)
        unused = retention.unused_datasets(session, keep, limit=limit)
    gone: list[Callable[[], None]] = []
    for project_id, name, version in versions:
        if deleted(db, deleting.delete_version, project_id, name, version):
            log.info("version expired", project=project_id, model=name, version=version)
    for project_id, job_id in old:
        if deleted(db, deleting.delete_job, project_id, job_id):
            log.info("job expired", project=project_id, job=job_id)
            gone.append(partial(blobs.delete_prefix, f"jobs/{job_id}"))
    for project_id, dataset_id in unused:
        if deleted(db, datasets.delete, project_id, dataset_id):
            log.info("data set expired", project=project_id, dataset=dataset_id)
            gone.append(partial(blobs.delete_upload, dataset_id))
    if gone:
        _remove(db, blobs, gone)


def _remove(db: Database, blobs: Blobs, gone: list[Callable[[], None]]) -> None:
    """Rows need no store: one that does not answer keeps none of them, and the sweep removes the bytes later."""
    try:
        if keeping.is_ours(db, blobs):
            for remove in gone:
                remove()
    except (NotReady, NoSpace) as error:
        log.warning("left to the sweep", why=error.message)


def deleted(db: Database, delete: Callable[..., None], *what: str) -> bool:
    """Whether it is deleted now. What has come into use since somebody looked is not."""
    try:
        with db.write() as session:
            delete(session, *what)
    except (NotFound, WrongState) as error:
        log.info("not expired", what=" ".join(what), why=error.message)
        return False
    return True
