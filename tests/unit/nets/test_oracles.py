"""The layer against numbers that were computed elsewhere, by hand or with Keras; of a pair that is easily confused, the
right one holds and the wrong one does not."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Network
from gammabeta.nets.penalties import penalty_of
from gammabeta.nets.projections import projections_of
from gammabeta.schemas import normalization
from tests.unit.nets.oracles import Reference, normalized, pool
from tests.unit.nets.plans import network_of

X = np.array([[1, 10], [2, 8], [3, 6], [4, 4], [5, 2], [9, 0]], float)
GAMMA, BETA = np.array([1.5, 0.5]), np.array([0.1, -0.2])
AFFINE: dict[str, Any] = {"gamma": GAMMA, "beta": BETA}
MEAN, VARIANCE = X.mean(0), X.var(0)
BIASED, UNBIASED = [1.0566666667, 1.1066666667], [1.07, 1.13]
"""The moving variance after one step."""
SLOW: dict[str, Any] = {"renorm": True, "momentum": 0.9, "renorm_momentum": 0.8}
X4 = np.arange(24, dtype=float).reshape(2, 2, 3, 2) ** 1.5

TOLERANCES = {torch.float64: {"rtol": 0, "atol": 1e-9}, torch.float32: {"rtol": 2e-5, "atol": 3e-6}}
Given = np.ndarray | Tensor | list[float] | float


def layer_of(
    dtype: torch.dtype = torch.float64,
    *,
    shape: tuple[int, ...] = (2,),
    gamma: Given | None = None,
    beta: Given | None = None,
    **arguments: Any,
) -> BatchNorm:
    """The layer of these arguments, in training mode; gamma and beta are given in full precision."""
    layer = BatchNorm(normalization.BatchNorm(**arguments), shape).to(dtype)
    for parameter, value in ((layer.gamma, gamma), (layer.beta, beta)):
        if value is not None and parameter is not None:
            parameter.data = torch.as_tensor(value, dtype=dtype)
    return layer


def rows(x: Given, layer: BatchNorm) -> Tensor:
    """API layout -> torch's, in the precision of the layer."""
    tensor = torch.as_tensor(x, dtype=layer.moving_mean.dtype)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def output(layer: BatchNorm, x: Given) -> Tensor:
    """In API layout."""
    y: Tensor = layer(rows(x, layer))
    return y.permute(0, 2, 3, 1) if y.ndim == 4 else y


def reference(**arguments: Any) -> Reference:
    return Reference(**{"moving_mean": np.zeros(2), "moving_variance": np.ones(2), **arguments})


def agree(found: Given, expected: Given, dtype: torch.dtype = torch.float64) -> bool:
    values = [each.detach().numpy() if isinstance(each, Tensor) else np.asarray(each) for each in (found, expected)]
    return bool(np.allclose(*values, **TOLERANCES[dtype]))


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


# O1 to O4: training, moving statistics, prediction


def test_training_normalizes_with_the_batch(dtype: torch.dtype) -> None:
    y = output(layer_of(dtype, **AFFINE), X)
    assert agree(y[0], [-1.6427118073, 0.5318936885], dtype)
    assert agree(y[5], [3.0045196788, -0.9318936885], dtype)


def test_moving_variance_of_rows_is_biased(dtype: torch.dtype) -> None:
    layer = layer_of(dtype)
    output(layer, X)
    assert agree(layer.moving_mean, [0.04, 0.05], dtype)
    assert agree(layer.moving_variance, BIASED, dtype)
    assert not agree(layer.moving_variance, UNBIASED, dtype)


def test_moving_variance_of_images_is_unbiased(dtype: torch.dtype) -> None:
    layer = layer_of(dtype, shape=(1, 1, 2))
    output(layer, X.reshape(6, 1, 1, 2))
    assert agree(layer.moving_mean, [0.04, 0.05], dtype)
    assert agree(layer.moving_variance, UNBIASED, dtype)
    assert not agree(layer.moving_variance, BIASED, dtype)


