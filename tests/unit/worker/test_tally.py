"""Sums over an epoch."""

from __future__ import annotations

import pytest
import torch

from gammabeta.schemas.resolution import Task
from worker.failures import TrainingFailed
from worker.tally import KEPT_BATCHES, Tally


def test_means_are_over_rows_and_not_over_batches() -> None:
    tally = Tally("classes")
    tally.add(torch.tensor(1.0), torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    tally.add(torch.tensor(4.0), torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([1, 1]))
    assert tally.read(2) == {"loss": 3.0, "accuracy": pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    ("task", "logits", "y", "name", "score"),
    [
        ("binary", [[0.5], [-1.0], [2.0], [-2.0]], [1, 1, 0, 0], "accuracy", 0.5),
        ("number", [[1.0], [4.0]], [2.0, 2.0], "mae", 1.5),
    ],
)
def test_score_fits_the_task(task: Task, logits: list[list[float]], y: list[float], name: str, score: float) -> None:
    tally = Tally(task)
    tally.add(torch.tensor(1.0), torch.tensor(logits), torch.tensor(y))
    assert tally.read(1)[name] == pytest.approx(score)


def test_non_finite_loss_names_its_step() -> None:
    tally = Tally("classes")
    steps = KEPT_BATCHES + 10
    for step in range(1, steps + 1):
        loss = float("nan") if step >= 70 else 1.0
        tally.add(torch.tensor(loss), torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    with pytest.raises(TrainingFailed, match=r"Received: nan at step 70\. Write a smaller learning_rate") as raised:
        tally.read(steps)
    assert raised.value.code == "non_finite_loss"


def test_reading_in_between_changes_no_sum() -> None:
    once, often = Tally("classes"), Tally("classes")
    draws = torch.Generator().manual_seed(0)
    for step in range(150):
        batch = (torch.rand((), generator=draws), torch.rand(3, 2, generator=draws), torch.tensor([0, 1, 0]))
        once.add(*batch)
        often.add(*batch)
        often.read(step + 1)
    assert once.read(150) == often.read(150)
