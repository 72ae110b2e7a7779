"""A slot and its attempts, with children that do as they are told and a database that has its moments."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PosixPath
from typing import Any

import pytest
from sqlalchemy.orm import Session

from gammabeta.errors import NotReady
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import checkpoints, datasets, jobs
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Claim, Outcome
from gammabeta.store.stored import Tree
from gammabeta.store.tables import DEFAULT_PROJECT, DatasetRow, JobRow
from tests.integration.samples import TTL, attempt, claimed, dataset, submit
from worker.attempts import Surroundings
from worker.children import Death
from worker.ingestion import ingest
from worker.inputs import Inputs
from worker.messages import Checkpoint, Done, IngestFile, Order, Report
from worker.metrics import Metrics
from worker.settings import WorkerSettings
from worker.slots import Slot
from worker.training_attempts import TrainingAttempt

CSV = {"format": "csv", "target": "y", "split": None}


class Moody:
    """A database that fails as often as it is told to."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.reads: list[Exception] = []
        self.writes: list[Exception] = []

    @contextmanager
    def read(self) -> Iterator[Session]:
        if self.reads:
            raise self.reads.pop()
        with self._db.read() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        if self.writes:
            raise self.writes.pop()
        with self._db.write() as session:
            yield session


@dataclass
class Puppet:
    """A child that reads files in this process, or ends without a word."""

    silent: bool = False
    patience: float | None = None
    pid: int = 1
    says: list[Report] = field(default_factory=list)

    def send(self, order: Order) -> None:
        if isinstance(order, IngestFile) and not self.silent:
            ingest(order)
            self.says.append(Done(path=order.scratch))

    def reports(self, *, timeout: float) -> Iterator[Report]:
        del timeout
        if not self.says:
            raise EOFError
        yield self.says.pop()

    def death(self, *, patience: float) -> Death:
        self.patience = patience
        return Death(-9, out_of_memory=False)

    def kill(self) -> None: ...

    def end(self) -> None: ...


@dataclass
class Deaf(Puppet):
    """A child that does nothing until it is killed."""

    killed: threading.Event = field(default_factory=threading.Event)

    def send(self, order: Order) -> None: ...

    def reports(self, *, timeout: float) -> Iterator[Report]:
        if self.killed.wait(timeout):
            raise EOFError
        yield from ()

    def kill(self) -> None:
        self.killed.set()


