"""Real workers on a real database: started as a user starts them, looked at from outside, and ended with the test."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gammabeta.errors import NotReady
from gammabeta.schemas import readings
from gammabeta.schemas.jobs import JobState, Lane, PredictDatasetRequest, TrainRequest
from gammabeta.schemas.resolution import resolve
from gammabeta.store import checkpoints, datasets, events, jobs, models
from gammabeta.store.blobs import open_blobs
from gammabeta.store.engine import Database
from gammabeta.store.settings import StoreSettings
from gammabeta.store.tables import DEFAULT_PROJECT, CheckpointRow, JobRow, new_id
from tests.integration.auditor import audit, of_running
from tests.trainings import NETWORK, blobs
from tests.unit.ingestion.conftest import npz

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60
MARK = "PYTHONWORKSHOP"
"""In the environment of a steered worker; a worker forgets all of it but harmless names, such as those of Python's."""
SECRET = "a-password-that-no-child-may-see"
FAST = {
    "HEARTBEAT_SECONDS": "0.2",
    "LEASE_SECONDS": "2",
    "REAP_SECONDS": "0.2",
    "POLL_SECONDS": "0.05",
    "REPORT_SECONDS": "0.1",
    "RETRY_SECONDS": "0.1",
    "CHECKPOINT_SECONDS": "0.2",
    "CPU_RANKS": "1",
}


def _chosen(settings: dict[str, str]) -> dict[str, str]:
    return {f"GAMMABETA_{name}": value for name, value in (FAST | settings).items()}


def until(condition: Callable[[], T | None], what: str, *, seconds: float = PATIENCE, every: float = 0.02) -> T:
    """Look again and again until there is something to see. A database that is away shows nothing yet."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(NotReady):
            if found := condition():
                return found
        time.sleep(every)
    raise AssertionError(f"waited {seconds:g} s in vain: {what}")


class Worker:
    """A running `python -P -m worker`."""

    def __init__(self, environment: dict[str, str], log: Path, *, module: str = "worker") -> None:
        self._log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module], env=environment, stderr=errors, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def family(self) -> set[int]:
        """Its descendants."""
        parents = dict(_processes())
        found = {self.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {self.pid}

    def attempts(self) -> set[int]:
        """Those that lead a session of their own: trainers and ingestions."""
        return {pid for pid in self.family() if _session(pid) == pid}

    def trainer(self) -> int:
        """The only trainer on the CPU, once there is one. Its parent is the forkserver, and so it is not an ingestion
        that has said its last word and is still there: those are the supervisor's own children."""

        def look() -> int | None:
            forked = {pid for pid, parent in _processes() if parent != self.pid}
            return next(iter(self.attempts() & forked), None)

        return until(look, "a trainer")

    def end(self) -> None:
        """However it stands with it."""
        _signal([self.pid, *self.family()], signal.SIGKILL)
        self.process.wait()


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _processes() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            if fields[0] != "Z":
                yield int(folder.name), int(fields[1])


def _mark(pid: int) -> str | None:
    with suppress(OSError):
        for each in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = each.decode(errors="replace").partition("=")
            if name == MARK:
                return value
    return None


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def alive(pids: set[int]) -> set[int]:
    return pids & {pid for pid, _ in _processes()}


