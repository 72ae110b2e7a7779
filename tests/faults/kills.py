"""T1. Trainer, supervisor, or both are killed by SIGKILL, at a random time and at every place that has a name.

current     claim ── train ── ✝                             each trial has a job of its own, and strikes it once
standby     holds still ─────── reap ── claim ── resume ── publish           the worker of the next trial
reserves    load torch, hold still ──────────────────────────────            the standbys of the trials after it
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import JobState
from gammabeta.store import events
from gammabeta.store.tables import EventRow, JobRow
from tests.faults.figures import Row, seconds
from tests.faults.relay import Relay, Runner
from tests.faults.rig import Place, Scenario
from tests.faults.steered import WARM, Reins
from tests.faults.trials import Trials, fingerprint, not_succeeded
from tests.integration.workshop import alive, until

STEPS = 600
LEASE_SECONDS, RETRY_SECONDS = 2.0, 0.1
SETTINGS = {
    "HEARTBEAT_SECONDS": "0.2",
    "LEASE_SECONDS": str(LEASE_SECONDS),
    "RETRY_SECONDS": str(RETRY_SECONDS),
    "REAP_SECONDS": "0.1",
    "CHECKPOINT_SECONDS": "0.1",
}
RANDOM_KILLS, TIMES = 200, 4
"""In full: of random kills in all, and of each place."""

Victim = Literal["trainer", "supervisor", "trainer and supervisor"]
VICTIMS: tuple[Victim, ...] = ("trainer", "supervisor", "trainer", "trainer and supervisor")

IN_THE_TRAINER = (
    Failpoint.JOB_RECEIVED,
    Failpoint.FIRST_STEP,
    Failpoint.LATER_STEP,
    Failpoint.EPOCH_CLOSED,
    Failpoint.CHECKPOINT_PARTIAL,
    Failpoint.CHECKPOINT_UNRENAMED,
    Failpoint.CHECKPOINT_UNREPORTED,
    Failpoint.RESULT_PARTIAL,
    Failpoint.RESULT_UNREPORTED,
)
IN_AN_ATTEMPT = (
    Failpoint.CLAIM_BEFORE_COMMIT,
    Failpoint.AFTER_CLAIM,
    Failpoint.LEASE_BEGUN,
    Failpoint.CHILD_STARTED,
    Failpoint.ORDER_SENT,
    Failpoint.STARTED_WRITTEN,
    Failpoint.LEASE_BEFORE_COMMIT,
    Failpoint.CHECKPOINT_HEARD,
    Failpoint.FILE_COPIED,
    Failpoint.FILE_RENAMED,
    Failpoint.CHECKPOINT_STORED,
    Failpoint.CHECKPOINT_ROW_BEFORE_COMMIT,
    Failpoint.CHECKPOINT_ROW_COMMITTED,
    Failpoint.OLDER_ROWS_DROPPED,
    Failpoint.RESULT_HEARD,
    Failpoint.WEIGHTS_STORED,
    Failpoint.PUBLISH_BEFORE_COMMIT,
    Failpoint.PUBLISH_AFTER_COMMIT,
    Failpoint.CLEANUP_MID,
)
IN_A_STOP = (Failpoint.STOP_BEFORE_COMMIT, Failpoint.STOP_AFTER_COMMIT)
IN_A_REAP = (Failpoint.REAP_BEFORE_COMMIT, Failpoint.REAP_AFTER_COMMIT)
IN_A_DRAIN = (Failpoint.DRAIN_BEGUN, Failpoint.DRAINED)
PLACES = (*IN_THE_TRAINER, *IN_AN_ATTEMPT, *IN_A_STOP, *IN_A_REAP, *IN_A_DRAIN)


class Steed(Runner):
    """A worker."""

    def ready(self) -> bool:
        """It could start a trainer at once."""
        return self.forkserver() is not None

    def forkserver(self) -> int | None:
        """Once it has torch loaded."""
        return next((pid for pid in _children(self.process.pid) if _name(pid) == WARM), None)

    def trainer(self) -> int | None:
        """The one that runs."""
        forkserver = self.forkserver()
        return next(iter(_children(forkserver)), None) if forkserver else None


@dataclass(kw_only=True)
class Stage(Relay[Steed]):
    """What the trials share."""

    dataset_id: str = field(init=False)
    undisturbed: tuple[str, str] = field(init=False)
    seconds: float = field(init=False)
    """From the claim to the end of a job that nothing strikes."""
    recoveries: dict[str, list[float]] = field(default_factory=lambda: {"trainer": [], "supervisor": []})
    """From a kill to the start of the next attempt."""
    spurious: int = 0
    """Attempts that were reaped although nobody had killed their supervisor."""

    def __post_init__(self) -> None:
        self.current = self.called("")
        self.dataset_id = self.shop.ready_dataset()
        job = self.shop.ended(self.submit())
        self.undisturbed = fingerprint(self.shop, job)
        self.seconds = ((job.finished_ms or 0) - (job.started_ms or 0)) / 1_000

    def start(self, reins: Reins) -> Steed:
        return Steed(self.shop.start_steered(reins.path, **SETTINGS), reins)

    def submit(self, fault: Failpoint | None = None) -> str:
        """A job, for a worker that could start a trainer at once."""
        until(self.current.forkserver, "the worker", every=0.1)
        metadata = {} if fault is None else {"fault": str(fault)}
        return self.shop.train(self.dataset_id, epochs=1_000, max_steps=STEPS, metadata=metadata, max_losses=10)

    def claimed(self, job_id: str) -> None:
        until(lambda: self.shop.job(job_id).fence > 0, f"a claim of {job_id}")

    def wait(self, share: float) -> None:
        """A random time, up to a share of how long a job takes."""
        time.sleep(self.random.uniform(0, share * self.seconds))

    def strays(self) -> set[int]:
        """Processes that were started by workers that have ended."""
        running = [each.process for each in (self.current, *self.reserves)]
        return self.shop.processes() - {pid for each in running for pid in (each.pid, *each.family())}


def run(place: Place, n: int, random: Random) -> Row:
    """So many of the trials of the full run, which are in a random order."""
    with place.workshop() as shop:
        strikes, trials = _strikes(random, n), Trials()
        stage = Stage(shop=shop, random=random)
        for number, each in enumerate(strikes):
            stage.muster(sum(later.deaths for later in strikes[number:]))
            with trials.trial(each.what) as broken:
                job_id = each.strike(stage, broken)
                broken.extend(_outcome(stage, job_id, each))
        places = [each.place for each in strikes if each.place]
        figures = {
            "random kills": str(n - len(places)),
            "kills at named places": f"{len(places)} ({len(set(places))} places)",
            f"trainer killed to next attempt, retry pause {RETRY_SECONDS:g} s": seconds(stage.recoveries["trainer"]),
            f"supervisor killed to next attempt, lease {LEASE_SECONDS:g} s": seconds(stage.recoveries["supervisor"]),
            "spurious reaps": str(stage.spurious),
        }
        return trials.row(shop, unit="kills", figures=figures)


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A kind of trial."""

    what: str
    place: Failpoint | None = None
    deaths: int
    """How many workers die in it."""
    strike: Callable[[Stage, list[str]], str]
    """Submits a job, and makes it happen; says what did not. The job's id."""


