"""Optimizers and their state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gammabeta.nets.state import parameter_groups
from tests import trainings
from worker import run as runs
from worker.optimizers import Update, load_state, optimizer_for, state_tensors

OPTIMIZERS: list[dict[str, Any]] = [
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


@pytest.mark.parametrize("spec", OPTIMIZERS, ids=str)
def test_gamma_and_beta_are_moved(tmp_path: Path, spec: dict[str, Any]) -> None:
    run = runs.begin(trainings.job_of(tmp_path, training={"optimizer": spec}))
    norm = run.network.layers[1]
    before = {name: each.detach().clone() for name, each in norm.named_parameters()}
    x, y = run.rows.take(run.trained[:10], run.device)
    for _ in range(2):
        run.optimizer.zero_grad()
        torch.nn.functional.cross_entropy(run.network(x), y).backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
    assert before.keys() == {"gamma", "beta"}
    for name, each in norm.named_parameters():
        assert each.grad is not None
        moved = each.grad != 0
        assert moved.any()
        assert (each.detach() != before[name])[moved].all()


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_weight_decay_does_not_change_where_gamma_and_beta_go(tmp_path: Path, name: str) -> None:
    """The first step: after it, the kernels are other ones, and so are all gradients."""
    moved = []
    for decay in (0.0, 0.5):
        spec: dict[str, Any] = {"name": name, "weight_decay": decay}
        run = stepped(tmp_path / str(decay), spec | ({"momentum": 0.9} if name == "sgd" else {}))
        moved.append({key: each.detach() for key, each in run.network.named_parameters()})
    without, decayed = moved
    for key in without:
        assert torch.equal(without[key], decayed[key]) == (not key.endswith("kernel")), key


def guarded(folder: Path, spec: dict[str, Any], *, on_device: bool) -> tuple[runs.Run, Update]:
    run = runs.begin(trainings.job_of(folder, network=trainings.EVERYTHING, training={"optimizer": spec}))
    update = Update(run.optimizer, run.network)
    update.looks = update.looks and not on_device
    return run, update


def numbers(run: runs.Run) -> dict[str, torch.Tensor]:
    parameters = {key: each.detach().clone() for key, each in run.network.named_parameters()}
    return parameters | {key: each.clone() for key, each in state_tensors(run.optimizer).items()}


WAYS = [(spec, False) for spec in OPTIMIZERS] + [(spec, True) for spec in OPTIMIZERS if spec["name"] != "rmsprop"]


@pytest.mark.parametrize(("spec", "on_device"), WAYS, ids=str)
@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_batch_whose_loss_is_not_finite_changes_nothing(
    tmp_path: Path, spec: dict[str, Any], on_device: bool, loss: float
) -> None:
    """`on_device`: the way of a GPU, which the fused kernels of the CPU know too."""
    skipping, update = guarded(tmp_path / "a", spec, on_device=on_device)
    plain, plain_update = guarded(tmp_path / "b", spec, on_device=False)
    for bad in (True, False, True, False):
        for run in (skipping, plain):
            run.optimizer.zero_grad()
            x, y = run.rows.take(run.trained[:10], run.device)
            run.network.eval()  # no dropout, and no statistics that move
            torch.nn.functional.cross_entropy(run.network(x), y).backward()  # type: ignore[no-untyped-call]
        if bad:
            before = numbers(skipping)
            for parameter in skipping.parameters:
                parameter.grad = torch.full_like(parameter, float("nan"))
            update(torch.tensor(loss, requires_grad=True))
            after = numbers(skipping)
            for key, each in before.items():
                assert torch.equal(after[key], each), key
        else:
            update(torch.tensor(1.0))
            plain_update(torch.tensor(1.0))
    expected = numbers(plain)
    assert all(torch.equal(each, expected[key]) for key, each in numbers(skipping).items())


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
