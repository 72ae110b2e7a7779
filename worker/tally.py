"""Loss and accuracy (or absolute error) of an epoch so far.

Batches are kept and summed many at a time: to sum after each, or to wait for the number, would cost a tenth of a small
step. Sums are float64, so that how batches are grouped does not show.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gammabeta.schemas.resolution import Task
from worker.failures import TrainingFailed

KEPT_BATCHES = 64
KEPT_NUMBERS = 1_000_000


class Tally:
    """Sums over the batches since the epoch began."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.clear()

    def clear(self) -> None:
        """Begin an epoch."""
        self.rows = 0
        self.loss_sum, self.score_sum = 0.0, 0.0
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._kept_numbers = 0
        self._sums: list[tuple[Tensor, Tensor]] = []
        self._losses: list[Tensor] = []

    def restore(self, *, rows: int, loss_sum: float, score_sum: float) -> None:
        """Go on where a checkpoint was."""
        self.clear()
        self.rows, self.loss_sum, self.score_sum = rows, loss_sum, score_sum

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """One batch: its mean loss, logits [B, outputs] and y [B]."""
        self._kept.append((loss.detach(), logits.detach(), y))
        self._kept_numbers += logits.numel()
        self.rows += len(y)
        if len(self._kept) >= KEPT_BATCHES or self._kept_numbers >= KEPT_NUMBERS:
            self._fold()

    def read(self, step: int) -> dict[str, float]:
        """The means so far, after `step` steps.

        Raises:
            TrainingFailed: a loss since the last reading was not finite.
        """
        self._fold()
        for loss_sum, score_sum in self._sums:
            self.loss_sum += loss_sum.item()
            self.score_sum += score_sum.item()
        self._refuse_non_finite(step)
        self._sums, self._losses = [], []
        if not self.rows:
            return {}
        score = "mae" if self.task == "number" else "accuracy"
        return {"loss": self.loss_sum / self.rows, score: self.score_sum / self.rows}

    def _fold(self) -> None:
        if not self._kept:
            return
        losses = torch.stack([loss for loss, _, _ in self._kept])
        rows = torch.tensor([len(y) for _, _, y in self._kept], dtype=torch.float64, device=losses.device)
        logits = torch.cat([logits for _, logits, _ in self._kept])
        y = torch.cat([y for _, _, y in self._kept])
        self._losses.append(losses)
        self._sums.append((losses.double() @ rows, self._scores(logits, y).sum(dtype=torch.float64)))
        self._kept, self._kept_numbers = [], 0

    def _scores(self, logits: Tensor, y: Tensor) -> Tensor:
        match self.task:
            case "classes":
                return logits.argmax(dim=1) == y
            case "binary":
                return (logits[:, 0] > 0) == (y > 0)
            case "number":
                return (logits[:, 0].float() - y).abs()

    def _refuse_non_finite(self, step: int) -> None:
        if not self._losses:
            return
        losses = torch.cat(self._losses)
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            raise TrainingFailed(
                "non_finite_loss",
                f"The loss must be finite. Received: {losses[bad[0, 0]].item()} at step "
                f"{step - len(losses) + int(bad[0, 0]) + 1}. Write a smaller learning_rate or a clip_norm such as 1.0, "
                "and look for very large values in the data.",
            )
