"""How many bytes a project has, each counted once, and how many it may."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from gammabeta.errors import ProjectFull
from gammabeta.schemas.usage import UsedBytes
from gammabeta.store import checkpoints, datasets, deleting, jobs, publishing, usage
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Outcome
from gammabeta.store.tables import DEFAULT_PROJECT, DatasetRow
from gammabeta.store.usage import StorageLimit
from tests.integration.samples import TTL, attempt, claimed, dataset, ingestion
from tests.integration.test_datasets import begin_second, ready
from tests.integration.test_deleting import job_of
from tests.integration.test_models import publish

ARRAY = 80
"""Bytes of the array that the manifest of the samples has, as x and y of every split."""


def used(db: Database, project_id: str = DEFAULT_PROJECT) -> tuple[int, int, int, int]:
    """Of data sets, models and jobs, and in all."""
    with db.read() as session:
        found: UsedBytes = usage.measure(session, project_id)
    return found.datasets, found.models, found.jobs, found.total


def predicted(db: Database, sha256: str, size: int) -> str:
    held = claimed(db, kind=jobs.PREDICT)
    with db.write() as session:
        result: dict[str, Any] = {"file": "/v1/…", "rows": 1, "bytes": size, "sha256": sha256}
        assert publishing.publish_file(session, **attempt(held), result=result)
    return held.job_id


def test_a_project_begins_with_nothing(db: Database) -> None:
    assert used(db) == (0, 0, 0, 0)


def test_an_upload_counts_until_it_is_read_and_then_its_arrays(db: Database) -> None:
    dataset_id = dataset(db, bytes=100)
    assert used(db) == (100, 0, 0, 100)
    held = ingestion(db, dataset_id)
    assert used(db) == (100, 0, 0, 100)
    with db.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.FAILURE, reason="ragged_rows")
    assert used(db) == (0, 0, 0, 0)


def test_a_second_file_counts_beside_the_arrays_of_the_first(db: Database) -> None:
    dataset_id = ready(db)
    begin_second(db, dataset_id)
    ingestion(db, dataset_id)
    assert used(db) == (ARRAY + 50, 0, 0, ARRAY + 50)


def test_arrays_that_data_sets_share_count_once(db: Database) -> None:
    ready(db, "one", "train", "test")
    ready(db, "other")
    assert used(db) == (ARRAY, 0, 0, ARRAY)
    with db.write() as session:
        datasets.delete(session, DEFAULT_PROJECT, "one")
    assert used(db) == (ARRAY, 0, 0, ARRAY)


def test_weights_that_versions_share_count_once(db: Database) -> None:
    publish(db, weights_bytes=3 << 30)
    publish(db, weights_bytes=3 << 30)
    publish(db, "other", weights_sha256="cd" * 32, weights_bytes=7)
    assert used(db) == (0, (3 << 30) + 7, 0, (3 << 30) + 7)
    with db.write() as session:
        deleting.delete_version(session, DEFAULT_PROJECT, "digits", "1")
    assert used(db)[1] == (3 << 30) + 7
    with db.write() as session:
        deleting.delete_model(session, DEFAULT_PROJECT, "digits")
    assert used(db)[1] == 7


def test_files_and_checkpoints_of_jobs_count_while_they_are_kept(db: Database) -> None:
    job_id = predicted(db, "ab" * 32, 5 << 30)
    predicted(db, "ab" * 32, 5 << 30)
    held = claimed(db)
    with db.write() as session:
        place = {"step": 1, "uri": f"jobs/{held.job_id}/f000001/ckpt-1", "sha256": "aa" * 32, "bytes": 9}
        assert checkpoints.add_checkpoint(session, **attempt(held), ttl_ms=TTL, **place)
    assert used(db) == (0, 0, (5 << 30) + 9, (5 << 30) + 9)
    with db.write() as session:
        deleting.delete_job(session, DEFAULT_PROJECT, job_id)
    assert used(db)[2] == (5 << 30) + 9
    publish(db)
    assert job_of(db, "1").result is not None
    assert used(db)[2] == (5 << 30) + 9


def test_each_project_counts_its_own(db: Database) -> None:
    ready(db)
    publish(db)
    predicted(db, "ab" * 32, 4)
    assert used(db, "other") == (0, 0, 0, 0)


def test_so_many_bytes_may_come_and_not_one_more(db: Database) -> None:
    dataset(db, bytes=100)
    limit = StorageLimit(bytes=130)
    with db.write() as session:
        limit.check(session, DEFAULT_PROJECT, 30)
        with pytest.raises(ProjectFull, match=r"may have 130 bytes .* has 100 \(data sets 100, models 0, jobs 0\)"):
            limit.check(session, DEFAULT_PROJECT, 31)
        limit.check(session, "other", 130)


def test_without_a_limit_nothing_is_counted(db: Database) -> None:
    with db.write() as session:
        session.execute(update(DatasetRow).values(bytes=1))
        StorageLimit().check(session, DEFAULT_PROJECT, 1 << 62)
        assert StorageLimit().room(session, DEFAULT_PROJECT) is None
