"""What a long queue, many workers and many models cost the database: every statement of the product, in an empty
database and in a full one.

    scripts/bench capacity [--jobs 10000] [--workers 100] [--models 1000] [--database sqlite postgresql]

Full is: so many queued jobs, so many workers with a running training each, so many models with five versions, and
twenty thousand jobs that have ended, all with their events. Each operation is a transaction as the programs make it,
one at a time; its time is from the begin to the commit: the least, the median and the 95th percentile. Ratios are of
the least, which a machine that has other things to do changes least. Then so many workers beat and renew their leases
at their default pace for a while, beside a page of jobs a second and a scrape every five, by threads at the level of
the store: what they ask is counted, how late they are is measured, and on PostgreSQL how much of a core the server
takes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy import event, insert, text

from gammabeta.schemas.batchnorm import BatchNormState
from gammabeta.schemas.jobs import Lane
from gammabeta.store import census, events, jobs, listing, migrations, models, publishing, tables, workers
from gammabeta.store.engine import Database, Session
from gammabeta.store.jobs import Claim
from gammabeta.store.tables import DEFAULT_PROJECT, EventRow, JobRow, core
from tests.integration.databases import KINDS
from tests.integration.samples import layer, new_job, publication
from tests.postgres import Cluster, running_cluster

TTL_MS = 86_400_000
"""Of a lease: longer than all of it takes, so that nothing is reaped that is only counted."""
HEARTBEAT_SECONDS = 5.0
POLL_SECONDS = {"sqlite": 0.2, "postgresql": 2.0}
"""What a worker does by default."""
VERSIONS = 5
ENDED = 20_000
CHANNELS = 256
REQUEST = {"network": {"layers": [{"type": "dense", "units": 256, "name": f"dense_{each}"} for each in range(12)]}}
"""About as large as that of a real training."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much there is."""

    jobs: int
    workers: int
    models: int


def main() -> None:
    """Measure and print."""
    options = _options()
    size = Size(jobs=options.jobs, workers=options.workers, models=options.models)
    with ExitStack() as ended:
        folder = Path(ended.enter_context(tempfile.TemporaryDirectory(prefix="gammabeta-capacity-")))
        for kind in options.database:
            cluster = ended.enter_context(running_cluster(durable=True)) if kind == "postgresql" else None
            _measure(kind, folder, cluster, size, options)


def _measure(kind: str, folder: Path, cluster: Cluster | None, size: Size, options: argparse.Namespace) -> None:
    told: dict[str, dict[str, list[float]]] = {}
    for state in ("empty", "full"):
        url = cluster.url(cluster.create()) if cluster else f"sqlite:///{folder / f'{state}.db'}"
        migrations.upgrade(url)
        db = Database(url)
        if state == "full":
            began = time.perf_counter()
            fill(db, size)
            print(f"{kind}: filled in {time.perf_counter() - began:.0f} s, {_bytes(db) / 2**20:,.0f} MiB", flush=True)
        told[state] = {name: taken(db, operation, options.n) for name, operation in Operations(db).all().items()}
        if state == "full":
            print(under_load(db, size, cluster, seconds=options.seconds), flush=True)
        db.dispose()
    print(f"| {kind}: ms (n={options.n}) | empty | full | ratio |\n| --- | --- | --- | --- |")
    for name in told["full"]:
        empty, full = told["empty"][name], told["full"][name]
        print(f"| {name} | {_times(empty)} | {_times(full)} | {min(full) / min(empty):.1f} |", flush=True)


def _times(measured: list[float]) -> str:
    return f"{min(measured):.2f} / {median(measured):.2f} / {float(np.percentile(measured, 95)):.2f}"


# ── a full database ──


