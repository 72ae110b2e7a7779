"""T14. The service is killed by SIGKILL while it takes a job, a file or a cancel; the client asks again.

client ──request, Idempotency-Key──► current ✝
   └─────the same, the same key────► standby ──► the answer: one job, one data set, cancelled
                                     reserves    the standbys of the trials after it
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
from sqlalchemy import select

from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import JobState
from gammabeta.store.jobs import INGEST
from gammabeta.store.tables import DatasetRow, JobRow
from service.keyring import ANYONE
from tests.faults.figures import Row
from tests.faults.relay import Relay, Runner
from tests.faults.rig import Place, Scenario
from tests.faults.steered import Reins
from tests.faults.trials import Trials, not_as
from tests.integration.service.shelf import Shelf
from tests.integration.workshop import PATIENCE, Workshop, until
from tests.trainings import NETWORK, blobs
from tests.unit.ingestion.conftest import npz
from worker import keeping

SUBMIT = (Failpoint.SUBMIT_BEFORE_COMMIT, Failpoint.SUBMIT_AFTER_COMMIT)
UPLOAD = (
    Failpoint.UPLOAD_PARTIAL,
    Failpoint.UPLOAD_RECEIVED,
    Failpoint.FILE_RENAMED,
    Failpoint.UPLOAD_KEPT,
    Failpoint.UPLOAD_COMMITTED,
)
CANCEL = (Failpoint.CANCEL_BEFORE_COMMIT, Failpoint.CANCEL_AFTER_COMMIT)
PLACES = (*SUBMIT, *UPLOAD, *CANCEL)
RANDOM_KILLS, TIMES = 55, 5
"""In full: of random kills in all, and of each place."""
DAY = 86_400


@dataclass(frozen=True)
class Api(Runner):
    """A service, and who asks it."""

    http: httpx.Client

    def ready(self) -> bool:
        with suppress(httpx.TransportError):
            return self.http.get("/readyz").status_code == 200
        return False


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client sends, once or twice."""

    send: Callable[[Api], httpx.Response]
    promised: list[str]
    """Where the id goes of what was promised."""
    cancels: str | None = None
    """The job that it cancels."""


