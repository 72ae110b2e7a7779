"""The protocol of the queue as a machine that hypothesis drives, beside a model of what it must do.

    hypothesis ──rules──► Machine ─┬─► Protocol   the statements of the store, on a real database
                                   └─► Job        the same step in a few lines of Python, from the table of transitions
    after each turn: rows, events, checkpoints and points are those of the model
    after some, and at the end: the auditor's invariants; at the end: whatever is left can be brought to an end

Each operation is one transaction, since the guard of a transition is one statement: what two of them do at the same
time, they also do in one of the two orders. Time is the test's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from gammabeta.errors import WrongState
from gammabeta.schemas.batchnorm import BatchNormState
from gammabeta.schemas.jobs import JobState, Lane
from gammabeta.store import checkpoints, events, jobs, publishing
from gammabeta.store.engine import Database
from gammabeta.store.events import MetricRow
from gammabeta.store.jobs import Claim, Flags, Outcome
from gammabeta.store.tables import (
    DEFAULT_PROJECT,
    CheckpointRow,
    EventRow,
    JobRow,
    PointRow,
    ProjectRow,
    Table,
    VersionRow,
)
from tests.integration.auditor import audit
from tests.integration.databases import Clock
from tests.integration.samples import TTL, layer, manifest, new_job, publication

Thing = TypeVar("Thing")

WORKERS = ("w1", "w2", "w3")
MOST_ALIVE, MOST_JOBS = 3, 8
BACKOFF = 2_000
AUDIT_EVERY = 5
PUBLICATION = publication(state=BatchNormState((layer(channels=1),)))
MANIFEST = manifest()
ALIVE = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)
RETRIED = (JobState.FAILED, JobState.CANCELLED)
ALLOWED = {"pause": (JobState.RUNNING,), "resume": (JobState.PAUSED,), "cancel": ALIVE, "retry": RETRIED}
"""In which states what is asked for is done. In the others it is refused."""


def looks_at_nothing(session: Session) -> list[str]:
    return []


def reap(session: Session, seen: Sequence[str]) -> list[tuple[str, JobState]]:
    return jobs.reap(session, backoff_ms=BACKOFF)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The operations that the machine checks. A mutant is a protocol with one of them written wrongly.

    `look` is there for a wrong one: what it finds is handed to a later `reap`, as if the reaper had been held up
    between its SELECT and its UPDATE. The store's reaper has one statement, and nothing to be held up between.
    """

    submit: Callable[..., JobRow] = jobs.submit
    claim: Callable[..., Claim | None] = jobs.claim
    heartbeat: Callable[..., Flags | None] = jobs.heartbeat
    checkpoint: Callable[..., bool] = checkpoints.add_checkpoint
    prune: Callable[..., list[str]] = checkpoints.forget_older
    report: Callable[..., bool] = events.add_event
    measure: Callable[..., bool] = events.add_metrics
    warn: Callable[..., bool] = events.add_warning
    publish: Callable[..., str | None] = publishing.publish_version
    publish_dataset: Callable[..., bool] = publishing.publish_dataset
    stop: Callable[..., JobState | None] = jobs.stop
    look: Callable[[Session], list[str]] = looks_at_nothing
    reap: Callable[[Session, Sequence[str]], list[tuple[str, JobState]]] = reap
    pause: Callable[[Session, str, str], JobRow] = jobs.request_pause
    resume: Callable[[Session, str, str], JobRow] = jobs.resume
    cancel: Callable[[Session, str, str], JobRow] = jobs.request_cancel
    retry: Callable[[Session, str, str], JobRow] = jobs.retry


class Violation(AssertionError):
    """The database is not, or does not answer, as the model says."""