def fill(db: Database, size: Size) -> None:
    """By the store where it is about rows that belong together, else row by row."""
    with db.write() as session:
        _queue(session, size.workers, "running")
    for number in range(size.workers):
        with db.write() as session:
            workers.register(session, f"w{number}", hostname="here", pid=number, devices=["cpu"], slots={"train": 1})
            assert _claim(session, f"w{number}")
    with db.write() as session:
        _queue(session, size.jobs, "queued")
        _queue(session, ENDED, "ended")
        ended = "state = 'failed', finished_ms = now_ms(), fence = 1, failures = 1"
        session.execute(text(f"UPDATE jobs SET {ended} WHERE owner_id = 'ended'"))  # noqa: S608 - two constants
    _settle(db)
    _models(db, size)
    _settle(db)


def _queue(session: Session, number: int, owner: str) -> None:
    rows = [
        {
            "id": tables.new_id("job"),
            "project_id": DEFAULT_PROJECT,
            "owner_id": owner,
            "kind": "train",
            "state": "queued",
            "lane": "train",
            "devices": 1,
            "priority": 0,
            "created_ms": each,
            "run_after_ms": each,
            "fence": 0,
            "failures": 0,
            "losses": 0,
            "max_failures": 3,
            "max_losses": 3,
            "model": f"model-{each % 1_000:04}",
            "warnings": [],
            "labels": {"team": "a"},
            "request": REQUEST,
        }
        for each in range(number)
    ]
    if not rows:
        return
    session.execute(insert(JobRow), rows)
    for type in ("submitted", "claimed", "failed") if owner == "ended" else ("submitted",):
        data = {"worker": "w1", "outcome": "failure"} if type != "submitted" else {}
        happened = [
            {"job_id": row["id"], "fence": int(type != "submitted"), "type": type, "data": data, "created_ms": 0}
            for row in rows
        ]
        session.execute(insert(core(EventRow)), happened)


def _models(db: Database, size: Size) -> None:
    """So many with their versions, each by a job that has succeeded."""
    for number in range(size.models):
        with db.write() as session:
            for _ in range(VERSIONS):
                job_id = jobs.submit(session, new_job(priority=1, model=f"model-{number:04}")).id
                held = _claim(session, "filler")
                assert held is not None
                assert held.job_id == job_id
                _publish(session, held, f"model-{number:04}", number)


def _publish(session: Session, held: Claim, model: str, seed: int) -> None:
    state = BatchNormState((layer("a", seed=seed, channels=CHANNELS), layer("b", seed=seed, channels=CHANNELS)))
    made = publication(model=model, state=state)
    assert publishing.publish_version(session, job_id=held.job_id, fence=held.fence, publication=made)


def _claim(session: Session, worker: str) -> Claim | None:
    return jobs.claim(session, worker_id=worker, lane=Lane.TRAIN, free=1, ttl_ms=TTL_MS, device="cpu")


def _settle(db: Database) -> None:
    """What autovacuum does by itself within a minute or so; SQLite's default is to plan without statistics."""
    if db.dialect == "postgresql":
        with db.connection() as connection:
            connection.exec_driver_sql("ANALYZE")


def _bytes(db: Database) -> int:
    asked = {
        "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        "postgresql": "SELECT pg_database_size(current_database())",
    }
    with db.read() as session:
        return int(session.execute(text(asked[db.dialect])).scalar_one())


# ── one operation at a time ──


