"""Any shape, axes and arguments: some training steps and a prediction in float64 are those of the formulas in numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.schemas import normalization
from tests.unit.nets.oracles import Array, Reference

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


@dataclass(frozen=True, kw_only=True)
class Example:
    """Arguments of the layer as JSON, and what they are applied to."""

    arguments: dict[str, Any]
    shape: tuple[int, ...]
    batch: int
    steps: int
    seed: int
    contiguous: bool
    """Whether an image lies in torch's order of memory; otherwise channels come last."""

    @property
    def axes(self) -> tuple[int, ...]:
        axis, rank = self.arguments["axis"], len(self.shape) + 1
        return tuple(sorted(each % rank for each in (axis if isinstance(axis, list) else [axis])))

    @property
    def channels(self) -> int:
        return math.prod(self.shape[axis - 1] for axis in self.axes)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axes = draw(st.lists(st.integers(1, len(shape)), min_size=1, unique=True))
    axes = [axis - len(shape) - 1 if draw(st.booleans()) else axis for axis in axes]
    arguments: dict[str, Any] = {
        "axis": axes if len(axes) > 1 or draw(st.booleans()) else axes[0],
        "momentum": draw(st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])),
        "epsilon": draw(st.sampled_from([1e-5, 1e-3, 0.5])),
        "center": draw(st.booleans()),
        "scale": draw(st.booleans()),
    }
    ghost, renorm, adjustment = draw(st.sampled_from(KINDS))
    if not (ghost or renorm or adjustment):
        arguments["fused"] = draw(st.sampled_from([None, False, *[True] * _can_be_fused(shape, axes)]))
    rows = draw(st.integers(1, 4))
    if ghost:
        arguments["virtual_batch_size"] = rows
    if renorm:
        arguments |= draw(renorms())
    if adjustment:
        arguments["adjustment"] = {"kind": "constant", "scale": draw(st.floats(0.5, 2)), "bias": draw(st.floats(-1, 1))}
    return Example(
        arguments=arguments,
        shape=shape,
        batch=rows * (draw(st.integers(1, 3)) if ghost else 1),
        steps=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 1_000)),
        contiguous=draw(st.booleans()),
    )


KINDS = [
    (False, False, False),
    (True, False, False),
    (False, True, False),
    (True, True, False),
    (False, False, True),
    (False, True, True),
]
"""Ghost batches, renorm, adjustment: what may come together."""


@st.composite
def renorms(draw: st.DrawFn) -> dict[str, Any]:
    rmax = draw(st.sampled_from([None, 1.0, 1.5, [[0, 1.0], [2, 3.0]]]))
    rmin = draw(st.sampled_from([None, 0.5, *(["1/rmax"] if rmax else [])]))
    dmax = draw(st.sampled_from([None, 0.0, 0.5, [[1, 0.0], [2, 1.0]]]))
    clipping = {"rmin": rmin, "rmax": rmax, "dmax": dmax}
    return {
        "renorm": True,
        "renorm_momentum": draw(st.sampled_from([0.0, 0.8, 1.0])),
        "renorm_clipping": {key: value for key, value in clipping.items() if value is not None},
    }


def _can_be_fused(shape: tuple[int, ...], axes: list[int]) -> bool:
    return len(axes) == 1 and (len(shape), axes[0] % (len(shape) + 1)) in {(3, 1), (3, 3), (4, 1), (4, 4)}


