"""How good a network is on a split: batches in, numbers out.

    classes   loss, accuracy, macro_f1, per_class {label: precision, recall, f1, support}, auc for two classes
    numbers   loss, mae, rmse, r2

What cannot be computed is None: auc without rows of both classes, r2 where all y are one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gammabeta.nets.losses import loss_for, scores_of
from gammabeta.schemas.resolution import Task
from gammabeta.schemas.training import LossName


class Evaluation(Protocol):
    """Adds up batches, without waiting for the device until `result`."""

    def update(self, logits: Tensor, y: Tensor) -> None:
        """logits: [B, outputs], y: [B], on one device."""
        ...

    def brief(self) -> dict[str, float]:
        """loss, accuracy; or loss, mae, rmse."""
        ...

    def result(self) -> dict[str, Any]:
        """Every metric, as JSON values."""
        ...


def evaluation(task: Task, *, loss: LossName, labels: Sequence[str] = ()) -> Evaluation:
    """An empty evaluation. `labels` of the classes, in the order of their codes."""
    return _Numbers(loss) if task == "number" else _Classes(task, loss, labels)


class _MeanLoss:
    """The mean over all rows of a loss that is a mean over each batch."""

    def __init__(self, name: LossName) -> None:
        self._loss = loss_for(name)
        self._sum: Tensor | float = 0.0
        self.n = 0

    def update(self, logits: Tensor, y: Tensor) -> None:
        self._sum = self._sum + self._loss(logits.detach(), y).double() * len(y)
        self.n += len(y)

    def result(self) -> float:
        if self.n == 0:
            raise ValueError("an evaluation needs at least one row. Received: none. Call update before its results.")
        return float(self._sum) / self.n


class _Classes:
    """Counts by class; for two classes also a number for each row, which their order needs."""

    def __init__(self, task: Task, loss: LossName, labels: Sequence[str]) -> None:
        self._task, self._labels, self._loss = task, tuple(labels), _MeanLoss(loss)
        self._counts: Tensor | None = None
        """[3, classes]: rows of the class, rows given to it, and rows that are both."""
        self._margins: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, logits: Tensor, y: Tensor) -> None:
        self._loss.update(logits, y)
        given, size = scores_of(self._task, logits).argmax(dim=1), len(self._labels)
        right = torch.where(given == y, y, size)
        counts = torch.stack([torch.bincount(each, minlength=size + 1)[:size] for each in (y, given, right)])
        self._counts = counts if self._counts is None else self._counts + counts
        if size == 2:
            margin = logits.float()
            self._margins.append(margin[:, -1] if self._task == "binary" else margin[:, 1] - margin[:, 0])
            self._targets.append(y)

    def brief(self) -> dict[str, float]:
        return {"loss": self._loss.result(), "accuracy": float(self._table()[2].sum() / self._loss.n)}

    def result(self) -> dict[str, Any]:
        rows, given, right = self._table()
        precision, recall = _ratio(right, given), _ratio(right, rows)
        f1 = _ratio(2 * right, rows + given)
        seen = rows + given > 0
        answer: dict[str, Any] = {**self.brief(), "macro_f1": float(f1[seen].mean())}
        answer["per_class"] = {
            label: {
                "precision": float(precision[at]),
                "recall": float(recall[at]),
                "f1": float(f1[at]),
                "support": int(rows[at]),
            }
            for at, label in enumerate(self._labels)
        }
        if len(self._labels) == 2:
            answer["auc"] = auc(torch.cat(self._margins).cpu().numpy(), torch.cat(self._targets).cpu().numpy())
        return answer

    def _table(self) -> NDArray[np.float64]:
        self._loss.result()
        counts = self._counts if self._counts is not None else torch.zeros(3, len(self._labels))
        return counts.cpu().numpy().astype(np.float64)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def auc(margins: NDArray[np.floating[Any]], y: NDArray[np.integer[Any]]) -> float | None:
    """The area under the ROC curve: the chance that a row of class 1 has the larger margin than one of class 0, ties
    half (Mann & Whitney). margins, y: [N]."""
    positive = int((y == 1).sum())
    negative = len(y) - positive
    if positive == 0 or negative == 0:
        return None
    _, place, counts = np.unique(margins, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of those that tie, from 1
    excess = ranks[place][y == 1].sum() - positive * (positive + 1) / 2
    return float(excess / (positive * negative))


class _Numbers:
    """Keeps each row's answer and truth: one number each, as the targets are."""

    def __init__(self, loss: LossName) -> None:
        self._loss = _MeanLoss(loss)
        self._given: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, logits: Tensor, y: Tensor) -> None:
        self._loss.update(logits, y)
        self._given.append(scores_of("number", logits))
        self._targets.append(y)

    def brief(self) -> dict[str, float]:
        loss = self._loss.result()
        error = self._error()
        return {"loss": loss, "mae": float(np.abs(error).mean()), "rmse": float(np.sqrt(np.square(error).mean()))}

    def result(self) -> dict[str, Any]:
        brief, y = self.brief(), self._y()
        spread = float(np.square(y - y.mean()).sum())
        r2 = 1 - float(np.square(self._error()).sum()) / spread if spread > 0 else None
        return {**brief, "r2": r2}

    def _y(self) -> NDArray[np.float64]:
        return torch.cat(self._targets).double().cpu().numpy()

    def _error(self) -> NDArray[np.float64]:
        return torch.cat(self._given).double().cpu().numpy() - self._y()
