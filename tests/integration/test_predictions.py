"""Predictions of data sets by real workers: answered once, whatever is killed, and by the fence alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import JobState
from gammabeta.store import jobs, models, publishing
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.faults.traps import Traps
from tests.integration.auditor import audit
from tests.integration.databases import Clock, Databases
from tests.integration.samples import TTL, attempt, claim, claimed
from tests.integration.workshop import Worker, Workshop, damage, until, workshop

RESULT: dict[str, Any] = {
    "file": "/v1/jobs/job_1/files/predictions.csv",
    "rows": 3,
    "bytes": 10,
    "sha256": "ab" * 32,
}

sqlite_only = pytest.mark.parametrize("kind", ["sqlite"])


@pytest.fixture
def shop(kind: str, databases: Databases, tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path, databases.migrated(kind, tmp_path)) as made:
        yield made


def trained(shop: Workshop) -> str:
    """The data set that version 1 of `toy` was trained on."""
    dataset_id = shop.ready_dataset()
    assert shop.ended(shop.train(dataset_id, epochs=2)).state == JobState.SUCCEEDED
    return dataset_id


def answers(shop: Workshop, job_id: str, *, fence: int = 1) -> tuple[dict[str, Any], Path]:
    """The result of the job, and its file."""
    job = shop.ended(job_id)
    assert (job.state, job.fence, job.version) == (JobState.SUCCEEDED, fence, None), job.message
    assert job.result is not None
    assert [name for name, _ in shop.events(job_id)].count("succeeded") == 1
    return job.result, shop.blobs.verify(job.result["sha256"], again=True)


@dataclass(frozen=True, kw_only=True)
class Caught:
    """A prediction of a data set that is ready, whose worker stands at a place of its program until it is let go."""

    shop: Workshop
    worker: Worker
    dataset_id: str
    job_id: str
    let_go: Callable[[], None]

    def stop_child(self) -> None:
        """The worker goes on, and the job's child does nothing more."""
        os.kill(self.worker.trainer(), signal.SIGSTOP)
        self.let_go()
        assert self.shop.job(self.job_id).state == JobState.RUNNING


def caught(shop: Workshop, place: Failpoint, *, max_seconds: int | None = None) -> Caught:
    """A prediction by the `toy` that is trained here, once it has come to this place."""
    worker, traps = shop.start_rigged(), Traps(shop.home)
    dataset_id = trained(shop)
    traps.lay(place)
    job_id = shop.predict(dataset_id, max_seconds=max_seconds)
    traps.caught(place)
    return Caught(shop=shop, worker=worker, dataset_id=dataset_id, job_id=job_id, let_go=traps.let_go)


def test_a_split_is_answered_and_measured_as_its_training_measured_it(shop: Workshop) -> None:
    shop.start()
    dataset_id = trained(shop)
    job_id = shop.predict(dataset_id)
    result, file = answers(shop, job_id)
    found = pl.read_csv(file)
    assert (len(found), result["rows"], result["bytes"]) == (40, 40, file.stat().st_size)
    assert found.columns == ["row", "label", "score_0", "score_1", "score_2", "target"]
    with shop.db.read() as session:
        version = models.get_version(session, DEFAULT_PROJECT, "toy")
        measured, digest = version.metrics["test"], version.batchnorm_digest
    assert result["metrics"] == pytest.approx({key: measured[key] for key in result["metrics"]})
    assert result["metrics"]["n"] == 40
    assert {"loss", "accuracy"} < result["metrics"].keys()
    assert (found["label"] == found["target"]).mean() == pytest.approx(measured["accuracy"])
    assert (result["model"], result["version"], result["batchnorm_digest"]) == ("toy", "1", digest)
    assert [name for name, _ in shop.events(job_id)] == ["submitted", "claimed", "started", "succeeded"]
    assert shop.job(job_id).progress["fraction"] == 1  # type: ignore[index]
    until(lambda: not list((shop.home / "scratch").glob("*/*")), "an empty scratch folder")
    again, _ = answers(shop, shop.predict(dataset_id, split="train", format="parquet"))
    assert (again["rows"], again["file"].rpartition("/")[2]) == (203, "predictions.parquet")


@sqlite_only
def test_a_killed_child_is_charged_as_a_loss_and_its_successor_answers_every_row(shop: Workshop) -> None:
    killed = caught(shop, Failpoint.CHILD_STARTED)
    os.kill(killed.worker.trainer(), signal.SIGKILL)
    killed.let_go()
    result, _ = answers(shop, killed.job_id, fence=2)
    assert shop.job(killed.job_id).losses == 1
    undisturbed, _ = answers(shop, shop.predict(killed.dataset_id))
    assert result["sha256"] == undisturbed["sha256"]


