"""T5: a power cut at any moment. What the database names is there and whole, whatever the disk had not been asked to
keep.

    a real sequence: uploads, arrays, checkpoints kept and pruned, weights, the same bytes and the same step twice
        └──► its log of file operations and commits ──► every prefix ──► every disk that a power cut could leave

The service and a slot of the worker run in this process, so that their files can be recorded; the children are a real
ingestion and a real training, whose own files lie in scratch and need not last. A kill -9 tests none of this: what was
written is in the kernel's cache, and is still there.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
from sqlalchemy import select

from gammabeta.errors import ArtifactCorrupt
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import jobs
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database, Session
from gammabeta.store.tables import DEFAULT_PROJECT, CheckpointRow, DatasetRow, JobRow, VersionRow
from service.app import create_app
from service.settings import ServiceSettings
from tests.faults.figures import Row
from tests.faults.powercut import Copy, Disk, Log, Operation, Recorded
from tests.faults.rig import Place, Scenario
from tests.integration.auditor import audit
from tests.trainings import NETWORK, RecordingLink
from tests.trainings import blobs as classes
from tests.unit.ingestion.conftest import npz
from worker import keeping, trainer
from worker.attempts import Surroundings
from worker.children import Death
from worker.ingestion import ingest
from worker.inputs import Inputs
from worker.messages import Checkpoint, Done, IngestFile, JobFile, Order, Report
from worker.metrics import Metrics
from worker.settings import WorkerSettings
from worker.slots import Slot

COMMIT = "commit"
ENOUGH = 20
"""Broken disks after which nothing more is looked for."""


@dataclass(frozen=True)
class Named:
    """What the committed rows name."""

    uploads: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    trees: frozenset[tuple[str, str]] = frozenset()


def named(session: Session) -> Named:
    manifests = session.scalars(select(DatasetRow.manifest).where(DatasetRow.manifest.is_not(None)))
    splits = [split for each in manifests for split in DatasetManifest.model_validate(each).splits.values()]
    arrays = {file.sha256 for split in splits for file in (split.x, split.y)}
    live = (JobState.QUEUED, JobState.RUNNING)
    uploads = session.scalars(select(JobRow.dataset_id).where(JobRow.kind == jobs.INGEST, JobRow.state.in_(live)))
    return Named(
        uploads=frozenset(each for each in uploads if each),
        files=frozenset({*arrays, *session.scalars(select(VersionRow.weights_sha256))}),
        trees=frozenset((row.uri, row.sha256) for row in session.scalars(select(CheckpointRow))),
    )


class Watched(Database):
    """Writes down, after each commit, what the rows name then."""

    def __init__(self, url: str, log: Log) -> None:
        super().__init__(url)
        self._log = log

    @contextmanager
    def write(self) -> Iterator[Session]:
        with super().write() as session:
            yield session
        with self._log.lock, self.read() as session:
            self._log.add(COMMIT, named(session))


@dataclass
class Child:
    """Reads a file or trains in this process. `dies_after` so many checkpoints."""

    dies_after: int | None = None
    pid: int = 1
    says: list[Report] = field(default_factory=list)

    def send(self, order: Order) -> None:
        if isinstance(order, IngestFile):
            ingest(order)
            self.says.append(Done(path=order.scratch))
        elif isinstance(order, JobFile):
            link = RecordingLink()
            trainer.run_job(order, link)
            self.says = self._heard(link.reports)

    def _heard(self, reports: list[Report]) -> list[Report]:
        if self.dies_after is None:
            return reports
        at = [place for place, each in enumerate(reports) if isinstance(each, Checkpoint)][self.dies_after - 1]
        return reports[: at + 1]

    def reports(self, *, timeout: float) -> Iterator[Report]:
        del timeout
        if not self.says:
            raise EOFError
        yield self.says.pop(0)

    def death(self, *, patience: float) -> Death:
        del patience
        return Death(-9, out_of_memory=False)

    def kill(self) -> None: ...

    def end(self) -> None: ...


class Machine:
    """Service and worker over recorded files."""

    def __init__(self, place: Place, log: Log) -> None:
        self.home, self.scratch = place.folder / "home", place.folder / "scratch"
        self.home.mkdir()
        self.db = Watched(place.url, log)
        self.blobs = FolderBlobs(self.home / "blobs", files=Recorded(self.home, log))
        self.service = create_app(ServiceSettings(home=self.home, database_url=place.url))
        self.child = Child()
        self._slots = {lane: self._slot(lane) for lane in Lane}

    def _slot(self, lane: Lane) -> Slot:
        settings = WorkerSettings.model_validate({"checkpoint_seconds": 0, "retry_seconds": 0, "report_seconds": 0.001})
        around = Surroundings(
            settings=settings,
            db=self.db,
            blobs=self.blobs,
            inputs=Inputs(self.blobs),
            children=self,  # type: ignore[arg-type]
            scratch=self.scratch,
            draining=threading.Event(),
            metrics=Metrics(),
        )
        return Slot(lane.value, lane=lane, device="cpu", worker_id="w1", around=around)

    def ingestion(self) -> Child:
        return Child()

    def trainer(self, device: str) -> Child:
        del device
        return self.child

    def turn(self, lane: Lane, child: Child | None = None) -> None:
        """One attempt at the next job."""
        self.child = child or Child()
        assert self._slots[lane].turn() == 0, "there is no job to run"

    async def live(self, bodies: list[bytes]) -> None:
        """All that stores and removes files, once or twice."""
        async with self.service.api.router.lifespan_context(self.service.api):
            context = self.service.api.state.context
            self.service.api.state.context = replace(context, database=self.db, blobs=self.blobs)
            transport = httpx.ASGITransport(self.service)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as http:
                dataset = await _upload(http, bodies[0], name="toy")
                self.turn(Lane.LIGHT)
                await _upload(http, bodies[1], of="toy", split="test")
                self.turn(Lane.LIGHT)
                for child in (Child(), Child(), Child(dies_after=3)):  # the second has the same weights
                    await _submit(http)
                    self.turn(Lane.TRAIN, child)
                self.turn(Lane.TRAIN)
                self._keep_the_same_step_twice(await _submit(http))
                await _upload(http, bodies[0], name="unused")
                (await http.post(f"/v1/jobs/{await _submit(http)}/cancel")).raise_for_status()
                keeping.sweep(self.db, self.blobs)
                (await http.delete(f"/v1/datasets/{dataset}")).raise_for_status()

    def _keep_the_same_step_twice(self, job_id: str) -> None:
        with self.db.write() as session:
            claim = jobs.claim(session, worker_id="w1", lane=Lane.TRAIN, free=1, ttl_ms=60_000, device="cpu")
        assert claim is not None
        assert claim.job_id == job_id
        for text in ("one", "other"):
            folder = self.scratch / text
            folder.mkdir(parents=True)
            (folder / "weights").write_text(text * 100)
            write = keeping.store(self.blobs, claim, folder, step=1, lease_ms=60_000)
            with self.db.write() as session:
                assert write(session)
            keeping.prune(self.db, self.blobs, claim)
        with self.db.write() as session:
            jobs.request_cancel(session, DEFAULT_PROJECT, job_id)
            jobs.stop(session, job_id=job_id, fence=claim.fence, outcome=jobs.Outcome.CANCEL)
        keeping.drop_if_ended(self.db, self.blobs, job_id)


async def _upload(http: httpx.AsyncClient, body: bytes, **query: str) -> str:
    answer = await http.post("/v1/datasets", params={"format": "npz", **query}, content=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def _submit(http: httpx.AsyncClient) -> str:
    training = {"batch_size": 10, "epochs": 1, "max_steps": 4}
    body: dict[str, Any] = {"kind": "train", "dataset": "toy", "model": "toy", "network": NETWORK, "training": training}
    answer = await http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def complaints(copy: Path, wanted: Named, bodies: frozenset[str]) -> Iterator[str]:
    """What is not there, or not whole, on a disk as it was found."""
    blobs = FolderBlobs(copy / "blobs")
    for upload in wanted.uploads:
        path = copy / "blobs" / "uploads" / upload
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() not in bodies:
            yield f"the upload {upload} that a job is going to read is missing or torn"
    # Those that no row names too: bytes that are not whole never have the name of their hash.
    for sha256 in wanted.files | {path.name for path in (copy / "blobs" / "sha256").glob("*/*")}:
        try:
            blobs.verify(sha256)
        except ArtifactCorrupt as corrupt:
            yield corrupt.message
    for uri, sha256 in wanted.trees:
        try:
            blobs.tree(uri, sha256)
        except ArtifactCorrupt as corrupt:
            yield corrupt.message


@dataclass
class Search:
    """Every prefix, and the disks of each."""

    copy: Copy
    bodies: frozenset[str]
    broken: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    failed: int = 0
    torn: int = 0

    def all(self, operations: list[Operation], random: Random, n: int) -> None:
        disk, wanted, last = Disk(), Named(), "the beginning"
        for place in range(len(operations) + 1):
            self._look(disk, wanted, f"after operation {place}, {last}", random, n)
            if place < len(operations):
                operation = operations[place]
                last = COMMIT if operation.kind == COMMIT else str(operation)
                if operation.kind == COMMIT:
                    wanted = operation.what
                else:
                    disk.play(operation)

    def _look(self, disk: Disk, wanted: Named, when: str, random: Random, n: int) -> None:
        for crashed in disk.crashes(random, n) if self.failed < ENOUGH else ():
            stored = {path: data for path, data in crashed.items() if not path.startswith("blobs/tmp/")}
            known = hash((wanted, frozenset(stored.items())))
            if known in self.seen:
                continue
            self.seen.add(known)
            self.torn += crashed.items() != disk.cached().items()
            self.copy.lay(stored)
            found = list(complaints(self.copy.root, wanted, self.bodies))
            self.failed += bool(found)
            self.broken += [f"{when}: {each}" for each in found]


def run(place: Place, n: int, random: Random) -> Row:
    log = Log()
    machine = Machine(place, log)
    x, y = classes(rows=60)
    test_x, test_y = classes(rows=20, seed=1)
    bodies = [npz(x=x, y=y), npz(x=test_x, y=test_y)]
    asyncio.run(machine.live(bodies))
    with machine.db.read() as session:
        broken = audit(session, machine.blobs)
        ended = list(session.scalars(select(JobRow.state)))
    machine.db.dispose()
    assert ended.count(JobState.SUCCEEDED) == 5, ended
    copy = place.folder / "copy"
    copy.mkdir()
    search = Search(Copy(copy), frozenset(hashlib.sha256(each).hexdigest() for each in bodies))
    search.all(log.operations, random, n)
    if search.torn < len(search.seen) / 2:
        broken.append(f"only {search.torn} of {len(search.seen)} disks lacked anything: no power was cut")
    kinds = [each.kind for each in log.operations]
    return Row(
        n=len(search.seen),
        unit="disks",
        broken=(*broken, *search.broken),
        failed=search.failed + bool(broken),
        figures={
            "prefixes": f"{len(kinds) + 1:,}",
            "file operations": f"{len(kinds) - kinds.count(COMMIT):,}",
            "commits": f"{kinds.count(COMMIT):,}",
            "disks that differ from what was written": f"{search.torn:,}",
        },
    )


SCENARIO = Scenario(
    id="T5",
    fault="power cut after each file operation and each commit: bytes and names that were not synced are lost, torn, "
    "zeroed or reordered (a kill -9 does not test this)",
    promise="what a committed row names is there and whole; no other bytes have the name of a hash",
    run=run,
    quick=2,
    full=50,
)