class Operations:
    """What programs ask, each as a transaction of its own. Whatever one needs is made before its time begins."""

    def __init__(self, db: Database) -> None:
        self._db, self._numbers = db, count(1)
        with db.write() as session:
            for number in range(3):
                held = _submitted(session, f"kept-{number}")
                _publish(session, held, f"kept-{number}", 1_000_000 + number)
            self._held = _submitted(session, "held")

    def all(self) -> dict[str, Callable[[], float]]:
        return {
            "submit": self._submit,
            "claim + record": self._claim,
            "heartbeat": self._heartbeat,
            "beat of a worker": self._beat,
            "publish": self._publish,
            "reap, nothing to reap": lambda: self._write(jobs.reap),
            "census (/metrics)": lambda: self._read(census.take),
            "a job's page": self._job,
            "place in the queue, of the last": self._place,
            "list of jobs, first page": lambda: self._read(lambda s: listing.find(s, DEFAULT_PROJECT, limit=20)),
            "list of queued jobs": lambda: self._read(
                lambda s: listing.find(s, DEFAULT_PROJECT, statuses=["queued"], limit=20)
            ),
            "list of running jobs": lambda: self._read(
                lambda s: listing.find(s, DEFAULT_PROJECT, statuses=["running"], limit=20)
            ),
            "list of a model's jobs": lambda: self._read(
                lambda s: listing.find(s, DEFAULT_PROJECT, model="kept-1", limit=20)
            ),
            "list of models": lambda: self._read(lambda s: models.find_models(s, DEFAULT_PROJECT, limit=20)),
            "version by its name": lambda: self._read(lambda s: models.get_version(s, DEFAULT_PROJECT, "kept-1")),
            "workers": lambda: self._read(workers.find),
        }

    def _read(self, ask: Callable[[Session], Any]) -> float:
        began = time.perf_counter()
        with self._db.read() as session:
            ask(session)
        return time.perf_counter() - began

    def _write(self, ask: Callable[[Session], Any]) -> float:
        began = time.perf_counter()
        with self._db.write() as session:
            ask(session)
        return time.perf_counter() - began

    def _submit(self) -> float:
        return self._write(lambda session: jobs.submit(session, new_job(request=REQUEST)))

    def _claim(self) -> float:
        with self._db.write() as session:
            jobs.submit(session, new_job(request=REQUEST))
        return self._write(lambda session: _claim(session, "w0"))

    def _heartbeat(self) -> float:
        progress = {"step": next(self._numbers), "steps": 1_000_000}
        return self._write(
            lambda session: jobs.heartbeat(
                session, job_id=self._held.job_id, fence=self._held.fence, ttl_ms=TTL_MS, progress=progress
            )
        )

    def _beat(self) -> float:
        return self._write(lambda session: workers.beat(session, "w0"))

    def _publish(self) -> float:
        number = next(self._numbers)
        with self._db.write() as session:
            held = _submitted(session, f"kept-{number % 3}")
        return self._write(lambda session: _publish(session, held, f"kept-{number % 3}", 2_000_000 + number))

    def _job(self) -> float:
        return self._read(
            lambda session: (
                jobs.get(session, DEFAULT_PROJECT, self._held.job_id),
                events.events_of(session, self._held.job_id),
            )
        )

    def _place(self) -> float:
        with self._db.write() as session:
            row = jobs.submit(session, new_job(request=REQUEST))
        return self._read(lambda session: listing.queue_position(session, row))


def _submitted(session: Session, model: str) -> Claim:
    """A job that is claimed before all others."""
    jobs.submit(session, new_job(model=model, priority=9, request=REQUEST))
    held = _claim(session, "w0")
    assert held is not None
    return held


def taken(db: Database, operation: Callable[[], float], n: int) -> list[float]:
    """Milliseconds, each time; the first few, which build statements and fill caches, do not count."""
    del db
    return [operation() * 1_000 for _ in range(n + 5)][5:]


# ── at the pace of so many workers ──


@dataclass
class Load:
    """What the threads did."""

    statements: int = 0
    late: list[float] = field(default_factory=list)
    """Seconds that a heartbeat took, from when it was due."""
    over: threading.Event = field(default_factory=threading.Event)


