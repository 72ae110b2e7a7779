"""What the supervisor is told while a network trains: progress a few times a second, a row of metrics now and then.

Nothing here happens at every step but one look at the clock, since a small network makes thousands of steps a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import perf_counter

import torch

from gammabeta.schemas.batchnorm import BatchNormState, LayerState
from gammabeta.schemas.jobs import JobWarning
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.plans import NetworkPlan
from gammabeta.schemas.remarks import COLD
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
        self._told_of_skipped = run.tally.sums.skipped > 0
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
        if run.tally.sums.skipped:
            metrics["skipped_batches"] = run.tally.sums.skipped
            self._tell_of_skipped()
        if run.grad_norm is not None:
            metrics["grad_norm"] = float(run.grad_norm)
        samples, seconds = run.samples - self._clock_samples, perf_counter() - self._clock
        if samples:
            metrics["samples_per_second"] = samples / seconds
        return metrics

    def _tell_of_skipped(self) -> None:
        """Of the first batch alone; how many it is in all is a metric, and a warning at the end."""
        first = self._run.tally.first_skipped
        if first is not None and not self._told_of_skipped:
            self._link.send(messages.Event(name="batch_skipped", data={"step": first.step, "loss": str(first.loss)}))
            self._told_of_skipped = True

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


def skipped_batches(run: Run, state: BatchNormState) -> tuple[JobWarning, ...]:
    """A warning if there were any; a batch may also be skipped by batch-norm layers alone, which then did not move."""
    skipped = max(run.tally.sums.skipped, *(layer.skipped for layer in state.layers), 0)
    if not skipped:
        return ()
    return (
        JobWarning(
            code="batches_skipped",
            message=f"{skipped:,} of {run.step:,} batches were skipped, by the training or by a batch norm: their "
            "loss, or their mean or variance, was not finite. Look for very large values in the data, or write a "
            "smaller learning_rate.",
        ),
    )


def cold_statistics(plan: NetworkPlan, state: BatchNormState) -> tuple[JobWarning, ...]:
    """A warning of the batch-norm layers whose moving statistics still are to a good part their initial values; those
    that are alike share one."""
    trained = {spec.name for layer in plan.layers if isinstance(spec := layer.spec, BatchNorm) and spec.trainable}
    alike: dict[tuple[float, int], list[LayerState]] = {}
    for layer in state.layers:
        if layer.name in trained and layer.initial_weight > COLD:
            alike.setdefault((layer.momentum, layer.updates), []).append(layer)
    return tuple(_cold(layers) for layers in alike.values())


def _cold(layers: list[LayerState]) -> JobWarning:
    first, names = layers[0], ", ".join(f"'{layer.name}'" for layer in layers)
    return JobWarning(
        code="moving_statistics_cold",
        message=f"{first.initial_weight:.0%} of the moving statistics of {names} are still their initial values "
        f"(momentum {first.momentum:g} after {first.updates} updates), and predictions use them. Train for more steps, "
        f"or write a momentum of at most {COLD ** (1 / max(1, first.updates)):.3g}.",
    )
