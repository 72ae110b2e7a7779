"""The layer against numbers computed in float64 from the formulas: x is six rows of two features with mean [4, 5],
biased variance [20/3, 35/3] and unbiased variance [8, 14]."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.schemas import networks as specs
from gammabeta.schemas.initializers import Initializer

X = torch.tensor([[1.0, 10], [2, 8], [3, 6], [4, 4], [5, 2], [9, 0]])
CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 3e-6}


def layer(channels: int = 2, *, dim: int = 1, fused: bool = False, **arguments: Any) -> BatchNorm:
    return BatchNorm(specs.BatchNorm(**arguments), channels, dim=dim, fused_effective=fused)


def with_parameters(norm: BatchNorm) -> BatchNorm:
    assert norm.gamma is not None
    assert norm.beta is not None
    with torch.no_grad():
        norm.gamma.copy_(torch.tensor([1.5, 0.5]))
        norm.beta.copy_(torch.tensor([0.1, -0.2]))
    return norm


def moving(norm: BatchNorm) -> tuple[list[float], list[float]]:
    return norm.moving_mean.tolist(), norm.moving_variance.tolist()


def images(*shape: int) -> Tensor:
    """`arange ** 1.5` of a channels-last shape, as torch has it: [B, C, H, W]."""
    values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape) ** 1.5
    return torch.tensor(values, dtype=torch.float32).permute(0, 3, 1, 2)


def test_training_normalizes_with_the_batch() -> None:
    y = with_parameters(layer())(X).detach()
    assert_allclose(y[0], [-1.6427118073, 0.5318936885], **CLOSE)
    assert_allclose(y[5], [3.0045196788, -0.9318936885], **CLOSE)


@pytest.mark.parametrize(
    ("fused", "expected", "wrong"),
    [
        (False, [1.0566666667, 1.1066666667], [1.07, 1.13]),
        (True, [1.07, 1.13], [1.0566666667, 1.1066666667]),
    ],
)
def test_moving_variance_takes_the_estimator_of_its_kind(
    fused: bool, expected: list[float], wrong: list[float]
) -> None:
    norm = layer(fused=fused)
    norm(X)
    mean, variance = moving(norm)
    assert_allclose(mean, [0.04, 0.05], **CLOSE)
    assert_allclose(variance, expected, **CLOSE)
    assert not np.allclose(variance, wrong, **CLOSE)


def test_prediction_normalizes_with_the_moving_statistics() -> None:
    norm = with_parameters(layer())
    norm(X)
    assert_allclose(norm.eval()(X[:1]).detach()[0], [1.5001935844, 4.5270319946], **CLOSE)


def test_hundred_equal_batches_follow_the_closed_form() -> None:
    norm = layer()
    for _ in range(100):
        norm(X)
    mean, variance = moving(norm)
    assert_allclose(mean, [2.5358706349, 3.1698382936], **CLOSE)
    assert_allclose(variance, [4.5924833994, 7.7623216931], **CLOSE)
    assert norm.updates == 100


@pytest.mark.parametrize("fused", [False, True])
def test_backward_is_the_derivative_with_moving_statistics_updated_in_between(fused: bool) -> None:
    norm, x = with_parameters(layer(fused=fused)), X.clone().requires_grad_()
    y = norm(x)
    y.backward(torch.eye(6)[:, :1].expand(6, 2))
    assert x.grad is not None
    assert norm.gamma is not None
    assert norm.beta is not None
    assert norm.gamma.grad is not None
    assert norm.beta.grad is not None
    expected = [0.3534028302, -0.1839398446, -0.1403785836, -0.0968173226, -0.0532560616, 0.1209889823]
    assert_allclose(x.grad[:, 0], expected, **CLOSE)
    assert_allclose(norm.gamma.grad, [-1.1618078715, 1.4637873774], **CLOSE)
    assert_allclose(norm.beta.grad, [1, 1], **CLOSE)
    assert_allclose(x.grad.sum(dim=0), [0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("dim", "channels", "first_mean"),
    [(1, 2, 42.2272816802), (2, 2, 30.1014212201)],
    ids=["axis -1", "axis 1"],
)
@pytest.mark.parametrize("fused", [False, True])
def test_each_axis_keeps_its_own_statistics(dim: int, channels: int, first_mean: float, fused: bool) -> None:
    x = images(2, 2, 3, 2)
    norm = layer(channels, dim=dim, momentum=0.0, fused=fused)
    y = norm(x)
    kept = x.movedim(dim, 0).flatten(1).double()
    assert norm.moving_mean[0].item() == pytest.approx(first_mean, rel=2e-5)
    assert_allclose(norm.moving_mean, kept.mean(dim=1), rtol=2e-5)
    assert_allclose(norm.moving_variance, kept.var(dim=1, correction=int(fused)), rtol=2e-5)
    assert not np.allclose(norm.moving_variance, kept.var(dim=1, correction=1 - int(fused)), rtol=1e-2)
    assert y.shape == x.shape
    assert_allclose(y.detach().movedim(dim, 0).flatten(1).mean(dim=1), np.zeros(channels), atol=1e-6)


def test_width_of_images_can_be_normalized() -> None:
    x = images(2, 2, 3, 2)
    norm = layer(3, dim=3, momentum=0.0)
    norm(x)
    kept = x.movedim(3, 0).flatten(1).double()
    assert_allclose(norm.moving_variance, kept.var(dim=1, correction=0), rtol=2e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_of_images_changes_nothing(channels_last: bool) -> None:
    x = images(4, 5, 6, 3)
    norm = layer(3, fused=True)
    y = norm(x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format))
    assert_allclose(y.detach(), layer(3, fused=True)(x.contiguous()).detach(), **CLOSE)


def test_frozen_layer_predicts_whatever_its_network_is_told() -> None:
    norm = layer(
        trainable=False,
        moving_mean_initializer=Initializer(name="constant", value=2.0),
        moving_variance_initializer=Initializer(name="constant", value=9.0),
    )
    network = nn.Sequential(norm).train()
    before = copy.deepcopy(moving(norm))
    y = network(X)
    assert_allclose(y, (X - 2) / np.sqrt(9 + 1e-3), **CLOSE)
    assert moving(norm) == before
    assert norm.updates == 0
    assert norm.training is False
    assert not any(parameter.requires_grad for parameter in norm.parameters())


def test_requires_grad_alone_does_not_freeze() -> None:
    norm = layer().requires_grad_(False)
    norm(X)
    assert moving(norm) != ([0.0, 0.0], [1.0, 1.0])


def test_momentum_zero_keeps_the_last_batch_and_one_the_first_values() -> None:
    last = layer(momentum=0.0)
    first = layer(momentum=1.0, moving_variance_initializer=Initializer(name="constant", value=0.7))
    kept = copy.deepcopy(moving(first))
    for _ in range(10):
        last(X)
        first(X)
    assert_allclose(moving(last), ([4, 5], [20 / 3, 35 / 3]), **CLOSE)
    assert moving(first) == kept


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 1, 1)])
def test_batch_of_one_value_gives_beta_and_no_nan(shape: tuple[int, ...], fused: bool) -> None:
    norm = with_parameters(layer(fused=fused))
    x = torch.tensor([3.0, 5.0]).reshape(shape).requires_grad_()
    y = norm(x)
    y.sum().backward()
    assert_allclose(y.detach().flatten(), [0.1, -0.2], **CLOSE)
    assert_allclose(moving(norm), ([0.03, 0.05], [0.99, 0.99]), **CLOSE)
    assert x.grad is not None
    assert torch.count_nonzero(x.grad) == 0
    assert norm.gamma is not None
    assert norm.gamma.grad is not None
    assert torch.count_nonzero(norm.gamma.grad) == 0
    assert norm.updates == 1


def test_empty_batch_moves_nothing() -> None:
    norm = layer()
    assert norm(torch.empty(0, 2)).shape == (0, 2)
    assert moving(norm) == ([0.0, 0.0], [1.0, 1.0])
    assert norm.updates == 0


def test_large_mean_does_not_cancel_the_variance() -> None:
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0)) + 1e4
    norm = layer(momentum=0.0)
    norm(x)
    assert_allclose(norm.moving_variance, x.double().var(dim=0, correction=0), rtol=1e-3)


def test_prediction_writes_nothing() -> None:
    norm = layer()
    norm(X)
    norm.eval()
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    versions = norm.moving_mean._version, norm.moving_variance._version
    with torch.no_grad():
        for _ in range(50):
            norm(torch.randn(8, 2) * 100)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert (norm.moving_mean._version, norm.moving_variance._version) == versions


def test_row_alone_predicts_as_in_a_batch_of_200() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 64, generator=generator) * 3 + 1
    network = nn.Sequential(nn.Linear(64, 64), layer(64), nn.ReLU(), nn.Linear(64, 10))
    network(x)
    network.eval()
    with torch.no_grad():
        together = network(x)
        alone = torch.cat([network(row[None]) for row in x])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [False, True])
def test_half_input_keeps_float32_state(dtype: torch.dtype, fused: bool) -> None:
    norm = layer(fused=fused).to(dtype)
    x = torch.tensor([[1000.0, -3000.0], [3000.0, 1000.0], [2000.0, 0.0]], dtype=dtype)
    y = norm(x)
    assert y.dtype == dtype
    assert all(value.dtype == torch.float32 for value in (*norm.parameters(), *norm.buffers()))
    variance = x.double().var(dim=0, correction=int(fused))
    assert_allclose(norm.moving_variance, 0.99 + 0.01 * variance, rtol=1e-4)
    one = norm(x[:1])
    assert one.dtype == dtype
    assert norm.eval()(x).dtype == dtype


def test_autocast_keeps_float32_state() -> None:
    norm = layer()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(nn.Linear(2, 2)(X))
    assert y.dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in (*norm.parameters(), *norm.buffers()))


@pytest.mark.parametrize(
    ("center", "scale", "names"), [(True, False, {"beta"}), (False, True, {"gamma"}), (False, False, set())]
)
def test_center_and_scale_are_independent(center: bool, scale: bool, names: set[str]) -> None:
    norm = layer(center=center, scale=scale)
    assert {name for name, _ in norm.named_parameters()} == names
    assert_allclose(norm(X).detach().mean(dim=0), [0, 0], atol=1e-6)
    assert_allclose(norm(X[:1]).detach(), [[0, 0]], atol=0)


def test_state_dict_has_the_number_of_updates() -> None:
    norm, other = layer(), layer()
    norm(X)
    other.load_state_dict(norm.state_dict())
    assert other.updates == 1
    assert moving(other) == moving(norm)


def test_bias_before_a_centred_layer_has_no_gradient() -> None:
    dense = nn.Linear(2, 2)
    loss = (with_parameters(layer())(dense(X)) ** 3).sum()
    loss.backward()
    assert dense.bias.grad is not None
    assert dense.weight.grad is not None
    assert dense.bias.grad.abs().max() < 1e-3 * dense.weight.grad.abs().max().clamp(min=1.0)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("ones", [1, 1]), ({"class_name": "Constant", "config": {"value": 0.5}}, [0.5, 0.5]), ("zero", [0, 0])],
)
def test_initializers_give_their_values(spec: Any, expected: list[float]) -> None:
    norm = layer(gamma_initializer=spec)
    assert norm.gamma is not None
    assert norm.gamma.tolist() == expected


@pytest.mark.parametrize(
    ("name", "std", "bound"),
    [
        ("glorot_uniform", 0.01, np.sqrt(3e-4)),
        ("glorot_normal", 0.01, 2 * 0.01 / 0.8796),
        ("he_uniform", np.sqrt(2e-4), np.sqrt(6e-4)),
        ("lecun_normal", 0.01, 2 * 0.01 / 0.8796),
        ("truncated_normal", 0.05 * 0.8796, 0.1),
        ("random_normal", 0.05, 0.5),
        ("random_uniform", 0.05 / np.sqrt(3), 0.05),
    ],
)
def test_drawn_initializers_have_the_spread_of_keras(name: str, std: float, bound: float) -> None:
    norm = layer(10_000, beta_initializer=name)
    assert norm.beta is not None
    assert norm.beta.std().item() == pytest.approx(std, rel=0.03)
    assert norm.beta.abs().max().item() <= bound * (1 + 1e-6)
    again = layer(10_000, beta_initializer=name)
    assert torch.equal(norm.beta, again.beta)  # type: ignore[arg-type]
