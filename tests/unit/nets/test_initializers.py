"""Initial values: the spread of Keras, counted on the shape of Keras, and who decides the draws."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from gammabeta.nets.initializers import initial, layer_generator
from gammabeta.nets.layouts import keras_view
from gammabeta.schemas.initializers import Initializer
from tests.unit.nets.plans import network_of

CUT = 0.87962566103423978
"""The standard deviation of a standard normal cut at +-2."""


def config(class_name: str, **given: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": given}


def kernel_of(layer: dict[str, Any], shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A kernel in Keras' shape."""
    network = network_of(layer, {"type": "flatten"}, shape=shape, seed=seed)
    kernel = network.layers[0].kernel
    assert isinstance(kernel, Tensor)
    return keras_view(network.plan.layers[0], "kernel", kernel.detach())


KERNELS: list[tuple[str, dict[str, Any], tuple[int, ...], int, int]] = [
    ("kernel", {"type": "dense", "units": 200}, (300,), 300, 200),
    ("kernel", {"type": "conv2d", "filters": 80, "kernel_size": [3, 5]}, (7, 7, 40), 15 * 40, 15 * 80),
    ("kernel", {"type": "conv2d", "filters": 80, "kernel_size": 5, "groups": 4}, (7, 7, 80), 25 * 20, 25 * 80),
    ("kernel", {"type": "conv1d", "filters": 90, "kernel_size": 5}, (9, 100), 5 * 100, 5 * 90),
    (
        "depthwise",
        {"type": "depthwise_conv2d", "kernel_size": 5, "depth_multiplier": 8},
        (7, 7, 200),
        25 * 200,
        25 * 8,
    ),
]


@pytest.mark.parametrize(
    ("key", "layer", "shape", "inputs", "outputs"), KERNELS, ids=[each[1]["type"] for each in KERNELS]
)
@pytest.mark.parametrize(
    ("start", "scale", "mode", "distribution"),
    [
        ("glorot_uniform", 1, "fan_avg", "uniform"),
        ("glorot_normal", 1, "fan_avg", "cut"),
        ("he_uniform", 2, "fan_in", "uniform"),
        ("he_normal", 2, "fan_in", "cut"),
        ("lecun_uniform", 1, "fan_in", "uniform"),
        ("lecun_normal", 1, "fan_in", "cut"),
        (config("VarianceScaling", scale=3, mode="fan_out"), 3, "fan_out", "cut"),
        (config("VarianceScaling", mode="fan_avg", distribution="uniform"), 1, "fan_avg", "uniform"),
        (config("VarianceScaling", distribution="untruncated_normal"), 1, "fan_in", "normal"),
    ],
    ids=str,
)
def test_scaled_kernels_have_the_variance_of_their_fan(
    key: str,
    layer: dict[str, Any],
    shape: tuple[int, ...],
    inputs: int,
    outputs: int,
    start: Any,
    scale: float,
    mode: str,
    distribution: str,
) -> None:
    kernel = kernel_of({**layer, f"{key}_initializer": start}, shape)
    fan = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}[mode]
    deviation = math.sqrt(scale / fan)
    assert kernel.std().item() == pytest.approx(deviation, rel=0.02)
    assert abs(kernel.mean().item()) < 0.02 * deviation
    limit = {"uniform": math.sqrt(3), "cut": 2 / CUT, "normal": 6.0}[distribution] * deviation
    assert (0.6 if distribution == "normal" else 0.99) * limit < kernel.abs().max().item() < limit * (1 + 1e-6)


@pytest.mark.parametrize(
    ("start", "mean", "std"),
    [
        (config("RandomNormal", mean=1, stddev=0.5), 1.0, 0.5),
        (config("RandomNormal", stddev=0), 0.0, 0.0),
        (config("TruncatedNormal", mean=-1, stddev=0.5), -1.0, 0.5 * CUT),
        (config("RandomUniform", minval=0, maxval=1), 0.5, 1 / math.sqrt(12)),
        (config("Constant", value=0.3), 0.3, 0.0),
        ("zeros", 0.0, 0.0),
        ("ones", 1.0, 0.0),
    ],
    ids=str,
)
def test_kernels_take_each_initializer(start: Any, mean: float, std: float) -> None:
    kernel = kernel_of({"type": "dense", "units": 200, "kernel_initializer": start}, (300,))
    assert kernel.mean().item() == pytest.approx(mean, abs=0.01)
    assert kernel.std().item() == pytest.approx(std, abs=0.01)