class FullDisk(PosixPath):
    """A place where no folder can be made."""

    def mkdir(self, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@dataclass
class Bench:
    """Slots over one database and one folder."""

    db: Database
    moody: Moody
    home: Path
    child: Callable[[], Puppet] = Puppet
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def blobs(self) -> FolderBlobs:
        return FolderBlobs(self.home / "blobs")

    def ingestion(self) -> Puppet:
        return self.child()

    def slot(self, lane: Lane = Lane.LIGHT, scratch: Path | None = None) -> Slot:
        settings = {"heartbeat_seconds": 0.02, "lease_seconds": 30, "report_seconds": 0.01, "cancel_grace_seconds": 7}
        around = Surroundings(
            settings=WorkerSettings.model_validate(settings),
            db=self.moody,  # type: ignore[arg-type]
            blobs=self.blobs,
            inputs=Inputs(self.blobs),
            children=self,  # type: ignore[arg-type]
            scratch=scratch or self.home / "scratch",
            draining=threading.Event(),
            metrics=self.metrics,
        )
        return Slot("slot", lane=lane, device="cpu", worker_id="w1", around=around)

    def upload(self, dataset_id: str, text: bytes, **options: Any) -> str:
        self.blobs.upload_path(dataset_id).write_bytes(text)
        details: dict[str, Any] = {"lane": Lane.LIGHT, "devices": 0, "model": None, "dataset_id": dataset_id}
        return submit(self.db, kind=jobs.INGEST, request=CSV | options, **details)

    def job(self, job_id: str) -> JobRow:
        with self.db.read() as session:
            return jobs.get(session, DEFAULT_PROJECT, job_id)

    def manifest(self, dataset_id: str) -> DatasetManifest | None:
        with self.db.read() as session:
            return datasets.manifest(datasets.get(session, DEFAULT_PROJECT, dataset_id))


@pytest.fixture
def bench(db: Database, tmp_path: Path) -> Bench:
    return Bench(db, Moody(db), tmp_path)


def ready(bench: Bench) -> str:
    dataset_id = dataset(bench.db)
    bench.upload(dataset_id, b"a,y\n1,u\n2,v\n3,u\n")
    bench.slot().turn()
    return dataset_id


def test_a_database_that_does_not_answer_at_once_is_waited_for(bench: Bench) -> None:
    """Before the child was started, and when it is done."""
    dataset_id = ready(bench)
    with bench.db.write() as session:
        row = datasets.get(session, DEFAULT_PROJECT, dataset_id)
        datasets.begin_second_split(session, row, bytes=9, sha256="11" * 32, options={})
    job_id = bench.upload(dataset_id, b"a,y\n5,u\n", split="test")

    def child() -> Puppet:
        bench.moody.reads = [NotReady(), NotReady()]
        return Puppet()

    bench.moody.reads, bench.child = [NotReady(), NotReady()], child
    assert bench.slot().turn() == 0
    job = bench.job(job_id)
    assert (job.state, job.fence, job.failures, job.losses) == (JobState.SUCCEEDED, 1, 0, 0)
    manifest = bench.manifest(dataset_id)
    assert manifest is not None
    assert set(manifest.splits) == {"train", "test"}


def test_a_job_whose_data_set_was_deleted_says_so(bench: Bench) -> None:
    dataset_id = ready(bench)
    held = claimed(bench.db, dataset_id=dataset_id)
    with bench.db.write() as session:
        jobs.stop(session, **attempt(held), outcome=Outcome.FAILURE)
        jobs.retry(session, DEFAULT_PROJECT, held.job_id)
        session.delete(session.get_one(DatasetRow, dataset_id))  # as no route does it
    bench.slot(Lane.TRAIN).turn()
    job = bench.job(held.job_id)
    assert (job.state, job.reason) == (JobState.FAILED, "dataset_not_found")
    assert dataset_id in (job.message or "")


def checkpoint(bench: Bench, held: Claim) -> None:
    details: dict[str, Any] = {"ttl_ms": TTL, "step": 10, "uri": "ckpt-10", "sha256": "aa", "bytes": 9}
    with bench.db.write() as session:
        checkpoints.add_checkpoint(session, **attempt(held), **details)
        jobs.stop(session, **attempt(held), outcome=Outcome.DRAIN)


def test_a_full_disk_is_tried_again_and_the_checkpoint_stays(bench: Bench) -> None:
    held = claimed(bench.db)
    checkpoint(bench, held)
    bench.slot(Lane.TRAIN, scratch=FullDisk(bench.home / "scratch")).turn()
    job = bench.job(held.job_id)
    assert (job.state, job.reason, job.failures) == (JobState.QUEUED, "no_space", 1)
    with bench.db.write() as session:
        assert [row.step for row in checkpoints.checkpoints_of(session, held.job_id)] == [10]
        checkpoints.forget(session, held.job_id, fence=1)  # whose bytes were never there


class Unanswered(FolderBlobs):
    """A store that is away when a checkpoint comes."""

    def put_tree(self, prefix: str, folder: Path) -> Tree:
        raise NotReady(f"{folder} must be stored as {prefix}, and nobody answers")


def test_a_checkpoint_that_the_store_does_not_take_leaves_the_training_with_the_one_before(bench: Bench) -> None:
    held, around = claimed(bench.db), bench.slot(Lane.TRAIN)._around
    training = TrainingAttempt(held, replace(around, blobs=Unanswered(bench.home / "blobs")), device="cpu")
    folder = bench.home / "ckpt-10"
    folder.mkdir()
    training.hear(Checkpoint(path=folder, step=10))
    training.flush()
    job = bench.job(held.job_id)
    assert (job.state, [each["code"] for each in job.warnings]) == (JobState.RUNNING, ["not_ready"])
    assert not folder.exists()
    assert not training.lease.lost.is_set()


def test_a_child_without_a_word_has_the_grace_of_a_cancelled_one_to_end(bench: Bench) -> None:
    puppet = Puppet(silent=True)
    bench.child = lambda: puppet
    job_id = bench.upload(dataset(bench.db), b"a,y\n")
    bench.slot().turn()
    assert (bench.job(job_id).losses, puppet.patience) == (1, 7)


def test_an_ingestion_that_is_paused_reads_its_file_when_it_is_resumed(bench: Bench) -> None:
    dataset_id = dataset(bench.db)
    job_id = bench.upload(dataset_id, b"a,y\n1,u\n2,v\n")

    def child() -> Puppet:
        with bench.db.write() as session:
            jobs.request_pause(session, DEFAULT_PROJECT, job_id)
        return Deaf()

    bench.child = child
    bench.slot().turn()
    job = bench.job(job_id)
    assert (job.state, job.failures, job.losses) == (JobState.PAUSED, 0, 0)
    bench.child = Puppet
    with bench.db.write() as session:
        jobs.resume(session, DEFAULT_PROJECT, job_id)
    bench.slot().turn()
    assert bench.job(job_id).state == JobState.SUCCEEDED
    assert bench.manifest(dataset_id) is not None


def test_a_deadline_is_kept_though_the_database_is_away(bench: Bench) -> None:
    """The child is killed by the worker's own clock; that the job has failed is written once the database answers."""
    deaf = Deaf()

    def child() -> Puppet:
        bench.moody.reads = [NotReady(), NotReady()]
        bench.moody.writes = [NotReady() for _ in range(10)]
        return deaf

    bench.child = child
    job_id = bench.upload(dataset(bench.db), b"a,y\n", max_seconds=1)
    bench.slot().turn()
    assert deaf.killed.is_set()
    job = bench.job(job_id)
    assert (job.state, job.reason, job.failures, job.losses) == (JobState.FAILED, "deadline_exceeded", 1, 0)


def test_a_deadline_that_passes_before_there_is_a_child_ends_it_at_its_start(bench: Bench) -> None:
    deaf, late = Deaf(), threading.Event()

    def child() -> Puppet:
        late.wait(1.5)
        return deaf

    bench.child = child
    job_id = bench.upload(dataset(bench.db), b"a,y\n", max_seconds=1)
    bench.slot().turn()
    assert bench.job(job_id).reason == "deadline_exceeded"


def test_a_bug_of_the_worker_ends_the_job_and_leaves_nothing_behind(bench: Bench) -> None:
    def broken() -> Puppet:
        raise ZeroDivisionError

    bench.child = broken
    dataset_id = dataset(bench.db)
    job_id = bench.upload(dataset_id, b"a,y\n1,u\n2,v\n")
    bench.slot().turn()
    assert (bench.job(job_id).state, bench.job(job_id).reason) == (JobState.FAILED, "internal_error")
    assert not bench.blobs.upload_path(dataset_id).exists()


def test_a_fence_that_is_found_lost_by_the_last_write_of_its_attempt_is_counted(bench: Bench) -> None:
    class Overtaken(Puppet):
        def death(self, *, patience: float) -> Death:
            with bench.db.write() as session:  # in one, or a heartbeat in between would save the lease
                session.get_one(JobRow, job_id).lease_until_ms = 0
                session.flush()
                assert jobs.reap(session, backoff_ms=0)
            return super().death(patience=patience)

    bench.child = partial(Overtaken, silent=True)
    job_id = bench.upload(dataset(bench.db), b"a,y\n1,u\n2,v\n")
    bench.slot().turn()
    registry = bench.metrics.registry
    assert registry.get_sample_value("gammabeta_worker_leases_lost_total") == 1
    ended = {"kind": jobs.INGEST, "outcome": "lost"}
    assert registry.get_sample_value("gammabeta_worker_attempt_seconds_count", ended) == 1


def test_a_slot_outlives_whatever_goes_wrong(bench: Bench) -> None:
    slot = bench.slot()
    bench.moody.writes = [ZeroDivisionError()]
    assert slot.turn() > 0

    def broken() -> Puppet:
        bench.moody.writes = [ZeroDivisionError() for _ in range(100)]
        raise ZeroDivisionError

    bench.child = broken
    first = bench.upload(dataset(bench.db), b"a,y\n1,u\n2,v\n")
    assert slot.turn() > 0
    assert slot.job is None
    bench.moody.writes, bench.child = [], Puppet
    second = bench.upload(dataset(bench.db, "other"), b"a,y\n1,u\n2,v\n")
    assert slot.turn() == 0
    assert (bench.job(first).state, bench.job(second).state) == (JobState.RUNNING, JobState.SUCCEEDED)
