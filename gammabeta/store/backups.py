"""Backups: a copy of a SQLite database at work, and what one that was restored needs before programs use it.

    the world before   ── backup ── claim, fence 3 ── trains … ················ publishes with fence 3: finds no row
    the restored one          └───── restored: fence 412,000,002 ── claim, 412,000,003 ── publishes

A worker of the world before may still be there, frozen or cut off, with an attempt that the restored database does not
know of: its fence would be that of the next claim here. So every job that may run again has its fence raised beyond all
that the other world can have come to. By how many millions is drawn, so that two worlds that come out of one backup do
not share theirs. Nor may the world before remove what is stored from now on: the restored database has a new identity,
and the store of the blobs is given to that (ownership.py).
"""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, insert, literal, select, update
from sqlalchemy.orm import Session

from gammabeta.errors import NoSpace
from gammabeta.files import Files, no_space
from gammabeta.schemas.jobs import JobState
from gammabeta.store import audit, jobs, ownership
from gammabeta.store.engine import BUSY_MS, Database, file_of
from gammabeta.store.stored import Blobs
from gammabeta.store.tables import CheckpointRow, EventRow, JobRow, WorkerRow, now_ms

MILLION = 1_000_000
"""More attempts than a job comes to: a fence goes up by at least so many."""

_NO_ROOM = "There is no room for the backup in {folder}. Free some, or choose another folder."


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What a copy has."""

    source: Path
    bytes: int
    jobs: int
    versions: int


def copy(url: str, target: Path) -> Copied:
    """Copy a SQLite database into a new file, as it is at one moment; programs go on with it. The copy is on the disk,
    sound, and readable to its owner alone: it has whatever the database knows.

    Raises:
        ValueError: it is no SQLite database that is there, it has no schema, or the file exists.
        RuntimeError: the copy is not sound, since the database is not.
        NoSpace.
    """
    source = _file(url)
    if target.exists():
        raise ValueError(f"The file of the backup must be a new one. Received: {target}, which exists.")
    files, partial = Files(), target.with_name(f"{target.name}.part")
    files.remove(partial)
    with no_space(_NO_ROOM.format(folder=target.parent)):
        files.make_folders(target.parent)
        try:
            partial.touch(mode=0o600)
            _copy(source, partial)
            counted = _counted(source, partial)
            with partial.open("r+b") as written:
                files.sync(written)
            files.rename(partial, target)
            files.sync_folder(target.parent)
        finally:
            files.remove(partial)
    return Copied(source=source, bytes=target.stat().st_size, jobs=counted[0], versions=counted[1])


def _file(url: str) -> Path:
    path = file_of(url)
    if path is None:
        raise ValueError(
            "The database must be a SQLite one to be copied by this command. That of PostgreSQL is by its own: "
            "pg_dump --format=custom --file=FILE ADDRESS; see docs/backup.md."
        )
    if not path.is_file():
        raise ValueError(f"The database must be there to be copied. Received: {path}, which is no file.")
    return path


def _copy(source: Path, target: Path) -> None:
    try:
        with closing(_opened(source)) as reader, closing(_opened(target)) as writer:
            # In one step: readers hold up nobody, and a copy in several begins anew whenever somebody writes.
            reader.backup(writer, pages=-1)
            (said,) = writer.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as exc:
        if getattr(exc, "sqlite_errorname", "") == "SQLITE_FULL":
            raise NoSpace(_NO_ROOM.format(folder=target.parent)) from exc
        said = str(exc)
    if said != "ok":
        raise RuntimeError(f"The database must be sound to be copied. SQLite says: {said}. Nothing was kept.")


def _counted(source: Path, copied: Path) -> tuple[int, int]:
    """The jobs and versions of a copy. One without a schema is of a wrong file: it would be restored in vain."""
    with closing(_opened(copied)) as reader:
        if reader.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone() is None:
            raise ValueError(
                f"The database must have a schema to be copied. Received: {source}, which has none. Set GAMMABETA_HOME "
                "or GAMMABETA_DATABASE_URL as the service has it."
            )
        ((jobs, versions),) = reader.execute("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM versions)")
    return jobs, versions


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_MS / 1_000, isolation_level=None)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was done to a restored database."""

    raised: int
    """Jobs whose fence was raised: all that may run again."""
    by: int
    given_back: int
    """Those among them that were running."""


def restored(session: Session) -> Restored:
    """Let the jobs of a database that came out of a backup go on in it, and none of another world: what ran is queued
    again, charged to no counter, fences go up, workers are forgotten, and the database has an identity of its own. Once
    more does the same once more, and no harm. The store of the blobs is to be given to it next: `ownership.take`.
    """
    ownership.draw(session)
    given_back = jobs.give_all_back(session)
    by = MILLION * (1 + secrets.randbelow(MILLION))
    raised = session.execute(
        update(JobRow)
        .where(JobRow.state != JobState.SUCCEEDED)
        .values(fence=JobRow.fence + by)
        .returning(JobRow.id)
        .execution_options(synchronize_session=False)
    ).all()
    data = literal({"raised_by": by}, EventRow.__table__.c.data.type)
    events = select(JobRow.id, JobRow.fence, literal(jobs.RESTORED), data, now_ms())
    session.execute(
        insert(EventRow).from_select(
            ["job_id", "fence", "type", "data", "created_ms"], events.where(JobRow.state != JobState.SUCCEEDED)
        )
    )
    session.execute(delete(WorkerRow))
    return Restored(raised=len(raised), by=by, given_back=given_back)


def forget_lost_checkpoints(db: Database, stored: Blobs) -> int:
    """Drop the rows of checkpoints whose files are not there, or not what they were: how many. They were removed, for
    newer ones, between the copy of the database and that of the blobs."""
    with db.read() as session:
        rows = list(session.scalars(select(CheckpointRow)))
    lost = [row for row in rows if audit.checkpoint(stored, row, deep=True)]
    with db.write() as session:
        for row in lost:
            session.delete(row)
    return len(lost)
