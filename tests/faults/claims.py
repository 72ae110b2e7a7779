"""T2. Who claims, claims alone.

8 processes    claim ─ publish ─ claim ─ publish …   jobs of no work, on a database that keeps what it has committed
10 workers     claim ─ read the file ─ publish       on PostgreSQL, as users start them
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from gammabeta.schemas.batchnorm import BatchNormState
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import jobs, publishing
from gammabeta.store.engine import Database
from gammabeta.store.tables import EventRow, JobRow, VersionRow
from tests.faults import plain_queue
from tests.faults.figures import Row, at_least
from tests.faults.rig import Place, Scenario
from tests.integration.auditor import audit
from tests.integration.databases import Databases
from tests.integration.samples import TTL, layer, new_job, publication
from tests.integration.workshop import Workshop, workshop
from tests.postgres import running_cluster
from tests.trainings import blobs
from tests.unit.ingestion.conftest import npz

QUICK, FULL = 400, 10_000
CLAIMERS = 8
AT_ONCE = 500
WANTED = {"sqlite": 300, "postgresql": 400}
"""Claims and publications a second."""
PUBLICATION = publication(state=BatchNormState((layer(channels=1),)))

Drain = Callable[[str, str, str], Iterator[tuple[str, int]]]


@dataclass(frozen=True)
class Drained:
    """What one process did, and from when to when."""

    attempts: list[tuple[str, int]]
    began: float
    ended: float
    broken: tuple[str, ...] = ()
    """What the database refused, since it would have been wrong."""


def run(place: Place, n: int, random: Random) -> Row:
    with _durable(place) as (own, plain, spare):
        _fill(own.url, n)
        drained = _race(_claim_and_publish, own)
        plain_queue.fill(place.kind, plain, n)
        measure = _race(plain_queue.drain, replace(own, url=plain))
        broken = [*_shared(drained, n), *_published(own.url, n)]
        figures = {
            "claim + finish": f"{_pace(drained):.0f}/s",
            f"the plain driver, as many processes ({CLAIMERS})": f"{_pace(measure):.0f}/s",
        }
        if place.kind == "postgresql":
            supervisors, files = (10, 40) if n > QUICK else (3, 6)
            broken += _by_workers(replace(own, url=spare), supervisors, files)
            figures[f"files read by {supervisors} supervisors, each claimed once"] = str(files)
    target = at_least(WANTED[place.kind], _pace(drained), name="claim + finish", unit="/s")
    failed = min(n, len(broken))
    return Row(n=n, unit="jobs", broken=tuple(broken), failed=failed, figures=figures, targets=(target,))


@contextmanager
def _durable(place: Place) -> Iterator[tuple[Place, str, str]]:
    """A place whose database keeps what it has committed, the address of an empty one beside it, and of another."""
    if place.kind == "sqlite":
        yield place, f"sqlite:///{place.folder / 'plain.db'}", ""
        return
    with running_cluster(durable=True) as cluster:
        made = Databases(place.folder, lambda: cluster)
        own, spare = (made.migrated(place.kind, place.folder) for _ in range(2))
        yield replace(place, url=own), cluster.url(cluster.create()), spare


def _fill(url: str, n: int) -> None:
    db = Database(url)
    for first in range(0, n, AT_ONCE):
        with db.write() as session:
            for _ in range(first, min(n, first + AT_ONCE)):
                jobs.submit(session, new_job(model="toy"))
    db.dispose()  # before processes are forked


def _race(drain: Drain, place: Place) -> list[Drained]:
    """All claimers begin together. Forked, since a fresh interpreter takes longer to start than all of it."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(CLAIMERS)
    with ProcessPoolExecutor(CLAIMERS, mp_context=context, initializer=_meet, initargs=(ready,)) as processes:
        begun = [processes.submit(_drain, drain, place.kind, place.url, f"w{each}") for each in range(CLAIMERS)]
        return [each.result() for each in begun]