@dataclass(kw_only=True)
class Job:
    """What a job must be. `run_after`: between which times, since the pause before an attempt is drawn."""

    id: str
    number: int
    priority: int
    max_failures: int
    max_losses: int
    created: int
    run_after: tuple[int, int]
    state: JobState = JobState.QUEUED
    fence: int = 0
    failures: int = 0
    losses: int = 0
    worker: str | None = None
    lease: int | None = None
    cancel: bool = False
    pause: bool = False
    finished: int | None = None
    reason: str | None = None
    version: int | None = None
    checkpoints: list[tuple[int, int]] = field(default_factory=list)
    points: set[tuple[int, int]] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    history: list[tuple[str, int]] = field(default_factory=list)

    def note(self, event: str) -> None:
        self.history.append((event, self.fence))

    def row(self) -> tuple[Any, ...]:
        counters = (self.fence, self.failures, self.losses)
        asked = (self.cancel, self.pause)
        ends = (self.finished, self.reason, self.version)
        return (self.state, *counters, self.worker, self.lease, *asked, *ends, self.warnings)

    def claimed(self, worker: str, now: int) -> None:
        self.state, self.fence, self.worker, self.lease = JobState.RUNNING, self.fence + 1, worker, now + TTL
        self.reason = None
        self.note("claimed")

    def ended(self, outcome: Outcome, now: int, reason: str | None) -> None:
        """The attempt ended without a result."""
        before = self.losses if outcome is Outcome.LOSS else self.failures
        self.losses, self.failures = self.losses + outcome.losses, self.failures + outcome.failures
        worn_out = self.losses >= self.max_losses or self.failures >= self.max_failures
        if self.cancel:
            self.state = JobState.CANCELLED
        elif outcome is Outcome.FAILURE or worn_out:
            self.state = JobState.FAILED
        else:
            self.state = JobState.PAUSED if self.pause else JobState.QUEUED
        pause = min(jobs.MAX_PAUSE_MS, BACKOFF * 2**before) if outcome.losses or outcome.failures else 0
        self.run_after = (now + round(0.8 * pause), now + round(1.2 * pause))
        self.worker = self.lease = None
        self.finished = now if self.state.terminal else None
        self.reason = reason
        self.note("requeued" if self.state == JobState.QUEUED else self.state.value)

    def succeeded(self, version: int, now: int) -> None:
        self.state, self.version, self.finished = JobState.SUCCEEDED, version, now
        self.worker = self.lease = None
        self.note("succeeded")

    def asked(self, verb: str, now: int) -> None:
        """What a user or the operator asked for, and was allowed to."""
        match verb:
            case "pause" if not self.pause:
                self.pause = True
                self.note("pause_requested")
            case "resume":
                self.state, self.pause, self.run_after = JobState.QUEUED, False, (now, now)
                self.note("resume_requested")
            case "cancel" if not self.cancel:
                self._cancelled(now)
            case "retry":
                self.state, self.failures, self.losses, self.run_after = JobState.QUEUED, 0, 0, (now, now)
                self.cancel = self.pause = False
                self.finished = self.reason = None
                self.warnings = []
                self.note("retry_requested")

    def _cancelled(self, now: int) -> None:
        self.cancel = True
        if self.state == JobState.RUNNING:
            self.note("cancel_requested")
        else:
            self.state, self.finished = JobState.CANCELLED, now
            self.note("cancelled")


