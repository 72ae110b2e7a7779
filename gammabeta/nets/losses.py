"""What the numbers of the last layer mean: the loss that trains them and the scores that they become.

task      logits         y               scores
classes   [B, classes]   int64 codes     [B, classes]   softmax
binary    [B, 1]         int64, 0 or 1   [B, 2]         1 - sigmoid, sigmoid
number    [B, 1]         float32         [B]            the number itself
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from gammabeta.schemas.resolution import Task
from gammabeta.schemas.training import LossName

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def loss_for(name: LossName) -> Loss:
    """`loss(logits, y)`: the mean over the rows, a float32 scalar."""
    return _LOSSES[name]


def scores_of(task: Task, logits: Tensor) -> Tensor:
    """Logits as float32 scores; the class that is predicted is their argmax, everywhere."""
    logits = logits.float()
    if task == "classes":
        return torch.softmax(logits, dim=1)
    if task == "binary":
        return torch.sigmoid(torch.cat((-logits, logits), dim=1))
    return logits.squeeze(1)


def _categorical(logits: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), y)


def _binary(logits: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits.float().squeeze(1), y.float())


def _squared(logits: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(logits.float().squeeze(1), y.float())


def _absolute(logits: Tensor, y: Tensor) -> Tensor:
    return functional.l1_loss(logits.float().squeeze(1), y.float())


def _huber(logits: Tensor, y: Tensor) -> Tensor:
    """delta = 1, as in Keras."""
    return functional.huber_loss(logits.float().squeeze(1), y.float())


_LOSSES: dict[LossName, Loss] = {
    "sparse_categorical_crossentropy": _categorical,
    "binary_crossentropy": _binary,
    "mean_squared_error": _squared,
    "mean_absolute_error": _absolute,
    "huber": _huber,
}
