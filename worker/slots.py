"""Slots: a thread each, which takes a job, runs it to its end, and takes the next.

train-0 … train-n   one for each GPU, or for each CPU rank where there is none: trainings, and predictions of data sets
light               short work, so that a long training never blocks an upload
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

from gammabeta import failpoints, logs
from gammabeta.errors import GammabetaError, NoSpace, NotReady
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.jobs import Lane
from gammabeta.store import jobs
from gammabeta.store.jobs import Claim
from worker.attempts import Attempt, Surroundings
from worker.ingestion_attempts import IngestionAttempt
from worker.prediction_attempts import PredictionAttempt
from worker.settings import WorkerSettings
from worker.training_attempts import TrainingAttempt

log = logs.get(__name__)

_COUNT_GPUS = "import torch; print(torch.cuda.device_count())"


def devices(settings: WorkerSettings) -> list[str]:
    """The device of each train slot."""
    if settings.devices not in ("auto", "cpu"):
        return [name.strip() for name in settings.devices.split(",") if name.strip()]
    gpus = _gpus() if settings.devices == "auto" else 0
    return [f"cuda:{index}" for index in range(gpus)] or ["cpu"] * settings.cpu_ranks


def _gpus() -> int:
    """As torch counts them, in a process of its own; torch is not loaded where the kernel knows no GPU."""
    if not Path("/dev/nvidia0").exists():
        return 0
    counted = subprocess.run([sys.executable, "-P", "-c", _COUNT_GPUS], capture_output=True, text=True, check=False)
    try:
        return int(counted.stdout)
    except ValueError:
        log.warning("GPUs not counted; trainings run on the CPU", why=counted.stderr[-500:])
        return 0


class Slot(threading.Thread):
    """`free` devices of one lane."""

    def __init__(self, name: str, *, lane: Lane, device: str, worker_id: str, around: Surroundings) -> None:
        super().__init__(name=name)
        self.lane, self.device = lane, device
        self.job: str | None = None
        """What it is running now."""
        self._worker_id, self._around = worker_id, around
        self._woken = threading.Event()

    def wake(self) -> None:
        """Have it look for a job now, or for whether the worker drains."""
        self._woken.set()

    def run(self) -> None:
        """Until the worker drains. Whatever goes wrong, the slot takes the next job."""
        while not self._around.draining.is_set():
            if self._woken.wait(self.turn()):
                self._woken.clear()

    def turn(self) -> float:
        """Run the next job, if there is one. How many seconds to wait before the one after it."""
        try:
            found = self._run_next()
        except (NotReady, NoSpace) as error:
            log.warning("no job taken", slot=self.name, why=str(error))
            return 1.0
        except Exception:
            log.exception("slot failed", slot=self.name)
            return 1.0
        if found:
            return 0.0
        return self._around.settings.resolved_poll_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load

    def _run_next(self) -> bool:
        """Whether there was a job."""
        failpoints.reached(Failpoint.CLAIM_BEGUN)
        claim = self._claim()
        if claim is None:
            return False
        failpoints.reached(Failpoint.AFTER_CLAIM)
        self.job = claim.job_id
        metrics = self._around.metrics
        metrics.claims.labels(self.lane.value, claim.kind).inc()
        try:
            with metrics.running.labels(claim.kind).track_inprogress():
                self._attempt(claim)
        finally:
            self.job = None
        return True

    def _claim(self) -> Claim | None:
        with self._around.db.write() as session:
            claim = jobs.claim(
                session,
                worker_id=self._worker_id,
                lane=self.lane,
                free=0 if self.lane is Lane.LIGHT else 1,
                ttl_ms=self._around.settings.lease_ms,
                device=self.device,
                limits=self._around.settings.running_limits,
            )
            if claim is not None:
                failpoints.reached(Failpoint.CLAIM_BEFORE_COMMIT)
            return claim

    def _attempt(self, claim: Claim) -> None:
        attempt, began = self._attempt_at(claim), time.monotonic()
        try:
            attempt.run()
        except Exception as error:
            log.exception("attempt failed", job=claim.job_id, fence=claim.fence)
            self._give_up(attempt, error)
        finally:
            took = self._around.metrics.attempts.labels(claim.kind, attempt.outcome)
            took.observe(time.monotonic() - began)
            attempt.clean()

    def _attempt_at(self, claim: Claim) -> Attempt:
        match claim.kind:
            case jobs.INGEST:
                return IngestionAttempt(claim, self._around)
            case jobs.PREDICT:
                return PredictionAttempt(claim, self._around, device=self.device)
            case jobs.TRAIN:
                return TrainingAttempt(claim, self._around, device=self.device)
        raise ValueError(f"A claim must be of a kind among {jobs.KINDS}. Received: {claim.kind}.")

    def _give_up(self, attempt: Attempt, error: Exception) -> None:
        try:
            attempt.give_up(f"The worker failed, which is a bug; its log has the traceback. {type(error).__name__}.")
        except GammabetaError:  # then the lease runs out, and the attempt counts as lost
            log.exception("failure not written", job=attempt.claim.job_id)