@dataclass
class Attempt:
    """A worker's belief that it holds a job."""

    job: Job
    fence: int
    over: bool = False
    """Whether the worker knows that it holds the job no more."""

    @property
    def held(self) -> bool:
        return self.job.state == JobState.RUNNING and self.job.fence == self.fence

    @property
    def guard(self) -> dict[str, Any]:
        return {"job_id": self.job.id, "fence": self.fence}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What is drawn for a step, of which it uses what it needs."""

    pick: int
    worker: str
    ms: int
    step: int
    outcome: Outcome
    verb: str
    limits: dict[str, int]

    def one(self, things: Sequence[Thing]) -> Thing:
        return things[self.pick % len(things)]


WORKER = st.sampled_from(WORKERS)
LIMITS = st.fixed_dictionaries(
    {"priority": st.integers(0, 1), "max_failures": st.integers(1, 3), "max_losses": st.integers(1, 3)}
)
TURN = st.builds(
    Turn,
    pick=st.integers(0, 11),
    worker=WORKER,
    ms=st.sampled_from((1, BACKOFF, TTL // 2, TTL, TTL + 1, 2 * TTL)),
    step=st.integers(1, 3),
    outcome=st.sampled_from(Outcome),
    verb=st.sampled_from(sorted(ALLOWED)),
    limits=LIMITS,
)


class Machine(RuleBasedStateMachine):
    """Three workers, a reaper, an operator and a clock, on an empty database."""

    def __init__(self, db: Database, clock: Clock, protocol: Protocol) -> None:
        super().__init__()
        self.db, self.clock, self.protocol = db, clock, protocol
        self.jobs: list[Job] = []
        self.attempts: list[Attempt] = []
        self.published = 0
        self.steps = 0
        self.broken = False
        wipe(db)

    @initialize(submitted=st.lists(LIMITS, min_size=1, max_size=MOST_ALIVE), worker=WORKER)
    def begin(self, submitted: list[dict[str, int]], worker: str) -> None:
        for limits in submitted:
            self._submit(**limits)
        self._claim(worker)

    @rule(deed=st.runner().flatmap(lambda machine: st.sampled_from(machine.possible())), turn=TURN)
    def step(self, deed: str, turn: Turn) -> None:
        getattr(self, deed)(turn)

    def possible(self) -> list[str]:
        """What can be done now, each as often as it weighs."""
        return [deed for deed, (weight, possible) in DEEDS.items() for _ in range(weight) if possible(self)]

    # What users and the operator do

    def submit(self, turn: Turn) -> None:
        self._submit(**turn.limits)

    def _submit(self, priority: int, max_failures: int, max_losses: int) -> None:
        now, limits = self.clock.ms, {"max_failures": max_failures, "max_losses": max_losses}
        with self.db.write() as session:
            row = self.protocol.submit(session, new_job(priority=priority, **limits))
        job = Job(
            id=row.id,
            number=len(self.jobs),
            priority=priority,
            created=now,
            run_after=(now, now),
            max_failures=max_failures,
            max_losses=max_losses,
        )
        job.note("submitted")
        self.jobs.append(job)

    def pause(self, turn: Turn) -> None:
        self._ask("pause", turn.one(self.among(JobState.RUNNING)))

    def resume(self, turn: Turn) -> None:
        self._ask("resume", turn.one(self.among(JobState.PAUSED)))

    def cancel(self, turn: Turn) -> None:
        self._ask("cancel", turn.one(self.among(*ALIVE)))

    def cancel_a_running_one(self, turn: Turn) -> None:
        self._ask("cancel", turn.one(self.among(JobState.RUNNING)))

    def retry(self, turn: Turn) -> None:
        self._ask("retry", turn.one(self.among(*RETRIED)))

    def ask_for_anything(self, turn: Turn) -> None:
        self._ask(turn.verb, turn.one(self.jobs))

    def _ask(self, verb: str, job: Job) -> None:
        operation: Callable[[Session, str, str], JobRow] = getattr(self.protocol, verb)
        allowed = job.state in ALLOWED[verb]
        try:
            with self.db.write() as session:
                operation(session, DEFAULT_PROJECT, job.id)
        except WrongState:
            self._expect(not allowed, f"{verb} was refused for {job}")
            return
        self._expect(allowed, f"{verb} was accepted for {job}")
        job.asked(verb, self.clock.ms)

    # What time and the reaper do

    def tick(self, turn: Turn) -> None:
        self.clock.advance(turn.ms)

    def reap(self, _: Turn) -> None:
        self._reap()

    def reap_at_the_last_moment(self, _: Turn) -> None:
        """A lease holds until it is over: at its last millisecond it is not."""
        first = min(job.lease for job in self.jobs if job.lease is not None)
        self.clock.advance(max(0, first - self.clock.ms))
        self._reap()

    def renew_late(self, turn: Turn) -> None:
        """The lease is over, the reaper is about to come, and the worker wakes up just before."""
        self.clock.advance(TTL + 1)
        with self.db.write() as session:
            seen = self.protocol.look(session)
        self.heartbeat(turn)
        self._reap(seen)

    def sleep_and_reap(self, _: Turn) -> None:
        """All workers sleep through their leases: now they are zombies, and do not know it."""
        self.clock.advance(TTL + 1)
        self._reap()

    def _reap(self, seen: Sequence[str] = ()) -> None:
        with self.db.write() as session:
            found = self.protocol.reap(session, seen)
        expired = [job for job in self.jobs if job.lease is not None and job.lease < self.clock.ms]
        for job in expired:
            job.ended(Outcome.LOSS, self.clock.ms, "lease_expired")
        self._same(sorted(found), sorted((job.id, job.state) for job in expired), "what was reaped")

    def take_over(self, turn: Turn) -> None:
        """An attempt falls asleep after a checkpoint, and its job goes to the next one."""
        if self.believed():
            self._checkpoint(turn.one(self.believed()), turn.step)
        self.sleep_and_reap(turn)
        if self.among(JobState.QUEUED):
            self.wait_and_claim(turn)

    # What workers do

    def claim(self, turn: Turn) -> None:
        self._claim(turn.worker)

    def wait_and_claim(self, turn: Turn) -> None:
        ready = min(job.run_after[1] for job in self.among(JobState.QUEUED))
        self.clock.advance(max(0, ready - self.clock.ms))
        self._claim(turn.worker)

    def heartbeat(self, turn: Turn) -> None:
        self._heartbeat(turn.one(self.believed()))

    def checkpoint(self, turn: Turn) -> None:
        self._checkpoints(turn.one(self.believed()), turn.step)

    def prune(self, turn: Turn) -> None:
        self._prune(turn.one(self.believed()), kept=1)

    def report(self, turn: Turn) -> None:
        self._report(turn.one(self.believed()))

    def measure(self, turn: Turn) -> None:
        self._measure(turn.one(self.believed()), turn.step)

    def warn(self, turn: Turn) -> None:
        self._warn(turn.one(self.believed()), turn.step)

    def publish(self, turn: Turn) -> None:
        self._publish(turn.one(self.believed()))

    def stop(self, turn: Turn) -> None:
        self._stop(turn.one(self.believed()), turn.outcome)

    def zombie(self, turn: Turn) -> None:
        """An attempt that was reaped goes on as if nothing were, or one that ended says so twice."""
        self._write_all(turn.one(self.lost()), turn)

    def zombie_beside_its_successor(self, turn: Turn) -> None:
        self._write_all(turn.one(self.outlived()), turn)

    def _write_all(self, attempt: Attempt, turn: Turn) -> None:
        """Whatever an attempt can write. Nothing of it is."""
        self._heartbeat(attempt)
        self._checkpoint(attempt, turn.step)
        self._prune(attempt, kept=0)
        self._report(attempt)
        self._measure(attempt, turn.step)
        self._warn(attempt, turn.step)
        self._publish(attempt)
        self._publish_dataset(attempt)
        self._stop(attempt, turn.outcome)

    def among(self, *states: JobState) -> list[Job]:
        return [job for job in self.jobs if job.state in states]

    def believed(self) -> list[Attempt]:
        """What the workers think they hold."""
        return [attempt for attempt in self.attempts if not attempt.over]

    def lost(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.held]

    def outlived(self) -> list[Attempt]:
        """Lost to a newer attempt that runs."""
        return [attempt for attempt in self.lost() if attempt.job.state == JobState.RUNNING]

    def _claim(self, worker: str) -> None:
        with self.db.write() as session:
            found = self.protocol.claim(
                session, worker_id=worker, lane=Lane.TRAIN, free=1, ttl_ms=TTL, device=f"cpu of {worker}"
            )
        ready = [job for job in self.among(JobState.QUEUED) if job.run_after[1] <= self.clock.ms]
        if found is None or not ready:
            self._expect(found is None and not ready, f"claimed {found}, ready are {[job.id for job in ready]}")
            return
        job = min(ready, key=lambda each: (-each.priority, each.created, each.number))
        job.claimed(worker, self.clock.ms)
        self._same((found.job_id, found.fence), (job.id, job.fence), "the claim")
        self.attempts.append(Attempt(job, job.fence))

    def _heartbeat(self, attempt: Attempt) -> None:
        with self.db.write() as session:
            flags = self.protocol.heartbeat(session, **attempt.guard, ttl_ms=TTL, progress={"step": self.steps})
        if not self._answered(attempt, flags is not None):
            return
        job = attempt.job
        job.lease = self.clock.ms + TTL
        self._same(flags, Flags(cancel_requested=job.cancel, pause_requested=job.pause), "the flags")

    def _checkpoints(self, attempt: Attempt, last: int) -> None:
        for step in range(1, last + 1):
            self._checkpoint(attempt, step)

    def _checkpoint(self, attempt: Attempt, step: int) -> None:
        stored = {"uri": _place(attempt.job, attempt.fence, step), "sha256": "ab" * 32, "bytes": 100}
        with self.db.write() as session:
            written = self.protocol.checkpoint(session, **attempt.guard, ttl_ms=TTL, step=step, **stored)
        if self._answered(attempt, written):
            job = attempt.job
            job.lease = self.clock.ms + TTL
            job.checkpoints = sorted({*job.checkpoints, (attempt.fence, step)}, reverse=True)
            job.note("checkpoint")

    def _prune(self, attempt: Attempt, kept: int) -> None:
        with self.db.write() as session:
            gone = self.protocol.prune(session, **attempt.guard, kept=kept)
        older = attempt.job.checkpoints[kept:] if attempt.held else []
        places = [_place(attempt.job, fence, step) for fence, step in older]
        self._same(gone, places, "the checkpoints that can go")
        if attempt.held:
            del attempt.job.checkpoints[kept:]

    def _report(self, attempt: Attempt) -> None:
        with self.db.write() as session:
            written = self.protocol.report(session, **attempt.guard, type="note", data={})
        if self._answered(attempt, written):
            attempt.job.note("note")

    def _measure(self, attempt: Attempt, step: int) -> None:
        point = MetricRow(step=step, epoch=1, values={"loss": 0.5})
        with self.db.write() as session:
            written = self.protocol.measure(session, **attempt.guard, rows=[point])
        if self._answered(attempt, written):
            attempt.job.points.add((attempt.fence, step))

    def _warn(self, attempt: Attempt, step: int) -> None:
        code = f"warning-{step}"
        with self.db.write() as session:
            written = self.protocol.warn(session, **attempt.guard, code=code, message="")
        if self._answered(attempt, written) and code not in attempt.job.warnings:
            attempt.job.warnings.append(code)
            attempt.job.note("warning")

    def _publish_dataset(self, attempt: Attempt) -> None:
        """Of attempts that are lost only: those that are held train."""
        with self.db.write() as session:
            written = self.protocol.publish_dataset(session, **attempt.guard, dataset_id="ds_1", manifest=MANIFEST)
        self._answered(attempt, written)

    def _publish(self, attempt: Attempt) -> None:
        with self.db.write() as session:
            version = self.protocol.publish(session, **attempt.guard, publication=PUBLICATION)
        allowed = attempt.held and not attempt.job.cancel
        self._same(version, str(self.published + 1) if allowed else None, "the version")
        if allowed:
            self.published += 1
            attempt.job.succeeded(self.published, self.clock.ms)
        attempt.over = not attempt.held

    def _stop(self, attempt: Attempt, outcome: Outcome) -> None:
        with self.db.write() as session:
            state = self.protocol.stop(
                session, **attempt.guard, outcome=outcome, reason=outcome.value, backoff_ms=BACKOFF
            )
        if not self._answered(attempt, state is not None):
            return
        job = attempt.job
        poison = job.losses + outcome.losses >= job.max_losses and not job.cancel
        job.ended(outcome, self.clock.ms, "poison" if poison else outcome.value)
        self._same(state, job.state, "the state after the stop")
        attempt.over = True

    def _answered(self, attempt: Attempt, accepted: bool) -> bool:
        self._same(accepted, attempt.held, f"accepted of fence {attempt.fence} of {attempt.job}")
        attempt.over = not accepted
        return accepted

    # What must hold

    @invariant()
    def agrees(self) -> None:
        """Every row, event and checkpoint is as the model says; there are no others."""
        if self.broken:
            return
        self.steps += 1
        with self.db.read() as session:
            rows = {row.id: row for row in session.scalars(select(JobRow))}
            self._same(set(rows), {job.id for job in self.jobs}, "the jobs")
            for job in self.jobs:
                self._same(_stored(rows[job.id]), job.row(), f"job {job.number}")
                low, high = job.run_after
                self._expect(low <= rows[job.id].run_after_ms <= high, f"job {job.number} runs after {job.run_after}")
                job.run_after = (rows[job.id].run_after_ms, rows[job.id].run_after_ms)
            self._written(session)
            if self.steps % AUDIT_EVERY == 0:
                self._same(audit(session), [], "broken invariants")

    def _written(self, session: Session) -> None:
        lines = select(EventRow.job_id, EventRow.type, EventRow.fence).order_by(EventRow.id)
        written = session.execute(lines).all()
        places = session.execute(select(CheckpointRow.job_id, CheckpointRow.fence, CheckpointRow.step)).all()
        points = session.execute(select(PointRow.job_id, PointRow.fence, PointRow.step)).all()
        for job in self.jobs:
            history = [(type, fence) for job_id, type, fence in written if job_id == job.id]
            self._same(history, job.history, f"events of job {job.number}")
            kept = sorted(((fence, step) for job_id, fence, step in places if job_id == job.id), reverse=True)
            self._same(kept, job.checkpoints, f"checkpoints of job {job.number}")
            measured = {(fence, step) for job_id, fence, step in points if job_id == job.id}
            self._same(measured, job.points, f"points of job {job.number}")
        versions = session.execute(select(VersionRow.job_id, VersionRow.fence)).all()
        made = [(job.id, job.fence) for job in self.jobs if job.version is not None]
        self._same(sorted(map(tuple, versions)), sorted(made), "the versions")

    def teardown(self) -> None:
        """Nothing is stuck: what is left can be reaped, resumed, claimed and published, or is cancelled."""
        if self.broken:
            return
        self.clock.advance(TTL + 1)
        self._reap()
        for job in self.among(JobState.PAUSED):
            self._ask("resume", job)
        self.clock.advance(2 * jobs.MAX_PAUSE_MS)
        self.agrees()
        while self.among(JobState.QUEUED):
            self._claim("w1")
            self._publish(self.attempts[-1])
        self.agrees()
        self._expect(all(job.state.terminal for job in self.jobs), "a job has no end")
        with self.db.read() as session:
            self._same(audit(session), [], "broken invariants")

    def _same(self, found: object, expected: object, what: str) -> None:
        self._expect(found == expected, f"{what}: {found}, and must be {expected}")

    def _expect(self, holds: bool, message: str) -> None:
        if not holds:
            self.broken = True
            raise Violation(message)


DEEDS: dict[str, tuple[int, Callable[[Machine], object]]] = {
    "submit": (2, lambda self: len(self.jobs) < MOST_JOBS and len(self.among(*ALIVE)) < MOST_ALIVE),
    "pause": (2, lambda self: self.among(JobState.RUNNING)),
    "resume": (3, lambda self: self.among(JobState.PAUSED)),
    "cancel": (1, lambda self: self.among(*ALIVE)),
    "cancel_a_running_one": (2, lambda self: self.among(JobState.RUNNING)),
    "retry": (2, lambda self: self.among(*RETRIED)),
    "ask_for_anything": (1, lambda self: self.jobs),
    "tick": (1, lambda self: self.jobs),
    "reap": (1, lambda self: self.among(JobState.RUNNING)),
    "reap_at_the_last_moment": (1, lambda self: self.among(JobState.RUNNING)),
    "renew_late": (2, lambda self: self.believed()),
    "sleep_and_reap": (1, lambda self: self.among(JobState.RUNNING)),
    "take_over": (3, lambda self: self.among(JobState.RUNNING)),
    "claim": (1, lambda self: self.among(JobState.QUEUED)),
    "wait_and_claim": (4, lambda self: self.among(JobState.QUEUED)),
    "heartbeat": (2, lambda self: self.believed()),
    "checkpoint": (3, lambda self: self.believed()),
    "prune": (1, lambda self: self.believed()),
    "report": (1, lambda self: self.believed()),
    "measure": (1, lambda self: self.believed()),
    "warn": (1, lambda self: self.believed()),
    "publish": (3, lambda self: self.believed()),
    "stop": (3, lambda self: self.believed()),
    "zombie": (2, lambda self: self.lost()),
    "zombie_beside_its_successor": (5, lambda self: self.outlived()),
}
"""What can happen: how much it weighs, and when it is possible. One rule draws from them, and they are no rules of
their own: hypothesis leaves half of the rules out of each example, and hardly any run would come as far as a zombie."""


def _place(job: Job, fence: int, step: int) -> str:
    return f"jobs/{job.id}/f{fence:06d}/ckpt-{step}"


def _stored(row: JobRow) -> tuple[Any, ...]:
    """As `Job.row` says it."""
    counters = (row.fence, row.failures, row.losses)
    asked = (row.cancel_requested_ms is not None, row.pause_requested_ms is not None)
    ends = (row.finished_ms, row.reason, row.version)
    warnings = [each["code"] for each in row.warnings]
    return (row.state, *counters, row.worker_id, row.lease_until_ms, *asked, *ends, warnings)


def wipe(db: Database) -> None:
    """Back to an empty queue."""
    with db.write() as session:
        for table in reversed(Table.metadata.sorted_tables):
            if table.name != ProjectRow.__tablename__:
                session.execute(delete(table))


def check(
    db: Database, clock: Clock, protocol: Protocol, *, examples: int, steps: int, seed: int, shrink: bool = True
) -> None:
    """Drive the protocol through so many examples of so many steps, the same ones for the same seed.

    Raises:
        Violation: with `shrink`, the shortest run of steps that led there was printed.
    """

    @hypothesis.seed(seed)
    class Bound(Machine):
        def __init__(self) -> None:
            super().__init__(db, clock, protocol)

    run_machine(
        Bound,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            verbosity=Verbosity.normal if shrink else Verbosity.quiet,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
