"""Networks built from plans, against Keras' definitions written out in numpy, channels last."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torch import Tensor

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Network, build_network
from gammabeta.nets.losses import loss_for, scores_of
from gammabeta.schemas.plans import plan_network
from gammabeta.schemas.preprocessing import FittedImage
from gammabeta.schemas.presets import CnnPreset, MlpPreset
from gammabeta.schemas.resolution import Task
from tests.unit.nets.plans import network_of

Array = NDArray[np.float64]
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def windows(x: Array, window: tuple[int, int], strides: tuple[int, int], padding: str) -> Array:
    """x: [B, H, W, C] -> [B, H', W', height, width, C], NaN where a window reaches over the edge."""
    ends = [(0, 0)]
    for extent, size, stride in zip(x.shape[1:3], window, strides, strict=True):
        total = max(0, (-(-extent // stride) - 1) * stride + size - extent) if padding == "same" else 0
        ends.append((total // 2, total - total // 2))
    padded = np.pad(x, [*ends, (0, 0)], constant_values=np.nan)
    view = np.lib.stride_tricks.sliding_window_view(padded, window, axis=(1, 2))[:, :: strides[0], :: strides[1]]
    return np.moveaxis(view, 3, -1)


def convolved(x: Array, network: Network, **spec: Any) -> Array:
    kernel = next(p for name, p in network.named_parameters() if name.endswith("kernel")).detach().double().numpy()
    seen = windows(x, kernel.shape[2:], **spec)
    sums: Array = np.einsum("bhwyxc,fcyx->bhwf", np.nan_to_num(seen), kernel)
    return sums


GEOMETRY = [
    pytest.param((5, 7), window, strides, padding, id=f"{window}-{strides}-{padding}")
    for window in [(3, 3), (2, 2), (4, 3), (1, 1)]
    for strides in [(1, 1), (2, 2), (3, 1)]
    for padding in ["same", "valid"]
]


def in_api_layout(network: Network, x: Tensor) -> Array:
    """The features in front of the last flatten."""
    with torch.no_grad():
        features = network.layers[0](x.permute(0, 3, 1, 2))
    return features.permute(0, 2, 3, 1).double().numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("size", "window", "strides", "padding"), GEOMETRY)
def test_convolution_is_that_of_keras(
    size: tuple[int, int], window: tuple[int, int], strides: tuple[int, int], padding: str
) -> None:
    spec = {"type": "conv2d", "filters": 4, "kernel_size": window, "strides": strides, "padding": padding}
    network, x = network_of(spec, {"type": "flatten"}, shape=(*size, 3)), draw(2, *size, 3)
    y = in_api_layout(network, x)
    assert y.shape[1:] == network.plan.layers[0].output_shape
    assert_allclose(y, convolved(x.double().numpy(), network, strides=strides, padding=padding), **CLOSE)
    assert_allclose(network(x).detach(), y.reshape(2, -1), **CLOSE)


@pytest.mark.parametrize(("kind", "reduce"), [("max_pool", np.nanmax), ("average_pool", np.nanmean)])
@pytest.mark.parametrize(("size", "window", "strides", "padding"), GEOMETRY)
def test_pooling_is_that_of_keras(
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: str,
    kind: str,
    reduce: Callable[..., Array],
) -> None:
    spec = {"type": kind, "pool_size": window, "strides": strides, "padding": padding}
    network, x = network_of(spec, {"type": "flatten"}, shape=(*size, 3)), draw(2, *size, 3) - 5
    y = in_api_layout(network, x)
    assert y.shape[1:] == network.plan.layers[0].output_shape
    assert_allclose(y, reduce(windows(x.double().numpy(), window, strides, padding), axis=(3, 4)), **CLOSE)


def test_flatten_and_global_average_keep_the_api_order() -> None:
    x = draw(2, 3, 4, 5)
    assert torch.equal(network_of({"type": "flatten"}, shape=(3, 4, 5))(x), x.flatten(1))
    pooled = network_of({"type": "global_average_pool"}, shape=(3, 4, 5))(x)
    assert_allclose(pooled, x.mean(dim=(1, 2)), **CLOSE)


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_batch_norm_of_images_keeps_the_axis_of_the_api(axis: int) -> None:
    network = network_of({"type": "batch_norm", "axis": axis, "momentum": 0.0}, {"type": "flatten"}, shape=(3, 4, 5))
    x, norm = draw(6, 3, 4, 5) * 3 + 1, network.layers[0]
    assert isinstance(norm, BatchNorm)
    y = network(x).detach().reshape(x.shape)
    rows = x.movedim(axis, 0).flatten(1).double()
    unbiased = axis != 2
    assert_allclose(norm.moving_mean, rows.mean(dim=1), **CLOSE)
    assert_allclose(norm.moving_variance, rows.var(dim=1, correction=int(unbiased)), **CLOSE)
    assert not np.allclose(norm.moving_variance, rows.var(dim=1, correction=int(not unbiased)), rtol=1e-3)
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    expected = (x - rows.mean(1).view(shape)) / (rows.var(1, correction=0) + 1e-3).sqrt().view(shape)
    assert_allclose(y, expected, **CLOSE)


@pytest.mark.parametrize("axis", [1, 2])
def test_batch_norm_of_sequences_is_biased(axis: int) -> None:
    network = network_of({"type": "batch_norm", "axis": axis, "momentum": 0.0}, {"type": "flatten"}, shape=(4, 5))
    x, norm = draw(6, 4, 5), network.layers[0]
    assert isinstance(norm, BatchNorm)
    network(x)
    assert_allclose(norm.moving_variance, x.movedim(axis, 0).flatten(1).var(dim=1, correction=0), **CLOSE)


def test_dense_rows_take_the_biased_variance() -> None:
    network = network_of({"type": "batch_norm", "momentum": 0.0}, shape=(5,))
    x, norm = draw(6, 5), network.layers[0]
    assert isinstance(norm, BatchNorm)
    network(x)
    assert_allclose(norm.moving_variance, x.var(dim=0, correction=0), **CLOSE)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_graph_adds_and_concatenates_along_api_axes(axis: int) -> None:
    network = network_of(
        {"type": "activation", "name": "a.b", "function": "relu", "inputs": ["input"]},
        {"type": "activation", "name": "forward", "function": "tanh", "inputs": ["input"]},
        {"type": "add", "name": "sum", "inputs": ["a.b", "forward", "input"]},
        {"type": "concatenate", "inputs": ["sum", "a.b", "sum"], "axis": axis},
        {"type": "flatten"},
        shape=(2, 3, 4),
    )
    x = draw(2, 2, 3, 4)
    relu = x.relu()
    total = relu + x.tanh() + x
    assert_allclose(network(x), torch.cat((total, relu, total), dim=axis).flatten(1), **CLOSE)


def test_softmax_over_channels_of_an_image_sums_to_one_for_each_pixel() -> None:
    network = network_of({"type": "activation", "function": "softmax"}, {"type": "flatten"}, shape=(2, 3, 4))
    y = network(draw(2, 2, 3, 4)).reshape(2, 2, 3, 4)
    assert_allclose(y.sum(dim=-1), np.ones((2, 2, 3)), **CLOSE)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("tanh", np.tanh),
        ("linear", lambda x: x),
        ("elu", lambda x: np.where(x > 0, x, np.expm1(x))),
        ("selu", lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))),
        ("silu", lambda x: x / (1 + np.exp(-x))),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.2 * x)),
        ("softplus", lambda x: np.log1p(np.exp(x))),
    ],
)
def test_activations_have_the_constants_of_keras(function: str, expected: Callable[[Array], Array]) -> None:
    x = torch.linspace(-3, 3, 12).view(2, 6)
    network = network_of({"type": "activation", "function": function}, shape=(6,), task="number")
    assert_allclose(network(x), expected(x.double().numpy()), **CLOSE)


@pytest.mark.parametrize(
    ("task", "function", "outputs"), [("classes", "softmax", 3), ("binary", "sigmoid", 1), ("number", "linear", 1)]
)
def test_last_activation_is_left_to_the_scores(task: Task, function: str, outputs: int) -> None:
    dense = {"type": "dense", "units": outputs}
    plain = network_of(dense, shape=(4,), task=task)
    ended = network_of(dense, {"type": "activation", "function": function}, shape=(4,), task=task)
    x = draw(5, 4)
    assert torch.equal(plain(x), ended(x))
    assert torch.equal(plain.scores(x), ended.scores(x))


def test_scores_are_probabilities_of_each_class_or_numbers() -> None:
    classes = scores_of("classes", torch.tensor([[0.0, np.log(3.0)]]))
    assert_allclose(classes, [[0.25, 0.75]], **CLOSE)
    binary = scores_of("binary", torch.tensor([[np.log(3.0)], [-200.0]], dtype=torch.bfloat16))
    assert binary.dtype == torch.float32
    assert_allclose(binary, [[0.25, 0.75], [1.0, 0.0]], atol=2e-3)
    assert scores_of("number", torch.tensor([[3.5], [1.0]])).tolist() == [3.5, 1.0]


def test_kernels_are_glorot_uniform_and_biases_zero() -> None:
    network = network_of(
        {"type": "conv2d", "filters": 32, "kernel_size": 5}, {"type": "flatten"}, {"type": "dense", "units": 50},
        shape=(12, 12, 16),
    )  # fmt: skip
    parameters = dict(network.named_parameters())
    for key, limit in {"layers.0": np.sqrt(6 / (25 * 48)), "layers.2": np.sqrt(6 / (8 * 8 * 32 + 50))}.items():
        kernel = parameters[f"{key}.kernel"]
        assert kernel.abs().max().item() == pytest.approx(limit, rel=0.01)
        assert kernel.std().item() == pytest.approx(limit / np.sqrt(3), rel=0.02)
        assert torch.count_nonzero(parameters[f"{key}.bias"]) == 0


def test_same_seed_gives_the_same_network_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (network_of({"type": "dense", "units": 3}, shape=(4,), seed=seed) for seed in (1, 1, 2))
    x = draw(2, 4)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_more_layer_leaves_the_kernels_of_the_others_as_they_were() -> None:
    dense = {"type": "dense", "units": 3}
    without = network_of(dense, dense, shape=(4,))
    with_norm = network_of(dense, {"type": "batch_norm", "gamma_initializer": "glorot_uniform"}, dense, shape=(4,))
    kernels = [
        [value for key, value in network.named_parameters() if key.endswith("kernel")]
        for network in (without, with_norm)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*kernels, strict=True))


def test_dropout_follows_the_global_generator_in_training_and_rests_in_prediction() -> None:
    network, x = network_of({"type": "dropout", "rate": 0.5}, shape=(100,)), torch.ones(4, 100)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = network(x)
    torch.set_rng_state(state)
    assert torch.equal(network(x), first)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(network.eval()(x), x)


@pytest.mark.parametrize("preset", [MlpPreset(hidden=(8, 8), dropout=0.1), CnnPreset(filters=(4, 8), hidden=(8,))])
@pytest.mark.parametrize("shape", [(12, 12), (12, 12, 3)])
def test_presets_learn_from_raw_pixels(preset: MlpPreset | CnnPreset, shape: tuple[int, ...]) -> None:
    fitted = FittedImage(shape=shape, scale=255.0)
    plan = plan_network(preset, input_shape=fitted.input_shape, outputs=2)
    network = build_network(plan, fitted, task="classes")
    assert sum(p.numel() for p in network.parameters()) == plan.parameters
    y = torch.arange(32) % 2
    raw = (y.view(-1, *(1,) * len(shape)) * 100 + torch.randint(0, 100, (32, *shape))).to(torch.uint8)
    loss_of, optimizer = loss_for("sparse_categorical_crossentropy"), torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = loss_of(network(raw), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_copied_network_shares_nothing() -> None:
    network = network_of({"type": "dense", "units": 3}, {"type": "batch_norm"}, shape=(4,))
    other = copy.deepcopy(network)
    network(draw(8, 4))
    norm = other.layers[1]
    assert isinstance(norm, BatchNorm)
    assert norm.updates == 0
    assert torch.count_nonzero(norm.moving_mean) == 0


@pytest.mark.parametrize(
    ("name", "logits", "y", "expected"),
    [
        ("sparse_categorical_crossentropy", [[0.0, np.log(3.0)]], [1], -np.log(0.75)),
        ("binary_crossentropy", [[np.log(3.0)], [np.log(3.0)]], [1, 0], -(np.log(0.75) + np.log(0.25)) / 2),
        ("mean_squared_error", [[1.0], [4.0]], [2.0, 2.0], 2.5),
        ("mean_absolute_error", [[1.0], [4.0]], [2.0, 2.0], 1.5),
        ("huber", [[1.5], [4.0]], [2.0, 2.0], (0.125 + 1.5) / 2),
    ],
)
def test_losses_are_means_over_rows(name: Any, logits: list[list[float]], y: list[float], expected: float) -> None:
    assert loss_for(name)(torch.tensor(logits), torch.tensor(y)).item() == pytest.approx(expected, rel=1e-5)
