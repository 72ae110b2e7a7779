"""Optimizers and their state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gammabeta.nets.state import parameter_groups
from tests import trainings
from worker import run as runs
from worker.optimizers import load_state, optimizer_for, state_tensors

OPTIMIZERS = [
    {"name": "adam"},
    {"name": "adam", "weight_decay": 0.1},
    {"name": "adamw"},
    {"name": "rmsprop", "momentum": 0.5},
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.9, "nesterov": True},
]


def stepped(folder: Path, spec: dict[str, Any]) -> runs.Run:
    run = runs.begin(trainings.job_of(folder, training={"optimizer": spec}))
    x, y = run.rows.take(run.trained[:10], run.device)
    torch.nn.functional.cross_entropy(run.network(x), y).backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    return run


@pytest.mark.parametrize("spec", OPTIMIZERS, ids=str)
def test_state_survives_being_taken_out_and_put_in(tmp_path: Path, spec: dict[str, Any]) -> None:
    run = stepped(tmp_path, spec)
    fresh = optimizer_for(run.spec.optimizer, run.network)
    load_state(fresh, state_tensors(run.optimizer))
    saved, loaded = state_tensors(run.optimizer), state_tensors(fresh)
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def test_weight_decay_leaves_gamma_beta_and_biases_alone(tmp_path: Path) -> None:
    run = runs.begin(trainings.job_of(tmp_path, training={"optimizer": {"name": "adamw", "weight_decay": 0.5}}))
    decayed, others = run.optimizer.param_groups
    kernels, rest = parameter_groups(run.network)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert [each.data_ptr() for each in decayed["params"]] == [each.data_ptr() for each in kernels]
    assert [each.data_ptr() for each in others["params"]] == [each.data_ptr() for each in rest]


def test_weight_decay_moves_a_kernel_without_a_gradient_and_no_beta(tmp_path: Path) -> None:
    spec = {"name": "adamw", "weight_decay": 0.5, "learning_rate": 0.1}
    run = runs.begin(trainings.job_of(tmp_path, training={"optimizer": spec}))
    kernels, rest = parameter_groups(run.network)
    before = [each.detach().clone() for each in (*kernels, *rest)]
    for each in (*kernels, *rest):
        each.grad = torch.zeros_like(each)
    run.optimizer.step()
    after = [each.detach() for each in (*kernels, *rest)]
    for at, (old, new) in enumerate(zip(before, after, strict=True)):
        torch.testing.assert_close(new, old * 0.95 if at < len(kernels) else old)
