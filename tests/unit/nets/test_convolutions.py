"""Convolutions and poolings of sequences, depthwise convolutions, dilation and groups, against loops in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gammabeta.nets.build import Network
from gammabeta.nets.layouts import keras_view
from gammabeta.nets.windows import as_image, as_sequence
from tests.unit.nets.plans import network_of

Array = NDArray[np.float64]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
CONV1D = {"type": "conv1d", "filters": 6, "kernel_size": 3}
CONV2D = {"type": "conv2d", "filters": 6, "kernel_size": 3}
DEPTHWISE = {"type": "depthwise_conv2d", "kernel_size": 3, "depth_multiplier": 2}


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def network_with(layer: dict[str, Any], shape: tuple[int, ...]) -> Network:
    """One layer, with a drawn bias if it has one, and a flatten."""
    drawn = {"bias_initializer": "random_normal"} if layer["type"] in ("conv1d", "conv2d", "depthwise_conv2d") else {}
    return network_of({**drawn, **layer}, {"type": "flatten"}, shape=shape)


def parameter(network: Network, name: str) -> Tensor:
    found = getattr(network.layers[0], name)
    assert isinstance(found, Tensor)
    return found


def outputs(network: Network, x: Tensor) -> Array:
    """What the first layer gives, in API layout."""
    y: Array = network(x).detach().double().numpy()
    return y.reshape(len(x), *network.plan.layers[0].output_shape)


def padded(x: Array, reach: list[int], strides: list[int], padding: str, fill: float) -> Array:
    """x: [B, *extents, C] with the padding of Keras."""
    ends = [(0, 0)]
    for extent, seen, stride in zip(x.shape[1:-1], reach, strides, strict=True):
        total = max(0, (math.ceil(extent / stride) - 1) * stride + seen - extent)
        ends.append({"valid": (0, 0), "causal": (seen - 1, 0), "same": (total // 2, total - total // 2)}[padding])
    return np.pad(x, [*ends, (0, 0)], constant_values=fill)


def convolved(x: Tensor, network: Network) -> Array:
    """The first layer by hand, from its kernel in Keras' shape: one product for each place, offset and group."""
    spec: Any = network.plan.layers[0].spec
    kernel = keras_view(network.plan.layers[0], "kernel", parameter(network, "kernel").detach()).double().numpy()
    if spec.type == "depthwise_conv2d":  # one group for each channel
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    rank = kernel.ndim - 2
    strides, dilation = (
        [each] * rank if isinstance(each, int) else list(each) for each in (spec.strides, spec.dilation_rate)
    )
    reach = [(size - 1) * spread + 1 for size, spread in zip(kernel.shape, dilation, strict=False)]
    given = padded(x.double().numpy(), reach, strides, spec.padding, 0.0)
    groups = given.shape[-1] // kernel.shape[-2]
    extents = [(size - seen) // stride + 1 for size, seen, stride in zip(given.shape[1:], reach, strides, strict=False)]
    y = np.zeros((len(given), *extents, kernel.shape[-1]))
    for place in np.ndindex(*extents):
        for offset in np.ndindex(*kernel.shape[:rank]):
            at = tuple(p * s + o * d for p, s, o, d in zip(place, strides, offset, dilation, strict=True))
            seen = given[(slice(None), *at)].reshape(len(given), groups, -1)
            weights = kernel[offset].reshape(kernel.shape[-2], groups, -1)
            y[(slice(None), *place)] += np.einsum("bgi,igo->bgo", seen, weights).reshape(len(given), -1)
    return y + parameter(network, "bias").detach().double().numpy()


@pytest.mark.parametrize(
    "given",
    [
        {"padding": padding, **options}
        for padding in ("valid", "same", "causal")
        for options in (
            {},
            {"strides": 2},
            {"strides": 3, "kernel_size": 4},
            {"dilation_rate": 2},
            {"dilation_rate": 3, "kernel_size": 2},
            {"groups": 2},
            {"groups": 2, "strides": 2, "kernel_size": 1},
        )
    ],
    ids=str,
)
@pytest.mark.parametrize("length", [9, 10])
def test_convolution_of_sequences_is_that_of_keras(given: dict[str, Any], length: int) -> None:
    network, x = network_with({**CONV1D, **given}, (length, 4)), draw(2, length, 4)
    assert_allclose(outputs(network, x), convolved(x, network), **CLOSE)


@pytest.mark.parametrize("layer", [CONV2D, DEPTHWISE], ids=["conv2d", "depthwise"])
@pytest.mark.parametrize(
    "given",
    [
        {"padding": padding, **options}
        for padding in ("valid", "same")
        for options in (
            {},
            {"strides": 2},
            {"strides": [2, 1], "kernel_size": [2, 3]},
            {"dilation_rate": 2},
            {"dilation_rate": [1, 3], "kernel_size": [4, 2]},
        )
    ],
    ids=str,
)
def test_convolution_of_images_is_that_of_keras(layer: dict[str, Any], given: dict[str, Any]) -> None:
    network, x = network_with({**layer, **given}, (6, 7, 4)), draw(2, 6, 7, 4)
    assert_allclose(outputs(network, x), convolved(x, network), **CLOSE)


def test_groups_of_an_image_do_not_see_each_other() -> None:
    network, x = network_with({**CONV2D, "groups": 2}, (5, 5, 4)), draw(2, 5, 5, 4)
    assert_allclose(outputs(network, x), convolved(x, network), **CLOSE)
    changed = x.clone()
    changed[..., :2] = 0
    same = outputs(network, changed) == outputs(network, x)
    assert same[..., 3:].all()
    assert not same[..., :3].any()


def test_convolution_of_sequences_is_torchs() -> None:
    network, x = network_with({**CONV1D, "dilation_rate": 2}, (9, 4)), draw(2, 9, 4)
    kernel, bias = parameter(network, "kernel"), parameter(network, "bias")
    assert kernel.shape == (6, 4, 3)
    expected = functional.conv1d(x.transpose(1, 2), kernel, bias, dilation=2).transpose(1, 2)
    assert_allclose(outputs(network, x), expected.detach(), **CLOSE)


def test_moving_sum_by_hand() -> None:
    spec = {"type": "conv1d", "filters": 1, "kernel_size": 3, "padding": "causal", "kernel_initializer": "ones"}
    network = network_of(spec, {"type": "flatten"}, shape=(4, 1))
    assert network(torch.tensor([1.0, 2, 4, 8]).view(1, 4, 1)).tolist() == [[1, 3, 7, 14]]


@pytest.mark.parametrize("given", [{}, {"dilation_rate": 3}, {"strides": 2}, {"groups": 2}], ids=str)
def test_causal_convolution_does_not_look_ahead(given: dict[str, Any]) -> None:
    network = network_with({**CONV1D, "padding": "causal", **given}, (12, 4))
    x, stride = draw(1, 12, 4), given.get("strides", 1)
    before = outputs(network, x)
    for at in range(12):
        changed = x.clone()
        changed[:, at:] += 1
        same = (outputs(network, changed) == before).all(axis=(0, 2))
        assert [index for index, kept in enumerate(same) if kept] == list(range(math.ceil(at / stride)))


def test_depthwise_convolution_keeps_channels_apart_in_the_order_of_keras() -> None:
    network, x = network_with({**DEPTHWISE, "use_bias": False}, (5, 6, 3)), draw(2, 5, 6, 3)
    kernel = keras_view(network.plan.layers[0], "kernel", parameter(network, "kernel").detach())
    assert kernel.shape == (3, 3, 3, 2)
    y = outputs(network, x)
    for channel in range(3):
        for each in range(2):
            alone = functional.conv2d(x[None, ..., channel].movedim(0, 1), kernel[None, None, :, :, channel, each])
            assert_allclose(y[..., channel * 2 + each], alone[:, 0], **CLOSE)


@pytest.mark.parametrize(("kind", "reduce"), [("max_pool", np.nanmax), ("average_pool", np.nanmean)])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides"), [(2, None), (3, 1), (3, 2), (4, 3), (1, 2)])
@pytest.mark.parametrize("length", [7, 8])
def test_pooling_of_sequences_is_that_of_keras(
    kind: str, reduce: Any, padding: str, size: int, strides: int | None, length: int
) -> None:
    layer = {"type": kind, "pool_size": size, "strides": strides, "padding": padding}
    network, x = network_with(layer, (length, 3)), draw(2, length, 3) - 5
    step = strides or size
    given = padded(x.double().numpy(), [size], [step], padding, np.nan)
    starts = range(0, given.shape[1] - size + 1, step)
    expected = np.stack([reduce(given[:, start : start + size], axis=1) for start in starts], axis=1)
    assert_allclose(outputs(network, x), expected, **CLOSE)


def test_global_average_of_sequences() -> None:
    x = draw(2, 7, 3)
    assert_allclose(network_of({"type": "global_average_pool"}, shape=(7, 3))(x), x.mean(dim=1), **CLOSE)


def test_sequence_is_an_image_of_height_1_without_a_copy() -> None:
    x = draw(2, 7, 3)
    image = as_image(x)
    assert image.shape == (2, 3, 1, 7)
    assert image.data_ptr() == x.data_ptr()
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(as_sequence(image), x)
    assert as_sequence(image).is_contiguous()


@pytest.mark.parametrize(
    ("layer", "shape", "name", "expected"),
    [
        ({"type": "dense", "units": 6}, (4,), "kernel", (4, 6)),
        ({"type": "dense", "units": 6}, (4,), "bias", (6,)),
        (CONV1D, (9, 4), "kernel", (3, 4, 6)),
        ({**CONV2D, "kernel_size": [2, 3], "groups": 2}, (5, 5, 4), "kernel", (2, 3, 2, 6)),
        ({**CONV2D, "kernel_size": 1}, (5, 5, 4), "kernel", (1, 1, 4, 6)),
        ({**DEPTHWISE, "kernel_size": [2, 3]}, (5, 5, 4), "kernel", (2, 3, 4, 2)),
        ({**DEPTHWISE, "kernel_size": 1, "depth_multiplier": 1}, (5, 5, 4), "kernel", (1, 1, 4, 1)),
        ({"type": "batch_norm"}, (5, 5, 4), "gamma", (4,)),
        ({"type": "batch_norm", "virtual_batch_size": 2}, (5, 5, 4), "beta", (1, 1, 1, 1, 4)),
        ({"type": "batch_norm", "axis": [1, 3]}, (5, 6, 4), "gamma", (1, 5, 1, 4)),
    ],
)
def test_parameters_are_seen_in_the_shape_of_keras(
    layer: dict[str, Any], shape: tuple[int, ...], name: str, expected: tuple[int, ...]
) -> None:
    network = network_of(layer, {"type": "flatten"}, shape=shape)
    stored = parameter(network, name)
    view = keras_view(network.plan.layers[0], name, stored.detach())
    assert view.shape == expected
    view.zero_()
    view[(0,) * view.ndim] = 5.0
    assert stored.flatten()[0].item() == 5
    assert stored.count_nonzero().item() == 1


@pytest.mark.parametrize("given", [{}, {"padding": "same"}, {"padding": "causal"}])
def test_sequences_are_learnt_from(given: dict[str, Any]) -> None:
    network = network_of(
        {**CONV1D, **given, "use_bias": False},
        {"type": "batch_norm"},
        {"type": "activation", "function": "relu"},
        {"type": "max_pool"},
        {"type": "global_average_pool"},
        {"type": "dense", "units": 2},
        shape=(10, 3),
    )
    loss = functional.cross_entropy(network(draw(8, 10, 3)), torch.arange(8) % 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