_barriers: list[object] = []


def _meet(barrier: object) -> None:
    _barriers.append(barrier)


def _drain(drain: Drain, kind: str, url: str, worker: str) -> Drained:
    _barriers[0].wait()  # type: ignore[attr-defined]
    began = time.monotonic()
    attempts: list[tuple[str, int]] = []
    refused: list[str] = []
    try:
        attempts.extend(drain(kind, url, worker))
    except IntegrityError as error:
        refused.append(f"{worker} made {error}")
    return Drained(attempts, began, time.monotonic(), tuple(refused))


def _claim_and_publish(_: str, url: str, worker: str) -> Iterator[tuple[str, int]]:
    db = Database(url)
    while True:
        with db.write() as session:
            claim = jobs.claim(session, worker_id=worker, lane=Lane.TRAIN, free=1, ttl_ms=TTL, device="cpu")
        if claim is None:
            break
        own = replace(PUBLICATION, model="toy")
        with db.write() as session:
            publishing.publish_version(session, job_id=claim.job_id, fence=claim.fence, publication=own)
        yield claim.job_id, claim.fence
    db.dispose()


def _pace(drained: list[Drained]) -> float:
    """Attempts a second."""
    seconds = max(each.ended for each in drained) - min(each.began for each in drained)
    return sum(len(each.attempts) for each in drained) / seconds


def _shared(drained: list[Drained], n: int) -> list[str]:
    """A sentence for each job that was not claimed exactly once."""
    said = [sentence for each in drained for sentence in each.broken]
    attempts = [attempt for each in drained for attempt in each.attempts]
    claims = Counter(job_id for job_id, _ in attempts)
    said += [f"{job_id} was claimed {times} times" for job_id, times in claims.items() if times > 1]
    said += [f"{job_id} was claimed with the fence {fence}" for job_id, fence in attempts if fence != 1]
    return said + ([f"{n - len(claims)} jobs were claimed by nobody"] if len(claims) != n else [])


def _published(url: str, n: int) -> list[str]:
    """A sentence for whatever the database should not say now."""
    db = Database(url)
    with db.read() as session:
        left = list(session.scalars(select(JobRow.id).where(JobRow.state != JobState.SUCCEEDED)))
        numbers = sorted(session.scalars(select(VersionRow.number)))
        said = [f"{job_id} has not succeeded" for job_id in left] + audit(session)
    db.dispose()
    return said + ([] if numbers == list(range(1, n + 1)) else [f"{len(numbers)} versions of {n} jobs"])


def _by_workers(place: Place, count: int, files: int) -> list[str]:
    """Workers that read files; none of them trains, so that none loads torch."""
    folder = place.folder / "workers"
    folder.mkdir()
    with workshop(folder, place.url) as shop:
        x, y = blobs(rows=20)
        waiting = [shop.upload(npz(x_train=x, y_train=y), format="npz")[1] for _ in range(files)]
        for _ in range(count):
            shop.start(DEVICES="cuda:0")
        said = [f"{job_id} is {job.state}" for job_id in waiting if (job := shop.ended(job_id)).state != "succeeded"]
        return said + _claimed_once(shop, waiting)


def _claimed_once(shop: Workshop, job_ids: list[str]) -> list[str]:
    with shop.db.read() as session:
        claims = select(EventRow.job_id).where(EventRow.type == "claimed", EventRow.job_id.in_(job_ids))
        times = Counter(session.scalars(claims))
    return [f"{job_id} was claimed {times[job_id]} times" for job_id in job_ids if times[job_id] != 1]


SCENARIO = Scenario(
    id="T2",
    fault=f"{CLAIMERS} processes claim from one queue as fast as they can; on PostgreSQL then ten workers.",
    promise="Each job is claimed once, with fence 1, and published once.",
    run=run,
    quick=QUICK,
    full=FULL,
)