def test_prediction_uses_the_moving_statistics(dtype: torch.dtype) -> None:
    layer = layer_of(dtype, **AFFINE)
    output(layer, X)
    layer.eval()
    assert agree(output(layer, X)[0], [1.5001935844, 4.5270319946], dtype)


def test_equal_batches_draw_the_statistics_to_their_own(dtype: torch.dtype) -> None:
    layer = layer_of(dtype)
    for _ in range(100):
        output(layer, X)
    assert agree(layer.moving_mean, [2.5358706349, 3.1698382936], dtype)
    assert agree(layer.moving_variance, [4.5924833994, 7.7623216931], dtype)


# O5: ghost batches

STRIDED, CONTIGUOUS = [-0.9997778518, 0.9999444491], [-0.9980059801, 0.9995003747]


def test_ghost_batches_are_strided(dtype: torch.dtype) -> None:
    layer = layer_of(dtype, virtual_batch_size=2)
    y = output(layer, X)
    assert agree(y[0], STRIDED, dtype)
    assert agree(layer.moving_mean, [0.04, 0.05], dtype)
    assert agree(layer.moving_variance, [1.035, 1.08], dtype)
    assert not agree(y[0], CONTIGUOUS, dtype)
    assert not agree(layer.moving_variance, [1.005, 1.0], dtype)


def test_rows_in_the_order_of_their_ghosts_give_the_contiguous_numbers(dtype: torch.dtype) -> None:
    """The numbers above that must not come are those of contiguous ghosts, and not just any others."""
    layer = layer_of(dtype, virtual_batch_size=2)
    y = output(layer, X[[0, 2, 4, 1, 3, 5]])
    assert agree(y[0], CONTIGUOUS, dtype)
    assert agree(layer.moving_variance, [1.005, 1.0], dtype)


def test_ghost_batches_of_three(dtype: torch.dtype) -> None:
    layer = layer_of(dtype, virtual_batch_size=3)
    assert agree(output(layer, X)[0], [-1.2245152963, 1.2246874655], dtype)
    assert agree(layer.moving_variance, [1.0466666667, 1.0966666667], dtype)


def test_virtual_batch_size_must_divide_training_batches_only() -> None:
    layer, plain = layer_of(virtual_batch_size=2), layer_of()
    with pytest.raises(ValueError, match=r"virtual_batch_size 2 must divide .* Received: 5"):
        output(layer, X[:5])
    assert torch.equal(output(layer.eval(), X[:5]), output(plain.eval(), X[:5]))


# O6: renorm


def test_renorm_without_clipping_normalizes_nothing_at_first(dtype: torch.dtype) -> None:
    layer = layer_of(dtype, renorm=True)
    y = output(layer, X)
    ordinary = normalized(X, MEAN, VARIANCE, 1e-3)
    assert agree(y, X, dtype)
    assert not agree(y, ordinary, dtype)
    assert agree(output(layer_of(dtype), X), ordinary, dtype)
    for key in ("renorm_stddev", "moving_stddev"):
        assert agree(layer.training_buffers()[key], [1.0158218254, 1.0241579664], dtype)
    assert agree(layer.moving_variance, [1.0308939809, 1.0478995401], dtype)
    assert not agree(layer.moving_variance, BIASED, dtype)


def test_renorm_with_clipping(dtype: torch.dtype) -> None:
    clipping = {"rmax": 1.5, "rmin": 0.5, "dmax": 0.3}
    layer = layer_of(dtype, **AFFINE, **SLOW, renorm_clipping=clipping)
    for _ in range(2):
        assert agree(output(layer, X)[0], [-2.0640677110, 1.0478405328], dtype)
    assert agree(layer.training_buffers()["renorm_mean"], [1.44, 1.8], dtype)
    assert agree(layer.training_buffers()["renorm_stddev"], [1.5695857142, 1.8696867894], dtype)
    assert agree(layer.moving_mean, [0.76, 0.95], dtype)
    assert agree(layer.moving_variance, [1.6905985523, 2.1276849716], dtype)


