"""T4. A worker is frozen for longer than its lease, another takes its job, and the first wakes up and knows of nothing.

zombie      claim ── place ∎ frozen ······················ woken ── its writes find no row ── its trainer is killed
successor                      lease over ── claim ── … ── publish
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sqlalchemy import select

from gammabeta.failpoints import Failpoint
from gammabeta.store.tables import CheckpointRow, EventRow, JobRow, PointRow
from tests.faults.figures import Row, at_most, p95, seconds
from tests.faults.rig import Place, Scenario
from tests.faults.traps import Traps
from tests.faults.trials import Trials, fingerprint, not_succeeded, version_of
from tests.integration.workshop import Worker, Workshop, alive, until

STEPS = 600
HEARTBEAT_SECONDS, LEASE_SECONDS = 0.2, 0.7
SLACK_SECONDS = 5.0
"""For a machine that has other things to do."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Where the worker is frozen, and what it is woken by."""

    name: str
    frozen: Failpoint
    waits: Callable[[Stage, str], None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the trials share."""

    shop: Workshop
    traps: Traps
    dataset_id: str
    undisturbed: tuple[str, str]
    deaths: list[float]
    random: Random


def _claimed(stage: Stage, job_id: str) -> None:
    del stage, job_id


def _started(stage: Stage, job_id: str) -> None:
    stage.shop.said(job_id, "started", times=1 + [name for name, _ in stage.shop.events(job_id)].count("started"))


def _publishes(stage: Stage, job_id: str) -> None:
    del job_id
    stage.traps.caught(Failpoint.PUBLISH_BEFORE_COMMIT)


def _ended(stage: Stage, job_id: str) -> None:
    stage.shop.ended(job_id)


DURING = Phase(name="while its successor publishes", frozen=Failpoint.WEIGHTS_STORED, waits=_publishes)
PHASES = (
    DURING,
    Phase(name="in the middle of an upload", frozen=Failpoint.FILE_COPIED, waits=_started),
    Phase(name="before its publication", frozen=Failpoint.WEIGHTS_STORED, waits=_claimed),
    Phase(name="before a checkpoint", frozen=Failpoint.CHECKPOINT_HEARD, waits=_claimed),
    Phase(name="after its successor has published", frozen=Failpoint.WEIGHTS_STORED, waits=_ended),
)


def run(place: Place, n: int, random: Random) -> Row:
    """Each phase in turn."""
    with place.workshop() as shop:
        traps = Traps(shop.home)
        workers = [_start(shop), _start(shop)]
        dataset_id = shop.ready_dataset()
        undisturbed = fingerprint(shop, shop.ended(_train(shop, dataset_id)))
        stage = Stage(shop=shop, traps=traps, dataset_id=dataset_id, undisturbed=undisturbed, deaths=[], random=random)
        trials, accepted = Trials(), 0
        for phase in (PHASES[number % len(PHASES)] for number in range(n)):
            with trials.trial(f"frozen {phase.name}") as broken:
                accepted += _trial(stage, workers, phase, broken)
        gone = [f"worker {worker.pid} ended" for worker in workers if worker.process.poll() is not None]
        figures = {
            "zombie writes accepted": str(accepted),
            "zombie's trainer dead after waking (p50 / p95 / most)": seconds(stage.deaths),
        }
        name = "95 % of the zombies' trainers dead after a heartbeat"
        target = at_most(HEARTBEAT_SECONDS, p95(stage.deaths), name=name, unit=" s")
        return trials.row(shop, unit="zombies", figures=figures, also=gone, targets=(target,))


def _start(shop: Workshop) -> Worker:
    return shop.start_rigged(
        HEARTBEAT_SECONDS=str(HEARTBEAT_SECONDS),
        LEASE_SECONDS=str(LEASE_SECONDS),
        RETRY_SECONDS="0",
    )


def _train(shop: Workshop, dataset_id: str) -> str:
    return shop.train(dataset_id, epochs=1_000, max_steps=STEPS)


def _trial(stage: Stage, workers: list[Worker], phase: Phase, broken: list[str]) -> int:
    """How many writes of the zombie were accepted after its successor's claim."""
    shop, traps = stage.shop, stage.traps
    traps.lay(phase.frozen)
    job_id = _train(shop, stage.dataset_id)
    caught = traps.caught(phase.frozen)
    zombie = next(each for each in workers if each.pid == caught)
    wake, trainers, fence = shop.freeze(zombie), zombie.attempts(), shop.job(job_id).fence
    try:
        if phase is DURING:
            traps.lay(Failpoint.PUBLISH_BEFORE_COMMIT)
        until(lambda: shop.job(job_id).fence > fence, "another claim")
        before = _written(shop, job_id, fence)
        phase.waits(stage, job_id)
    finally:
        woken = time.monotonic()
        wake()
        time.sleep(stage.random.uniform(0, HEARTBEAT_SECONDS) if phase is DURING else 0)
        traps.let_go()
    until(lambda: not alive(trainers), "the end of the zombie's trainer")
    broken += _lived_on(stage, time.monotonic() - woken) if trainers else []
    job = shop.ended(job_id)
    until(lambda: not zombie.attempts(), "the end of the zombie's attempt")
    accepted = len(_written(shop, job_id, fence) - before)
    broken += [f"{accepted} writes of the zombie were accepted"] * bool(accepted)
    broken += not_succeeded(job) or _not_its_own(stage, job)
    return accepted


def _lived_on(stage: Stage, for_seconds: float) -> list[str]:
    stage.deaths.append(for_seconds)
    if for_seconds <= HEARTBEAT_SECONDS + SLACK_SECONDS:
        return []
    return [f"the zombie's trainer lived on for {for_seconds:.1f} s"]


def _not_its_own(stage: Stage, job: JobRow) -> list[str]:
    """A sentence if the version is not that of the last attempt, or not that of a run without a zombie."""
    fence, broken = version_of(stage.shop, job).fence, []
    if fence != job.fence or fence < 2:
        broken.append(f"the version is of attempt {fence}, the job at {job.fence}")
    if fingerprint(stage.shop, job) != stage.undisturbed:
        broken.append("the weights are not those of an undisturbed run")
    return broken


def _written(shop: Workshop, job_id: str, fence: int) -> set[tuple[str, int]]:
    """What there is of an attempt: its events, points and checkpoints."""
    columns = {"event": EventRow.id, "point": PointRow.id, "checkpoint": CheckpointRow.step}
    found = set()
    with shop.db.read() as session:
        for name, column in columns.items():
            table = column.class_
            rows = session.scalars(select(column).where(table.job_id == job_id, table.fence == fence))
            found |= {(name, number) for number in rows}
    return found


SCENARIO = Scenario(
    id="T4",
    fault="a worker and its trainer frozen (SIGSTOP) for longer than the lease and woken (SIGCONT), at each phase of "
    "its work and of its successor's",
    promise="no write of the zombie is accepted, the version is its successor's, and its trainer is dead within "
    f"{HEARTBEAT_SECONDS + SLACK_SECONDS:g} s of its waking",
    run=run,
    quick=3,
    full=100,
)