@pytest.mark.parametrize(
    ("key", "layer", "shape"),
    [
        ("kernel", {"type": "dense", "units": 7}, (12,)),
        ("kernel", {"type": "dense", "units": 12}, (7,)),
        ("kernel", {"type": "conv2d", "filters": 6, "kernel_size": 3}, (5, 5, 4)),
        ("kernel", {"type": "conv1d", "filters": 40, "kernel_size": 3}, (5, 4)),
        ("depthwise", {"type": "depthwise_conv2d", "kernel_size": 3, "depth_multiplier": 2}, (5, 5, 4)),
    ],
)
def test_orthogonal_kernels_are_so_flattened_as_keras_does(
    key: str, layer: dict[str, Any], shape: tuple[int, ...]
) -> None:
    kernel = kernel_of({**layer, f"{key}_initializer": config("Orthogonal", gain=2)}, shape).flatten(0, -2)
    short = kernel if kernel.shape[0] < kernel.shape[1] else kernel.T
    assert_allclose(short @ short.T, 4 * torch.eye(len(short)), atol=1e-5)


def test_bias_takes_numbers_one_for_each_unit() -> None:
    network = network_of({"type": "dense", "units": 3, "bias_initializer": [1, 2, 3]}, shape=(4,))
    assert network(torch.zeros(2, 4)).tolist() == [[1, 2, 3], [1, 2, 3]]


def test_drawn_bias_leaves_the_kernel_as_it_was() -> None:
    plain = kernel_of({"type": "dense", "units": 3}, (4,))
    biased = kernel_of({"type": "dense", "units": 3, "bias_initializer": "random_normal"}, (4,))
    assert torch.equal(plain, biased)


def test_seed_of_an_initializer_stands_above_that_of_the_job() -> None:
    layer = {"type": "dense", "units": 3, "kernel_initializer": config("RandomNormal", seed=5)}
    assert torch.equal(kernel_of(layer, (4,), seed=1), kernel_of(layer, (4,), seed=2))
    plain = {**layer, "kernel_initializer": "random_normal"}
    assert not torch.equal(kernel_of(plain, (4,), seed=1), kernel_of(plain, (4,), seed=2))


def test_layers_of_one_network_start_apart() -> None:
    dense = {"type": "dense", "units": 4, "kernel_initializer": "he_normal"}
    first, second = (p for key, p in network_of(dense, dense, shape=(4,)).named_parameters() if key.endswith("kernel"))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("name", "scale"), [("glorot_uniform", 1), ("he_normal", 2), ("variance_scaling", 1)])
def test_vectors_count_each_element_as_input_and_output(name: Any, scale: float) -> None:
    value = initial(Initializer(name=name), (10_000,), layer_generator(0, "x"))
    assert value.std().item() == pytest.approx(math.sqrt(scale / 10_000), rel=0.03)


@pytest.mark.parametrize(
    ("layer", "shape", "digest"),
    [
        ({"type": "dense", "units": 64}, (64,), "b460dc57ce4c3f9b"),
        ({"type": "conv2d", "filters": 8, "kernel_size": 3}, (8, 8, 3), "fd1f3ebc038de961"),
    ],
)
def test_default_kernels_are_the_same_in_each_version(
    layer: dict[str, Any], shape: tuple[int, ...], digest: str
) -> None:
    network = network_of({**layer, "name": "first"}, {"type": "flatten"}, shape=shape, seed=7)
    kernel = network.layers[0].kernel
    assert isinstance(kernel, Tensor)
    drawn = kernel.detach().contiguous().numpy().tobytes()
    assert hashlib.sha256(drawn).hexdigest()[:16] == digest