def test_renorm_starts_at_the_initial_statistics(dtype: torch.dtype) -> None:
    start = {"moving_mean_initializer": [4.0, 4.0], "moving_variance_initializer": [9.0, 9.0]}
    layer = layer_of(dtype, scale=False, center=False, **SLOW, **start)
    assert agree(output(layer, X)[0], [-1, 2], dtype)
    assert agree(layer.training_buffers()["renorm_mean"], [4, 4.2], dtype)
    assert agree(layer.training_buffers()["renorm_stddev"], [2.9164365079, 3.0831593274], dtype)
    assert agree(layer.moving_variance, [8.7500552379, 9.2502068508], dtype)


def test_gradient_takes_r_and_d_for_constants() -> None:
    layer, other = layer_of(**AFFINE, renorm=True), reference(**AFFINE, renorm=True)
    dy = np.random.default_rng(6).normal(size=X.shape)
    x = torch.from_numpy(X).requires_grad_()
    layer(x).backward(torch.from_numpy(dy))
    other.train(X)
    dx, dgamma, dbeta = other.backward(dy)
    assert x.grad is not None
    assert layer.gamma is not None
    assert layer.beta is not None
    assert agree(x.grad, dx)
    assert agree(layer.gamma.grad, dgamma)
    assert agree(layer.beta.grad, dbeta)
    assert not agree(x.grad, dy * GAMMA), "that is the gradient of (x - R) / S, with r and d as functions of x"


def test_renorm_predicts_as_any_layer_with_its_statistics() -> None:
    layer, plain = layer_of(**AFFINE, **SLOW), layer_of(**AFFINE)
    output(layer, X)
    plain.moving_mean.copy_(layer.moving_mean)
    plain.moving_variance.copy_(layer.moving_variance)
    assert torch.equal(output(layer.eval(), X), output(plain.eval(), X))


# O7: adjustment


def test_adjustment_comes_before_gamma_and_beta(dtype: torch.dtype) -> None:
    adjustment = {"kind": "constant", "scale": [1.05, 0.95], "bias": [0.05, -0.1]}
    layer = layer_of(dtype, **AFFINE, adjustment=adjustment)
    y = output(layer, X)
    assert agree(y[0], [-1.6548473977, 0.4452990041], dtype)
    assert agree(y[5], [3.2247456628, -0.9452990041], dtype)
    after = (normalized(X, MEAN, VARIANCE, 1e-3) * GAMMA + BETA) * [1.05, 0.95] + [0.05, -0.1]
    assert not agree(y, after, dtype)
    assert agree(layer.moving_mean, [0.04, 0.05], dtype)
    assert agree(layer.moving_variance, BIASED, dtype)
    assert agree(output(layer.eval(), X)[0], [1.5001935844, 4.5270319946], dtype)


# O8, O9: gradient, pooled moments


def test_gradient_of_the_first_row(dtype: torch.dtype) -> None:
    layer = layer_of(dtype, **AFFINE)
    x = torch.tensor(X, dtype=dtype, requires_grad=True)
    layer(x)[0].sum().backward()
    expected = [0.3534028302, -0.1839398446, -0.1403785836, -0.0968173226, -0.0532560616, 0.1209889823]
    assert x.grad is not None
    assert layer.gamma is not None
    assert layer.beta is not None
    assert agree(x.grad[:, 0], expected, dtype)
    assert agree(layer.gamma.grad, [-1.1618078715, 1.4637873774], dtype)
    assert agree(layer.beta.grad, [1, 1], dtype)
    assert agree(x.grad.sum(0), [0, 0], dtype)


