"""T23. A backup is made under load; the world goes on, dies but for a frozen worker, and the backup is restored beside
what the world has made since.

two workers   ── database copied ── blobs copied ── one is frozen before it publishes ·········· woken ── publishes ✝
                                                    the other publishes ✝
restored                                                     the copy, `db restored` ── all that had not ended ends ──►
              blobs: those that are there, with what is newer than the copy, or in turn the copied ones alone
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psycopg
from psycopg import sql

from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import JobState
from gammabeta.store import audit, backups, migrations, ownership
from tests.faults.figures import Row, seconds
from tests.faults.rig import Place, Scenario
from tests.faults.traps import Traps
from tests.faults.trials import Trials, fingerprint, not_succeeded
from tests.integration.workshop import Worker, Workshop, until, workshop

STEPS, SHORT = 400, 60
WAITING = 2
LEAVES_IN = 30.0
"""Seconds within which a woken worker that is told to stop has done what it was about to do."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What a trial has: a database and blobs, and the place of their copies."""

    shop: Workshop
    traps: Traps
    place: Place
    name: str
    """Of the database, on PostgreSQL."""
    copies: Path

    @property
    def dump(self) -> Path:
        return self.copies / "database"

    def back_up(self) -> None:
        """As docs/backup.md says: the database, and the blobs after it."""
        self.copies.mkdir()
        if self.place.kind == "sqlite":
            backups.copy(self.shop.db.url, self.dump)
        else:
            _program("pg_dump", "--format=custom", f"--file={self.dump}", self.shop.db.url)
        for _ in range(2):  # what is removed or set aside under the first is no error of the second
            copying = ["cp", "--archive", "--update", f"{self.shop.home}/blobs", str(self.copies)]
            subprocess.run(copying, capture_output=True, check=False)

    def restore(self, *, in_place: bool, blobs: bool) -> None:
        """The database, and the blobs too or those that are there. `in_place`: of SQLite, into the file that the worker
        of the world before has open, so that it meets what was restored."""
        self.shop.db.dispose()
        if self.place.kind == "postgresql":
            _replace_database(self.place, self.name)
            _program("pg_restore", "--no-owner", f"--dbname={self.shop.db.url}", str(self.dump))
        else:
            _replace_file(self.dump, self.shop.home / "gammabeta.db", in_place=in_place)
        if blobs:
            shutil.rmtree(self.shop.home / "blobs")
            shutil.copytree(self.copies / "blobs", self.shop.home / "blobs")
        with self.shop.db.write() as session:
            backups.restored(session)
        ownership.take(self.shop.db, self.shop.blobs)
        backups.forget_lost_checkpoints(self.shop.db, self.shop.blobs)


def _program(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"


def _replace_file(copy: Path, database: Path, *, in_place: bool) -> None:
    if in_place:
        with closing(sqlite3.connect(copy)) as reader, closing(sqlite3.connect(database, timeout=30)) as writer:
            reader.backup(writer)
        return
    for suffix in ("", "-wal", "-shm"):
        path = database.with_name(database.name + suffix)
        if path.exists():
            path.rename(path.with_name(f"before-{path.name}"))
    shutil.copy(copy, database)


def _replace_database(place: Place, name: str) -> None:
    with psycopg.connect(place.cluster().url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def run(place: Place, n: int, random: Random) -> Row:
    """Each trial has a world of its own, since it goes under."""
    trials, lasted, newer = Trials(), list[float](), 0
    for number in range(n):
        with trials.trial("restored") as broken, _world(place, number) as world:
            newer += _trial(world, number, random, broken, lasted)
    figures = {"files newer than the copies": f"{newer:,}", "backup under load": seconds(lasted)}
    return Row(n=trials.n, unit="restores", failed=trials.failed, broken=tuple(trials.broken), figures=figures)


@contextmanager
def _world(place: Place, number: int) -> Iterator[World]:
    folder = place.folder / f"{number}"
    folder.mkdir()
    name = place.cluster().create() if place.kind == "postgresql" else ""
    url = place.cluster().url(name) if name else f"sqlite:///{folder / 'gammabeta.db'}"
    migrations.upgrade(url)
    with workshop(folder, url) as shop:
        yield World(shop=shop, traps=Traps(folder), place=place, name=name, copies=folder / "copies")


def _trial(world: World, number: int, random: Random, broken: list[str], lasted: list[float]) -> int:
    """How many files of blobs the world had beyond its backup."""
    shop = world.shop
    workers = [_start(shop) for _ in range(2)]
    dataset_id = shop.ready_dataset()
    undisturbed = fingerprint(shop, shop.ended(_train(shop, dataset_id, STEPS)))
    running = [_train(shop, dataset_id, STEPS) for _ in workers]
    jobs = [*running, *(_train(shop, dataset_id, SHORT) for _ in range(WAITING))]
    for job_id in running:
        shop.said(job_id, "checkpoint")
    time.sleep(random.uniform(0, 0.2))
    began = time.monotonic()
    world.back_up()
    lasted.append(time.monotonic() - began)
    world.traps.lay(Failpoint.WEIGHTS_STORED)
    caught = world.traps.caught(Failpoint.WEIGHTS_STORED)
    zombie, other = sorted(workers, key=lambda each: each.pid != caught)
    until(lambda: any(shop.job(each).state == JobState.SUCCEEDED for each in jobs), "a version newer than the backup")
    other.end()
    newer, wake = _newer(world), shop.freeze(zombie)
    world.restore(in_place=number % 2 == 0, blobs=number % 4 > 1)
    open_then = [each for each in jobs if not JobState(shop.job(each).state).terminal]
    broken += _damaged(shop)
    wake()
    world.traps.let_go()
    broken += _ended(zombie)
    _start(shop)
    for job_id in open_then:
        row = shop.ended(job_id)
        broken += not_succeeded(row)
        if row.fence < backups.MILLION:
            broken.append(f"{job_id} was published with the fence {row.fence} of the world before")
        if job_id in running and not broken and fingerprint(shop, row) != undisturbed:
            broken.append(f"{job_id} did not end in the same bytes")
    broken += [] if open_then else ["the backup had no job that was to go on"]
    broken += _damaged(shop)
    return newer


def _start(shop: Workshop) -> Worker:
    return shop.start_rigged(RETRY_SECONDS="0")


def _train(shop: Workshop, dataset_id: str, steps: int) -> str:
    return shop.train(dataset_id, epochs=1_000, max_steps=steps)


def _newer(world: World) -> int:
    def kept(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}

    return len(kept(world.shop.home / "blobs") - kept(world.copies / "blobs"))


def _ended(zombie: Worker) -> list[str]:
    """A worker that is told to stop ends what it was about to do: a publication, here."""
    zombie.process.terminate()
    try:
        zombie.process.wait(LEAVES_IN)
    except subprocess.TimeoutExpired:
        return [f"the worker of the world before did not end within {LEAVES_IN:g} s"]
    return []


def _damaged(shop: Workshop) -> list[str]:
    return [str(each) for each in audit.report(shop.db, shop.blobs, deep=True).findings]


SCENARIO = Scenario(
    id="T23",
    fault="database and blobs copied under load and restored beside newer artifacts, or with the copied blobs alone, "
    "while a worker of the world before is frozen on its way to publish",
    promise="what the restored rows name is there with its bytes; the worker's publication is refused; every job that "
    "had not ended ends once, by an attempt of the restored world, and in the same bytes",
    run=run,
    quick=1,
    full=10,
)
