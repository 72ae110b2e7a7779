"""Which rows are trained on, and in which order."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gammabeta.schemas.batching import Batching
from gammabeta.schemas.training import LastBatch
from tests import trainings
from worker import data


def test_held_out_rows_and_trained_rows_are_all_rows_once() -> None:
    trained, held_out = data.hold_out(50, 0.1, seed=3)
    assert len(held_out) == 5
    assert sorted([*trained, *held_out]) == list(range(50))


def test_another_seed_holds_out_other_rows() -> None:
    assert data.hold_out(50, 0.1, seed=3)[1].tolist() != data.hold_out(50, 0.1, seed=4)[1].tolist()


def test_order_is_a_function_of_seed_and_epoch() -> None:
    rows = np.arange(100, 200)
    first = data.order(rows, seed=1, epoch=0)
    assert first.tolist() == data.order(rows, seed=1, epoch=0).tolist()
    assert first.tolist() != data.order(rows, seed=1, epoch=1).tolist()
    assert first.tolist() != data.order(rows, seed=2, epoch=0).tolist()
    assert sorted(first) == rows.tolist()


@pytest.mark.parametrize(
    ("n", "size", "last", "sizes"),
    [
        (9, 3, "merge", [3, 3, 3]),
        (10, 3, "merge", [3, 3, 4]),
        (11, 3, "merge", [3, 3, 5]),
        (3, 3, "merge", [3]),
        (4, 3, "merge", [4]),
        (5, 1, "merge", [1] * 5),
        (10, 3, "keep", [3, 3, 3, 1]),
        (9, 3, "keep", [3, 3, 3]),
        (11, 3, "drop", [3, 3, 3]),
    ],
)
def test_last_batch_is_what_was_asked_for(n: int, size: int, last: LastBatch, sizes: list[int]) -> None:
    batches = list(data.batches(np.arange(n), Batching(size=size, last=last)))
    assert [len(each) for each in batches] == sizes
    assert np.concatenate(batches).tolist() == list(range(sum(sizes)))


def test_last_batch_can_be_cut_into_ghost_batches() -> None:
    cuts: dict[LastBatch, list[int]] = {"merge": [4, 6], "keep": [4, 4, 2], "drop": [4, 4]}
    for last, sizes in cuts.items():
        batching = Batching(size=4, last=last, multiple=2)
        assert [len(each) for each in data.batches(np.arange(11), batching)] == sizes


@pytest.mark.parametrize("last", ["merge", "drop", "keep"])
def test_batches_from_a_later_start_are_the_same_batches(last: LastBatch) -> None:
    order, batching = np.arange(11), Batching(size=3, last=last)
    everything = [each.tolist() for each in data.batches(order, batching)]
    for start in range(5):
        assert [each.tolist() for each in data.batches(order, batching, start=start)] == everything[start:]


def test_rows_are_mapped_and_taken_without_a_warning(tmp_path: Path) -> None:
    x, y = np.arange(24, dtype=np.uint8).reshape(6, 2, 2), np.array([0, 1, 2, 0, 1, 2])
    job = trainings.job_of(
        tmp_path, splits={"train": (x, y)}, network=trainings.CONVOLUTIONS, training={"batch_size": 2}
    )
    rows = data.open_rows(job, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken, codes = rows.take(np.array([5, 0]), torch.device("cpu"))
    assert isinstance(rows.x.base, np.memmap)  # not a copy
    assert not rows.x.flags.writeable
    assert taken.tolist() == x[[5, 0]].tolist()
    assert taken.dtype == torch.uint8
    assert codes.tolist() == [2, 0]
