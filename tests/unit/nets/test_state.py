"""Weights and batch-norm state leave a network and come back as they were, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gammabeta.errors import ArtifactCorrupt
from gammabeta.nets import state as states
from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Network
from gammabeta.schemas.batchnorm import BatchNormState
from tests.unit.nets.plans import network_of

LAYERS: tuple[dict[str, Any], ...] = (
    {"type": "conv2d", "name": "stem.conv", "filters": 4, "kernel_size": 3, "use_bias": False},
    {"type": "batch_norm", "name": "stem.norm", "axis": 1},
    {"type": "flatten"},
    {"type": "dense", "name": "forward", "units": 5},
    {"type": "batch_norm", "center": False, "epsilon": 0.01, "momentum": 0.9},
    {"type": "batch_norm", "scale": False, "trainable": False},
    {"type": "dense", "units": 3},
)


RENORM: tuple[dict[str, Any], ...] = (
    {"type": "depthwise_conv2d", "name": "depth", "kernel_size": 3},
    {"type": "batch_norm", "axis": [1, 3], "renorm": True, "momentum": 0.5, "renorm_momentum": 0.8},
    {"type": "flatten"},
    {"type": "batch_norm", "name": "ghosts", "virtual_batch_size": 4},
    {"type": "dense", "units": 3},
)
"""A layer with averages that training alone needs, and several axes: 4 rows of 2 channels."""


def renormed(seed: int = 0) -> Network:
    return network_of(*RENORM, shape=(6, 6, 2), seed=seed)


def network(seed: int = 0) -> Network:
    return network_of(*LAYERS, shape=(6, 6, 2), seed=seed)


def trained() -> Network:
    net = network()
    for _ in range(3):
        net(torch.randn(8, 6, 6, 2)).square().mean().backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.rand_like(parameter))
    return net


def test_keys_of_weights_are_layer_and_parameter_names() -> None:
    weights = states.weights_of(network())
    assert {key: tuple(value.shape) for key, value in weights.items()} == {
        "stem.conv.kernel": (4, 2, 3, 3),
        "forward.kernel": (5, 64),
        "forward.bias": (5,),
        "dense.kernel": (3, 5),
        "dense.bias": (3,),
    }
    assert all(value.is_contiguous() and not value.requires_grad for value in weights.values())


@pytest.mark.parametrize("made", [network, renormed])
def test_networks_of_the_same_weights_may_share_them_and_never_their_state(made: Callable[..., Network]) -> None:
    one, two, apart = made(seed=1), made(seed=2), made(seed=3)
    other_state = states.state_of(apart)
    states.load(two, states.live_weights(one), other_state, shared=True)
    states.load(apart, states.weights_of(one), other_state)
    x = torch.randn(4, 6, 6, 2)
    assert torch.equal(two.eval()(x), apart.eval()(x))
    mine, theirs = states.live_weights(one), states.live_weights(two)
    for key, tensor in mine.items():
        is_trained = isinstance(tensor, torch.nn.Parameter)
        assert (tensor.data_ptr() == theirs[key].data_ptr()) == is_trained, key
        assert tensor.stride() == theirs[key].stride()
    assert states.state_of(two).digest == other_state.digest


def test_state_describes_each_layer_in_order() -> None:
    state = states.state_of(trained())
    assert [(each.name, each.axis, each.epsilon, each.momentum, each.updates) for each in state.layers] == [
        ("stem.norm", 1, 0.001, 0.99, 3),
        ("batch_norm", 1, 0.01, 0.9, 3),
        ("batch_norm_1", 1, 0.001, 0.99, 0),
    ]
    assert state.layers[1].beta is None
    assert state.layers[2].gamma is None


def test_round_trip_gives_the_same_digest_and_the_same_predictions() -> None:
    net, other = trained().eval(), network(seed=5).eval()
    weights, state = states.weights_of(net), states.state_of(net)
    assert states.state_of(other).digest != state.digest
    states.load(other, weights, state)
    assert states.state_of(other).digest == state.digest
    assert [each.updates for each in states.state_of(other).layers] == [3, 3, 0]
    x = torch.randn(9, 6, 6, 2)
    assert torch.equal(net(x), other(x))
    assert all(torch.equal(value, weights[key]) for key, value in states.weights_of(other).items())


def test_what_was_taken_out_does_not_change_with_the_network() -> None:
    net = trained()
    weights, state = states.weights_of(net), states.state_of(net)
    digest, kernel = state.digest, weights["forward.kernel"].clone()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    net(torch.randn(8, 6, 6, 2))
    assert BatchNormState(state.layers).digest == digest
    assert torch.equal(weights["forward.kernel"], kernel)


def test_what_was_put_in_does_not_change_with_its_source() -> None:
    net, source = network(), states.state_of(trained())
    states.load(net, states.weights_of(net), source)
    digest = states.state_of(net).digest
    source.layers[0].moving_mean[:] = 7.0
    assert states.state_of(net).digest == digest


def test_thousand_predictions_leave_the_digest() -> None:
    net = trained().eval()
    digest = states.state_of(net).digest
    with torch.no_grad():
        for _ in range(1000):
            net(torch.randn(1, 6, 6, 2) * 50)
    assert states.state_of(net).digest == digest


def test_averages_that_training_alone_needs_are_among_the_weights_and_come_back() -> None:
    net, other = renormed(), renormed(seed=5)
    for _ in range(3):
        net(torch.randn(8, 6, 6, 2))
    weights, state = states.weights_of(net), states.state_of(net)
    keys = {"batch_norm.renorm_mean", "batch_norm.renorm_stddev", "batch_norm.moving_stddev"}
    assert {key for key in weights if not key.endswith(("kernel", "bias"))} == keys
    states.load(other, weights, state)
    loaded = states.weights_of(other)
    assert all(torch.equal(loaded[key], weights[key]) for key in keys)
    assert all(weights[key].shape == (8,) and weights[key].std() > 0 for key in keys)
    x = torch.randn(8, 6, 6, 2)
    assert torch.equal(net(x), other(x))  # in training, where renorm's averages count
    assert states.state_of(net).digest == states.state_of(other).digest
    assert keys <= states.joined(weights, state).keys()


def test_averages_that_are_missing_are_missed() -> None:
    net = renormed()
    weights = without("batch_norm.renorm_mean")(states.weights_of(net))
    with pytest.raises(ArtifactCorrupt, match=r"Missing: \['batch_norm.renorm_mean'\]"):
        states.load(net, weights, states.state_of(net))


def test_several_axes_are_described_as_such() -> None:
    first, second = states.state_of(renormed()).layers
    assert (first.axis, first.channels) == ((1, 3), 8)
    assert (second.axis, second.channels) == (1, 32)


def test_skipped_batches_are_told_apart_from_updates_and_come_back() -> None:
    net, other = renormed(), renormed(seed=5)
    for at in range(3):
        x = torch.randn(8, 6, 6, 2)
        x[3, 0] = float("inf") if at == 1 else 1.0
        net(x)
    state = states.state_of(net)
    assert [(each.updates, each.skipped) for each in state.layers] == [(2, 1), (2, 1)]
    assert state.problem() is None
    states.load(other, states.weights_of(net), state)
    assert [(each.updates, each.skipped) for each in states.state_of(other).layers] == [(2, 1), (2, 1)]
    norm = other.layers[1]
    assert isinstance(norm, BatchNorm)
    assert norm.steps == 3


def without(key: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {name: value for name, value in weights.items() if name != key}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("dense.bias"), r"Missing: \['dense.bias'\]"),
        (lambda w: w | {"dense.gamma": torch.zeros(3)}, r"unknown: \['dense.gamma'\]"),
        (lambda w: w | {"dense.bias": torch.zeros(4)}, r"'dense.bias' must be float32 \[3\].*\[4\]"),
        (lambda w: w | {"dense.bias": torch.zeros(3).double()}, "float64"),
    ],
    ids=["missing", "unknown", "shape", "dtype"],
)
def test_weights_of_another_network_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str
) -> None:
    net = network()
    with pytest.raises(ArtifactCorrupt, match=said):
        states.load(net, change(states.weights_of(net)), states.state_of(net))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "other"}, "layer 'stem.norm'.*Received: layer 'other'"),
        ({"axis": 3}, "axis 1.*axis 3"),
        ({"epsilon": 0.002}, "epsilon 0.001.*epsilon 0.002"),
        ({"gamma": None}, r"'gamma': \[4\].*'gamma': None"),
        ({"moving_mean": np.zeros(3, np.float32)}, r"'moving_mean': \[4\].*'moving_mean': \[3\]"),
        ({"moving_mean": np.full(4, np.nan, np.float32)}, "moving_mean of layer 'stem.norm' is not finite"),
        ({"moving_variance": np.full(4, -1, np.float32)}, "moving_variance of layer 'stem.norm' is negative"),
    ],
)
def test_state_of_another_network_is_refused_and_nothing_is_changed(fields: dict[str, Any], said: str) -> None:
    net, source = network(), trained()
    digest, kernel = states.state_of(net).digest, states.weights_of(net)["forward.kernel"]
    first, *others = states.state_of(source).layers
    with pytest.raises(ArtifactCorrupt, match=said):
        states.load(net, states.weights_of(source), BatchNormState((replace(first, **fields), *others)))
    assert states.state_of(net).digest == digest
    assert torch.equal(states.weights_of(net)["forward.kernel"], kernel)


def test_state_with_a_layer_too_few_is_refused() -> None:
    net = network()
    with pytest.raises(ArtifactCorrupt, match=r"3 layers.*Received: 2 layers"):
        states.load(net, states.weights_of(net), BatchNormState(states.state_of(net).layers[:2]))


def test_joined_file_has_weights_and_state() -> None:
    net = trained()
    arrays = states.joined(states.weights_of(net), states.state_of(net))
    assert len(arrays) == 5 + 4 + 3 + 3
    assert {key for key in arrays if key.startswith("batch_norm.")} == {
        "batch_norm.gamma",
        "batch_norm.moving_mean",
        "batch_norm.moving_variance",
    }
    assert arrays["stem.norm.moving_mean"].shape == (4,)


def test_weight_decay_is_for_kernels() -> None:
    net = network()
    decayed, others = states.parameter_groups(net)
    assert sorted(tuple(each.shape) for each in decayed) == [(3, 5), (4, 2, 3, 3), (5, 64)]
    frozen = 1
    assert len(decayed) + len(others) == len(list(net.parameters())) - frozen
    assert [tuple(each.shape) for each in states.parameter_groups(renormed())[0]] == [(2, 1, 3, 3), (3, 32)]