@dataclass(kw_only=True)
class Stage(Relay[Api]):
    """What the trials share."""

    dataset_id: str
    jobs: list[str] = field(default_factory=list)
    """Those that clients were promised, and nobody cancelled."""
    cancelled: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each kind of request takes where nothing disturbs it."""
    collected: int = 0
    """Files that killed uploads had left, and that were removed."""

    def __post_init__(self) -> None:
        self.current = self.called("")
        until(self.current.ready, "the service", every=0.1)
        for name, request in REQUESTS.items():
            self._measure(name, request)

    def _measure(self, name: str, request: Callable[[Stage], Request]) -> None:
        made = request(self)
        began = time.monotonic()
        answer = made.send(self.current)
        self.seconds[name] = time.monotonic() - began
        made.promised.append(answer.json()["id"])

    def muster(self, deaths: int) -> None:
        super().muster(deaths)
        until(self.current.ready, "the service", every=0.1)

    def start(self, reins: Reins) -> Api:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
        return Api(self.shop.start_service(reins.path, port), reins, http)

    def promote(self) -> None:
        self.current.http.close()
        super().promote()

    @property
    def uploads(self) -> set[Path]:
        """All files that were received, in whole or in part."""
        return set((self.shop.blobs.root / "uploads").iterdir())


def _submit(stage: Stage) -> Request:
    key = {"Idempotency-Key": f"submit-{stage.number()}"}
    training = {"epochs": 1, "batch_size": 50}
    body = {"kind": "train", "dataset": stage.dataset_id, "model": "toy", "network": NETWORK, "training": training}
    return Request(send=lambda api: api.http.post("/v1/jobs", json=body, headers=key), promised=stage.jobs)


def _upload(stage: Stage) -> Request:
    name = f"upload-{stage.number()}"
    key, asked = {"Idempotency-Key": name}, {"name": name, "format": "npz"}
    return Request(
        send=lambda api: api.http.post("/v1/datasets", params=asked, content=FILE, headers=key),
        promised=stage.datasets,
    )


def _cancel(stage: Stage) -> Request:
    job_id: str = _submit(stage).send(stage.current).json()["id"]
    return Request(
        send=lambda api: api.http.post(f"/v1/jobs/{job_id}/cancel"), promised=stage.cancelled, cancels=job_id
    )


REQUESTS: dict[str, Callable[[Stage], Request]] = {"submit": _submit, "upload": _upload, "cancel": _cancel}


def _file() -> bytes:
    """Of several blocks, as the service writes them."""
    x = np.random.default_rng(0).normal(size=(8_000, 100)).astype(np.float32)
    return npz(x=x, y=np.arange(8_000) % 2)


FILE = _file()


def run(place: Place, n: int, random: Random) -> Row:
    """So many of the trials of the full run, which are in a random order; then what they left is looked at."""
    with place.workshop() as shop:
        stage, trials = Stage(shop=shop, random=random, dataset_id=_dataset(shop)), Trials()
        plan = _plan(random, n)
        for number, (name, at) in enumerate(plan):
            stage.muster(n - number)
            with trials.trial(f"{name}, killed at {at or 'a random time'}") as broken:
                broken.extend(_trial(stage, name, at))
        late = [*_collect(stage), *_finish(stage)]
        trials.broken += late
        trials.failed += bool(late)
        named = [at for _, at in plan if at]
        figures = {
            "random kills": str(n - len(named)),
            "kills at named places": f"{len(named)} ({len(set(named))} places)",
            "jobs, data sets and cancels promised": f"{len(stage.jobs)}, {len(stage.datasets)}, {len(stage.cancelled)}",
            "files left by killed uploads, all collected": str(stage.collected),
        }
        return trials.row(shop, unit="kills", figures=figures)


def _dataset(shop: Workshop) -> str:
    """One that no worker had to read."""
    x, y = blobs(classes=2)
    return Shelf(database=shop.db, blobs=shop.blobs, scratch=shop.home).dataset(
        "ready", np.column_stack([x[:, 0], y]), y
    )


def _plan(random: Random, n: int) -> list[tuple[str, Failpoint | None]]:
    kinds = {"submit": SUBMIT, "upload": UPLOAD, "cancel": CANCEL}
    named = [(name, at) for name, places in kinds.items() for at in places for _ in range(TIMES)]
    every: list[tuple[str, Failpoint | None]] = [*named, *((list(kinds)[i % 3], None) for i in range(RANDOM_KILLS))]
    random.shuffle(every)
    return [every[number % len(every)] for number in range(n)]


def _trial(stage: Stage, name: str, at: Failpoint | None) -> Iterator[str]:
    standby, request = stage.standby(), REQUESTS[name](stage)
    stage.current.reins.say(at or "")
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(request.send, stage.current)
        if at is None:
            time.sleep(stage.random.uniform(0, 1.2 * stage.seconds[name]))
            os.kill(stage.current.process.pid, signal.SIGKILL)
        if stage.current.death() != signal.SIGKILL:
            yield f"the service did not die at {at}"
            stage.current.process.end()
    stage.promote()
    first = None if asked.exception() else asked.result()
    if at is not None and first is not None:
        yield f"the service answered before it died at {at}: {first.status_code}"
    yield from _answered(request, first, request.send(standby))


def _answered(request: Request, first: httpx.Response | None, again: httpx.Response) -> Iterator[str]:
    """What is wrong with the answers to a request that was sent twice."""
    said: dict[str, Any] = again.json()
    if request.cancels and again.status_code == 409 and "This one is cancelled" in said["detail"]:
        request.promised.append(request.cancels)
        return
    if again.status_code != 202:
        yield f"sent again, it was answered by {again.status_code}: {again.text[:300]}"
        return
    request.promised.append(said["id"])
    if first is not None and (first.status_code, first.json()["id"]) != (202, said["id"]):
        yield f"first it was answered by {first.status_code} {first.text[:100]}, then by {said['id']}"


def _collect(stage: Stage) -> Iterator[str]:
    """What no job is going to read goes after a day, and not before; what one is going to read stays."""
    blobs, read = stage.shop.blobs, {stage.shop.blobs.upload_path(each) for each in stage.datasets}
    left = stage.uploads - read
    if missing := read - stage.uploads:
        yield f"promised files are not there: {missing}"
    keeping.sweep(stage.shop.db, blobs)
    if gone := left - stage.uploads:
        yield f"files that may still be received were removed: {gone}"
    for path in stage.uploads:
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    keeping.sweep(stage.shop.db, blobs)
    if stage.uploads != read:
        yield f"after two days there must be what jobs are going to read. Received: {stage.uploads ^ read} more or less"
    stage.collected = len(left)


def _finish(stage: Stage) -> Iterator[str]:
    """Every promise was kept, once, and nothing was made that nobody asked for."""
    for each in (stage.current, *stage.reserves):
        each.process.end()
        each.http.close()
    stage.shop.start(CPU_RANKS="2")
    for job_id in _queued(stage.shop):
        stage.shop.ended(job_id)
    with stage.shop.db.read() as session:
        rows = {row.id: row for row in session.scalars(select(JobRow).where(JobRow.owner_id == ANYONE.owner_id))}
        ready = set(session.scalars(select(DatasetRow.id).where(DatasetRow.state == "ready")))
    for job_id in stage.jobs:
        yield from not_as(rows[job_id], state=JobState.SUCCEEDED) if job_id in rows else [f"{job_id} is lost"]
    for job_id in stage.cancelled:
        yield from not_as(rows[job_id], state=JobState.CANCELLED, fence=0) if job_id in rows else [f"{job_id} is lost"]
    yield from (f"data set {each} is not ready" for each in stage.datasets if each not in ready)
    yield from _nothing_else(stage, list(rows.values()))


def _queued(shop: Workshop) -> list[str]:
    with shop.db.read() as session:
        return list(session.scalars(select(JobRow.id).where(JobRow.state == JobState.QUEUED)))


def _nothing_else(stage: Stage, rows: list[JobRow]) -> Iterator[str]:
    """A sentence for each kind of thing that was made without a promise, or twice."""
    trainings = sorted(row.id for row in rows if row.kind != INGEST)
    ingested = sorted(row.dataset_id or "" for row in rows if row.kind == INGEST)
    for what, made, promised in (
        ("jobs", trainings, sorted(stage.jobs + stage.cancelled)),
        ("data sets", ingested, sorted(stage.datasets)),
    ):
        if made != promised:
            yield f"{what} that were promised and that there are: {set(promised) ^ set(made)} on one side alone"
            yield from [f"{len(made)} {what} for {len(promised)} promises"] * (len(made) != len(promised))


SCENARIO = Scenario(
    id="T14",
    fault="kill -9 of the service while it takes a job, a file or a cancel, at a random time and at every named place; "
    "then no service at all while workers finish",
    promise="asked again under the same Idempotency-Key there is exactly one job or data set; a cancelled job never "
    "runs; files of killed uploads are collected",
    run=run,
    quick=3,
    full=RANDOM_KILLS + TIMES * len(PLACES),
)
