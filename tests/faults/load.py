"""A service under load: clients that each submit a small training, wait for its end, and submit the next.

Client ──POST /v1/jobs, under a key──► 202 ──GET /v1/jobs/…──► succeeded ──► the next
          again after 503 and Retry-After          again
                                       └──POST …/cancel──► cancelled, by those that are impatient
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from scipy import stats
from sqlalchemy import func, select

from gammabeta.store.engine import Database
from gammabeta.store.tables import AnswerRow, JobRow, VersionRow
from service.keyring import ANYONE
from tests.integration.workshop import until
from tests.trainings import NETWORK

PATIENCE = 120
"""Seconds that a client waits for an answer."""
PAUSE = 0.1
"""Seconds between two looks of a client."""


@contextmanager
def served(home: Path, url: str) -> Iterator[httpx.URL]:
    """`python -P -m service`, once it is there: its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        "GAMMABETA_HOME": str(home),
        "GAMMABETA_DATABASE_URL": url,
        "GAMMABETA_PORT": str(port),
    }
    with (home / "service.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-P", "-m", "service"], env=environment, stderr=log, stdout=log)
    address = httpx.URL(f"http://127.0.0.1:{port}")
    try:
        until(lambda: process.poll() is not None or _answers(address), "the service", seconds=PATIENCE)
        yield address
        assert process.poll() is None, (home / "service.log").read_text()[-3_000:]
    finally:
        process.kill()
        process.wait()


