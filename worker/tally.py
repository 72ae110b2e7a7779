"""Loss and accuracy (or absolute error) of an epoch so far, and how many batches were skipped.

Batches are kept and summed many at a time: to sum after each, or to wait for the number, would cost a tenth of a small
step. Sums are float64, so that how batches are grouped does not show. A batch whose loss is not finite was skipped: it
is counted, and is in no sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from gammabeta.schemas.resolution import Task
from worker.failures import TrainingFailed

KEPT_BATCHES = 64
KEPT_NUMBERS = 1_000_000
MOST_SKIPPED = 20
"""In a row; after so many the run has failed."""


class Skipped(NamedTuple):
    """A batch whose loss was not finite."""

    step: int
    loss: float


@dataclass(kw_only=True)
class Sums:
    """What there is to remember of the batches so far."""

    batches: int = 0
    """Of this epoch."""
    rows: int = 0
    """Of this epoch's batches that were not skipped, as are loss and score."""
    loss: float = 0.0
    score: float = 0.0
    skipped: int = 0
    """Batches of the whole run."""
    in_a_row: int = 0
    """Skipped batches since the last that was not."""
    first_skipped: Skipped | None = None


class Tally:
    """Sums over the batches since the epoch began.

    Args:
        task: what the logits mean.
        steps_per_epoch: where all batches of an epoch are skipped, the run has failed.
        steps: of the whole run, which may cut its last epoch short.
    """

    def __init__(self, task: Task, *, steps_per_epoch: int, steps: int) -> None:
        self.task, self.steps_per_epoch, self.steps = task, steps_per_epoch, steps
        self.restore(Sums())

    def clear(self) -> None:
        """Begin an epoch."""
        self.restore(replace(self.sums, batches=0, rows=0, loss=0.0, score=0.0))

    def restore(self, sums: Sums) -> None:
        """Go on where a checkpoint was."""
        self.sums = replace(sums)
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._kept_numbers = 0
        self._folded: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """One batch: its mean loss, logits [B, outputs] and y [B]."""
        self._kept.append((loss.detach(), logits.detach(), y))
        self._kept_numbers += logits.numel()
        self.sums.batches += 1
        if len(self._kept) >= KEPT_BATCHES or self._kept_numbers >= KEPT_NUMBERS:
            self._fold()

    def read(self, step: int) -> dict[str, float]:
        """The means so far, after `step` steps.

        Raises:
            TrainingFailed: too many batches were skipped.
        """
        self._fold()
        for folded in self._folded:
            loss, score, rows = folded.tolist()
            self.sums.loss += loss
            self.sums.score += score
            self.sums.rows += int(rows)
        if self._losses:
            self._count_skipped(step, torch.cat(self._losses).tolist())
        self._folded, self._losses = [], []
        if not self.sums.rows:
            return {}
        score_name = "mae" if self.task == "number" else "accuracy"
        return {"loss": self.sums.loss / self.sums.rows, score_name: self.sums.score / self.sums.rows}

    def _fold(self) -> None:
        if not self._kept:
            return
        losses = torch.stack([loss for loss, _, _ in self._kept])
        logits = torch.cat([logits for _, logits, _ in self._kept])
        y = torch.cat([y for _, _, y in self._kept])
        lengths = torch.tensor([len(y) for _, _, y in self._kept], device=losses.device)
        made = torch.isfinite(losses)
        rows = lengths * made
        row_made = made.repeat_interleave(lengths, output_size=len(y))  # the size, or a GPU would be waited for
        score = self._scores(logits, y).double().where(row_made, 0.0).sum()
        self._folded.append(torch.stack((losses.where(made, 0.0).double() @ rows.double(), score, rows.sum().double())))
        self._losses.append(losses)
        self._kept, self._kept_numbers = [], 0

    def _scores(self, logits: Tensor, y: Tensor) -> Tensor:
        match self.task:
            case "classes":
                return logits.argmax(dim=1) == y
            case "binary":
                return (logits[:, 0] > 0) == (y > 0)
            case "number":
                return (logits[:, 0].float() - y).abs()

    def _count_skipped(self, step: int, losses: list[float]) -> None:
        """`losses`: of the steps up to `step`."""
        for at, loss in enumerate(losses, start=step - len(losses) + 1):
            if math.isfinite(loss):
                self.sums.in_a_row = 0
                continue
            self.sums.skipped += 1
            self.sums.in_a_row += 1
            self.sums.first_skipped = self.sums.first_skipped or Skipped(at, loss)
            if self.sums.in_a_row == MOST_SKIPPED:
                self._give_up(at, loss)
        whole_epoch = step % self.steps_per_epoch == 0
        if (whole_epoch and not self.sums.rows) or self.sums.in_a_row == self.steps:
            self._give_up(step, losses[-1])

    def _give_up(self, step: int, loss: float) -> None:
        before = self.sums.in_a_row - 1
        also = f", and no better at the {before} steps before it" if before else ""
        raise TrainingFailed(
            "non_finite_loss",
            f"The loss must be finite. Received: {loss} at step {step}{also}. Write a smaller learning_rate or a "
            "clip_norm such as 1.0, and look for very large values in the data.",
        )
