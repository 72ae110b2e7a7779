"""What the supervisor is told while a network trains: progress a few times a second, a row of metrics now and then.

Nothing here happens at every step but one look at the clock, since a small network makes thousands of steps a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import torch

from worker import messages
from worker.link import Link
from worker.run import Run

PROGRESS_SECONDS = 0.25
ROWS_PER_EPOCH = 10
"""At most so many rows of metrics within an epoch, besides the one at its end."""


class Reporter:
    """Tells how a run goes."""

    def __init__(self, link: Link, run: Run) -> None:
        self._link, self._run = link, run
        self._began, self._first_step, self._row_step = perf_counter(), run.step, run.step
        self._due = 0.0
        self._restart_clock()

    def report_if_due(self) -> float:
        """Progress, and a row of metrics if the last one is long ago.

        Returns:
            When this wants to be called again, by `perf_counter`.
        """
        run = self._run
        if perf_counter() >= self._due:
            metrics = self.means()
            self._send_progress(metrics)
            if run.step - self._row_step > run.steps_per_epoch / ROWS_PER_EPOCH:
                self._send_row(metrics)
            self._restart_clock()
        return self._due

    def close_epoch(self, metrics: Mapping[str, float]) -> None:
        """The row at the end of an epoch, and a word if it was the last because nothing got better."""
        self._send_row(metrics)
        self._send_progress(metrics, only_if_due=not self._run.over)
        stopper = self._run.stopper
        if stopper.over:
            data = {"epoch": self._run.epoch, "best_epoch": stopper.best_epoch, "best": stopper.best}
            self._link.send(messages.Event(name="stopped_early", data=data))
        self._restart_clock()

    def means(self) -> dict[str, float]:
        """Means over the epoch so far, and how the steps go.

        Raises:
            TrainingFailed: too many batches were skipped.
        """
        run = self._run
        metrics = run.tally.read(run.step) | {"learning_rate": run.learning_rate_after(max(0, run.step - 1))}
        if run.penalty is not None:
            with torch.no_grad():
                metrics["penalty"] = float(run.penalty())
        by_layer = {norm.spec.name: norm.skipped for norm in run.norms}  # a GPU is waited for, as the tally just did
        skipped = max((run.tally.sums.skipped, *by_layer.values()))
        if skipped:
            if "skipped_batches" not in run.newest:
                self._tell_of_skipped([name for name, count in by_layer.items() if count])
            run.newest["skipped_batches"] = metrics["skipped_batches"] = skipped
        if run.grad_norm is not None:
            metrics["grad_norm"] = float(run.grad_norm)
        samples, seconds = run.samples - self._clock_samples, perf_counter() - self._clock
        if samples:
            metrics["samples_per_second"] = samples / seconds
        return metrics

    def _tell_of_skipped(self, layers: list[str | None]) -> None:
        """Of the first alone; how many it is in all is a metric, and a warning at the end. At which step batch norms
        skipped one is not written down: it was by now."""
        first = self._run.tally.sums.first_skipped
        data: dict[str, Any] = {"step": self._run.step, "layers": layers}
        if first is not None:
            data |= {"step": first.step, "loss": str(first.loss)}
        self._link.send(messages.Event(name="batch_skipped", data=data))

    def _restart_clock(self) -> None:
        # after a validation too, so that the speed is that of the steps alone
        self._clock, self._clock_samples = perf_counter(), self._run.samples

    def _send_row(self, metrics: Mapping[str, float]) -> None:
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._link.send(messages.MetricsRow(step=self._run.step, epoch=self._run.epoch, values=values))
        self._row_step = self._run.step

    def _send_progress(self, metrics: Mapping[str, float], *, only_if_due: bool = False) -> None:
        run = self._run
        run.newest.update({name: value for name, value in metrics.items() if math.isfinite(value)})
        if only_if_due and perf_counter() < self._due:
            return
        self._due = perf_counter() + PROGRESS_SECONDS
        self._link.send(
            messages.Progress(
                step=run.step,
                steps=run.steps,
                epoch=run.epoch,
                epochs=run.epochs,
                fraction=run.step / run.steps,
                eta_seconds=self._eta(),
                samples_per_second=run.newest.get("samples_per_second"),
                metrics={name: value for name, value in run.newest.items() if name != "samples_per_second"},
            )
        )

    def _eta(self) -> float | None:
        done = self._run.step - self._first_step
        return (perf_counter() - self._began) / done * (self._run.steps - self._run.step) if done else None