def _answers(address: httpx.URL) -> bool:
    try:
        return httpx.get(address.join("/readyz"), timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@dataclass
class Clients:
    """So many at once, in a thread of their own."""

    address: httpx.URL
    dataset_id: str
    count: int
    patient: int | None = None
    """So many of them wait; the others cancel what they have submitted. None: all wait."""
    accepted: dict[str, str] = field(default_factory=dict)
    """The job of each key."""
    ended: dict[str, str] = field(default_factory=dict)
    """How a job ended, as its client was told."""
    cancelled: set[str] = field(default_factory=set)
    """Jobs whose cancel was answered by 202."""
    submitting: list[float] = field(default_factory=list)
    """Seconds from the first request under a key until its 202."""
    answers: int = 0
    refused: int = 0
    """Answers 503 with Retry-After."""
    broken: list[str] = field(default_factory=list)
    """Answers that nobody should get."""
    _stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """At work for as long as the block lasts, and until what was accepted has ended."""
        thread = threading.Thread(target=self._run, name="clients")
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except Exception as error:  # the top of a thread: nobody else would hear of it
            logging.getLogger(__name__).exception("the clients have stopped")
            self.broken.append(f"the clients have stopped: {error!r}")

    async def _work(self) -> None:
        limits = httpx.Limits(max_connections=self.count)
        async with httpx.AsyncClient(base_url=self.address, timeout=PATIENCE, limits=limits) as http:
            await asyncio.gather(*(self._client(http, number) for number in range(self.count)))

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        turn = 0
        while not self._stopped.is_set():
            turn += 1
            key, began = f"client-{number}-{turn}", time.monotonic()
            job = await self._answer(http, "POST", "/v1/jobs", key=key)
            if job is None:
                continue
            self.submitting.append(time.monotonic() - began)
            self.accepted[key] = job["id"]
            if self.patient is not None and number >= self.patient:
                await self._cancel(http, job["id"])
            self.ended[job["id"]] = await self._end(http, job["id"])

    async def _cancel(self, http: httpx.AsyncClient, job_id: str) -> None:
        if await self._answer(http, "POST", f"/v1/jobs/{job_id}/cancel", late=409):
            self.cancelled.add(job_id)

    async def _end(self, http: httpx.AsyncClient, job_id: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            job = await self._answer(http, "GET", f"/v1/jobs/{job_id}")
            if job is not None and job["status"] in ("succeeded", "failed", "cancelled"):
                return str(job["status"])
            await asyncio.sleep(PAUSE)
        return "waited for in vain"

    async def _answer(
        self, http: httpx.AsyncClient, method: str, path: str, *, key: str = "", late: int = 0
    ) -> dict[str, Any] | None:
        """The first answer that is none of 503. None: one that nobody should get, or that it is too late."""
        while True:
            try:
                sent = {"json": self._body, "headers": {"Idempotency-Key": key}} if key else {}
                answer = await http.request(method, path, **sent)
            except httpx.HTTPError as error:
                self.broken.append(f"{method} {path}: {error!r}")
                return None
            self.answers += 1
            if answer.status_code < 300:
                found: dict[str, Any] = answer.json()
                return found
            if answer.status_code == late:
                return None
            if answer.status_code != 503 or "Retry-After" not in answer.headers:
                self.broken.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
                return None
            self.refused += 1
            await asyncio.sleep(PAUSE)

    @property
    def _body(self) -> dict[str, Any]:
        return {
            "kind": "train",
            "dataset": self.dataset_id,
            "model": "toy",
            "network": NETWORK,
            "training": {"epochs": 1, "batch_size": 50},
        }

    @property
    def errors(self) -> int:
        """Answers of 5xx, and those that nobody should get."""
        return self.refused + len(self.broken)

    def lost(self, db: Database) -> list[str]:
        """A sentence for each job that was accepted and is not there with its one version, and for each that is there
        twice, or without anybody having asked for it."""
        with db.read() as session:
            jobs = {row.id: row for row in session.scalars(select(JobRow).where(JobRow.owner_id == ANYONE.owner_id))}
            asked = set(session.scalars(select(AnswerRow.body["id"].as_string())))
            versions = dict(session.execute(select(VersionRow.job_id, func.count()).group_by(VersionRow.job_id)).all())
        ends = {each: "cancelled" if each in self.cancelled else "succeeded" for each in self.accepted.values()}
        said = [
            f"lost: {each} must have {end}. Received: {self.ended.get(each)}"
            for each, end in ends.items()
            if self.ended.get(each) != end
        ]
        said += [f"lost: {each}, which {key} was promised" for key, each in self.accepted.items() if each not in jobs]
        twice = len(self.accepted) - len(set(self.accepted.values()))
        said += [f"{twice} keys share a job"] if twice else []
        said += [f"duplicate: {each.id} without a key" for each in jobs.values() if each.id not in asked]
        wrong = [each for each, end in ends.items() if versions.get(each, 0) != (end == "succeeded")]
        said += [f"{versions.get(each, 0)} versions of {each}, which has {ends[each]}" for each in wrong]
        return said


@dataclass(frozen=True)
class Pace:
    """Jobs that ended in some seconds."""

    jobs: int
    seconds: float

    @classmethod
    def between(cls, db: Database, spans: list[tuple[float, float]]) -> Pace:
        """Of several spans of `time.time()` together."""
        total = 0
        with db.read() as session:
            for begin, end in spans:
                within = JobRow.finished_ms.between(round(begin * 1_000), round(end * 1_000))
                total += session.scalar(select(func.count()).where(within)) or 0
        return cls(total, sum(end - begin for begin, end in spans))

    def __str__(self) -> str:
        return f"{self.jobs / self.seconds:.1f}/s" if self.seconds else "none"

    def share(self, before: Pace) -> float:
        """Of the pace before."""
        return (self.jobs / self.seconds) / (before.jobs / before.seconds) if before.jobs else 1.0

    def is_below(self, share: float, before: Pace) -> bool:
        """Whether it is less than this share of the pace before by more than chance: counts of that many events would
        differ so far once in a hundred times."""
        expected = share * self.seconds / (share * self.seconds + before.seconds)
        test = stats.binomtest(self.jobs, self.jobs + before.jobs, expected, alternative="less")
        return bool(test.pvalue < 0.01)