class Workshop:
    """A database, blobs, and any number of workers."""

    def __init__(
        self, home: Path, url: str, *, blobs: str | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.home, self.db = home, Database(url)
        self.blobs = open_blobs(StoreSettings(home=home, blobs=blobs))
        self._environment = {
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            "GAMMABETA_HOME": str(home),
            "GAMMABETA_DATABASE_URL": url,
            "GAMMABETA_API_KEY": SECRET,
            "PGAPPNAME": SECRET,
        } | (environment or {})
        if blobs is not None:
            self._environment["GAMMABETA_BLOBS"] = blobs
        self._workers: list[Worker] = []
        self._seen: set[str] = set()
        self.audited = False
        """Whether what the auditor has to say was asked for already, by somebody who tells it."""

    def start(self, **settings: str) -> Worker:
        """A worker under the fast profile; settings without their prefix."""
        return self._start(self._environment | _chosen(settings), "worker")

    def start_rigged(self, environment: dict[str, str] | None = None, **settings: str) -> Worker:
        """A worker whose trainers do what their jobs' metadata say; see `tests.faults.sabotage`. `environment`: what
        else is in it."""
        rigged = {"PYTHONPATH": str(ROOT)} | (environment or {})
        return self._start(self._environment | _chosen(settings) | rigged, "tests.faults.worker")

    def start_steered(self, reins: Path, **settings: str) -> Worker:
        """A worker that is told while it runs what to do; see `tests.faults.steered`. Whatever it starts is among
        `processes`."""
        environment = self._environment | _chosen(settings) | {"REINS": str(reins)}
        return self._start(environment | {"PYTHONPATH": str(ROOT), MARK: str(self.home)}, "tests.faults.worker")

    def start_service(self, reins: Path, port: int) -> Worker:
        """The service, which is told while it runs what to do."""
        settings = {"GAMMABETA_PORT": str(port), "REINS": str(reins), "PYTHONPATH": str(ROOT)}
        return self._start(self._environment | settings, "tests.faults.service")

    def run(self, module: str, **environment: str) -> Worker:
        """A program as a user runs it, with this in its environment too."""
        return self._start(self._environment | environment, module)

    def processes(self) -> set[int]:
        """Steered workers and all that they have started, whoever their parent is by now."""
        return {pid for pid, _ in _processes() if _mark(pid) == str(self.home)}

    def _start(self, environment: dict[str, str], module: str) -> Worker:
        worker = Worker(environment, self.home / "worker.log", module=module)
        self._workers.append(worker)
        return worker

    def audit(self) -> list[str]:
        """The invariants that are broken now, or were when somebody looked at a job."""
        with self.db.read() as session:
            return sorted(self._seen) + audit(session, self.blobs)

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        broken = self.audit()
        self.db.dispose()
        assert broken == [] or self.audited

    def upload(self, data: bytes, **options: Any) -> tuple[str, str]:
        """As the service does it: the data set and the job that reads it."""
        dataset_id = new_id("ds")
        self._keep_upload(dataset_id, data)
        with self.db.write() as session:
            datasets.create(
                session,
                id=dataset_id,
                project_id=DEFAULT_PROJECT,
                name=dataset_id,
                format=options["format"],
                bytes=len(data),
                sha256="0" * 64,
                options=options,
            )
            return dataset_id, jobs.submit(session, _ingestion(dataset_id, options)).id

    def second_upload(self, dataset_id: str, data: bytes, **options: Any) -> str:
        """The test split in a file of its own: the job that reads it."""
        with self.db.write() as session:
            row = datasets.get(session, DEFAULT_PROJECT, dataset_id)
            datasets.begin_second_split(session, row, bytes=len(data), sha256="0" * 64, options=options)
            job_id = jobs.submit(session, _ingestion(dataset_id, options)).id
            # As the service does: under the lock, or the worker could take it for the first file, and remove it.
            self._keep_upload(dataset_id, data)
        return job_id

    def _keep_upload(self, dataset_id: str, data: bytes) -> None:
        received = self.blobs.receiving_path(dataset_id)
        received.write_bytes(data)
        self.blobs.keep_upload(received, dataset_id)

    def ready_dataset(self) -> str:
        """Well separated classes."""
        x, y = blobs(rows=203)
        test_x, test_y = blobs(rows=40, seed=1)
        data = npz(x_train=x, y_train=y, x_test=test_x, y_test=test_y)
        dataset_id, job_id = self.upload(data, format="npz")
        assert self.ended(job_id).state == JobState.SUCCEEDED
        return dataset_id

    def train(
        self,
        dataset_id: str,
        *,
        model: str = "toy",
        max_seconds: int | None = None,
        metadata: dict[str, str] | None = None,
        max_losses: int = 3,
        **training: Any,
    ) -> str:
        """Submit a training."""
        request = TrainRequest.model_validate(
            {
                "dataset": dataset_id,
                "model": model,
                "network": NETWORK,
                "training": {"batch_size": 10, **training},
                "metadata": metadata or {},
            }
        )
        with self.db.write() as session:
            manifest = datasets.manifest(datasets.get(session, DEFAULT_PROJECT, dataset_id))
            assert manifest is not None
            resolved = resolve(request, dataset_id=dataset_id, manifest=manifest)
            new = jobs.NewJob(
                project_id=DEFAULT_PROJECT,
                owner_id="anonymous",
                kind="train",
                lane=Lane.TRAIN,
                devices=1,
                request=resolved.request.model_dump(mode="json") | {"max_seconds": max_seconds},
                model=model,
                dataset_id=dataset_id,
                max_losses=max_losses,
            )
            return jobs.submit(session, new).id

    def endless(self, dataset_id: str, *, max_seconds: int | None = None) -> str:
        """A training that no test waits for."""
        return self.train(dataset_id, epochs=100_000, max_seconds=max_seconds)

    def predict(self, dataset_id: str, *, max_seconds: int | None = None, **request: Any) -> str:
        """Submit a prediction of the data set by `toy`."""
        asked = PredictDatasetRequest(model="toy", dataset=dataset_id, max_seconds=max_seconds, **request)
        with self.db.write() as session:
            manifest = datasets.manifest(datasets.get(session, DEFAULT_PROJECT, dataset_id))
            assert manifest is not None
            version = models.version_schema(models.get_version(session, DEFAULT_PROJECT, "toy"))
            resolved = readings.resolve(asked, version=version, dataset_id=dataset_id, manifest=manifest)
            new = jobs.NewJob(
                project_id=DEFAULT_PROJECT,
                owner_id="anonymous",
                kind=jobs.PREDICT,
                lane=Lane.TRAIN,
                devices=1,
                request=resolved.model_dump(mode="json"),
                model="toy",
                dataset_id=dataset_id,
            )
            return jobs.submit(session, new).id

    def job(self, job_id: str) -> JobRow:
        with self.db.read() as session:
            stored = checkpoints.checkpoints_of(session, job_id)
            job = jobs.get(session, DEFAULT_PROJECT, job_id)
        self._seen.update(of_running(stored, job))
        return job

    def in_state(self, job_id: str, state: JobState) -> JobRow:
        """The job once it has come to this state."""

        def look() -> JobRow | None:
            row = self.job(job_id)
            return row if row.state == state else None

        return until(look, f"{job_id} to be {state}")

    def ended(self, job_id: str) -> JobRow:
        """The job in its terminal state."""

        def look() -> JobRow | None:
            row = self.job(job_id)
            return row if JobState(row.state).terminal else None

        return until(look, f"the end of {job_id}")

    def events(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        with self.db.read() as session:
            return [(row.type, row.data) for row in events.events_of(session, job_id)]

    def said(self, job_id: str, type: str, *, times: int = 1) -> dict[str, Any]:
        """The data of the newest event of a type, once there are so many."""

        def look() -> list[dict[str, Any]] | None:
            found = [data for name, data in self.events(job_id) if name == type]
            return found if len(found) >= times else None

        return until(look, f"{times} × {type} of {job_id}")[-1]

    def checkpoints(self, job_id: str, *, at_least: int = 1) -> list[CheckpointRow]:
        """What is stored, the newest first, once it is so many."""

        def look() -> list[CheckpointRow] | None:
            with self.db.read() as session:
                found = checkpoints.checkpoints_of(session, job_id)
            return found if len(found) >= at_least else None

        return until(look, f"{at_least} checkpoints of {job_id}")

    def freeze(self, worker: Worker) -> Callable[[], None]:
        """Stop a worker and its family, though not while it holds the lock of SQLite, which would stop all others. The
        way to have them go on."""
        while True:
            sleepers = [worker.pid, *worker.family()]
            _signal(sleepers, signal.SIGSTOP)
            if self._can_write():
                return lambda: _signal(sleepers, signal.SIGCONT)
            _signal(sleepers, signal.SIGCONT)

    def _can_write(self) -> bool:
        if self.db.dialect != "sqlite":
            return True
        try:
            with closing(sqlite3.connect(self.home / "gammabeta.db", timeout=0)) as connection:
                connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True

    def cancel(self, job_id: str) -> None:
        with self.db.write() as session:
            jobs.request_cancel(session, DEFAULT_PROJECT, job_id)

    def pause(self, job_id: str) -> None:
        with self.db.write() as session:
            jobs.request_pause(session, DEFAULT_PROJECT, job_id)

    def resume(self, job_id: str) -> None:
        with self.db.write() as session:
            jobs.resume(session, DEFAULT_PROJECT, job_id)

    def retry(self, job_id: str) -> None:
        with self.db.write() as session:
            jobs.retry(session, DEFAULT_PROJECT, job_id)


def _ingestion(dataset_id: str, options: dict[str, Any]) -> jobs.NewJob:
    return jobs.NewJob(
        project_id=DEFAULT_PROJECT,
        owner_id="anonymous",
        kind=jobs.INGEST,
        lane=Lane.LIGHT,
        devices=0,
        request=options,
        dataset_id=dataset_id,
    )


@contextmanager
def workshop(home: Path, url: str, **where: Any) -> Iterator[Workshop]:
    """Nothing of it lives on. `where`: its blobs, if they are not in its home, and what one needs to reach them."""
    made = Workshop(home, url, **where)
    try:
        yield made
    finally:
        made.close()


def damage(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = np.fromfile(path, dtype=np.uint8)
    data[len(data) // 2] ^= 1
    data.tofile(path)
