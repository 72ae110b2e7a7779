"""How good a network is, in eval mode: from the moving statistics, in float32, and without moving them, as predictions
are made.

    validate    after an epoch, on the rows held out      val_loss, val_accuracy | val_mae, val_rmse
    final       once, on each split                       every metric there is
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gammabeta.nets import metrics
from gammabeta.schemas.plans import NetworkPlan
from worker import data
from worker.run import Run

NUMBERS_PER_BATCH = 1 << 24
"""How many activations a batch may have; 64 MiB of them."""
ROWS_PER_BATCH = 1024


def validate(run: Run, check: Callable[[], None]) -> dict[str, float]:
    """The brief metrics of the rows held out; nothing where none are. `check` is called between batches."""
    if not len(run.held_out):
        return {}
    measured = _measured(run, run.rows, run.held_out, check)
    return {f"val_{name}": value for name, value in measured.brief().items()}


def final(run: Run, check: Callable[[], None]) -> dict[str, dict[str, Any]]:
    """All metrics of the rows trained on, those held out, and the test split, as far as there are such rows."""
    found = {"train": _all(run, run.rows, run.trained, check)}
    if len(run.held_out):
        found["validation"] = _all(run, run.rows, run.held_out, check)
    if (rows := run.splits.get("test")) is not None:
        found["test"] = _all(run, rows, np.arange(rows.n), check)
    return found


def _all(run: Run, rows: data.Rows, indices: data.Indices, check: Callable[[], None]) -> dict[str, Any]:
    return in_full(_measured(run, rows, indices, check), len(indices))


def in_full(evaluation: metrics.Evaluation, n: int) -> dict[str, Any]:
    """All metrics, and how many rows they are of."""
    measured = evaluation.result() | {"n": n}
    if "accuracy" in measured:
        measured["correct"] = round(measured["accuracy"] * n)
    return measured


def rows_per_batch(plan: NetworkPlan) -> int:
    """How many rows go through the network at once."""
    return max(1, min(ROWS_PER_BATCH, NUMBERS_PER_BATCH // plan.activations))


@torch.inference_mode()
def _measured(run: Run, rows: data.Rows, indices: data.Indices, check: Callable[[], None]) -> metrics.Evaluation:
    run.network.eval()
    evaluation = metrics.evaluation(run.task, loss=run.loss, labels=run.job.manifest.target.labels)
    for block in data.blocks(indices, rows_per_batch(run.plan)):
        check()
        x, y = rows.take(block, run.device)
        evaluation.update(run.network(x), y)
    return evaluation
