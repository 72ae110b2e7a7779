"""Batch norm folded into its neighbours: equal to the network where it is done, wrong where it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.nn import functional

from gammabeta.nets import state
from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Network
from gammabeta.nets.dense import WithKernel
from gammabeta.nets.folding import ChannelAffine, Folded, Folding, fold
from tests.unit.nets.networks import NETWORKS, lived_in
from tests.unit.nets.plans import network_of
from tests.unit.nets.test_residual import resnet

NORM = {"type": "batch_norm"}
RELU = {"type": "activation", "function": "relu"}
DENSE = {"type": "dense", "units": 2}
CONV = {"type": "conv2d", "filters": 4, "kernel_size": 3}
SAME = {**CONV, "padding": "same"}
FLAT = {"type": "flatten"}
PICTURE = (5, 6, 3)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def network(*layers: dict[str, Any], shape: tuple[int, ...]) -> Network:
    return lived_in(network_of(*layers, shape=shape))


def folding_of(folded: Folded, layer: str = "batch_norm") -> Folding:
    return next(each for each in folded.foldings if each.layer == layer)


def assert_same(folded: Folded, whole: Network, rows: int = 9) -> None:
    x = draw(rows, *whole.plan.input_shape)
    with torch.no_grad():
        expected, y = whole(x), folded(x)
    assert_allclose(y, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def parameters_of(folded: Folded, name: str) -> tuple[Tensor, Tensor]:
    return numbers_of(next(node.module for node in folded.nodes if node.name == name))


def with_numbers_of_the_oracle(*layers: dict[str, Any]) -> Network:
    whole = network_of(*layers, shape=(2,)).eval()
    (dense,) = (each for each in whole.layers if isinstance(each, WithKernel))
    (norm,) = (each for each in whole.layers if isinstance(each, BatchNorm))
    assert norm.gamma is not None
    assert norm.beta is not None
    assert dense.bias is not None
    with torch.no_grad():
        dense.kernel.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        for tensor, values in {
            dense.bias: (0.5, -0.5), norm.gamma: (1.5, 0.5), norm.beta: (0.1, -0.2),
            norm.moving_mean: (1.0, 2.0), norm.moving_variance: (4.0, 9.0),
        }.items():  # fmt: skip
            tensor.copy_(torch.tensor(values))
    return whole


def test_norm_after_a_dense_layer_gives_the_numbers_of_the_oracle() -> None:
    folded = fold(with_numbers_of_the_oracle(DENSE, NORM))
    kernel, bias = parameters_of(folded, "dense")
    assert_allclose(kernel, [[0.7499062676, 1.4998125351], [0, -0.1666574082]], rtol=1e-6)
    assert_allclose(bias, [-0.2749531338, -0.6166435205], rtol=1e-6)
    assert folded.foldings == (Folding("batch_norm", "dense"),)


def test_norm_before_a_dense_layer_gives_the_numbers_of_the_oracle() -> None:
    folded = fold(with_numbers_of_the_oracle(NORM, DENSE))
    kernel, bias = parameters_of(folded, "dense")
    assert_allclose(kernel, [[0.7499062676, 0.3333148164], [0, -0.1666574082]], rtol=1e-6)
    assert_allclose(bias, [-1.2165359003, 0.0333148164], rtol=1e-6, atol=1e-9)
    assert folded.foldings == (Folding("batch_norm", "dense"),)


@pytest.mark.parametrize(
    ("layers", "shape", "into"),
    [
        pytest.param((DENSE, NORM, RELU), (4,), "dense", id="after a dense layer"),
        pytest.param((NORM, DENSE), (4,), "dense", id="before a dense layer"),
        pytest.param((DENSE, RELU, NORM, DENSE), (4,), "dense_1", id="after an activation"),
        pytest.param((RELU, NORM, {"type": "dropout", "rate": 0.5}, DENSE), (4,), "dense", id="dropout between"),
        pytest.param((DENSE, {"type": "activation", "function": "linear"}, NORM), (4,), "dense", id="linear between"),
        pytest.param((SAME, NORM, RELU, FLAT), PICTURE, "conv2d", id="after a padded convolution"),
        pytest.param((NORM, CONV, FLAT), PICTURE, "conv2d", id="before a convolution without padding"),
        pytest.param((NORM, {**SAME, "kernel_size": 1}, FLAT), PICTURE, "conv2d", id="before one of 1 x 1"),
        pytest.param(({**CONV, "groups": 3, "filters": 6}, NORM, FLAT), PICTURE, "conv2d", id="after groups"),
        pytest.param((NORM, {**CONV, "groups": 3, "filters": 6}, FLAT), PICTURE, "conv2d", id="before groups"),
        pytest.param((NORM, FLAT, DENSE), PICTURE, "dense", id="before a flatten"),
        pytest.param(({**NORM, "axis": 2}, FLAT, DENSE), PICTURE, "dense", id="of another axis before a flatten"),
        pytest.param(({**NORM, "axis": [1, 3]}, FLAT, DENSE), PICTURE, "dense", id="of two axes before a flatten"),
        pytest.param(({**NORM, "axis": 1}, FLAT, DENSE), (5, 4), "dense", id="of steps before a flatten"),
        pytest.param(({"type": "conv1d", "filters": 4, "kernel_size": 3, "padding": "causal"}, NORM, FLAT), (8, 3),
                     "conv1d", id="after a causal convolution"),
        pytest.param((NORM, {"type": "conv1d", "filters": 6, "kernel_size": 3, "groups": 3,
                     "strides": 2}, FLAT), (8, 3), "conv1d", id="before a convolution of sequences"),
        pytest.param(({"type": "depthwise_conv2d", "kernel_size": 3, "depth_multiplier": 2}, NORM, FLAT), PICTURE,
                     "depthwise_conv2d", id="after a depthwise convolution"),
        pytest.param((NORM, {"type": "depthwise_conv2d", "kernel_size": 3, "depth_multiplier": 2}, FLAT), PICTURE,
                     "depthwise_conv2d", id="before a depthwise convolution"),
        pytest.param(({**DENSE, "use_bias": False}, NORM), (4,), "dense", id="without a bias"),
        pytest.param(({**DENSE}, {**NORM, "center": False, "scale": False}), (4,), "dense", id="without gamma, beta"),
        pytest.param((DENSE, {**NORM, "renorm": True}), (4,), "dense", id="with renorm"),
    ],
)  # fmt: skip
def test_norm_is_folded_where_that_is_exact(layers: Any, shape: Any, into: str) -> None:
    whole = network(*layers, shape=shape)
    folded = fold(whole)
    assert folded.foldings == (Folding("batch_norm", into),)
    assert not any(isinstance(each, BatchNorm | ChannelAffine) for each in folded.modules())
    assert_same(folded, whole)


@pytest.mark.parametrize(
    ("layers", "shape", "reason"),
    [
        ((RELU, NORM), (4,), "'activation', is no dense layer or convolution; no layer comes after it"),
        ((NORM, RELU, DENSE), (4,), "'input', is no dense layer or convolution; what reads it, 'activa"),
        ((NORM, SAME, FLAT), PICTURE, "what reads it, 'conv2d', pads with zeros"),
        (({**CONV}, {**NORM, "axis": 1}, RELU, FLAT), PICTURE, "its axis is not that of the channels"),
        (({**CONV}, {**NORM, "axis": [1, 3]}, RELU, FLAT), PICTURE, "its axis is not that of the chan"),
        (({**NORM, "axis": 1}, CONV, FLAT), PICTURE, "its axis is not that of the channels"),
        ((NORM, {"type": "max_pool"}, SAME, FLAT), PICTURE, "'max_pool', is no dense layer or convolution"),
    ],
    ids=[
        "nothing to go into", "before an activation", "before a padded convolution", "of rows", "of rows and channels",
        "of rows before a convolution", "before a pooling",
    ],
)  # fmt: skip
def test_norm_is_left_where_folding_would_not_be_exact(layers: Any, shape: Any, reason: str) -> None:
    whole = network(*layers, shape=shape)
    folded = fold(whole)
    assert folded.foldings[0].into is None
    assert reason in str(folded.foldings[0].reason)
    assert sum(isinstance(each, ChannelAffine) for each in folded.modules()) == 1
    assert_same(folded, whole)


def numbers_of(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Kernel and bias."""
    assert isinstance(layer, WithKernel)
    assert layer.bias is not None
    return layer.kernel.detach(), layer.bias.detach()