def _strikes(random: Random, n: int) -> list[Strike]:
    named = [_at(place) for place in PLACES for _ in range(TIMES)]
    at_random = [_at_random(VICTIMS[number % len(VICTIMS)]) for number in range(RANDOM_KILLS)]
    every = named + at_random
    random.shuffle(every)
    return [every[number % len(every)] for number in range(n)]


def _at_random(victim: Victim) -> Strike:
    def strike(stage: Stage, broken: list[str]) -> str:
        del broken
        return _kill_trainer(stage) if victim == "trainer" else _kill_supervisor(stage, with_trainer="and" in victim)

    return Strike(what=f"{victim} at a random time", deaths=int(victim != "trainer"), strike=strike)


def _at(place: Failpoint) -> Strike:
    def strike(stage: Stage, broken: list[str]) -> str:
        if place in IN_THE_TRAINER:
            return _in_the_trainer(stage, place, broken)
        if place in IN_A_REAP:
            return _in_a_reap(stage, place, broken)
        return _in_an_attempt(stage, place, broken)

    deaths = 0 if place in IN_THE_TRAINER else 2 if place in IN_A_REAP else 1
    return Strike(what=f"at {place}", place=place, deaths=deaths, strike=strike)


def _kill_trainer(stage: Stage) -> str:
    while True:
        job_id = stage.submit()
        stage.claimed(job_id)
        stage.wait(1.0)
        trainer = _trainer(stage, job_id)
        if trainer is None:  # it was over before
            continue
        running = _running(stage, job_id)
        struck = time.time()
        os.kill(trainer, signal.SIGKILL)
        _gone(trainer)
        stage.shop.ended(job_id)
        _note_recovery(stage, "trainer", job_id, running, struck)
        return job_id


def _gone(pid: int) -> None:
    until(lambda: not alive({pid}), f"the end of process {pid}")


def _trainer(stage: Stage, job_id: str) -> int | None:
    """The process that trains, as soon as there is one. None: the job has ended."""

    def look() -> int | None:
        if JobState(stage.shop.job(job_id).state).terminal:
            return -1
        return next(iter(stage.current.process.attempts()), None)

    found = until(look, "a trainer")
    return None if found < 0 else found