@settings(derandomize=True, deadline=None, database=None, max_examples=400)
@given(example=examples())
def test_layer_is_its_formulas(example: Example) -> None:
    draws = np.random.default_rng(example.seed)
    layer, reference = _both(example, draws)
    for step in range(example.steps):
        x, dy = draws.normal(1.0, 2.0, (2, example.batch, *example.shape))
        reference.clips = _clips(example.arguments.get("renorm_clipping", {}), step)
        expected = {"y": reference.train(x)}
        expected |= dict(zip(("dx", "dgamma", "dbeta"), reference.backward(dy), strict=True))
        found = _trained(layer, x, dy, contiguous=example.contiguous)
        assert found.keys() == expected.keys() - _absent(example)
        for key, value in found.items():
            np.testing.assert_allclose(value, expected[key], err_msg=f"{key} of step {step}", **TOLERANCE)
        for key, tensor in _statistics(layer).items():
            np.testing.assert_allclose(tensor, getattr(reference, key), err_msg=f"{key} of step {step}", **TOLERANCE)
    shown = draws.normal(1.0, 2.0, (example.batch + 1, *example.shape))
    y = _from_torch(layer.eval()(_to_torch(shown, contiguous=example.contiguous)))
    np.testing.assert_allclose(y, reference.predict(shown), **TOLERANCE)
    assert layer.updates + layer.single == layer.steps == example.steps


def _both(example: Example, draws: np.random.Generator) -> tuple[BatchNorm, Reference]:
    """The layer and the reference, at the same start."""
    arguments, count = example.arguments, example.channels
    layer = BatchNorm(normalization.BatchNorm(**arguments), example.shape).double()
    adjustment = arguments.get("adjustment", {"scale": 1.0, "bias": 0.0})
    fused = arguments.get("fused")
    can_be = _can_be_fused(example.shape, list(example.axes)) and not (
        {"renorm", "virtual_batch_size", "adjustment"} & arguments.keys()
    )
    reference = Reference(
        axes=example.axes,
        momentum=arguments["momentum"],
        epsilon=arguments["epsilon"],
        gamma=draws.uniform(-2, 2, count) if arguments["scale"] else None,
        beta=draws.uniform(-2, 2, count) if arguments["center"] else None,
        moving_mean=draws.uniform(-1, 2, count),
        moving_variance=draws.uniform(0.5, 4, count),
        unbiased=can_be if fused is None else fused,
        virtual_batch_size=arguments.get("virtual_batch_size"),
        adjustment=(adjustment["scale"], adjustment["bias"]),
        renorm="renorm" in arguments,
        renorm_momentum=arguments.get("renorm_momentum", 0.99),
    )
    for name, tensor in (dict(layer.named_parameters()) | _statistics(layer)).items():
        tensor.data.copy_(torch.from_numpy(getattr(reference, name)))
    return layer, reference


def _clips(clipping: dict[str, Any], step: int) -> tuple[float, float, float]:
    rmax, dmax = (_bound(clipping.get(key, math.inf), step) for key in ("rmax", "dmax"))
    rmin = clipping.get("rmin", 0.0)
    return 1 / rmax if rmin == "1/rmax" else rmin, rmax, dmax


def _bound(given: float | list[list[float]], step: int) -> float:
    return float(np.interp(step, *zip(*given, strict=True))) if isinstance(given, list) else given


def _absent(example: Example) -> set[str]:
    switches = {"dgamma": "scale", "dbeta": "center"}
    return {key for key, switch in switches.items() if not example.arguments[switch]}


def _trained(layer: BatchNorm, x: Array, dy: Array, *, contiguous: bool) -> dict[str, Array]:
    """Output and gradients of a training step, in API layout."""
    rows = _to_torch(x, contiguous=contiguous).requires_grad_()
    layer.zero_grad()
    y = layer(rows)
    y.backward(_to_torch(dy, contiguous=contiguous))
    assert rows.grad is not None
    found = {"y": _from_torch(y), "dx": _from_torch(rows.grad)}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        found[f"d{name}"] = parameter.grad.numpy()
    return found


def _statistics(layer: BatchNorm) -> dict[str, Tensor]:
    return {key: getattr(layer, key) for key in ("moving_mean", "moving_variance")} | layer.training_buffers()


def _to_torch(x: Array, *, contiguous: bool) -> Tensor:
    tensor = torch.from_numpy(x.copy())
    if x.ndim != 4:
        return tensor
    image = tensor.permute(0, 3, 1, 2)
    return image.contiguous() if contiguous else image


def _from_torch(x: Tensor) -> Array:
    found: Array = (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).detach().numpy()
    return found
