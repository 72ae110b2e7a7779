"""What the layer does beside the numbers of its formulas, which are in the two files beside this one."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.columns import LARGE
from gammabeta.nets.corrections import MOST_NUMBERS, TOGETHER, Draws
from gammabeta.schemas.adjustments import UniformAdjustment
from gammabeta.schemas.normalization import BatchNorm as Spec

X = torch.tensor([[1.0, 10], [2, 8], [3, 6], [4, 4], [5, 2], [9, 0]])
CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 3e-6}
CLIPPING = {"rmax": 3, "rmin": "1/rmax", "dmax": 5}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ghost": {"virtual_batch_size": 2},
    "renorm": {"renorm": True, "renorm_clipping": CLIPPING},
    "renorm and ghost": {"renorm": True, "renorm_clipping": CLIPPING, "virtual_batch_size": 2},
    "adjustment": {"adjustment": {"kind": "uniform", "scale": [0.9, 1.1], "bias": [-0.1, 0.1]}},
    "no gamma": {"scale": False},
    "no beta": {"center": False},
    "neither": {"center": False, "scale": False},
}
FORMATS = (torch.contiguous_format, torch.channels_last)
every_kind = pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)


def layer(*shape: int, seed: int = 0, **arguments: Any) -> BatchNorm:
    """For rows of a shape in API layout; [2] by default."""
    return BatchNorm(Spec(**arguments), shape or (2,), seed=seed)


def moving(norm: BatchNorm) -> tuple[list[float], list[float]]:
    return norm.moving_mean.tolist(), norm.moving_variance.tolist()


def averages(norm: BatchNorm) -> Tensor:
    return norm.averages.detach().clone()


def images(*shape: int) -> Tensor:
    """`arange ** 1.5` of a channels-last shape, as torch has it: [B, C, H, W]."""
    values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape) ** 1.5
    return torch.tensor(values, dtype=torch.float32).permute(0, 3, 1, 2)


@every_kind
def test_memory_format_of_images_changes_nothing(arguments: dict[str, Any]) -> None:
    x, one, other = images(4, 5, 6, 3), layer(5, 6, 3, **arguments), layer(5, 6, 3, **arguments)
    assert_allclose(one(x).detach(), other(x.contiguous()).detach(), **CLOSE)
    assert_allclose(one.averages, other.averages, rtol=2e-5)


@pytest.mark.parametrize("renorm", [False, True])
def test_large_ghosts_one_by_one_are_what_they_are_together(renorm: bool) -> None:
    arguments = KINDS["renorm and ghost" if renorm else "ghost"]
    x = torch.randn(8, 8, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 + 1
    assert x.numel() // 4 >= LARGE
    one, other = layer(32, 64, 8, **arguments), layer(32, 64, 8, **arguments)
    rows, columns = (x.clone(memory_format=each).requires_grad_() for each in FORMATS)
    for norm, given in ((one, rows), (other, columns)):
        (norm(given) ** 3).sum().backward()
    assert rows.grad is not None
    assert columns.grad is not None
    assert_allclose(rows.grad, columns.grad, rtol=1e-3, atol=1e-4)
    assert_allclose(one.averages, other.averages, rtol=2e-5, atol=1e-6)
    for name, parameter in one.named_parameters():
        expected = other.get_parameter(name).grad
        assert parameter.grad is not None
        assert expected is not None
        assert_allclose(parameter.grad, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("arguments", [KINDS["plain"], KINDS["ghost"]], ids=["plain", "ghost"])
def test_images_in_channels_last_stay_so(arguments: dict[str, Any]) -> None:
    y = layer(5, 6, 3, **arguments)(images(4, 5, 6, 3))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_frozen_layer_predicts_whatever_its_network_is_told() -> None:
    norm = layer(trainable=False, moving_mean_initializer=[2, 2], moving_variance_initializer=[9, 9])
    network = nn.Sequential(norm).train()
    before = copy.deepcopy(moving(norm))
    assert_allclose(network(X), (X - 2) / np.sqrt(9 + 1e-3), **CLOSE)
    assert moving(norm) == before
    assert norm.updates == 0
    assert norm.training is False
    assert not any(parameter.requires_grad for parameter in norm.parameters())


def test_requires_grad_alone_does_not_freeze() -> None:
    norm = layer().requires_grad_(False)
    norm(X)
    assert moving(norm) != ([0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 1, 1)])
@pytest.mark.parametrize("renorm", [False, True])
def test_batch_of_one_value_gives_beta_and_moves_no_variance(shape: tuple[int, ...], renorm: bool) -> None:
    row = (2,) if len(shape) == 2 else (1, 1, 2)
    clipping = {"renorm_clipping": {"dmax": 0}} if renorm else {}
    norm = layer(*row, beta_initializer=[0.1, -0.2], gamma_initializer=[1.5, 0.5], renorm=renorm, **clipping)
    x = torch.tensor([3.0, 5.0]).reshape(shape).requires_grad_()
    y = norm(x)
    y.sum().backward()
    assert_allclose(y.detach().flatten(), [0.1, -0.2], **CLOSE)
    assert_allclose(moving(norm), ([0.03, 0.05], [1, 1]), **CLOSE)
    assert x.grad is not None
    assert torch.count_nonzero(x.grad) == 0
    assert norm.gamma is not None
    assert norm.gamma.grad is not None
    assert torch.count_nonzero(norm.gamma.grad) == 0
    assert (norm.steps, norm.updates, norm.single) == (1, 0, 1)


def test_renorm_moves_one_value_by_d() -> None:
    norm = layer(renorm=True, renorm_momentum=0.9, renorm_clipping={"dmax": 4}, gamma_initializer=[2, 2])
    y = norm(torch.tensor([[3.0, 5.0]]))
    assert_allclose(y.detach(), [[6, 8]], **CLOSE)
    buffers = norm.training_buffers()
    assert_allclose(buffers["renorm_mean"], [0.3, 0.5], **CLOSE)
    assert_allclose(buffers["renorm_stddev"], [1, 1], **CLOSE)
    assert_allclose(buffers["moving_stddev"], [1, 1], **CLOSE)


def test_ghosts_of_one_row_give_beta_each() -> None:
    norm = layer(virtual_batch_size=1, beta_initializer=[0.1, -0.2])
    assert_allclose(norm(X).detach(), np.tile([0.1, -0.2], (6, 1)), **CLOSE)
    assert_allclose(moving(norm), ([0.04, 0.05], [1, 1]), **CLOSE)


def test_empty_batch_moves_nothing() -> None:
    norm = layer()
    assert norm(torch.empty(0, 2)).shape == (0, 2)
    assert moving(norm) == ([0.0, 0.0], [1.0, 1.0])
    assert norm.updates == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@every_kind
def test_batch_that_is_not_finite_is_skipped_and_counted(arguments: dict[str, Any], bad: float) -> None:
    norm, spoilt = layer(**arguments), X.clone()
    norm(X)
    spoilt[2, 1] = bad
    before = averages(norm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norm(spoilt)
    assert torch.equal(norm.averages, before)
    assert (norm.steps, norm.updates, norm.skipped) == (2, 1, 1)
    norm(X)
    assert torch.isfinite(norm.averages).all()
    assert not torch.equal(norm.averages, before)
    assert (norm.steps, norm.updates, norm.skipped) == (3, 2, 1)


def test_finite_values_whose_sum_overflows_are_not_skipped() -> None:
    norm = layer(64, momentum=0.0)
    norm(torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) * 1e18)
    assert norm.skipped == 0
    assert (norm.moving_variance > 1e35).all()


def test_large_mean_does_not_cancel_the_variance() -> None:
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(0)) + 1e4
    norm = layer(momentum=0.0)
    norm(x)
    assert_allclose(norm.moving_variance, x.double().var(dim=0, correction=0), rtol=1e-3)


@every_kind
def test_prediction_writes_nothing(arguments: dict[str, Any]) -> None:
    norm = layer(**arguments)
    norm(X)
    norm.eval()
    before, version = {key: value.clone() for key, value in norm.state_dict().items()}, norm.averages._version
    with torch.no_grad():
        for _ in range(50):
            norm(torch.randn(7, 2) * 100)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert norm.averages._version == version


@every_kind
def test_two_batches_may_come_before_their_gradients(arguments: dict[str, Any]) -> None:
    first, second = (layer(**arguments) for _ in range(2))
    x, other = X.clone().requires_grad_(), X.flip(0) * 3
    y = first(x)
    first(other)
    (y**3).sum().backward()
    expected = X.clone().requires_grad_()
    (second(expected) ** 3).sum().backward()
    assert x.grad is not None
    assert expected.grad is not None
    assert torch.equal(x.grad, expected.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_kind
def test_half_input_keeps_float32_state(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    norm = layer(**arguments).to(dtype)
    x = torch.tensor([[1000.0, -3000.0], [3000.0, 1000.0], [2000.0, 0.0], [2500.0, 500.0]], dtype=dtype)
    assert norm(x).dtype == dtype
    assert all(value.dtype == torch.float32 for value in (*norm.parameters(), *norm.buffers()))
    groups = [x[0::2], x[1::2]] if norm.spec.virtual_batch_size else [x]
    variance = torch.stack([group.double().var(dim=0, correction=0) for group in groups]).mean(0)
    expected = (0.99 + 0.01 * (variance + 1e-3).sqrt()) ** 2 - 1e-3 if norm.spec.renorm else 0.99 + 0.01 * variance
    assert_allclose(norm.moving_variance, expected, rtol=1e-4)
    assert norm.eval()(x).dtype == dtype


@every_kind
def test_autocast_keeps_float32_state_and_moves_it_in_float32(arguments: dict[str, Any]) -> None:
    norm, other = layer(**arguments), layer(**arguments)
    x = (X / 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    other(x)
    assert y.dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in (*norm.parameters(), *norm.buffers()))
    assert torch.equal(norm.averages, other.averages)


@pytest.mark.parametrize(
    ("center", "scale", "names"), [(True, False, {"beta"}), (False, True, {"gamma"}), (False, False, set())]
)
def test_center_and_scale_are_independent(center: bool, scale: bool, names: set[str]) -> None:
    norm = layer(center=center, scale=scale)
    assert {name for name, _ in norm.named_parameters()} == names
    assert_allclose(norm(X).detach().mean(dim=0), [0, 0], atol=1e-6)
    assert_allclose(norm(X[:1]).detach(), [[0, 0]], atol=0)


@every_kind
def test_state_dict_has_all_that_training_needs(arguments: dict[str, Any]) -> None:
    norm, other = layer(**arguments), layer(**arguments)
    norm(X)
    norm(torch.full_like(X, float("nan")))
    other.load_state_dict(norm.state_dict())
    assert (other.updates, other.skipped, other.single) == (1, 1, 0)
    assert torch.equal(other(X), norm(X))
    assert torch.equal(other.averages, norm.averages)


@every_kind
def test_copy_and_loaded_buffers_move_their_own_averages(arguments: dict[str, Any]) -> None:
    norm = layer(**arguments)
    norm(X)
    twin = copy.deepcopy(norm)
    before = averages(norm)
    twin(X)
    assert torch.equal(norm.averages, before)
    assert not torch.equal(twin.averages, before)
    assert torch.equal(twin.moving_mean, twin.averages[1 if norm.spec.renorm else 0])
    other = layer(**arguments)
    other(X)
    other.load_state_dict({key: value.clone() for key, value in norm.state_dict().items()}, assign=True)
    other(X)
    assert torch.equal(other.averages, twin.averages)
    assert torch.equal(other.moving_variance, twin.moving_variance)


@pytest.mark.parametrize("shared", [False, True])
@every_kind
def test_memory_that_moves_under_a_tensor_is_followed(arguments: dict[str, Any], shared: bool) -> None:
    norm, other = layer(**arguments), layer(**arguments)
    for each in (norm, other):
        each(X)
    if shared:
        norm.share_memory()
    else:
        norm.averages.data = norm.averages.detach().clone()
    for each in (norm, other):
        each(X)
    assert torch.equal(norm.averages, other.averages)
    assert torch.equal(norm.eval()(X), other.eval()(X))


def test_adjustment_of_very_many_channels_draws_few_steps_at_once() -> None:
    channels = MOST_NUMBERS // 2
    draws = Draws(UniformAdjustment(bias=(-1, 1)), channels, seed=0, layer="a")
    steps = [draws.at(step, torch.empty(0)) for step in range(3)]
    assert len({float(each.offset[0]) for each in steps}) == 3
    assert len(draws._block) == 2


def test_batch_size_may_change_from_step_to_step() -> None:
    norm, one_by_one = layer(), []
    for rows in (6, 4, 6, 2):
        alone = layer(moving_mean_initializer=moving(norm)[0], moving_variance_initializer=moving(norm)[1])
        alone(X[:rows])
        norm(X[:rows])
        one_by_one.append(torch.equal(alone.averages, norm.averages))
    assert all(one_by_one)


def test_draws_hang_on_seed_layer_and_step_alone() -> None:
    arguments = {"center": False, "scale": False} | KINDS["adjustment"]
    first, again, other_seed = layer(**arguments), layer(**arguments), layer(seed=1, **arguments)
    other_name = layer(name="second", **arguments)
    drawn = [first(X) for _ in range(TOGETHER + 3)]
    again.restore(updates=TOGETHER - 2, skipped=1, single=2)
    assert torch.equal(again(X), drawn[TOGETHER + 1])
    assert len({tuple(y.flatten().tolist()) for y in drawn}) == len(drawn)
    assert not torch.equal(other_seed(X), drawn[0])
    assert not torch.equal(other_name(X), drawn[0])


def test_own_seed_of_an_adjustment_goes_before_the_jobs() -> None:
    arguments = {"adjustment": {"kind": "normal", "scale": {"mean": 1, "std": 0.1}, "seed": 7}}
    assert torch.equal(layer(seed=0, **arguments)(X), layer(seed=1, **arguments)(X))


@pytest.mark.parametrize("per", ["feature", "layer"])
def test_adjustment_is_drawn_per_feature_or_per_layer(per: str) -> None:
    adjustment = {"kind": "uniform", "bias": [-1, 1], "per": per}
    norm = layer(64, adjustment=adjustment)
    shift = norm(torch.randn(32, 64)).detach().mean(0)
    assert len({round(float(each), 4) for each in shift}) == (1 if per == "layer" else 64)


def test_drawn_adjustment_has_the_spread_that_was_asked_for() -> None:
    uniform = layer(1000, adjustment={"kind": "uniform", "bias": [-0.1, 0.3]})
    shift = uniform(torch.randn(8, 1000)).detach().mean(0)
    assert shift.min() >= -0.1 - 1e-5
    assert shift.max() <= 0.3 + 1e-5
    assert shift.mean().item() == pytest.approx(0.1, abs=0.02)
    normal = layer(1000, adjustment={"kind": "normal", "bias": {"mean": 0.5, "std": 0.2}})
    shift = normal(torch.randn(8, 1000)).detach().mean(0)
    assert shift.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shift.std().item() == pytest.approx(0.2, rel=0.1)


def test_scheduled_clips_follow_the_step() -> None:
    clipping = {"rmax": [[1, 1], [3, 2]], "rmin": "1/rmax", "dmax": [[1, 0], [3, 8]]}
    norm = layer(renorm=True, renorm_clipping=clipping, center=False, scale=False, renorm_momentum=1.0)
    plain = layer(center=False, scale=False)
    drawn = [norm(X).detach() for _ in range(4)]
    x_hat = plain(X).detach()
    r = torch.tensor([2.5821825394, 3.4157966372])
    for y, rmax, dmax in zip(drawn, (1, 1, 1.5, 2), (0, 0, 4, 8), strict=True):
        assert_allclose(y, x_hat * r.clamp(1 / rmax, rmax) + torch.tensor([4.0, 5.0]).clamp(-dmax, dmax), **CLOSE)


def test_batch_that_ghosts_do_not_divide_is_refused_in_training_only() -> None:
    norm = layer(virtual_batch_size=4)
    with pytest.raises(ValueError, match=r"virtual_batch_size 4 must divide the rows of a batch .* Received: 6"):
        norm(X)
    assert norm.eval()(X).shape == X.shape


def test_extent_of_rows_does_not_matter_where_it_is_reduced() -> None:
    norm = layer(5, 3)
    assert norm(torch.randn(4, 5, 3)).shape == (4, 5, 3)
    assert norm.moving_mean.shape == (3,)


def test_bias_before_a_centred_layer_has_no_gradient() -> None:
    dense = nn.Linear(2, 2)
    loss = (layer(gamma_initializer=[1.5, 0.5])(dense(X)) ** 3).sum()
    loss.backward()
    assert dense.bias.grad is not None
    assert dense.weight.grad is not None
    assert dense.bias.grad.abs().max() < 1e-3 * dense.weight.grad.abs().max().clamp(min=1.0)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("ones", [1, 1]),
        ({"class_name": "Constant", "config": {"value": 0.5}}, [0.5, 0.5]),
        ("zero", [0, 0]),
        ([3, 4], [3, 4]),
    ],
)
def test_initializers_give_their_values(spec: Any, expected: list[float]) -> None:
    norm = layer(gamma_initializer=spec)
    assert norm.gamma is not None
    assert norm.gamma.tolist() == expected
