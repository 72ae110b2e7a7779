"""Sums over an epoch."""

from __future__ import annotations

import pytest
import torch

from gammabeta.schemas.resolution import Task
from worker.failures import TrainingFailed
from worker.tally import Tally


def tally_of(task: Task, steps_per_epoch: int = 1_000, steps: int = 10_000) -> Tally:
    return Tally(task, steps_per_epoch=steps_per_epoch, steps=steps)


def test_means_are_over_rows_and_not_over_batches() -> None:
    tally = tally_of("classes")
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
    tally = tally_of(task)
    tally.add(torch.tensor(1.0), torch.tensor(logits), torch.tensor(y))
    assert tally.read(1)[name] == pytest.approx(score)


ROW = (torch.tensor([[2.0, 0.0]]), torch.tensor([0]))


def filled(losses: list[float], *, steps_per_epoch: int = 1_000, steps: int = 10_000) -> Tally:
    """One row a batch."""
    tally = tally_of("classes", steps_per_epoch, steps)
    for loss in losses:
        tally.add(torch.tensor(loss), *ROW)
    return tally


@pytest.mark.parametrize("task", ["classes", "binary", "number"])
def test_batch_whose_loss_is_not_finite_is_counted_and_in_no_mean(task: Task) -> None:
    clean, spoilt = tally_of(task), tally_of(task)
    draws = torch.Generator().manual_seed(0)
    for step in range(1, 151):
        batch = (torch.rand((), generator=draws), torch.rand(3, 2, generator=draws), torch.tensor([0, 1, 0]))
        clean.add(*batch)
        spoilt.add(*batch)
        if step % 40 == 0:
            spoilt.add(torch.tensor(float("inf")), torch.full((5, 2), float("nan")), torch.tensor([0] * 5))
    assert spoilt.read(153) == clean.read(150)
    assert (spoilt.sums.skipped, clean.sums.skipped) == (3, 0)
    assert spoilt.sums.first_skipped == (41, float("inf"))


def test_too_many_skipped_batches_in_a_row_fail_and_name_their_steps() -> None:
    nan = float("nan")
    assert filled([1.0] * 69 + [nan] * 19 + [1.0] + [nan] * 19).read(108)["loss"] == 1.0
    tally = filled([1.0] * 69 + [nan] * 19)
    tally.read(88)
    tally.add(torch.tensor(nan), *ROW)
    with pytest.raises(
        TrainingFailed, match=r"nan at step 89, and no better at the 19 .* smaller learning_rate"
    ) as raised:
        tally.read(89)
    assert raised.value.code == "non_finite_loss"


def test_epoch_with_no_finite_loss_fails() -> None:
    nan = float("nan")
    tally = filled([1.0, nan, nan], steps_per_epoch=3)
    tally.read(3)
    tally.clear()
    tally.add(torch.tensor(nan), *ROW)
    tally.add(torch.tensor(nan), *ROW)
    assert tally.read(5) == {}
    tally.add(torch.tensor(nan), *ROW)
    with pytest.raises(TrainingFailed, match=r"nan at step 6, and no better at the 4 steps before it"):
        tally.read(6)


def test_run_that_ends_within_its_first_epoch_with_no_finite_loss_fails() -> None:
    tally = filled([float("nan")] * 2, steps_per_epoch=3, steps=2)
    with pytest.raises(TrainingFailed, match=r"nan at step 2"):
        tally.read(2)


@pytest.mark.parametrize(("made", "skipped"), [(3, 2), (6, 1)])
def test_bad_end_of_a_run_that_was_good_before_does_not_fail_it(made: int, skipped: int) -> None:
    losses = [1.0] * made + [float("nan")] * skipped
    tally = filled([], steps_per_epoch=3, steps=len(losses))
    for step, loss in enumerate(losses, start=1):
        tally.add(torch.tensor(loss), *ROW)
        tally.read(step)
        if step % 3 == 0:
            tally.clear()
    assert tally.sums.skipped == skipped


def test_last_epoch_that_is_cut_short_with_a_finite_loss_is_one() -> None:
    assert filled([1.0, float("nan")], steps_per_epoch=3, steps=2).read(2)["loss"] == 1.0


def test_skipped_batches_outlive_the_epoch_and_a_checkpoint() -> None:
    tally = filled([1.0, 2.0, float("nan")])
    tally.read(3)
    other = tally_of("classes")
    other.restore(tally.sums)
    other.add(torch.tensor(3.0), *ROW)
    assert other.read(4) == {"loss": 2.0, "accuracy": 1.0}
    assert (tally.sums.rows, other.sums.rows) == (2, 3)
    other.clear()
    assert other.read(4) == {}
    assert other.sums.skipped == 1
    assert other.sums.first_skipped == tally.sums.first_skipped


def test_reading_in_between_changes_no_sum() -> None:
    once, often = tally_of("classes"), tally_of("classes")
    draws = torch.Generator().manual_seed(0)
    for step in range(150):
        batch = (torch.rand((), generator=draws), torch.rand(3, 2, generator=draws), torch.tensor([0, 1, 0]))
        once.add(*batch)
        often.add(*batch)
        often.read(step + 1)
    assert once.read(150) == often.read(150)
