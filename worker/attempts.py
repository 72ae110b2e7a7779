"""One attempt at a job: a child is started, listened to, and stopped where need be; how it ended is written once.

    claim ──► lease ──► child ──reports──► result ──► published
                │         └──────────────► no result ──► stopped: failure, loss, drain, pause or cancel
                ├─ past its deadline ─► child killed ──► stopped: failure
                └─ lost ─► child killed, nothing written

`training_attempts`, `ingestion_attempts` and `prediction_attempts` say what the child is and what is published.
"""

from __future__ import annotations

import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gammabeta import failpoints, logs
from gammabeta.errors import ArtifactCorrupt, NoSpace, NotFound, NotReady
from gammabeta.failpoints import Failpoint
from gammabeta.files import no_space
from gammabeta.store import checkpoints, jobs
from gammabeta.store.engine import Database, Session
from gammabeta.store.jobs import Claim, Outcome
from gammabeta.store.stored import Blobs
from worker import keeping
from worker.children import Child, Children, Death
from worker.deadlines import EXCEEDED, Deadline
from worker.inputs import Inputs
from worker.lease import Lease
from worker.messages import Failed, Order, Progress, Report, StopReason, Warned
from worker.metrics import Metrics
from worker.outbox import Outbox
from worker.settings import WorkerSettings

log = logs.get(__name__)

T = TypeVar("T")

SUCCESS, LOST = "success", "lost"
"""How an attempt ended that published, and one of which nothing was written, since another one has the job."""

