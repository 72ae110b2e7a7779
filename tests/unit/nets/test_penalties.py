"""What regularizers add to the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gammabeta.nets.penalties import penalty_of
from tests.unit.nets.plans import network_of

L1L2 = {"class_name": "L1L2", "config": {"l1": 0.01, "l2": 0.01}}


def set_to(values: list[float], parameter: Tensor | None) -> None:
    assert parameter is not None
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))


@pytest.mark.parametrize("key", ["gamma", "beta"])
@pytest.mark.parametrize(
    ("regularizer", "penalty"), [("l1", 0.03), ("l2", 0.05), (L1L2, 0.08)], ids=["l1", "l2", "both"]
)
def test_oracle_14(key: str, regularizer: Any, penalty: float) -> None:
    net = network_of({"type": "batch_norm", f"{key}_regularizer": regularizer}, shape=(2,))
    set_to([1.0, -2.0], net.layers[0].get_parameter(key))
    penalty_now = penalty_of(net)
    assert penalty_now is not None
    assert penalty_now().item() == pytest.approx(penalty)


def test_gradient_is_that_of_the_formula() -> None:
    net = network_of({"type": "batch_norm", "gamma_regularizer": L1L2}, shape=(3,))
    gamma = net.layers[0].get_parameter("gamma")
    set_to([1.0, -2.0, 0.0], gamma)
    penalty = penalty_of(net)
    assert penalty is not None
    penalty().backward()  # type: ignore[no-untyped-call]
    assert gamma.grad is not None
    assert gamma.grad.tolist() == pytest.approx([0.01 + 0.02, -0.01 - 0.04, 0.0])


LAYERS: tuple[dict[str, Any], ...] = (
    {"type": "conv2d", "filters": 4, "kernel_size": 3, "kernel_regularizer": "l2", "bias_regularizer": L1L2},
    {"type": "batch_norm", "gamma_regularizer": "l1", "beta_regularizer": "l2"},
    {"type": "depthwise_conv2d", "kernel_size": 2, "depthwise_regularizer": "l2"},
    {"type": "flatten"},
    {"type": "dense", "units": 3, "kernel_regularizer": L1L2},
)


def test_every_regularized_parameter_counts_and_no_other() -> None:
    net = network_of(*LAYERS, shape=(6, 6, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
    conv, norm, depthwise, _, dense = net.layers

    def of(module: torch.nn.Module, name: str, l1: float, l2: float) -> Tensor:
        w = module.get_parameter(name).double()
        return l1 * w.abs().sum() + l2 * w.square().sum()

    expected = (
        of(conv, "kernel", 0, 0.01)
        + of(conv, "bias", 0.01, 0.01)
        + of(norm, "gamma", 0.01, 0)
        + of(norm, "beta", 0, 0.01)
        + of(depthwise, "kernel", 0, 0.01)
        + of(dense, "kernel", 0.01, 0.01)
    )
    penalty = penalty_of(net)
    assert penalty is not None
    torch.testing.assert_close(penalty().double(), expected)
    gradients = torch.autograd.grad(penalty(), list(net.parameters()), allow_unused=True)
    for (name, parameter), ours, formula in zip(
        net.named_parameters(),
        gradients,
        torch.autograd.grad(expected, list(net.parameters()), allow_unused=True),
        strict=True,
    ):
        assert (ours is None) == (formula is None), name
        if ours is not None:
            torch.testing.assert_close(ours, formula.to(parameter))


def test_network_without_regularizers_has_no_penalty() -> None:
    zero = {"class_name": "L2", "config": {"l2": 0.0}}
    layers = ({"type": "dense", "units": 3, "kernel_regularizer": zero}, {"type": "batch_norm"})
    assert penalty_of(network_of(*layers, shape=(4,))) is None


def test_frozen_layer_has_no_penalty() -> None:
    frozen = {"type": "batch_norm", "trainable": False, "gamma_regularizer": "l2", "beta_regularizer": "l1"}
    assert penalty_of(network_of(frozen, shape=(4,))) is None
