"""Constraints as projections in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gammabeta.nets.build import Network
from gammabeta.nets.layouts import keras_view
from gammabeta.nets.projections import projections_of
from tests.unit.nets.plans import network_of


def project(net: Network) -> None:
    with torch.no_grad():
        for projection in projections_of(net):
            projection.apply()


def set_to(values: Any, parameter: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values))


def constraint(name: str, **config: float) -> Any:
    return {"class_name": name, "config": config}


ORACLE_13 = [
    ("max_norm", {}, [1.2, -1.6]),
    ("unit_norm", {}, [0.6, -0.8]),
    ("min_max_norm", {}, [0.6, -0.8]),
    (constraint("min_max_norm", min_value=0.5, max_value=2.0, rate=0.5), {}, [2.1, -2.8]),
    ("non_neg", {}, [3.0, 0.0]),
    ("max_norm", {"virtual_batch_size": 2}, [2.0, -2.0]),
]


@pytest.mark.parametrize("key", ["gamma", "beta"])
@pytest.mark.parametrize(("written", "others", "expected"), ORACLE_13)
def test_oracle_13(key: str, written: Any, others: dict[str, Any], expected: list[float]) -> None:
    net = network_of({"type": "batch_norm", f"{key}_constraint": written, **others}, shape=(2,))
    parameter = net.layers[0].get_parameter(key)
    set_to([3.0, -4.0], parameter)
    project(net)
    assert parameter.tolist() == pytest.approx(expected, abs=1e-6)


def test_shape_of_several_axes_makes_a_norm_along_axis_0_that_of_each_element() -> None:
    norm = {"type": "batch_norm", "axis": [1, 2], "gamma_constraint": "max_norm"}
    net = network_of(norm, {"type": "flatten"}, shape=(2, 2))
    gamma = net.layers[0].get_parameter("gamma")
    set_to([3.0, -4.0, 1.0, -1.0], gamma)
    project(net)
    assert gamma.tolist() == pytest.approx([2.0, -2.0, 1.0, -1.0], abs=1e-6)


LAYERS: tuple[dict[str, Any], ...] = (
    {"type": "conv2d", "filters": 4, "kernel_size": 3, "kernel_constraint": constraint("max_norm", axis=[0, 1, 2])},  # type: ignore[arg-type]
    {"type": "depthwise_conv2d", "kernel_size": 2, "depth_multiplier": 2, "depthwise_constraint": "unit_norm"},
    {"type": "flatten"},
    {"type": "dense", "units": 3, "kernel_constraint": "max_norm", "bias_constraint": "non_neg"},
)


def test_axes_are_those_of_keras_kernels() -> None:
    net = network_of(*LAYERS, shape=(6, 6, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) * 3)
    conv, depthwise, _, dense = net.layers
    biases = [conv.get_parameter("bias").tolist(), depthwise.get_parameter("bias").tolist()]
    views = [keras_view(net.plan.layers[at], "kernel", net.layers[at].get_parameter("kernel")) for at in (0, 1, 3)]
    before = [view.detach().clone() for view in views]
    project(net)
    norms = [before[0].square().sum((0, 1, 2)).sqrt(), before[1].square().sum(0, keepdim=True).sqrt()]
    torch.testing.assert_close(views[0].detach(), before[0] * (norms[0].clamp(max=2) / norms[0]))
    torch.testing.assert_close(views[1].detach(), before[1] / norms[1])
    lengths = before[2].norm(dim=0)  # of what flows into each unit
    torch.testing.assert_close(views[2].detach(), before[2] * (lengths.clamp(max=2) / lengths))
    assert dense.get_parameter("bias").min() >= 0
    assert [conv.get_parameter("bias").tolist(), depthwise.get_parameter("bias").tolist()] == biases


def test_nothing_happens_where_the_device_says_that_the_step_was_skipped() -> None:
    net = network_of({"type": "batch_norm", "gamma_constraint": "max_norm"}, shape=(2,))
    gamma = net.layers[0].get_parameter("gamma")
    set_to([3.0, -4.0], gamma)
    (projection,) = projections_of(net)
    projection.apply(unless=torch.tensor(True))
    assert gamma.tolist() == [3.0, -4.0]
    projection.apply(unless=torch.tensor(False))
    assert gamma.tolist() == pytest.approx([1.2, -1.6], abs=1e-6)


def test_network_without_constraints_has_no_projections() -> None:
    assert projections_of(network_of({"type": "dense", "units": 3}, {"type": "batch_norm"}, shape=(4,))) == ()


def test_frozen_layer_has_no_projection() -> None:
    frozen = {"type": "batch_norm", "trainable": False, "gamma_constraint": "max_norm"}
    assert projections_of(network_of(frozen, shape=(4,))) == ()
