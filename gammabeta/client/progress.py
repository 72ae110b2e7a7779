"""A running job on the terminal.

    digits  epoch 7/10  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╺━━━━━━━━━━━  70%  0:03 left
            train       loss 0.0213  accuracy 0.9951      45,120 samples/s
            validation  loss 0.0810  accuracy 0.9722

Where the output is no terminal, one line per epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gammabeta.schemas.jobs import Job, Progress

Watcher: TypeAlias = Callable[[Job], None]

_UNSHOWN = frozenset({"learning_rate", "samples_per_second", "grad_norm"})


@contextmanager
def display(console: Console | None = None) -> Iterator[Watcher]:
    """A function that shows a job each time it is called with one."""
    console = console or Console()
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, auto_refresh=False) as live:

        def show(job: Job) -> None:
            live.update(panel(job), refresh=True)

        yield show


class Lines:
    """One line for each epoch, and for each change of the status."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[str, int] | None = None

    def __call__(self, job: Job) -> None:
        progress = job.progress or Progress()
        if (job.status, progress.epoch) == self._last:
            return
        self._last = (job.status, progress.epoch)
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in _shown(progress.metrics).items())
        place = f"epoch {progress.epoch}/{progress.epochs}  {metrics}" if progress.epochs else ""
        self._console.print(
            f"{job.model or job.kind}  {job.status}  {place}".rstrip(), soft_wrap=True, highlight=False, markup=False
        )


def panel(job: Job) -> RenderableType:
    """The bar, and the newest metrics below it."""
    progress = job.progress or Progress()
    done = job.status == "succeeded"
    bar = Table.grid(padding=(0, 2, 0, 0), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True, justify="right")
    bar.add_column(no_wrap=True, justify="right")
    bar.add_row(
        Text(job.model or job.kind, style="bold"),
        _place(job, progress),
        ProgressBar(total=1.0, completed=1.0 if done else progress.fraction, pulse=job.status == "queued"),
        f"{100 if done else 100 * progress.fraction:3.0f}%",
        _left(job, progress),
    )
    return Group(bar, _metrics(progress)) if progress.metrics else bar


def _place(job: Job, progress: Progress) -> str:
    if job.status == "running" and progress.steps and not progress.epochs:
        return f"row {progress.step:,}/{progress.steps:,}"
    if job.status != "running" or not progress.epochs:
        return job.status
    return f"epoch {progress.epoch}/{progress.epochs}"


def _left(job: Job, progress: Progress) -> str:
    if job.status == "queued" and job.queue_position is not None:
        return f"number {job.queue_position} in the queue"
    if job.status != "running" or progress.eta_seconds is None:
        return ""
    seconds = round(progress.eta_seconds)
    return f"{timedelta(seconds=seconds)} left" if seconds else "<1 s left"


def _metrics(progress: Progress) -> RenderableType:
    shown = _shown(progress.metrics)
    train = {name: value for name, value in shown.items() if not name.startswith("val_")}
    validation = {name.removeprefix("val_"): value for name, value in shown.items() if name.startswith("val_")}
    speed = f"{progress.samples_per_second:,.0f} samples/s" if progress.samples_per_second else ""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for title, values, last in (("train", train, speed), ("validation", validation, "")):
        if values:
            grid.add_row(Text(f"  {title}", style="dim"), _numbers(values), Text(last, style="dim"))
    return grid


def _numbers(values: dict[str, float]) -> Text:
    return Text("  ").join(Text.assemble(f"{name} ", (f"{value:.4f}", "cyan")) for name, value in values.items())


def _shown(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in _UNSHOWN}