def under_load(db: Database, size: Size, cluster: Cluster | None, *, seconds: float) -> str:
    """Workers beat, renew and poll; somebody looks at a page of jobs, and Prometheus scrapes."""
    load = Load()
    with db.read() as session:
        rows = listing.find(session, DEFAULT_PROJECT, statuses=["running"], limit=size.workers)
        held = [(row.id, row.fence) for row in rows]
    threads = [threading.Thread(target=_worker, args=(db, load, number, *held[number])) for number in range(len(held))]
    threads += [threading.Thread(target=_reader, args=(db, load))]
    with _counted(db, load):
        before, began = _cpu(cluster), time.perf_counter()
        own = time.process_time()
        for thread in threads:
            thread.start()
        load.over.wait(seconds)
        lasted, spent, ours = time.perf_counter() - began, _cpu(cluster) - before, time.process_time() - own
        load.over.set()
        for thread in threads:
            thread.join()
    server = f", PostgreSQL {spent / lasted:.0%} of a core" if cluster else ""
    return (
        f"{db.dialect}: {len(held)} workers for {lasted:.0f} s: {load.statements / lasted:.0f} statements/s{server}, "
        f"their threads {ours / lasted:.0%} of a core; heartbeat, from when it was due: median "
        f"{median(load.late) * 1_000:.1f} ms, 95 % {float(np.percentile(load.late, 95)) * 1_000:.1f} ms, most "
        f"{max(load.late) * 1_000:.0f} ms (n={len(load.late)})"
    )


def _worker(db: Database, load: Load, number: int, job_id: str, fence: int) -> None:
    """Its only slot is taken, so that it claims nothing; the poll for work is that of the lane for short jobs."""
    heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS * (number % 100) / 100
    poll_at = heartbeat_at
    while not load.over.wait(max(0, min(heartbeat_at, poll_at) - time.monotonic())):
        if time.monotonic() >= heartbeat_at:
            with db.write() as session:
                jobs.heartbeat(session, job_id=job_id, fence=fence, ttl_ms=TTL_MS, progress={"step": 1})
            with db.write() as session:
                workers.beat(session, f"w{number}")
                jobs.reap(session)
            load.late.append(time.monotonic() - heartbeat_at)
            heartbeat_at += HEARTBEAT_SECONDS
        if time.monotonic() >= poll_at:
            with db.write() as session:
                jobs.claim(session, worker_id=f"w{number}", lane=Lane.LIGHT, free=1, ttl_ms=TTL_MS, device="cpu")
            poll_at = max(poll_at + POLL_SECONDS[db.dialect], time.monotonic())


def _reader(db: Database, load: Load) -> None:
    turns = count()
    while not load.over.wait(1):
        with db.read() as session:
            listing.find(session, DEFAULT_PROJECT, limit=20)
            if next(turns) % 5 == 0:
                census.take(session)


@contextmanager
def _counted(db: Database, load: Load) -> Iterator[None]:
    """Every statement of this database."""

    def one_more(*_: Any) -> None:
        load.statements += 1

    for engine in {id(each): each for each in (db._reader, db._writer)}.values():
        if engine.dialect.name == "sqlite" or engine is db._writer:
            event.listen(engine, "after_cursor_execute", one_more)
    yield


def _cpu(cluster: Cluster | None) -> float:
    """Seconds of processor time that PostgreSQL has taken, by all of its processes that there are or were."""
    if cluster is None:
        return 0.0
    total = 0.0
    server = cluster.pid
    for pid in (server, *cluster._backends()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except FileNotFoundError:
            continue
        wanted = fields[11:15] if pid == server else fields[11:13]  # the children of the server that have ended, too
        total += sum(map(int, wanted)) / os.sysconf("SC_CLK_TCK")
    return total


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench capacity", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000, help="that are queued")
    parser.add_argument("--workers", type=int, default=100, help="with a running training each")
    parser.add_argument("--models", type=int, default=1_000, help="with five versions each")
    parser.add_argument("--n", type=int, default=100, help="how often each operation is measured")
    parser.add_argument("--seconds", type=float, default=30, help="how long the workers are at it")
    parser.add_argument("--database", nargs="*", choices=KINDS, default=KINDS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
