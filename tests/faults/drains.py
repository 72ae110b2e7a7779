"""T7. Workers are told to stop, one after the other, while the same jobs go on.

    a worker       SIGTERM ── trainer: checkpoint ── job given back ── ended, within the grace + 1 s
    its successor                                             └─ claim ── resume ── …        charged to no counter

Some are held up: by a trainer that is deaf or slower than the lease, by a second SIGTERM, or by a database that does
not answer (PostgreSQL frozen, SQLite locked by somebody else).
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from random import Random

from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import JobState
from gammabeta.store import checkpoints, migrations
from gammabeta.store.tables import JobRow
from tests.faults.figures import Row, at_most, seconds
from tests.faults.rig import Place, Scenario
from tests.faults.traps import Traps
from tests.faults.trials import Trials, fingerprint, not_as, not_succeeded
from tests.integration.workshop import Worker, Workshop, alive, until, workshop
from tests.postgres import running_cluster

STEPS = 600
BUSY_SECONDS = 0.7
"""About as long as a training of so many steps takes."""
LEASE_SECONDS, GRACE_SECONDS, LEAVE_SECONDS = 1.0, 2.0, 0.5
SLOW_SECONDS = 1.4
"""Longer than the lease, shorter than the grace."""
SLACK_SECONDS, LATE_SECONDS = 1.0, 5.0
"""What is wanted; and what is called broken, since a machine may have other things to do."""
LONGEST_SECONDS = 30.0
SETTINGS = {
    "LEASE_SECONDS": str(LEASE_SECONDS),
    "CANCEL_GRACE_SECONDS": str(GRACE_SECONDS),
    "LEAVE_SECONDS": str(LEAVE_SECONDS),
    "CHECKPOINT_SECONDS": "3600",
    "RETRY_SECONDS": "0",
}

Silence = Callable[[], AbstractContextManager[None]]
"""For as long as the block lasts, the database does not answer."""


@dataclass(kw_only=True)
class Stage:
    """What the trials share."""

    shop: Workshop
    silence: Silence
    random: Random
    traps: Traps
    dataset_id: str
    workers: list[Worker]
    undisturbed: tuple[str, str] = ("", "")
    exits: dict[str, list[float]] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)
    """By how many seconds each was later than its bound."""
    rolling: str | None = None
    """The job that goes on from worker to worker."""

    def train(self) -> str:
        return self.shop.train(self.dataset_id, epochs=1_000, max_steps=STEPS)

    def holder(self, job_id: str) -> Worker:
        """Who runs the job, once its training has begun; or whoever, where it has ended."""

        def look() -> Worker | None:
            job = self.shop.job(job_id)
            if JobState(job.state).terminal:
                return self.workers[0]
            begun = self.shop.events(job_id)[-1][0] in ("started", "resumed")
            return next((each for each in self.workers if begun and f"-{each.pid}-" in (job.worker_id or "")), None)

        return until(look, f"somebody to run {job_id}")

    def told(self, worker: Worker, variant: str, broken: list[str], *, bound: float, status: int = 0) -> None:
        """It was sent SIGTERM just now; another takes its place once it has ended."""
        began, family = time.monotonic(), worker.family()
        try:
            found = worker.process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            worker.end()
            found = worker.process.returncode
        took = time.monotonic() - began
        self.exits.setdefault(variant, []).append(took)
        until(lambda: not alive(family), "the end of the children of a worker that has ended", seconds=5)
        self.late.append(max(0.0, took - bound))
        if took > bound + LATE_SECONDS:
            broken.append(f"it ended {took:.1f} s after it was told to, which must be at most {bound:g} s")
        if found != status:
            broken.append(f"it must end with {status}. Received: {found}")
        self.workers.remove(worker)
        self.workers.append(self.shop.start_rigged(**SETTINGS))

    def not_as_ever(self, job_id: str) -> list[str]:
        """A sentence if the job does not come to the same end as if nothing had been."""
        job = self.shop.ended(job_id)
        if broken := not_succeeded(job):
            return broken
        same = fingerprint(self.shop, job) == self.undisturbed
        return [] if same else [f"the weights of {job_id} are not those of an undisturbed run"]

    def charged(self, job_id: str) -> list[str]:
        """A sentence if the job was charged, or reaped."""
        reasons = [data.get("reason") for _, data in self.shop.events(job_id)]
        reaped = [f"{job_id} was reaped while its worker drained"] * ("lease_expired" in reasons)
        return reaped + not_as(self.shop.job(job_id), losses=0, failures=0)


def run(place: Place, n: int, random: Random) -> Row:
    """Every way of being held up a few times, and the rest at random times."""
    with _premises(place) as (shop, silence):
        traps = Traps(shop.home)
        workers = [shop.start_rigged(**SETTINGS) for _ in range(2)]
        dataset_id = shop.ready_dataset()
        stage = Stage(shop=shop, silence=silence, random=random, traps=traps, dataset_id=dataset_id, workers=workers)
        stage.undisturbed = fingerprint(shop, shop.ended(stage.train()))
        held_up = [*HELD_UP] * max(1, n // 20)
        variants = [*held_up, *(["at a random time"] * n)][:n]
        random.shuffle(variants)
        trials = Trials()
        for variant in variants:
            with trials.trial(variant) as broken:
                if variant in HELD_UP:
                    broken.extend(_rolled(stage))
                (HELD_UP.get(variant) or _at_a_random_time)(stage, broken)
        with trials.trial("the last job") as broken:
            broken.extend(_rolled(stage))
        target = at_most(SLACK_SECONDS, max(stage.late, default=0), name="the latest after its bound", unit=" s")
        return trials.row(shop, unit="drains", figures=_figures(stage), targets=(target,))


def _at_a_random_time(stage: Stage, broken: list[str]) -> None:
    if stage.rolling is None or JobState(stage.shop.job(stage.rolling).state).terminal:
        broken += _rolled(stage)
        stage.rolling = stage.train()
    worker = stage.holder(stage.rolling)
    time.sleep(stage.random.uniform(0, BUSY_SECONDS))
    made = (stage.shop.job(stage.rolling).progress or {}).get("step", 0)
    os.kill(worker.pid, signal.SIGTERM)
    stage.told(worker, "at a random time", broken, bound=GRACE_SECONDS)
    kept = _kept(stage, stage.rolling)
    if kept is not None and kept < made:
        broken.append(f"the step {made} of {stage.rolling} was made, and the last one kept is {kept}")


def _kept(stage: Stage, job_id: str) -> int | None:
    """The step that the job goes on from. None: it has ended."""
    with stage.shop.db.read() as session:
        steps = [row.step for row in checkpoints.checkpoints_of(session, job_id)]
        return None if JobState(session.get_one(JobRow, job_id).state).terminal else max(steps, default=0)


def _rolled(stage: Stage) -> list[str]:
    """What became of the job that the drains so far had to do with."""
    job_id, stage.rolling = stage.rolling, None
    return [] if job_id is None else stage.not_as_ever(job_id) or stage.charged(job_id)


def _stun(worker: Worker) -> set[int]:
    """Its trainer hears nothing any more, and does nothing."""
    trainers = worker.attempts()
    for pid in trainers:
        os.kill(pid, signal.SIGSTOP)
    return trainers


def _deaf(stage: Stage, broken: list[str]) -> None:
    job_id = stage.train()
    worker = stage.holder(job_id)
    _stun(worker)
    os.kill(worker.pid, signal.SIGTERM)
    stage.told(worker, "deaf trainer", broken, bound=GRACE_SECONDS)
    broken += stage.not_as_ever(job_id) or stage.charged(job_id)


def _slow(stage: Stage, broken: list[str]) -> None:
    job_id = stage.train()
    worker = stage.holder(job_id)
    fence = stage.shop.job(job_id).fence
    trainers = _stun(worker)
    os.kill(worker.pid, signal.SIGTERM)
    time.sleep(SLOW_SECONDS)
    held = stage.shop.job(job_id)
    for pid in alive(trainers):
        os.kill(pid, signal.SIGCONT)
    stage.told(worker, "slower than the lease", broken, bound=GRACE_SECONDS)
    if not JobState(held.state).terminal:
        broken += not_as(held, state=JobState.RUNNING, fence=fence)
    broken += stage.not_as_ever(job_id) or stage.charged(job_id)


def _twice(stage: Stage, broken: list[str]) -> None:
    job_id = stage.train()
    worker = stage.holder(job_id)
    _stun(worker)
    stage.traps.lay(Failpoint.DRAIN_BEGUN)
    os.kill(worker.pid, signal.SIGTERM)
    stage.traps.caught(Failpoint.DRAIN_BEGUN)
    os.kill(worker.pid, signal.SIGTERM)
    stage.told(worker, "second SIGTERM", broken, bound=0, status=128 + signal.SIGTERM)
    stage.traps.let_go()
    broken += stage.not_as_ever(job_id)


def _silent(stage: Stage, broken: list[str]) -> None:
    job_id = stage.train()
    worker = stage.holder(job_id)
    _stun(worker)
    with stage.silence():
        os.kill(worker.pid, signal.SIGTERM)
        stage.told(worker, "database silent", broken, bound=GRACE_SECONDS + LEAVE_SECONDS, status=1)
    broken += stage.not_as_ever(job_id)


HELD_UP = {"deaf trainer": _deaf, "slower than the lease": _slow, "second SIGTERM": _twice, "database silent": _silent}


def _figures(stage: Stage) -> dict[str, str]:
    return {
        "grace": f"{GRACE_SECONDS} s, lease {LEASE_SECONDS} s, leave {LEAVE_SECONDS} s",
        **{f"ended, {name} (p50 / p95 / most)": seconds(took) for name, took in sorted(stage.exits.items())},
    }


@contextmanager
def _premises(place: Place) -> Iterator[tuple[Workshop, Silence]]:
    """A workshop, and how to silence its database: a PostgreSQL server of its own."""
    if place.kind == "sqlite":
        with workshop(place.folder, place.url) as shop:
            yield shop, lambda: _locked(shop)
        return
    with running_cluster() as cluster:
        url = cluster.url(cluster.create())
        migrations.upgrade(url)
        with workshop(place.folder, url) as shop:
            yield shop, cluster.paused


@contextmanager
def _locked(shop: Workshop) -> Iterator[None]:
    with closing(sqlite3.connect(shop.home / "gammabeta.db", timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


SCENARIO = Scenario(
    id="T7",
    fault="workers told to stop (SIGTERM) one after the other: at random times, twice, with a trainer that is deaf or "
    "slower than the lease, while the database does not answer",
    promise=f"ended within the grace + {LATE_SECONDS:g} s, the job released at a checkpoint and charged nothing, "
    f"reaped while draining 0, weights bit-equal; with a silent database ended within the drain time + "
    f"{LATE_SECONDS:g} s, with a second signal within {LATE_SECONDS:g} s",
    run=run,
    quick=5,
    full=200,
)
