"""Real workers on a real database: started as a user starts them, looked at from outside, and ended with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gammabeta.schemas.jobs import JobState, Lane, TrainRequest
from gammabeta.schemas.resolution import resolve
from gammabeta.store import datasets, events, jobs
from gammabeta.store.blobs import open_blobs
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT, JobRow, new_id
from tests.integration.auditor import audit
from tests.trainings import NETWORK, blobs
from tests.unit.ingestion.conftest import npz

T = TypeVar("T")
PATIENCE = 60
SECRET = "a-password-that-no-child-may-see"
FAST = {
    "HEARTBEAT_SECONDS": "0.2",
    "LEASE_SECONDS": "2",
    "REAP_SECONDS": "0.2",
    "POLL_SECONDS": "0.05",
    "REPORT_SECONDS": "0.1",
    "RETRY_SECONDS": "0.1",
    "CHECKPOINT_SECONDS": "0.1",
    "CPU_RANKS": "1",
}


def until(condition: Callable[[], T | None], what: str, *, seconds: float = PATIENCE) -> T:
    """Look again and again until there is something to see."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:g} s in vain: {what}")


class Worker:
    """A running `python -P -m worker`."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker"], env=environment, stderr=errors, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def family(self) -> set[int]:
        """Its descendants."""
        parents = {pid: parent for pid, parent in _processes()}
        found = {self.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {self.pid}

    def attempts(self) -> set[int]:
        """Those that lead a session of their own: trainers and ingestions."""
        return {pid for pid in self.family() if _session(pid) == pid}

    def trainer(self) -> int:
        """The only trainer, once there is one."""
        return until(lambda: next(iter(self.attempts()), None), "a trainer")

    def end(self) -> None:
        """However it stands with it."""
        family = self.family()
        for pid in (self.pid, *family):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _processes() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            if fields[0] != "Z":
                yield int(folder.name), int(fields[1])


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def alive(pids: set[int]) -> set[int]:
    return pids & {pid for pid, _ in _processes()}


class Workshop:
    """A database, blobs, and any number of workers."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.db = home, Database(url)
        self.blobs = open_blobs(str(home / "blobs"))
        self._environment = {
            "PATH": os.environ["PATH"],
            "OMP_NUM_THREADS": "1",
            "GAMMABETA_HOME": str(home),
            "GAMMABETA_DATABASE_URL": url,
            "GAMMABETA_API_KEY": SECRET,
            "PGAPPNAME": SECRET,
        }
        self._workers: list[Worker] = []

    def start(self, **settings: str) -> Worker:
        """A worker under the fast profile; settings without their prefix."""
        chosen = {f"GAMMABETA_{name}": value for name, value in (FAST | settings).items()}
        worker = Worker(self._environment | chosen, self.home / "worker.log")
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        with self.db.read() as session:
            broken = audit(session, self.blobs)
        self.db.dispose()
        assert broken == []

    def upload(self, data: bytes, **options: Any) -> tuple[str, str]:
        """As the service does it: the data set and the job that reads it."""
        dataset_id = new_id("ds")
        self.blobs.upload_path(dataset_id).write_bytes(data)
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
            row = jobs.submit(
                session,
                jobs.NewJob(
                    project_id=DEFAULT_PROJECT,
                    owner_id="anonymous",
                    kind=jobs.INGEST,
                    lane=Lane.LIGHT,
                    devices=0,
                    request=options,
                    dataset_id=dataset_id,
                ),
            )
        return dataset_id, row.id

    def ready_dataset(self) -> str:
        """Well separated classes."""
        x, y = blobs(rows=203)
        test_x, test_y = blobs(rows=40, seed=1)
        data = npz(x_train=x, y_train=y, x_test=test_x, y_test=test_y)
        dataset_id, job_id = self.upload(data, format="npz")
        assert self.ended(job_id).state == JobState.SUCCEEDED
        return dataset_id

    def train(self, dataset_id: str, **training: Any) -> str:
        """Submit a training."""
        request = TrainRequest.model_validate(
            {"dataset": dataset_id, "model": "toy", "network": NETWORK, "training": {"batch_size": 10, **training}}
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
                request=resolved.request.model_dump(mode="json"),
                model="toy",
                dataset_id=dataset_id,
            )
            return jobs.submit(session, new).id

    def endless(self, dataset_id: str) -> str:
        """A training that no test waits for."""
        return self.train(dataset_id, epochs=100_000)

    def job(self, job_id: str) -> JobRow:
        with self.db.read() as session:
            return jobs.get(session, DEFAULT_PROJECT, job_id)

    def ended(self, job_id: str) -> JobRow:
        """The job in its terminal state."""
        return until(
            lambda: row if JobState((row := self.job(job_id)).state).terminal else None, f"the end of {job_id}"
        )

    def events(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        with self.db.read() as session:
            return [(row.type, row.data) for row in events.events_of(session, job_id)]

    def said(self, job_id: str, type: str, *, times: int = 1) -> dict[str, Any]:
        """The data of the newest event of a type, once there are so many."""

        def look() -> list[dict[str, Any]] | None:
            found = [data for name, data in self.events(job_id) if name == type]
            return found if len(found) >= times else None

        return until(look, f"{times} × {type} of {job_id}")[-1]

    def checkpoint(self, job_id: str) -> Path:
        """The newest one that is stored, once there is one."""
        folder = self.blobs.root / "jobs" / job_id

        def look() -> Path | None:
            return max(folder.glob("f*/ckpt-*"), key=lambda path: int(path.name.removeprefix("ckpt-")), default=None)

        return until(look, f"a checkpoint of {job_id}")

    def cancel(self, job_id: str) -> None:
        with self.db.write() as session:
            jobs.request_cancel(session, DEFAULT_PROJECT, job_id)


@contextmanager
def workshop(home: Path, url: str) -> Iterator[Workshop]:
    """Nothing of it lives on."""
    made = Workshop(home, url)
    try:
        yield made
    finally:
        made.close()


def damage(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = np.fromfile(path, dtype=np.uint8)
    data[len(data) // 2] ^= 1
    data.tofile(path)
