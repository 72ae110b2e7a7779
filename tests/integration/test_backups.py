"""A backup of a database at work, and what is done with one that was restored."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from gammabeta.schemas.jobs import JobState
from gammabeta.store import backups, checkpoints, events, jobs, ownership, publishing, workers
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Outcome
from gammabeta.store.retention import DAY_MS, Retention
from gammabeta.store.stored import ASIDE
from gammabeta.store.tables import DEFAULT_PROJECT, JobRow
from tests.integration.databases import Clock
from tests.integration.samples import TTL, attempt, claim, claimed, publication, submit
from tests.unit.cli.conftest import Run, run
from worker import expiring, keeping

__all__ = ["run"]


@pytest.fixture
def home(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAMMABETA_HOME", str(tmp_path))
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", url)
    return tmp_path


def job(db: Database, job_id: str) -> JobRow:
    with db.read() as session:
        return jobs.get(session, DEFAULT_PROJECT, job_id)


def restored(db: Database) -> backups.Restored:
    with db.write() as session:
        return backups.restored(session)


def test_an_attempt_of_the_world_before_can_neither_renew_nor_publish(db: Database) -> None:
    held = claimed(db)
    done = restored(db)
    row = job(db, held.job_id)
    assert (row.state, row.losses, row.failures, row.reason) == (JobState.QUEUED, 0, 0, jobs.RESTORED)
    assert row.fence == held.fence + done.by
    with db.write() as session:
        assert jobs.heartbeat(session, **attempt(held), ttl_ms=TTL) is None
        assert publishing.publish_version(session, **attempt(held), publication=publication()) is None
    again = claim(db)
    assert again is not None
    assert again.fence == held.fence + done.by + 1
    with db.write() as session:
        assert publishing.publish_version(session, **attempt(again), publication=publication()) == "1"


def test_a_claim_that_the_backup_does_not_know_of_has_no_fence_that_comes_again(db: Database) -> None:
    job_id = submit(db)
    done = restored(db)
    again = claim(db)
    assert again is not None
    assert again.fence == done.by + 1 > backups.MILLION
    with db.write() as session:
        assert jobs.heartbeat(session, job_id=job_id, fence=1, ttl_ms=TTL) is None


def test_two_worlds_out_of_one_backup_do_not_share_their_fences(db: Database) -> None:
    first = restored(db)
    assert first.by % backups.MILLION == 0
    assert {restored(db).by for _ in range(5)} != {first.by}


def test_what_was_asked_of_a_running_job_is_done_and_what_has_succeeded_stays(db: Database) -> None:
    done = claimed(db)
    with db.write() as session:
        publishing.publish_version(session, **attempt(done), publication=publication())
    cancelled, paused, failed = claimed(db).job_id, claimed(db).job_id, claimed(db)
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, cancelled)
        jobs.request_pause(session, DEFAULT_PROJECT, paused)
        jobs.stop(session, **attempt(failed), outcome=Outcome.FAILURE)
        workers.register(session, "w1", hostname="here", pid=1, devices=[], slots={})
    counted = restored(db)
    assert (counted.given_back, counted.raised) == (2, 3)
    assert [job(db, each).state for each in (cancelled, paused)] == [JobState.CANCELLED, JobState.PAUSED]
    assert job(db, done.job_id).fence == done.fence
    assert job(db, failed.job_id).fence == failed.fence + counted.by
    with db.read() as session:
        assert workers.find(session) == []
        (*_, last) = events.events_of(session, failed.job_id)
    assert (last.type, last.fence, last.data) == (jobs.RESTORED, failed.fence + counted.by, {"raised_by": counted.by})


def test_a_job_that_had_failed_is_retried_after_a_restore(db: Database) -> None:
    held = claimed(db)
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.FAILURE)
    restored(db)
    with db.write() as session:
        jobs.retry(session, DEFAULT_PROJECT, held.job_id)
    again = claim(db)
    assert again is not None
    with db.write() as session:
        assert publishing.publish_version(session, **attempt(again), publication=publication()) == "1"


def test_each_restored_database_is_another_one(db: Database) -> None:
    seen = set()
    for _ in range(4):
        with db.read() as session:
            seen.add(ownership.identity(session))
        restored(db)
    assert len(seen) == 4


@pytest.mark.parametrize("kind", ["sqlite"])
def test_the_world_before_removes_nothing_that_the_restored_one_has_stored(
    db: Database, clock: Clock, tmp_path: Path
) -> None:
    blobs, before = FolderBlobs(tmp_path / "blobs"), db
    held = claimed(before)
    with before.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.FAILURE)
    keeping.sweep(before, blobs)  # whose the store is from now on
    backups.copy(before.url, tmp_path / "restored.db")
    after = Database(f"sqlite:///{tmp_path / 'restored.db'}", clock=clock)
    restored(after)
    ownership.take(after, blobs)
    (tmp_path / "new").write_text("weights")
    sha256, _ = blobs.put_file(tmp_path / "new")
    upload, tree = blobs.upload_path("ds_new"), blobs.root / f"jobs/{held.job_id}/f000001/ckpt-1"
    upload.write_bytes(b"rows")
    tree.mkdir(parents=True)
    clock.advance(2 * DAY_MS)
    assert not keeping.drop_if_ended(before, blobs, held.job_id)
    keeping.sweep(before, blobs, seconds=-60)
    expiring.expire(before, blobs, Retention(jobs_days=1))
    assert [kept.name for kept in blobs.listed("sha256")] == [sha256]
    assert (upload.exists(), tree.exists()) == (True, True)
    keeping.sweep(after, blobs, seconds=-60)
    assert [kept.folder for kept in blobs.listed(ASIDE)] == [sha256]
    assert (upload.exists(), tree.exists()) == (False, False)
    after.dispose()


def test_checkpoints_that_the_backup_lacks_are_forgotten(db: Database, tmp_path: Path) -> None:
    blobs, held = FolderBlobs(tmp_path / "blobs"), claimed(db)
    (tmp_path / "made").mkdir()
    (tmp_path / "made/weights").write_bytes(b"half")
    for step in (10, 20):
        tree = blobs.put_tree(f"jobs/{held.job_id}/f{held.fence:06d}/ckpt-{step}", tmp_path / "made")
        with db.write() as session:
            place = {"uri": tree.uri, "sha256": tree.sha256, "bytes": tree.bytes}
            checkpoints.add_checkpoint(session, **attempt(held), ttl_ms=TTL, step=step, **place)
    blobs.delete_prefix(tree.uri)
    assert backups.forget_lost_checkpoints(db, blobs) == 1
    with db.read() as session:
        assert [row.step for row in checkpoints.checkpoints_of(session, held.job_id)] == [10]


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_backup_is_of_one_moment_while_others_write(home: Path, url: str, run: Run) -> None:
    with Writer(url) as first:
        first.wait(20)
        for number in range(5):
            ran = run("db", "backup", str(home / f"backups/{number}.db"))
            assert (ran.code, "Copy the blobs now" in ran.err) == (0, True)
            assert f"{number}.db has what {home / 'gammabeta.db'} had" in ran.err
            assert " jobs and 0 versions" in ran.err
            assert (home / f"backups/{number}.db").stat().st_mode & 0o777 == 0o600
    for number in range(5):
        with closing(sqlite3.connect(home / f"backups/{number}.db")) as copied:
            assert copied.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            ((jobs_there, events_there),) = copied.execute(
                "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM job_events)"
            )
        assert jobs_there == events_there > 0  # each is submitted with its event, in one transaction
    assert sorted(path.name for path in (home / "backups").iterdir()) == [f"{number}.db" for number in range(5)]


class Writer:
    """Somebody who submits jobs for as long as the block lasts; the event is set with the first."""

    def __init__(self, url: str) -> None:
        self._db, self._first, self._over = Database(url), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> threading.Event:
        self._thread.start()
        return self._first

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._db.dispose()

    def _write(self) -> None:
        while not self._over.is_set():
            submit(self._db)
            self._first.set()


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_backup_takes_the_place_of_nothing(home: Path, run: Run) -> None:
    (home / "kept").write_text("of yesterday")
    ran = run("db", "backup", str(home / "kept"))
    assert (ran.code, "must be a new one" in ran.err) == (1, True)
    assert (home / "kept").read_text() == "of yesterday"


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_database_that_is_not_there_is_not_copied(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", f"sqlite:///{home / 'none.db'}")
    ran = run("db", "backup", str(home / "copy"))
    assert (ran.code, "must be there to be copied" in ran.err) == (1, True)
    assert not (home / "copy").exists()
    assert not (home / "none.db").exists()


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_database_without_a_schema_is_not_copied(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "empty.db").touch()
    monkeypatch.setenv("GAMMABETA_DATABASE_URL", f"sqlite:///{home / 'empty.db'}")
    ran = run("db", "backup", str(home / "copy"))
    assert (ran.code, f"{home / 'empty.db'}, which has none" in ran.err) == (1, True)
    assert list(home.glob("copy*")) == []


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_damaged_database_is_told_of_instead_of_being_copied(home: Path, url: str, run: Run) -> None:
    for _ in range(200):
        submit(db := Database(url))
        db.dispose()
    path = home / "gammabeta.db"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 8_192)
    ran = run("db", "backup", str(home / "copy"))
    assert ran.code == 1
    assert "must be sound to be copied" in ran.err
    assert not (home / "copy").exists()


@pytest.mark.parametrize("kind", ["postgresql"])
def test_postgresql_is_copied_by_its_own_program(home: Path, run: Run) -> None:
    ran = run("db", "backup", str(home / "copy"))
    assert (ran.code, "pg_dump --format=custom" in ran.err) == (1, True)


def test_the_command_says_what_it_did(home: Path, url: str, run: Run) -> None:
    db = Database(url)
    claimed(db)
    db.dispose()
    ran = run("db", "restored")
    assert ran.code == 0
    assert "1 jobs that may run again" in ran.err
    assert "1 of them were running" in ran.err
    db = Database(url)
    with db.read() as session:
        assert (home / "blobs/owner").read_text() == ownership.identity(session)
    db.dispose()
    assert run("db", "check").code == 0