_STOPPED: dict[StopReason, Outcome] = {"cancel": Outcome.CANCEL, "pause": Outcome.PAUSE, "drain": Outcome.DRAIN}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all attempts of a worker share."""

    settings: WorkerSettings
    db: Database
    blobs: Blobs
    inputs: Inputs
    children: Children
    scratch: Path
    draining: threading.Event
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class Stop:
    """An attempt without a result."""

    outcome: Outcome
    reason: str | None = None
    message: str | None = None


Publish = Callable[[Session], bool]
"""The last write of an attempt that has a result. False: the fence is lost, or the job is being cancelled."""


class Attempt(ABC):
    """One attempt, in the thread of its slot."""

    def __init__(self, claim: Claim, around: Surroundings) -> None:
        self.claim, self.around = claim, around
        self.settings, self.blobs = around.settings, around.blobs
        self.outbox = Outbox(claim)
        self.scratch = around.scratch / f"{claim.job_id}-f{claim.fence}"
        self.lease = Lease(around.db, claim, around.settings, on_lost=self._kill, metrics=around.metrics)
        self.deadline = Deadline(claim.request.get("max_seconds"), on_passed=self._kill)
        self._child: Child | None = None
        self.asked: StopReason | None = None
        self.outcome = LOST
        """How it ended, once that is written."""
        self.step = 0
        """The last that was counted."""
        self._patience = 0.0
        self._flushed = 0.0

    @abstractmethod
    def order(self) -> Order:
        """What the child is told to do.

        Raises:
            ArtifactCorrupt, NotFound: what it would need is not what it was, or not there.
            NotReady: the database or the blobs are away.
        """

    @abstractmethod
    def start(self) -> Child:
        """Start the child."""

    def hear(self, report: Report) -> None:
        """Take in a report that is not the last."""
        match report:
            case Progress():
                self._count(report.step)
                self.lease.report(report.model_dump(mode="json", exclude={"type"}))
            case Warned():
                self.outbox.warning(report.code, report.message)

    def _count(self, step: int) -> None:
        self.around.metrics.steps.labels(self.claim.kind).inc(max(0, step - self.step))
        self.step = step

    @abstractmethod
    def conclude(self, last: Report) -> Publish | Stop:
        """What the last report comes to. Asked again where it raised NotReady."""

    def ask(self, child: Child, why: StopReason) -> float:
        """Ask the child to stop; for how many seconds it may go on. None, where it keeps nothing on its way."""
        del child, why
        return 0.0

    def run(self) -> None:
        """From the claim to the end. Nothing that goes wrong in the child is raised here."""
        log.info("attempt begins", job=self.claim.job_id, kind=self.claim.kind, fence=self.claim.fence)
        try:
            with self.lease, self.deadline:
                failpoints.reached(Failpoint.LEASE_BEGUN)
                self._finish(self._work())
        finally:
            if self._child is not None:
                self._child.end()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def clean(self) -> None:
        """Remove what is of no use any more, where the job has ended."""
        try:
            keeping.drop_if_ended(self.around.db, self.blobs, self.claim.job_id)
        except (NotReady, NoSpace) as error:
            log.warning("not cleaned up", job=self.claim.job_id, why=str(error))

    def give_up(self, message: str) -> None:
        """End the job after an error of the worker itself."""
        with self.around.db.write() as session:
            outcome = self._stop(session, Stop(outcome=Outcome.FAILURE, reason="internal_error", message=message))
        self.outcome = outcome

    # ── the child ──

    @property
    def child_pid(self) -> int | None:
        """Its process id on this machine, once it was started."""
        return None if self._child is None else self._child.pid

    def _work(self) -> Publish | Stop:
        try:
            self._make_scratch()
            order = self._patiently(self.order)
            self._child = child = self.start()
            failpoints.reached(Failpoint.CHILD_STARTED)
            if self._is_over():  # before there was a child to kill
                child.kill()
            child.send(order)
            failpoints.reached(Failpoint.ORDER_SENT)
            last = self._listen(child)
            if last is not None:
                return self._patiently(lambda: self.conclude(last))
            death = child.death(patience=self.settings.cancel_grace_seconds)
            if self.deadline.passed and self.asked is None:
                return self._patiently(self._overdue)
            return self.died(death)
        except (ArtifactCorrupt, NotFound) as error:
            return Stop(outcome=Outcome.FAILURE, reason=error.code, message=error.message)
        except NoSpace as error:
            return Stop(outcome=Outcome.RETRYABLE_FAILURE, reason=error.code, message=error.message)
        except NotReady as error:  # and so is the fence: nothing of this will be written
            return Stop(outcome=Outcome.LOSS, reason=error.code, message=error.message)

    def _make_scratch(self) -> None:
        with no_space("The disk of the worker's scratch folder must have room. Free some."):
            self.scratch.mkdir(parents=True)

    def _patiently(self, step: Callable[[], T]) -> T:
        """Its answer, for as long as it takes until database and blobs answer or the fence is lost."""
        while True:
            try:
                return step()
            except ArtifactCorrupt:  # a NotReady that waiting does not mend
                raise
            except NotReady as error:
                log.warning("waiting for database or blobs", job=self.claim.job_id, why=str(error))
                if self.lease.lost.wait(min(1, self.settings.heartbeat_seconds)):
                    raise

    def _listen(self, child: Child) -> Report | None:
        """Its last report. None: it ended without one."""
        while True:
            self._oversee(child)
            try:
                for report in child.reports(timeout=min(0.1, self.settings.report_seconds)):
                    if report.type in ("done", "answered", "stopped", "failed", "refused"):
                        return report
                    self.hear(report)
            except EOFError:
                return None
            if time.monotonic() - self._flushed >= self.settings.report_seconds:
                self.flush()

    def flush(self) -> None:
        """Write what was reported."""
        self._flushed = time.monotonic()
        if not self.outbox.flush(self.around.db):
            self.lease.lose()

    def _oversee(self, child: Child) -> None:
        if self._is_over():
            child.kill()
            return
        wanted = self._wanted()
        if wanted is not None and self.asked not in (wanted, "cancel"):
            self.asked = wanted
            self._patience = time.monotonic() + self.ask(child, wanted)
        if self.asked is not None and time.monotonic() >= self._patience:
            child.kill()

    def _wanted(self) -> StopReason | None:
        if self.lease.flags.cancel_requested:
            return "cancel"
        if self.around.draining.is_set():
            return "drain"
        return "pause" if self.lease.flags.pause_requested else None

    def _is_over(self) -> bool:
        """Whether the child has to end, whatever it is doing."""
        return self.lease.lost.is_set() or self.deadline.passed

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    # ── the end ──

    def stopped(self) -> Stop:
        """The child stopped because it was asked to."""
        return Stop(outcome=_STOPPED[self.asked or "drain"])

    def died(self, death: Death) -> Stop:
        """The child ended without a word."""
        if self.asked is not None:
            return self.stopped()
        message = f"The process that ran the job ended without an answer: {death}."
        if death.out_of_memory:
            return Stop(outcome=Outcome.FAILURE, reason="oom_host", message=message)
        return Stop(outcome=Outcome.LOSS, reason="process_lost", message=message)

    def failed(self, report: Failed) -> Stop:
        """The child said why it cannot go on."""
        outcome = Outcome.RETRYABLE_FAILURE if report.retryable else Outcome.FAILURE
        return Stop(outcome=outcome, reason=report.code, message=report.message)

    def _overdue(self) -> Stop:
        """The child was killed because its time was over."""
        self.flush()
        with self.around.db.read() as session:
            stored = checkpoints.checkpoints_of(session, self.claim.job_id)
        allowed = f"{self.deadline.seconds:,} s"
        message = f"An attempt at the job must take at most {allowed} (max_seconds). It took longer, and was ended. "
        if stored:
            message += (
                f"Retry the job within {keeping.RETRY_DAYS} days: it goes on from the checkpoint of step "
                f"{stored[0].step}, with {allowed} again. Or submit it anew with a larger max_seconds."
            )
        else:
            message += "It had stored no checkpoint to go on from. Submit it anew with a larger max_seconds."
        return Stop(outcome=Outcome.FAILURE, reason=EXCEEDED, message=message)

    def _finish(self, ending: Publish | Stop) -> None:
        """Write how it ended, for as long as it takes until the database answers or the fence is lost."""
        while not self.lease.lost.is_set():
            try:
                with self.lease.last_word(), self.around.db.write() as session:
                    outcome = self._write(session, ending)
                self.outcome = outcome
                stopped = isinstance(ending, Stop)
                failpoints.reached(Failpoint.STOP_AFTER_COMMIT if stopped else Failpoint.PUBLISH_AFTER_COMMIT)
                return
            except (NotReady, NoSpace) as error:
                log.warning("end of attempt not written", job=self.claim.job_id, why=str(error))
            self.lease.lost.wait(1)

    def _write(self, session: Session, ending: Publish | Stop) -> str:
        """The outcome."""
        if self.lease.renew_within(session) is None or not self.outbox.write(session):
            self.lease.lose()
            return LOST
        if isinstance(ending, Stop):
            return self._stop(session, ending)
        if ending(session):
            log.info("published", job=self.claim.job_id, fence=self.claim.fence)
            return SUCCESS
        return self._stop(session, Stop(outcome=Outcome.CANCEL))

    def _stop(self, session: Session, stop: Stop) -> str:
        state = jobs.stop(
            session,
            job_id=self.claim.job_id,
            fence=self.claim.fence,
            outcome=stop.outcome,
            reason=stop.reason,
            message=stop.message,
            backoff_ms=self.settings.retry_ms,
        )
        failpoints.reached(Failpoint.STOP_BEFORE_COMMIT)
        log.info("attempt ended", job=self.claim.job_id, outcome=stop.outcome.value, reason=stop.reason, state=state)
        return LOST if state is None else stop.outcome.value