def _kill_supervisor(stage: Stage, *, with_trainer: bool) -> str:
    stage.standby()
    job_id = stage.submit()
    stage.claimed(job_id)
    stage.wait(1.2)
    trainer = stage.current.trainer() if with_trainer else None
    running = _running(stage, job_id)
    struck = time.time()
    for pid in [stage.current.process.pid, *([trainer] if trainer else [])]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    stage.current.death()
    stage.promote()
    stage.shop.ended(job_id)
    _note_recovery(stage, "supervisor", job_id, running, struck)
    return job_id


def _in_the_trainer(stage: Stage, place: Failpoint, broken: list[str]) -> str:
    job_id = stage.submit(fault=place)
    stage.shop.ended(job_id)
    first = [each.data for each in _events(stage, job_id) if each.fence == 1 and "outcome" in each.data]
    if [(data["outcome"], data["reason"]) for data in first] != [("loss", "process_lost")]:
        broken.append(f"the trainer did not die at {place}: {first}")
    return job_id


def _in_an_attempt(stage: Stage, place: Failpoint, broken: list[str]) -> str:
    stage.standby()
    stage.current.reins.say(place)
    # An attempt is stopped without a result because its trainer dies.
    job_id = stage.submit(fault=Failpoint.FIRST_STEP if place in IN_A_STOP else None)
    if place in IN_A_DRAIN:
        stage.claimed(job_id)
        stage.wait(0.8)
        os.kill(stage.current.process.pid, signal.SIGTERM)
    broken += _died(stage.current, place)
    struck, running = time.time(), _running(stage, job_id)
    stage.promote()
    stage.shop.ended(job_id)
    _note_recovery(stage, "supervisor", job_id, running, struck)
    return job_id


def _in_a_reap(stage: Stage, place: Failpoint, broken: list[str]) -> str:
    """The one that would go on dies while it reaps; a third one does."""
    standby, job_id = stage.standby(), stage.submit()
    stage.claimed(job_id)
    standby.reins.say(place)
    # The others reap too, and would come first as often as not.
    woken = [stage.shop.freeze(each.process) for each in stage.reserves[1:]]
    os.kill(stage.current.process.pid, signal.SIGKILL)
    stage.current.death()
    broken += _died(standby, place)
    for wake in woken:
        wake()
    stage.promote()
    stage.promote()
    stage.shop.ended(job_id)
    return job_id


def _died(steed: Steed, place: Failpoint) -> list[str]:
    """A sentence if it did not, which is then made up for."""
    number = steed.death()
    if number == signal.SIGKILL:
        return []
    steed.process.end()
    return [f"the supervisor did not die at {place}: {number}"]


def _running(stage: Stage, job_id: str) -> int | None:
    """The attempt that is under way."""
    job = stage.shop.job(job_id)
    return job.fence if job.state == JobState.RUNNING else None


def _note_recovery(stage: Stage, victim: str, job_id: str, fence: int | None, struck: float) -> None:
    if fence is None:
        return
    started = [each.created_ms for each in _events(stage, job_id) if each.type == "started" and each.fence > fence]
    if started:  # otherwise the attempt had ended in the moment of the kill
        stage.recoveries[victim].append(started[0] / 1_000 - struck)


def _outcome(stage: Stage, job_id: str, strike: Strike) -> list[str]:
    """What is not as if nothing had happened."""
    job = stage.shop.job(job_id)
    reaped = [each for each in _events(stage, job_id) if each.data.get("reason") == "lease_expired"]
    stage.spurious += max(0, len(reaped) - min(1, strike.deaths))
    return not_succeeded(job) or _not_the_same(stage, job) + _left(stage)


def _not_the_same(stage: Stage, job: JobRow) -> list[str]:
    if fingerprint(stage.shop, job) == stage.undisturbed:
        return []
    return [f"{job.id} has other weights, or another batch-norm state, than a run that nothing struck"]


def _left(stage: Stage) -> list[str]:
    with suppress(AssertionError):
        until(lambda: not stage.strays(), "the end of what dead workers had started", seconds=5)
        return []
    return [f"processes {sorted(stage.strays())} live on without their supervisor"]


def _events(stage: Stage, job_id: str) -> list[EventRow]:
    with stage.shop.db.read() as session:
        return events.events_of(session, job_id, limit=1_000)


def _children(pid: int) -> list[int]:
    """Those that its main thread has started."""
    with suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


SCENARIO = Scenario(
    id="T1",
    fault="kill -9 of the trainer, the supervisor, or both: at a random time, and at every named place of the program",
    promise="the job succeeds once; weights, gamma, beta and moving statistics are bit-equal to those of an "
    "undisturbed run; no process lives on",
    run=run,
    quick=3,
    full=RANDOM_KILLS + TIMES * len(PLACES),
)
