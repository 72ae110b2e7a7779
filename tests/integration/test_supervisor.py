"""The worker as it is: real processes that are killed, stopped and cut off, on both databases where they differ."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import datasets, jobs, models, workers
from gammabeta.store.tables import DEFAULT_PROJECT, JobRow, VersionRow
from tests.integration.databases import Databases
from tests.integration.workshop import SECRET, Workshop, alive, damage, until, workshop

STEPS = 2_000
"""Of a training that takes long enough to be interrupted."""


@pytest.fixture
def shop(kind: str, databases: Databases, tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path, databases.migrated(kind, tmp_path)) as made:
        yield made


sqlite_only = pytest.mark.parametrize("kind", ["sqlite"])


def warm(shop: Workshop) -> str:
    """A data set, once a first training has waited until torch was loaded, so that the next starts at once."""
    dataset_id = shop.ready_dataset()
    assert shop.ended(shop.train(dataset_id, epochs=1)).state == JobState.SUCCEEDED
    return dataset_id


def version(shop: Workshop, job_id: str) -> VersionRow:
    with shop.db.read() as session:
        row = models.get_version(session, DEFAULT_PROJECT, "toy", version=str(shop.job(job_id).version))
        assert row.job_id == job_id
        return row


def test_an_upload_is_read_and_a_network_trained_and_published(shop: Workshop) -> None:
    worker = shop.start()
    dataset_id = shop.ready_dataset()
    job_id = shop.train(dataset_id, epochs=2)
    job = shop.ended(job_id)
    assert (job.state, job.fence, job.version) == (JobState.SUCCEEDED, 1, 1)
    assert job.progress is not None
    assert job.progress["fraction"] == 1
    assert version(shop, job_id).metrics["test"]["accuracy"] > 0.5
    assert [name for name, _ in shop.events(job_id)][:3] == ["submitted", "claimed", "started"]
    assert shop.events(job_id)[-1][0] == "succeeded"
    until(lambda: not list((shop.home / "scratch").glob("*/*")), "an empty scratch folder")
    until(lambda: not shop.blobs.upload_path(dataset_id).exists(), "the upload to be removed")
    assert not (shop.blobs.root / "jobs" / job_id).exists()
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.process.wait(10) == 0
    assert not list((shop.home / "scratch").iterdir())
    with shop.db.read() as session:
        assert workers.find(session) == []


def test_a_killed_trainer_goes_on_from_its_checkpoint_and_publishes_the_same_once(shop: Workshop) -> None:
    worker = shop.start()
    dataset_id = shop.ready_dataset()
    undisturbed = shop.train(dataset_id, epochs=1_000, max_steps=STEPS)
    shop.ended(undisturbed)
    job_id = shop.train(dataset_id, epochs=1_000, max_steps=STEPS)
    shop.checkpoints(job_id)
    killed = worker.trainer()
    os.killpg(killed, signal.SIGKILL)
    assert shop.said(job_id, "resumed")["step"] > 0
    job = shop.ended(job_id)
    assert (job.state, job.fence, job.losses, job.version) == (JobState.SUCCEEDED, 2, 1, 2)
    one, other = version(shop, undisturbed), version(shop, job_id)
    assert (one.weights_sha256, one.batchnorm_digest) == (other.weights_sha256, other.batchnorm_digest)
    assert [data["outcome"] for _, data in shop.events(job_id) if "outcome" in data] == ["loss", "success"]


def test_a_killed_supervisor_takes_everything_along_and_another_goes_on(shop: Workshop) -> None:
    worker = shop.start()
    job_id = shop.train(shop.ready_dataset(), epochs=1_000, max_steps=STEPS)
    shop.checkpoints(job_id)
    family = worker.family()
    assert worker.attempts()
    os.kill(worker.pid, signal.SIGKILL)
    worker.process.wait()
    until(lambda: not alive(family), "the end of every process of the attempt", seconds=5)
    shop.start()
    job = shop.ended(job_id)
    assert (job.state, job.fence, job.losses, job.version) == (JobState.SUCCEEDED, 2, 1, 1)
    assert shop.said(job_id, "resumed")["step"] > 0
    assert len(list((shop.home / "scratch").iterdir())) == 1


def test_a_zombie_cannot_publish_beside_its_successor(shop: Workshop) -> None:
    worker = shop.start()
    job_id = shop.train(shop.ready_dataset(), epochs=1_000, max_steps=STEPS)
    shop.checkpoints(job_id)
    wake = shop.freeze(worker)
    successor = shop.start()
    until(lambda: shop.job(job_id).fence == 2, "another claim")
    wake()
    job = shop.ended(job_id)
    assert (job.state, job.fence, job.version) == (JobState.SUCCEEDED, 2, 1)
    assert version(shop, job_id).fence == 2
    until(lambda: not worker.attempts(), "the end of the zombie's trainer")
    assert worker.process.poll() is None
    assert successor.process.poll() is None


def test_drain_stores_a_checkpoint_and_releases_the_job_without_a_charge(shop: Workshop) -> None:
    worker = shop.start(CHECKPOINT_SECONDS="3600")
    job_id = shop.train(shop.ready_dataset(), epochs=1_000, max_steps=STEPS)
    shop.said(job_id, "started")
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.process.wait(10) == 0
    job = shop.job(job_id)
    assert (job.state, job.fence, job.losses, job.failures) == (JobState.QUEUED, 1, 0, 0)
    stored = shop.checkpoints(job_id)
    assert len(stored) == 1
    shop.start()
    assert shop.said(job_id, "resumed")["step"] == stored[0].step
    assert shop.ended(job_id).state == JobState.SUCCEEDED


@sqlite_only
def test_drain_kills_a_trainer_that_does_not_listen(shop: Workshop) -> None:
    worker = shop.start(CANCEL_GRACE_SECONDS="0.3")
    job_id = shop.endless(shop.ready_dataset())
    shop.said(job_id, "started")
    os.kill(worker.trainer(), signal.SIGSTOP)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.process.wait(5) == 0
    assert (shop.job(job_id).state, shop.job(job_id).losses) == (JobState.QUEUED, 0)


@sqlite_only
def test_a_second_signal_ends_the_worker_at_once(shop: Workshop) -> None:
    worker = shop.start(CANCEL_GRACE_SECONDS="60")
    job_id = shop.endless(shop.ready_dataset())
    shop.said(job_id, "started")
    family = worker.family()
    os.kill(worker.trainer(), signal.SIGSTOP)
    os.kill(worker.pid, signal.SIGTERM)
    until(lambda: "draining" in worker.log, "the drain")
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.process.wait(5) == 128 + signal.SIGTERM
    until(lambda: not alive(family), "the end of its children", seconds=5)


@pytest.mark.parametrize("listens", [True, False], ids=["listens", "hangs"])
@sqlite_only
def test_cancel_ends_a_running_job_and_its_process(shop: Workshop, listens: bool) -> None:
    worker = shop.start(CANCEL_GRACE_SECONDS="60" if listens else "0.3")
    job_id = shop.endless(shop.ready_dataset())
    shop.checkpoints(job_id)
    trainer = worker.trainer()
    if not listens:
        os.kill(trainer, signal.SIGSTOP)
    shop.cancel(job_id)
    job = shop.ended(job_id)
    assert (job.state, job.losses, job.failures, job.version) == (JobState.CANCELLED, 0, 0, None)
    until(lambda: not alive({trainer}), "the end of the trainer")
    until(lambda: not (shop.blobs.root / "jobs" / job_id).exists(), "its checkpoints to be removed")


@pytest.mark.parametrize(
    ("asked", "state"),
    [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED), ("drain", JobState.QUEUED)],
)
@sqlite_only
def test_a_trainer_that_has_not_begun_is_not_waited_for(shop: Workshop, asked: str, state: JobState) -> None:
    worker = shop.start_rigged(CANCEL_GRACE_SECONDS="600")
    job_id = shop.train(shop.ready_dataset(), epochs=1, metadata={"fault_always": "job_received=hang"})
    trainer = worker.trainer()
    if asked == "drain":
        os.kill(worker.pid, signal.SIGTERM)
    else:
        getattr(shop, asked)(job_id)
    job = shop.in_state(job_id, state)
    assert (job.losses, job.failures) == (0, 0)
    until(lambda: not alive({trainer}), "the end of the trainer")


@sqlite_only
def test_a_trainer_that_is_stopped_before_it_goes_on_leaves_its_checkpoint(shop: Workshop) -> None:
    shop.start_rigged(CANCEL_GRACE_SECONDS="600")
    job_id = shop.endless(shop.ready_dataset())
    shop.checkpoints(job_id)
    shop.pause(job_id)
    shop.in_state(job_id, JobState.PAUSED)
    before = [row.step for row in shop.checkpoints(job_id)]
    with shop.db.write() as session:
        row = session.get_one(JobRow, job_id)
        row.request = row.request | {"metadata": {"fault_always": "job_received=hang"}}
    shop.resume(job_id)
    shop.in_state(job_id, JobState.RUNNING)
    shop.pause(job_id)
    job = shop.in_state(job_id, JobState.PAUSED)
    assert (job.fence, job.losses, job.failures) == (2, 0, 0)
    assert [row.step for row in shop.checkpoints(job_id)] == before


def test_a_paused_training_makes_room_and_later_ends_in_the_same_bytes(shop: Workshop) -> None:
    worker = shop.start(CHECKPOINT_SECONDS="3600")
    dataset_id = shop.ready_dataset()
    undisturbed = shop.train(dataset_id, epochs=1_000, max_steps=STEPS)
    shop.ended(undisturbed)
    job_id = shop.train(dataset_id, epochs=1_000, max_steps=STEPS)
    shop.said(job_id, "started")
    trainer = worker.trainer()
    shop.pause(job_id)
    job = shop.in_state(job_id, JobState.PAUSED)
    assert (job.fence, job.losses, job.failures, job.worker_id) == (1, 0, 0, None)
    until(lambda: not alive({trainer}), "the end of the trainer", seconds=5)
    (stored,) = shop.checkpoints(job_id)
    assert 0 < stored.step < STEPS
    assert shop.ended(shop.train(dataset_id, epochs=1)).state == JobState.SUCCEEDED
    assert shop.job(job_id).state == JobState.PAUSED
    shop.resume(job_id)
    job = shop.ended(job_id)
    assert (job.state, job.fence, job.losses, job.failures) == (JobState.SUCCEEDED, 2, 0, 0)
    assert shop.said(job_id, "resumed")["step"] == stored.step
    one, other = version(shop, undisturbed), version(shop, job_id)
    assert (one.weights_sha256, one.batchnorm_digest) == (other.weights_sha256, other.batchnorm_digest)
    assert one.metrics == other.metrics
    assert [data["outcome"] for _, data in shop.events(job_id) if "outcome" in data] == ["pause", "success"]


@sqlite_only
def test_a_trainer_that_ignores_a_pause_is_killed_and_its_last_checkpoint_stays(shop: Workshop) -> None:
    worker = shop.start(CANCEL_GRACE_SECONDS="0.3")
    job_id = shop.endless(shop.ready_dataset())
    shop.checkpoints(job_id)
    trainer = worker.trainer()
    os.kill(trainer, signal.SIGSTOP)
    shop.pause(job_id)
    job = shop.in_state(job_id, JobState.PAUSED)
    assert (job.losses, job.failures) == (0, 0)
    assert not alive({trainer})
    newest = shop.checkpoints(job_id)[0]
    shop.resume(job_id)
    assert shop.said(job_id, "resumed")["step"] == newest.step


@pytest.mark.parametrize("listens", [True, False], ids=["listens", "hangs"])
@sqlite_only
def test_a_cancel_comes_before_a_pause(shop: Workshop, listens: bool) -> None:
    worker = shop.start(CANCEL_GRACE_SECONDS="60" if listens else "0.3")
    job_id = shop.endless(shop.ready_dataset())
    shop.checkpoints(job_id)
    trainer = worker.trainer()
    if not listens:
        os.kill(trainer, signal.SIGSTOP)
    with shop.db.write() as session:
        jobs.request_pause(session, DEFAULT_PROJECT, job_id)
        jobs.request_cancel(session, DEFAULT_PROJECT, job_id)
    job = shop.ended(job_id)
    assert (job.state, job.losses, job.failures) == (JobState.CANCELLED, 0, 0)
    until(lambda: not alive({trainer}), "the end of the trainer")
    until(lambda: not (shop.blobs.root / "jobs" / job_id).exists(), "its checkpoints to be removed")


@sqlite_only
def test_a_cancel_reaches_a_trainer_that_has_been_asked_to_pause(shop: Workshop) -> None:
    worker = shop.start(CANCEL_GRACE_SECONDS="3")
    job_id = shop.endless(shop.ready_dataset())
    shop.said(job_id, "started")
    trainer = worker.trainer()
    os.kill(trainer, signal.SIGSTOP)
    shop.pause(job_id)
    before = shop.job(job_id).lease_until_ms or 0
    until(lambda: (shop.job(job_id).lease_until_ms or 0) > before, "the heartbeat that tells of the pause")
    shop.cancel(job_id)
    os.kill(trainer, signal.SIGCONT)
    assert shop.ended(job_id).state == JobState.CANCELLED
    assert [data["outcome"] for _, data in shop.events(job_id) if "outcome" in data] == ["cancel"]


@pytest.mark.parametrize("listens", [True, False], ids=["goes on", "hangs"])
@sqlite_only
def test_a_training_past_its_deadline_is_killed_and_a_retry_goes_on_from_its_checkpoint(
    shop: Workshop, listens: bool
) -> None:
    worker = shop.start(CANCEL_GRACE_SECONDS="60")
    job_id = shop.endless(warm(shop), max_seconds=4)
    shop.checkpoints(job_id)
    trainer = worker.trainer()
    if not listens:
        os.kill(trainer, signal.SIGSTOP)
    job = shop.ended(job_id)
    assert (job.state, job.reason, job.failures, job.losses) == (JobState.FAILED, "deadline_exceeded", 1, 0)
    assert 3_900 <= (job.finished_ms or 0) - (job.started_ms or 0) < 9_000
    assert not alive({trainer})
    newest = shop.checkpoints(job_id)[0]
    assert "at most 4 s (max_seconds). It took longer, and was ended. Retry" in (job.message or "")
    assert f"from the checkpoint of step {newest.step}, with 4 s again" in (job.message or "")
    shop.retry(job_id)
    assert shop.said(job_id, "resumed")["step"] == newest.step
    job = shop.ended(job_id)
    assert (job.reason, job.fence, job.failures) == ("deadline_exceeded", 2, 1)
    assert shop.checkpoints(job_id)[0].step > newest.step
    assert shop.ended(shop.train(str(job.dataset_id), epochs=1, max_seconds=600)).state == JobState.SUCCEEDED


@sqlite_only
def test_a_deadline_before_the_first_checkpoint_says_that_there_is_none(shop: Workshop) -> None:
    shop.start(CHECKPOINT_SECONDS="3600")
    job = shop.ended(shop.endless(warm(shop), max_seconds=1))
    assert (job.state, job.reason) == (JobState.FAILED, "deadline_exceeded")
    assert "no checkpoint to go on from. Submit it anew with a larger max_seconds." in (job.message or "")


@sqlite_only
def test_a_pause_that_was_asked_for_before_the_deadline_stays_a_pause(shop: Workshop) -> None:
    worker = shop.start(CANCEL_GRACE_SECONDS="60")
    job_id = shop.endless(warm(shop), max_seconds=4)
    shop.checkpoints(job_id)
    os.kill(worker.trainer(), signal.SIGSTOP)
    shop.pause(job_id)
    assert shop.in_state(job_id, JobState.PAUSED).failures == 0


@sqlite_only
def test_a_job_whose_trainer_dies_each_time_fails_as_poison(shop: Workshop) -> None:
    worker = shop.start(RETRY_SECONDS="0")
    job_id = shop.endless(shop.ready_dataset())
    for attempt in range(1, 4):
        shop.said(job_id, "started", times=attempt)
        os.kill(worker.trainer(), signal.SIGSEGV)
        until(lambda attempt=attempt: shop.job(job_id).losses == attempt, "the loss")
    job = shop.ended(job_id)
    assert (job.state, job.reason, job.losses) == (JobState.FAILED, "poison", 3)
    assert "SIGSEGV" in (job.message or "")
    assert shop.ended(shop.train(str(job.dataset_id), epochs=1)).state == JobState.SUCCEEDED
    assert worker.process.poll() is None


def test_a_job_whose_worker_is_not_heard_of_is_reaped_and_run(shop: Workshop) -> None:
    first = shop.start()
    dataset_id = shop.ready_dataset()
    first.end()
    job_id = shop.train(dataset_id, epochs=1)
    with shop.db.write() as session:
        taken = jobs.claim(session, worker_id="gone", lane=Lane.TRAIN, free=1, ttl_ms=1, device="cpu")
    assert taken is not None
    shop.start()
    job = shop.ended(job_id)
    assert (job.state, job.fence, job.losses) == (JobState.SUCCEEDED, 2, 1)


@sqlite_only
def test_a_refused_file_fails_its_data_set_and_is_removed(shop: Workshop) -> None:
    shop.start()
    dataset_id, job_id = shop.upload(b"a,y\n1,u\n2\n", format="csv", target="y")
    job = shop.ended(job_id)
    assert (job.state, job.reason, job.losses) == (JobState.FAILED, "ragged_rows", 0)
    with shop.db.read() as session:
        row = datasets.get(session, DEFAULT_PROJECT, dataset_id)
    assert (row.state, row.error_code) == ("failed", "ragged_rows")
    assert "line 3" in (row.error_message or "")
    until(lambda: not shop.blobs.upload_path(dataset_id).exists(), "the upload to be removed")


@sqlite_only
def test_a_second_file_becomes_the_test_split(shop: Workshop) -> None:
    shop.start()
    dataset_id, job_id = shop.upload(b"a,y\n1,u\n2,v\n3,u\n", format="csv", target="y")
    assert shop.ended(job_id).state == JobState.SUCCEEDED
    second = shop.second_upload(dataset_id, b"y,a\nv,5\n", format="csv", target="y", split="test")
    assert shop.ended(second).state == JobState.SUCCEEDED
    with shop.db.read() as session:
        row = datasets.get(session, DEFAULT_PROJECT, dataset_id)
    manifest = datasets.manifest(row)
    assert manifest is not None
    assert row.state == "ready"
    assert {split: files.n for split, files in manifest.splits.items()} == {"train": 3, "test": 1}
    assert np.load(shop.blobs.path(manifest.splits["test"].x.sha256), allow_pickle=False).tolist() == [[5]]


@sqlite_only
def test_an_upload_does_not_wait_for_a_training(shop: Workshop) -> None:
    shop.start()
    job_id = shop.endless(shop.ready_dataset())
    shop.said(job_id, "started")
    _, upload = shop.upload(b"a,y\n1,u\n2,v\n", format="csv", target="y")
    assert shop.ended(upload).state == JobState.SUCCEEDED
    assert shop.job(job_id).state == JobState.RUNNING


@sqlite_only
def test_an_upload_that_needs_too_much_is_refused_and_not_tried_again(shop: Workshop) -> None:
    shop.start(INGEST_CPU_SECONDS="1", INGEST_ROWS="1000000000")
    rows = b"".join(b"%d,%d\n" % (number, number % 7) for number in range(2_000_000))
    _, job_id = shop.upload(b"a,y\n" + rows, format="csv", target="y")
    job = shop.ended(job_id)
    assert (job.state, job.reason, job.fence) == (JobState.FAILED, "too_large", 1)
    assert "SIGXCPU" in (job.message or "")


@sqlite_only
def test_a_damaged_data_set_fails_the_job_and_nothing_is_trained_on_it(shop: Workshop) -> None:
    shop.start()
    dataset_id = shop.ready_dataset()
    assert shop.ended(shop.train(dataset_id, epochs=1)).state == JobState.SUCCEEDED
    with shop.db.read() as session:
        manifest = datasets.manifest(datasets.get(session, DEFAULT_PROJECT, dataset_id))
    assert manifest is not None
    array = shop.blobs.path(manifest.splits["train"].x.sha256)
    damage(array)
    job = shop.ended(shop.train(dataset_id, epochs=1))
    assert (job.state, job.reason) == (JobState.FAILED, "artifact_corrupt")
    assert [problem[:2] for problem in shop.audit()] == ["I8"]
    damage(array)  # the same bit once more


@sqlite_only
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(shop: Workshop) -> None:
    worker = shop.start()
    job_id = shop.train(shop.ready_dataset(), epochs=1_000, max_steps=STEPS)
    shop.checkpoints(job_id, at_least=2)
    os.kill(worker.pid, signal.SIGTERM)
    worker.process.wait()
    newest, *older = shop.checkpoints(job_id)
    assert len(older) == 1
    damage(shop.blobs.root / newest.uri / "weights.safetensors")
    shop.start()
    assert shop.said(job_id, "resumed")["step"] == older[0].step
    assert shop.ended(job_id).state == JobState.SUCCEEDED


@sqlite_only
def test_children_have_no_secret_and_the_supervisor_no_torch(shop: Workshop) -> None:
    worker = shop.start()
    job_id = shop.endless(shop.ready_dataset())
    shop.said(job_id, "started")
    for pid in worker.family():
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert SECRET.encode() not in environment
        assert b"GAMMABETA" not in environment
    for thread in Path(f"/proc/{worker.trainer()}/task").glob("*/status"):
        assert "NoNewPrivs:\t1" in thread.read_text()
    assert "libtorch" not in Path(f"/proc/{worker.pid}/maps").read_text()
    assert "libtorch" in Path(f"/proc/{worker.trainer()}/maps").read_text()


@sqlite_only
def test_the_first_step_comes_within_a_second_of_the_submission(shop: Workshop) -> None:
    shop.start(POLL_SECONDS="0.2")
    dataset_id = shop.ready_dataset()
    delays = []
    for _ in range(3):
        job_id = shop.train(dataset_id, epochs=1)
        shop.ended(job_id)
        with shop.db.read() as session:
            times = {row.type: row.created_ms for row in jobs.events.events_of(session, job_id)}
        delays.append(times["started"] - times["submitted"])
    assert min(delays) <= 1_000