def test_a_worker_that_is_killed_at_the_commit_of_its_result_leaves_one_result(shop: Workshop) -> None:
    committing = caught(shop, Failpoint.PUBLISH_BEFORE_COMMIT)
    committing.worker.end()
    committing.let_go()
    shop.start()
    answers(shop, committing.job_id, fence=2)


@sqlite_only
def test_a_cancel_ends_the_child_and_leaves_no_result(shop: Workshop) -> None:
    begun = caught(shop, Failpoint.CHILD_STARTED)
    begun.stop_child()
    shop.cancel(begun.job_id)
    job = shop.ended(begun.job_id)
    assert (job.state, job.result) == (JobState.CANCELLED, None)
    until(lambda: not begun.worker.attempts(), "the child to end")


@sqlite_only
def test_a_cancel_that_comes_before_the_commit_wins(shop: Workshop) -> None:
    answered = caught(shop, Failpoint.RESULT_HEARD)
    shop.cancel(answered.job_id)
    answered.let_go()
    job = shop.ended(answered.job_id)
    assert (job.state, job.result) == (JobState.CANCELLED, None)


@sqlite_only
def test_a_paused_prediction_is_charged_nothing_and_begins_anew(shop: Workshop) -> None:
    begun = caught(shop, Failpoint.CHILD_STARTED)
    begun.stop_child()
    shop.pause(begun.job_id)
    assert shop.in_state(begun.job_id, JobState.PAUSED).losses == 0
    shop.resume(begun.job_id)
    answers(shop, begun.job_id, fence=2)


@sqlite_only
def test_a_prediction_past_its_deadline_is_ended(shop: Workshop) -> None:
    begun = caught(shop, Failpoint.CHILD_STARTED, max_seconds=1)
    since = time.monotonic()
    until(lambda: time.monotonic() > since + 1.2, "the deadline")
    begun.let_go()
    job = shop.ended(begun.job_id)
    assert (job.state, job.reason) == (JobState.FAILED, "deadline_exceeded")


@sqlite_only
def test_damaged_weights_fail_the_job_and_nothing_is_answered_by_them(shop: Workshop) -> None:
    shop.start()
    dataset_id = trained(shop)
    with shop.db.read() as session:
        weights = shop.blobs.path(models.get_version(session, DEFAULT_PROJECT, "toy").weights_sha256)
    sound = weights.read_bytes()
    damage(weights)
    job = shop.ended(shop.predict(dataset_id))
    assert (job.state, job.reason, job.result) == (JobState.FAILED, "artifact_corrupt", None)
    weights.write_bytes(sound)


def test_only_the_holder_publishes_a_file_and_once(db: Database, clock: Clock) -> None:
    lost = claimed(db, kind=jobs.PREDICT)
    clock.advance(TTL + 1)
    with db.write() as session:
        jobs.reap(session, backoff_ms=0)
    with db.write() as session:
        assert not publishing.publish_file(session, **attempt(lost), result=RESULT)
    held = claim(db)
    assert held is not None
    assert (held.job_id, held.fence) == (lost.job_id, 2)
    with db.write() as session:
        assert publishing.publish_file(session, **attempt(held), result=RESULT)
    with db.write() as session:
        assert not publishing.publish_file(session, **attempt(held), result=RESULT)
    with db.read() as session:
        row = jobs.get(session, DEFAULT_PROJECT, held.job_id)
        assert (row.state, row.result) == (JobState.SUCCEEDED, RESULT)
        assert audit(session) == []


def test_a_prediction_with_a_requested_cancel_is_never_published(db: Database) -> None:
    held = claimed(db, kind=jobs.PREDICT)
    with db.write() as session:
        jobs.request_cancel(session, DEFAULT_PROJECT, held.job_id)
    with db.write() as session:
        assert not publishing.publish_file(session, **attempt(held), result=RESULT)


def test_the_auditor_misses_a_file_that_is_named_and_not_stored(db: Database, tmp_path: Path) -> None:
    held = claimed(db, kind=jobs.PREDICT)
    with db.write() as session:
        assert publishing.publish_file(session, **attempt(held), result=RESULT)
    with db.read() as session:
        (broken,) = audit(session, FolderBlobs(tmp_path))
    assert broken.startswith("I8")
    assert "ab" * 32 in broken