def by_the_book(whole: Network) -> tuple[Tensor, Tensor]:
    """q and t of the network's only norm."""
    (norm,) = (each for each in whole.layers if isinstance(each, BatchNorm))
    assert norm.gamma is not None
    assert norm.beta is not None
    q = norm.gamma / (norm.moving_variance + norm.spec.epsilon).sqrt()
    return q, norm.beta - norm.moving_mean * q


@torch.no_grad()
def test_folding_into_a_padded_convolution_would_change_its_border_and_only_that() -> None:
    whole = network(NORM, SAME, FLAT, shape=PICTURE)
    (q, t), (kernel, bias), x = by_the_book(whole), numbers_of(whole.layers[1]), draw(4, *PICTURE)
    moved = bias + kernel.sum((2, 3)) @ t
    forced = functional.conv2d(x.permute(0, 3, 1, 2), kernel * q.view(1, -1, 1, 1), moved, padding=1)
    apart = (forced - whole(x).view(4, 5, 6, 4).permute(0, 3, 1, 2)).abs().amax(dim=(0, 1))
    assert apart[1:-1, 1:-1].max() < 1e-5
    border = torch.ones_like(apart, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert apart[border].min() > 1e-3


def test_padding_is_no_hindrance_where_the_norm_moves_zero_nowhere() -> None:
    whole = network({**NORM, "center": False}, SAME, FLAT, shape=PICTURE)
    norm = whole.layers[0]
    assert isinstance(norm, BatchNorm)
    with torch.no_grad():
        norm.moving_mean.zero_()
    folded = fold(whole)
    assert folding_of(folded).into == "conv2d"
    assert_same(folded, whole)
    with torch.no_grad():
        norm.moving_mean[1] = 1e-3
    assert folding_of(fold(whole)).into is None


FORK = (
    {"type": "dense", "name": "shared", "units": 4, "inputs": ["input"]},
    {"type": "batch_norm", "name": "norm", "inputs": ["shared"]},
    {"type": "add", "inputs": ["norm", "shared"]},
)


@torch.no_grad()
def test_layer_that_feeds_others_too_keeps_its_numbers() -> None:
    whole = network(*FORK, shape=(3,))
    folded = fold(whole)
    assert folding_of(folded, "norm").into is None
    assert "'shared', feeds other layers too" in str(folding_of(folded, "norm").reason)
    assert_same(folded, whole)
    (q, t), (kernel, bias), x = by_the_book(whole), numbers_of(whole.layers[0]), draw(4, 3)
    forced = functional.linear(x, kernel * q[:, None], bias * q + t)
    assert (2 * forced - whole(x)).abs().max() > 1e-2


@torch.no_grad()
def test_norm_that_feeds_two_layers_stays() -> None:
    whole = network(
        {**NORM, "inputs": ["input"]},
        {**DENSE, "name": "a", "inputs": ["batch_norm"]},
        {**DENSE, "name": "b", "inputs": ["batch_norm"]},
        {"type": "add", "inputs": ["a", "b"]},
        shape=(3,),
    )
    folded = fold(whole)
    assert "'batch_norm' feeds several layers" in str(folding_of(folded).reason)
    assert_same(folded, whole)
    (q, t), (kernel, bias), x = by_the_book(whole), numbers_of(whole.layers[1]), draw(4, 3)
    only_one_folded = functional.linear(x, kernel * q, bias + kernel @ t) + whole.layers[2](x)
    assert (only_one_folded - whole(x)).abs().max() > 1e-2


@torch.no_grad()
def test_activation_between_would_make_it_wrong() -> None:
    whole = network(DENSE, RELU, NORM, shape=(3,))
    (q, t), (kernel, bias), x = by_the_book(whole), numbers_of(whole.layers[0]), draw(40, 3)
    forced = functional.linear(x, kernel * q[:, None], bias * q + t).relu()
    assert (forced - whole(x)).abs().max() > 1e-2
    assert folding_of(fold(whole)).into is None


@torch.no_grad()
def test_scale_of_another_axis_would_be_wrong_in_the_channels() -> None:
    whole = network({**CONV, "filters": 3, "kernel_size": (3, 4)}, {**NORM, "axis": 1}, FLAT, shape=PICTURE)
    (q, t), (kernel, bias), x = by_the_book(whole), numbers_of(whole.layers[0]), draw(4, *PICTURE)
    y = functional.conv2d(x.permute(0, 3, 1, 2), kernel * q.view(-1, 1, 1, 1), bias * q + t)
    assert (y.permute(0, 2, 3, 1).flatten(1) - whole(x)).abs().max() > 1e-2


def test_norms_in_a_row_go_into_the_same_layer() -> None:
    rows: list[list[dict[str, Any]]] = [[DENSE, NORM, NORM, RELU], [RELU, NORM, NORM, DENSE]]
    for layers in rows:
        whole = network(*layers, shape=(4,))
        folded = fold(whole)
        assert {each.into for each in folded.foldings} == {"dense"}
        assert_same(folded, whole)


def test_layer_between_two_norms_takes_both() -> None:
    whole = network(NORM, CONV, NORM, RELU, FLAT, DENSE, shape=PICTURE)
    folded = fold(whole)
    assert [each.into for each in folded.foldings] == ["conv2d", "conv2d"]
    assert_same(folded, whole)


def test_numbers_that_would_overflow_are_left_alone() -> None:
    whole = network(DENSE, NORM, shape=(4,))
    norm, dense = whole.layers[1], whole.layers[0]
    assert isinstance(norm, BatchNorm)
    assert isinstance(dense, WithKernel)
    with torch.no_grad():
        norm.moving_variance.zero_()
        dense.kernel.mul_(1e38)
    folded = fold(whole)
    assert "'dense' would not be finite in float32" in str(folding_of(folded).reason)


def test_arithmetic_is_float64_and_the_result_float32() -> None:
    whole = network(DENSE, NORM, shape=(4,))
    (q, t), (kernel, bias) = by_the_book(whole.double()), numbers_of(whole.layers[0])
    expected = (kernel * q[:, None]).float(), (bias * q + t).float()
    assert all(map(torch.equal, parameters_of(fold(whole.float()), "dense"), expected))


@pytest.mark.parametrize("preset", [{"depth": 20}, {"depth": 50}, {"depth": 20, "zero_init_residual": True}], ids=str)
def test_every_norm_of_a_resnet_goes_into_its_convolution(preset: dict[str, Any]) -> None:
    whole = lived_in(resnet((8, 8, 3), **preset))
    folded = fold(whole)
    assert len(folded.foldings) == len(whole.plan.batch_norms)
    assert all(each.into is not None for each in folded.foldings)
    assert_same(folded, whole)


def test_layers_that_nothing_was_folded_into_share_the_memory_of_the_network() -> None:
    whole = network(DENSE, NORM, RELU, DENSE, shape=(4,))
    theirs = {parameter.data_ptr() for parameter in whole.parameters()}
    folded = {key: parameter.data_ptr() in theirs for key, parameter in fold(whole).named_parameters()}
    assert folded == {
        "layers.0.kernel": False, "layers.0.bias": False, "layers.2.kernel": True, "layers.2.bias": True
    }  # fmt: skip


def test_network_stays_as_it_is() -> None:
    whole = network(CONV, NORM, RELU, FLAT, NORM, DENSE, shape=PICTURE)
    digest, weights, x = state.state_of(whole).digest, state.weights_of(whole), draw(3, *PICTURE)
    before = whole(x)
    fold(whole)(x)
    assert state.state_of(whole).digest == digest
    assert all(torch.equal(tensor, weights[key]) for key, tensor in state.weights_of(whole).items())
    assert torch.equal(whole(x), before)


def test_folding_can_be_left_out() -> None:
    whole = network(DENSE, NORM, RELU, DENSE, shape=(4,))
    folded = fold(whole, into_others=False)
    assert folded.foldings == (Folding("batch_norm", None, "folding is switched off"),)
    assert [type(node.module) for node in folded.nodes][1:3] == [ChannelAffine, nn.ReLU]
    assert_same(folded, whole)


def test_network_may_be_nothing_but_what_prediction_passes_through() -> None:
    whole = network({"type": "dropout", "rate": 0.5}, shape=(4,))
    folded = fold(whole)
    assert folded.nodes == ()
    assert_same(folded, whole)


@given(case=NETWORKS, into_others=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_network_folds_to_itself(case: tuple[list[dict[str, Any]], tuple[int, ...]], into_others: bool) -> None:
    layers, shape = case
    whole = network(*layers, shape=shape)
    folded = fold(whole, into_others=into_others)
    left = sum(isinstance(each, ChannelAffine) for each in folded.modules())
    assert left == sum(each.into is None for each in folded.foldings)
    assert len(folded.foldings) == len(whole.plan.batch_norms)
    assert_same(folded, whole)
