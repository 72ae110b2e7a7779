"""What computes the scores of a version, and goes on doing so when its engine fails."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from gammabeta import logs
from gammabeta.schemas.resolution import Task
from service.runtime.engines import EngineFailed, Floats, Measured, Prepared
from service.runtime.scoring import scores_of

log = logs.get(__name__)


class Computing:
    """Scores by the engine that was chosen; from its first failure on by the network itself, which can compute all
    that was ever trained. Any number of threads may call it at once."""

    def __init__(self, prepared: Prepared, task: Task, *, model: str, version: str) -> None:
        self.prepared = prepared
        self._task, self._whose = task, {"model": model, "version": version}
        self._lock = threading.Lock()

    def __call__(self, x: Floats) -> NDArray[np.float32]:
        """x: [B, *row_shape] as `instances.read` gives it -> [B, classes] scores, or [B] values."""
        prepared = self.prepared
        # What is not finite is looked for in the scores, row by row.
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                logits = prepared.engine.logits(x)
            except EngineFailed as exc:
                logits = self._given_up(prepared, exc).engine.logits(x)
            return scores_of(self._task, logits)

    def measured_now(self) -> Measured:
        """The probe again, through what serves."""
        prepared = self.prepared
        try:
            return prepared.measured_now()
        except EngineFailed as exc:
            return self._given_up(prepared, exc).measured_now()

    def _given_up(self, failed: Prepared, why: EngineFailed) -> Prepared:
        """Of several threads whose call failed, the first puts the network itself in the engine's place."""
        with self._lock:
            if self.prepared is failed:
                log.error("engine failed, torch serves", engine=failed.engine.name, error=str(why), **self._whose)
                self.prepared = failed.by_the_network(why)
            return self.prepared
