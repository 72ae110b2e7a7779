"""What has been kept for as long as the settings say goes, and nothing that something needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gammabeta.errors import JobNotFound, NotReady
from gammabeta.schemas.jobs import JobState
from gammabeta.store import datasets, deleting, jobs, listing, models, retention
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Claim, Outcome
from gammabeta.store.retention import DAY_MS, Retention
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.databases import Clock
from tests.integration.samples import TTL, attempt, claim, claimed, submit
from tests.integration.test_datasets import ready
from tests.integration.test_deleting import failed, job_of, numbers, predicting
from tests.integration.test_models import publish, set_alias
from worker import expiring, keeping
from worker.settings import WorkerSettings


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


def job_ids(db: Database) -> set[str]:
    with db.read() as session:
        return {row.id for row in listing.find(session, DEFAULT_PROJECT, limit=100)}


def dataset_ids(db: Database) -> set[str]:
    with db.read() as session:
        return {row.id for row in datasets.find(session, DEFAULT_PROJECT)}


def test_by_default_nothing_expires(db: Database, blobs: FolderBlobs, clock: Clock) -> None:
    publish(db)
    kept = {failed(db), job_of(db, "1").id}
    ready(db)
    kept |= job_ids(db)
    clock.advance(10_000 * DAY_MS)
    expiring.expire(db, blobs, WorkerSettings().retention)
    assert (job_ids(db), len(dataset_ids(db)), numbers(db)) == (kept, 1, ("1",))


def test_jobs_expire_so_many_days_after_their_end(db: Database, blobs: FolderBlobs, clock: Clock) -> None:
    keep = Retention(jobs_days=2)
    old = failed(db)
    clock.advance(DAY_MS)
    young, waiting = failed(db), submit(db)
    clock.advance(DAY_MS)
    expiring.expire(db, blobs, keep)
    assert job_ids(db) == {old, young, waiting}
    clock.advance(1)
    expiring.expire(db, blobs, keep)
    assert job_ids(db) == {young, waiting}
    clock.advance(100 * DAY_MS)
    expiring.expire(db, blobs, keep)
    assert job_ids(db) == {waiting}


def test_the_job_of_a_version_does_not_expire_before_it(db: Database, blobs: FolderBlobs, clock: Clock) -> None:
    publish(db)
    job_id = job_of(db, "1").id
    clock.advance(3 * DAY_MS)
    expiring.expire(db, blobs, Retention(jobs_days=2))
    assert job_ids(db) == {job_id}
    with db.write() as session:
        deleting.delete_model(session, DEFAULT_PROJECT, "digits")
    expiring.expire(db, blobs, Retention(jobs_days=2))
    assert job_ids(db) == set()


def test_the_newest_versions_of_each_model_stay_and_those_with_an_alias(db: Database, blobs: FolderBlobs) -> None:
    for _ in range(5):
        publish(db)
    publish(db, "other")
    set_alias(db, "production", "1")
    set_alias(db, "canary", "5")
    expiring.expire(db, blobs, Retention(versions=2))
    assert (numbers(db), numbers(db, "other")) == (("5", "4", "3", "1"), ("1",))


def test_a_version_that_a_job_predicts_by_or_that_is_a_parent_does_not_expire(db: Database, blobs: FolderBlobs) -> None:
    for parent in (None, None, None, "2"):
        publish(db, parent=parent)
    job_id = predicting(db, "1")
    expiring.expire(db, blobs, Retention(versions=1), limit=1)
    assert numbers(db) == ("4", "2", "1")  # what cannot go takes no place of what can
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, job_id)
    expiring.expire(db, blobs, Retention(versions=1))
    assert numbers(db) == ("4", "2")


def test_a_data_set_expires_so_many_days_after_it_was_used(db: Database, blobs: FolderBlobs, clock: Clock) -> None:
    keep = Retention(datasets_days=10)
    unused, used, busy = ready(db, "unused"), ready(db, "used"), ready(db, "busy")
    clock.advance(8 * DAY_MS)
    failed(db, dataset_id=used)
    paused = claimed(db, dataset_id=busy)
    with db.write() as session:
        jobs.request_pause(session, DEFAULT_PROJECT, paused.job_id)
        assert jobs.stop(session, **attempt(paused), outcome=Outcome.PAUSE) == JobState.PAUSED
    clock.advance(3 * DAY_MS)
    expiring.expire(db, blobs, keep)
    assert dataset_ids(db) == {used, busy}
    clock.advance(8 * DAY_MS)
    expiring.expire(db, blobs, keep)
    assert dataset_ids(db) == {busy}
    assert unused not in dataset_ids(db)


def test_jobs_stay_for_as_long_as_they_tell_when_a_data_set_was_used(
    db: Database, blobs: FolderBlobs, clock: Clock
) -> None:
    keep = Retention(jobs_days=2, datasets_days=10)
    dataset_id = ready(db, "used")
    clock.advance(9 * DAY_MS)
    using, other = failed(db, dataset_id=dataset_id), failed(db)
    clock.advance(9 * DAY_MS)
    expiring.expire(db, blobs, keep)
    assert dataset_ids(db) == {dataset_id}
    assert using in job_ids(db)
    assert other not in job_ids(db)
    clock.advance(2 * DAY_MS)
    expiring.expire(db, blobs, keep)
    assert (dataset_ids(db), job_ids(db)) == (set(), set())


def test_so_many_go_at_once_the_oldest_first(db: Database, blobs: FolderBlobs, clock: Clock) -> None:
    old = [failed(db) for _ in range(5)]
    clock.advance(2 * DAY_MS)
    expiring.expire(db, blobs, Retention(jobs_days=1), limit=2)
    assert job_ids(db) == set(old[2:])


def test_what_has_come_into_use_since_it_was_looked_for_stays(db: Database, clock: Clock) -> None:
    job_id, dataset_id = failed(db), ready(db)
    clock.advance(2 * DAY_MS)
    keep = Retention(jobs_days=1, datasets_days=1)
    with db.read() as session:
        assert (DEFAULT_PROJECT, job_id) in retention.old_jobs(session, keep, limit=9)
        assert retention.unused_datasets(session, keep, limit=9) == [(DEFAULT_PROJECT, dataset_id)]
    with db.write() as session:
        jobs.retry(session, DEFAULT_PROJECT, job_id)
    submit(db, dataset_id=dataset_id)
    assert not expiring.deleted(db, deleting.delete_job, DEFAULT_PROJECT, job_id)
    assert not expiring.deleted(db, datasets.delete, DEFAULT_PROJECT, dataset_id)
    with db.read() as session:
        assert jobs.get(session, DEFAULT_PROJECT, job_id).state == JobState.QUEUED


def failed_with_a_checkpoint(db: Database, blobs: FolderBlobs, tmp_path: Path) -> Claim:
    held, folder = claimed(db), tmp_path / "ckpt"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    with db.write() as session:
        assert keeping.store(blobs, held, folder, step=1, lease_ms=TTL)(session)
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.FAILURE, reason="deadline_exceeded")
    return held


def test_what_lies_under_a_deleted_job_goes(db: Database, blobs: FolderBlobs, tmp_path: Path) -> None:
    held = failed_with_a_checkpoint(db, blobs, tmp_path)
    with db.write() as session:
        deleting.delete_job(session, DEFAULT_PROJECT, held.job_id)
    with pytest.raises(JobNotFound), db.read() as session:
        jobs.get(session, DEFAULT_PROJECT, held.job_id)
    keeping.sweep(db, blobs)
    assert blobs.names("jobs") == [held.job_id]  # it is young: somebody may be restoring a backup
    keeping.sweep(db, blobs, seconds=-60)
    assert blobs.names("jobs") == []


def test_a_job_that_expires_takes_its_checkpoints_with_it(
    db: Database, blobs: FolderBlobs, clock: Clock, tmp_path: Path
) -> None:
    held = failed_with_a_checkpoint(db, blobs, tmp_path)
    clock.advance(2 * DAY_MS)
    keeping.sweep(db, blobs, seconds=-60)
    assert blobs.names("jobs") == [held.job_id]
    expiring.expire(db, blobs, Retention(jobs_days=1))
    assert (blobs.names("jobs"), job_ids(db)) == ([], set())


class Away(FolderBlobs):
    """A store that removes nothing now."""

    def delete_prefix(self, prefix: str) -> None:
        raise NotReady(f"{prefix} cannot be removed")


def test_data_sets_expire_although_the_store_does_not_remove_what_is_of_jobs(
    db: Database, clock: Clock, tmp_path: Path
) -> None:
    failed(db, dataset_id=ready(db))
    failed(db)
    clock.advance(2 * DAY_MS)
    expiring.expire(db, Away(tmp_path / "blobs"), Retention(jobs_days=1, datasets_days=1))
    assert (job_ids(db), dataset_ids(db)) == (set(), set())


def test_a_model_is_trained_on_while_its_versions_expire(db: Database, blobs: FolderBlobs) -> None:
    for _ in range(3):
        publish(db)
        expiring.expire(db, blobs, Retention(versions=1))
    assert numbers(db) == ("3",)
    submit(db)
    assert claim(db) is not None
    with db.read() as session:
        assert models.version_schema(models.get_version(session, DEFAULT_PROJECT, "digits")).version == "3"