def test_pooled_statistics_of_uneven_batches_are_those_of_all_rows() -> None:
    parts = []
    for part in (X[:4], X[4:]):
        layer = layer_of(momentum=0.0)
        output(layer, part)
        parts.append((len(part), layer.moving_mean.numpy(), layer.moving_variance.numpy()))
    n, mean, variance = pool(parts)
    assert n == 6
    assert agree(mean, [4, 5])
    assert agree(variance, [20 / 3, 35 / 3])
    naive_mean, naive_variance = (np.mean(each, 0) for each in list(zip(*parts, strict=True))[1:])
    assert agree(naive_mean, [4.75, 4])
    assert not agree(naive_mean, mean)
    assert agree(naive_variance, [2.625, 3])
    assert not agree(naive_variance, variance)


# O13, O14: constraints and regularizers


def _config(name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": name, "config": config}


def _alone(gamma: list[float], **arguments: Any) -> Network:
    network = network_of({"type": "batch_norm", **arguments}, shape=(2,))
    network.layers[0].gamma.data = torch.tensor(gamma)
    return network


@pytest.mark.parametrize(
    ("constraint", "virtual_batch_size", "expected"),
    [
        ("max_norm", None, [1.2, -1.6]),
        ("max_norm", 2, [2.0, -2.0]),
        ("unit_norm", None, [0.6, -0.8]),
        ("min_max_norm", None, [0.6, -0.8]),
        (_config("MinMaxNorm", min_value=0.5, max_value=2.0, rate=0.5), None, [2.1, -2.8]),
        ("non_neg", None, [3.0, 0.0]),
    ],
)
def test_constraint_projects_gamma(constraint: Any, virtual_batch_size: int | None, expected: list[float]) -> None:
    network = _alone([3.0, -4.0], gamma_constraint=constraint, virtual_batch_size=virtual_batch_size)
    for projection in projections_of(network):
        projection.apply()
    torch.testing.assert_close(network.layers[0].gamma.data, torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("regularizer", "expected"), [("l1", 0.03), ("l2", 0.05), (_config("L1L2", l1=0.01, l2=0.01), 0.08)]
)
def test_regularizer_of_gamma(regularizer: Any, expected: float) -> None:
    penalty = penalty_of(_alone([1.0, -2.0], gamma_regularizer=regularizer))
    assert penalty is not None
    assert penalty().item() == pytest.approx(expected, rel=1e-6)


# O15, O16: axes


@pytest.mark.parametrize(
    ("axis", "shape", "mean", "variance"),
    [
        (-1, (2,), 42.2272816802, None),
        (1, (2,), 30.1014212201, None),
        ([1, 2], (1, 2, 3, 1), 22.3603464907, 481.5149048172),
        ([1, 3], (1, 2, 1, 2), 28.1301416535, None),
    ],
)
def test_axes_keep_statistics_of_their_own(
    axis: int | list[int], shape: tuple[int, ...], mean: float, variance: float | None
) -> None:
    layer = layer_of(shape=(2, 3, 2), axis=axis, momentum=0.0)
    output(layer, X4)
    assert layer.parameter_shape == shape
    assert layer.channels == np.prod(shape)
    assert agree(layer.moving_mean[0], mean)
    assert variance is None or agree(layer.moving_variance[0], variance)


def test_fused_decides_on_the_variance_of_images() -> None:
    n = 2 * 2 * 3
    biased = X4.var((0, 1, 2))
    for fused, right, wrong in ((None, n / (n - 1), 1), (True, n / (n - 1), 1), (False, 1, n / (n - 1))):
        layer = layer_of(shape=(2, 3, 2), fused=fused, momentum=0.0)
        output(layer, X4)
        assert agree(layer.moving_variance, biased * right)
        assert not agree(layer.moving_variance, biased * wrong)


# O17 to O19: frozen layers, momentum, invariance


def test_frozen_layer_predicts_in_training_too() -> None:
    start = {"moving_mean_initializer": [1.0, 2.0], "moving_variance_initializer": [4.0, 9.0]}
    layer = layer_of(**AFFINE, **start, trainable=False)
    before = {key: value.clone() for key, value in layer.named_buffers()}
    layer.train()
    y = output(layer, X)
    assert layer.training is False
    assert agree(y, normalized(X, np.array([1, 2]), np.array([4, 9]), 1e-3) * GAMMA + BETA)
    assert not agree(y, normalized(X, MEAN, VARIANCE, 1e-3) * GAMMA + BETA)
    assert all(torch.equal(value, before[key]) for key, value in layer.named_buffers())


def test_momentum_0_keeps_the_last_batch_and_1_the_start() -> None:
    forgetful, faithful = layer_of(momentum=0.0), layer_of(momentum=1.0)
    for batch in (X * 2, X):
        output(forgetful, batch)
        output(faithful, batch)
    assert agree(forgetful.moving_mean, MEAN)
    assert agree(forgetful.moving_variance, VARIANCE)
    assert torch.equal(faithful.moving_mean, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(faithful.moving_variance, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(("epsilon", "bound"), [(1e-3, 1e-3), (1e-30, 1e-9)])
def test_scale_of_a_kernel_before_batch_norm_changes_nothing(epsilon: float, bound: float) -> None:
    """Up to epsilon; so the gradient of a kernel's row is orthogonal to it, and that of the bias is zero."""
    layers = ({"type": "dense", "units": 5}, {"type": "batch_norm", "epsilon": epsilon}, {"type": "dense", "units": 3})
    network = network_of(*layers, shape=(4,), seed=1).double()
    dense = network.layers[0]
    draws = torch.Generator().manual_seed(19)
    x, y = torch.randn(32, 4, generator=draws, dtype=torch.float64), torch.arange(32) % 3
    before = network.logits(x)
    torch.nn.functional.cross_entropy(before, y).backward()
    assert (dense.kernel * dense.kernel.grad).sum(1).abs().max() < bound
    assert dense.kernel.grad.abs().max() > 0.01
    assert dense.bias.grad.abs().max() < 1e-12
    dense.kernel.data *= 7.0
    assert (network.logits(x) - before).abs().max() < 10 * bound


# O20, O21: prediction


@pytest.fixture
def trained() -> Network:
    """Batch norms of every kind, with statistics of a few batches."""
    network = network_of(
        {"type": "conv2d", "filters": 8, "kernel_size": 3},
        {"type": "batch_norm", "momentum": 0.5},
        {"type": "activation", "function": "relu"},
        {"type": "batch_norm", "axis": [1, 3], "momentum": 0.5},
        {"type": "max_pool"},
        {"type": "batch_norm", "renorm": True, "momentum": 0.5},
        {"type": "flatten"},
        {"type": "dense", "units": 16},
        {"type": "batch_norm", "virtual_batch_size": 5, "momentum": 0.5},
        {"type": "batch_norm", "adjustment": {"kind": "uniform", "scale": [0.9, 1.1]}, "momentum": 0.5},
        {"type": "activation", "function": "relu"},
        {"type": "dense", "units": 10},
        shape=(8, 8, 2),
        seed=20,
    )
    for _ in range(5):
        network(_images(20))
    return network.eval()


def _images(count: int) -> Tensor:
    return torch.randn(count, 8, 8, 2, generator=torch.Generator().manual_seed(count))


def test_prediction_of_a_row_does_not_hang_on_its_batch(trained: Network) -> None:
    x = _images(200)
    with torch.inference_mode():
        together = trained(x)
        alone = torch.cat([trained(row) for row in x.split(1)])
    assert (together - alone).abs().max() < 1e-5
    trained.train()
    in_training = trained(x)
    assert (together - in_training).abs().max() > 0.1, "with the batch's statistics it would"


def test_predictions_write_nothing(trained: Network) -> None:
    before = _digest(trained)
    with torch.inference_mode():
        for row in _images(1_000).split(1):
            trained(row)
    assert _digest(trained) == before
    trained.train()
    trained(_images(20))
    assert _digest(trained) != before


def _digest(network: Network) -> str:
    found = hashlib.sha256()
    for key, value in network.state_dict().items():
        found.update(key.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()
