"""T22: the database is upgraded, or goes back, while programs of this version work with it.

rolling   upgrade to a schema that serves this version, mid-training ──► a second worker beside it takes over
          from the first ──► upgrade to one that serves it no more ──► drain, and no start
back      a way back that would lose something, refused ──► down to 0002 and up again, mid-training
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from random import Random

from sqlalchemy import text

from gammabeta.schemas.jobs import JobState
from gammabeta.store import migrations
from gammabeta.store.engine import Database
from gammabeta.store.tables import JobRow
from tests.faults.figures import Row, seconds
from tests.faults.rig import Place, Scenario
from tests.faults.trials import Trials, fingerprint, not_as
from tests.integration.future import CONTRACT, EXPAND, Future
from tests.integration.workshop import PATIENCE, Worker, Workshop, until, workshop

EPOCHS = 20
HEAD = migrations.head() or ""
STOPS_IN = 15.0
"""Within how many seconds a worker that the database serves no more has ended: a heartbeat, and the grace of its
trainer."""


def run(place: Place, n: int, random: Random) -> Row:
    trials, left = Trials(), list[float]()
    jobs = 0
    for number in range(n):
        folder = place.folder / f"{number}"
        folder.mkdir()
        url = _database(place, folder)
        what = "back and forth" if number % 2 else "rolling"
        with trials.trial(what) as broken, workshop(folder, url) as shop:
            ran = _back(shop, random, broken) if number % 2 else _rolling(shop, random, broken, left)
            jobs += len(ran)
            broken.extend(_lost(shop, ran))
    figures = {"jobs": f"{jobs:,}", "no longer served → ended": seconds(left)}
    return Row(n=trials.n, unit="upgrades", failed=trials.failed, broken=tuple(trials.broken), figures=figures)


def _database(place: Place, folder: Path) -> str:
    """Of the trial's own, since nobody could use it after."""
    url = f"sqlite:///{folder / 'gammabeta.db'}"
    if place.kind == "postgresql":
        cluster = place.cluster()
        url = cluster.url(cluster.create())
    migrations.upgrade(url)
    return url


def _rolling(shop: Workshop, random: Random, broken: list[str], left: list[float]) -> list[str]:
    future = Future(shop.home / "alembic")
    future.add(EXPAND, serves=[HEAD])
    first = shop.start()
    dataset_id = shop.ready_dataset()
    jobs = [shop.train(dataset_id, epochs=EPOCHS)]
    shop.said(jobs[0], "started")
    time.sleep(random.uniform(0, 1))
    future.upgrade(shop.db.url)
    second = shop.start()
    jobs += [shop.train(dataset_id, epochs=EPOCHS) for _ in range(2)]
    shop.said(jobs[1], "started")
    time.sleep(random.uniform(0, 1))
    first.process.terminate()
    for job_id in jobs:
        broken += not_as(shop.ended(job_id), state=JobState.SUCCEEDED, losses=0, failures=0)
    if (code := _exit(first)) != 0:
        broken.append(f"the first worker, which was told to stop, ended with {code}")
    last = shop.endless(dataset_id)
    shop.checkpoints(last)
    future.add(CONTRACT, serves=[])
    future.upgrade(shop.db.url)
    began = time.monotonic()
    code = _exit(second)
    left.append(time.monotonic() - began)
    broken += not_as(shop.job(last), state=JobState.QUEUED, losses=0, failures=0)
    if code != 1 or "does not. Install the version that upgraded the database" not in second.log:
        broken.append(f"a worker whose database serves it no more ended with {code}, and did not say why")
    return [*jobs, last]


def _exit(worker: Worker) -> int | None:
    """Its exit status. None: it has not ended in time."""
    try:
        return worker.process.wait(STOPS_IN)
    except subprocess.TimeoutExpired:
        return None


def _back(shop: Workshop, random: Random, broken: list[str]) -> list[str]:
    workers = [shop.start()]
    dataset_id = shop.ready_dataset()
    jobs = [shop.train(dataset_id, epochs=EPOCHS) for _ in range(2)]
    shop.said(jobs[0], "started")
    time.sleep(random.uniform(0, 1))
    before = _schema(shop.db)
    for to in ("0001", "base"):
        broken += _not_refused(shop.db.url, to)
        if _schema(shop.db) != before:
            broken.append(f"a way back to {to} that was refused has changed the schema")
    migrations.downgrade(shop.db.url, to="0002")
    time.sleep(random.uniform(0, 1))
    migrations.upgrade(shop.db.url)
    if _schema(shop.db) != before:
        broken.append("the schema after going back and forth is another one")
    for job_id in jobs:
        broken += not_as(_ended(shop, workers, job_id), state=JobState.SUCCEEDED, losses=0, failures=0)
    for worker in workers:
        worker.end()
    return jobs


def _not_refused(url: str, to: str) -> list[str]:
    """A sentence if there was a way back that loses something."""
    try:
        migrations.downgrade(url, to=to)
    except RuntimeError as refused:
        return [] if "To go back" in str(refused) else [f"a way back to {to} was refused by: {refused}"]
    return [f"a way back to {to} must be refused"]


def _ended(shop: Workshop, workers: list[Worker], job_id: str) -> JobRow:
    """The job in its terminal state. A worker that saw the older schema has drained; there is another one then."""

    def look() -> JobRow | None:
        if workers[-1].process.poll() is not None:
            workers.append(shop.start())
        row = shop.job(job_id)
        return row if JobState(row.state).terminal else None

    return until(look, f"the end of {job_id}", seconds=2 * PATIENCE)


def _lost(shop: Workshop, jobs: list[str]) -> list[str]:
    """What is wrong with what was trained: all trainings of a trial are the same one."""
    found = shop.audit()
    done = [job for job in map(shop.job, jobs) if job.state == JobState.SUCCEEDED]
    if len({fingerprint(shop, job) for job in done}) != 1:
        found.append("equal trainings did not publish equal bits")
    return found


def _schema(db: Database) -> list[str]:
    """The revision, and every table with its columns."""
    columns = (
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
        if db.dialect == "sqlite"
        else "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'public'"
    )
    with db.read() as session:
        revision = session.scalars(text("SELECT version_num FROM alembic_version"))
        return [*revision, *sorted(session.scalars(text(columns)))]


SCENARIO = Scenario(
    id="T22",
    fault="the schema is upgraded, or goes back, while workers train",
    promise=(
        "no job lost or charged; equal trainings publish equal bits; a schema that serves this version is worked with, "
        "another one refused within 15 s; a downgrade loses nothing or is refused and changes nothing"
    ),
    run=run,
    quick=2,
    full=20,
)
