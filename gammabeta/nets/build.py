"""A plan built as a torch module.

    raw ──Preprocess──► rows in API layout ──layers──► logits ──scores_of──► scores

Shapes are channels last in the API. Inside, an image is [B, C, H, W] in torch's channels_last memory format, so that
the change between the two is a view; every other shape stays as it is. Kernels are in torch's layout: of a dense layer
`[units, inputs]`, where inputs after a flatten come in channels-last order, and of a convolution
`[filters, channels, height, width]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.initializers import glorot_uniform, layer_generator
from gammabeta.nets.losses import scores_of
from gammabeta.nets.preprocessing import Preprocess, preprocess_of
from gammabeta.schemas import networks as specs
from gammabeta.schemas.networks import ActivationFunction, Pair
from gammabeta.schemas.plans import LayerPlan, NetworkPlan, Shape, pair
from gammabeta.schemas.preprocessing import FittedPreprocessing
from gammabeta.schemas.resolution import Task, uses_unbiased_variance


def build_network(plan: NetworkPlan, preprocessing: FittedPreprocessing, *, task: Task, seed: int = 0) -> Network:
    """The network of a plan, on the CPU, in training mode: kernels Glorot-uniform, biases zero.

    Args:
        plan: named layers with their shapes.
        preprocessing: what turns raw rows into rows of `plan.input_shape`.
        task: what the outputs mean. A last activation that `task` implies is left to `Network.scores`.
        seed: with the name of a layer, fixes its initial values.
    """
    layers = [_module(layer, layer_generator(seed, layer.name)) for layer in plan.layers]
    if _is_implied(plan.layers[-1], task):
        layers[-1] = nn.Identity()
    network = Network(plan, preprocess_of(preprocessing), layers, task)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


class Network(nn.Module):
    """`layers[i]` is the module of `plan.layers[i]`: names of layers may contain dots, and those of modules may not."""

    layers: nn.Sequential

    def __init__(self, plan: NetworkPlan, preprocess: Preprocess, layers: Sequence[nn.Module], task: Task) -> None:
        super().__init__()
        self.plan, self.task = plan, task
        self.preprocess = preprocess
        self.layers = nn.Sequential(*layers)
        self._reads_images = len(plan.input_shape) == 3
        self._wiring = None if _is_chain(plan) else _wiring(plan)

    def forward(self, raw: Tensor) -> Tensor:
        """raw: [B, *row_shape] as the data set holds it -> logits [B, outputs]."""
        return self.logits(self.preprocess(raw))

    def logits(self, x: Tensor) -> Tensor:
        """x: [B, *plan.input_shape], rows that `preprocess` gave -> logits [B, outputs]."""
        if self._reads_images:
            x = x.permute(0, 3, 1, 2)
        logits: Tensor = self.layers(x) if self._wiring is None else self._run_graph(x, self._wiring)
        return logits

    def scores(self, raw: Tensor) -> Tensor:
        """raw: [B, *row_shape] -> probabilities [B, classes] of a class (two columns for `binary`), or numbers [B]."""
        return scores_of(self.task, self(raw))

    def _run_graph(self, x: Tensor, wiring: Wiring) -> Tensor:
        values = {specs.INPUT: x}
        for module, (name, inputs, done) in zip(self.layers, wiring, strict=True):
            values[name] = module(*(values[each] for each in inputs))
            for each in done:
                del values[each]
        return values[name]


Wiring = tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
"""For each layer its name, those it reads, and those that no later layer reads."""


def _is_chain(plan: NetworkPlan) -> bool:
    before = [specs.INPUT, *(layer.name for layer in plan.layers)]
    return all(layer.inputs == (name,) for layer, name in zip(plan.layers, before, strict=False))


def _wiring(plan: NetworkPlan) -> Wiring:
    last_reader = {name: at for at, layer in enumerate(plan.layers) for name in layer.inputs}
    return tuple(
        (layer.name, layer.inputs, tuple(name for name in dict.fromkeys(layer.inputs) if last_reader[name] == at))
        for at, layer in enumerate(plan.layers)
    )


def _is_implied(last: LayerPlan, task: Task) -> bool:
    implied = {"classes": "softmax", "binary": "sigmoid", "number": None}[task]
    return isinstance(last.spec, specs.Activation) and last.spec.function == implied


def torch_dim(axis: int, shape: Shape) -> int:
    """The torch dimension of an axis in API layout; `shape` is a row's, and the batch is axis 0."""
    return axis if len(shape) != 3 else (0, 2, 3, 1)[axis]


def _module(layer: LayerPlan, generator: torch.Generator) -> nn.Module:
    spec, shape = layer.spec, layer.input_shapes[0]
    match spec:
        case specs.Dense():
            return Dense(shape[0], int(spec.units), use_bias=spec.use_bias, generator=generator)
        case specs.Conv2D():
            return Conv2D(spec, shape, generator)
        case specs.BatchNorm():
            return BatchNorm(
                spec,
                shape[spec.axis - 1],
                dim=torch_dim(spec.axis, shape),
                fused_effective=uses_unbiased_variance(layer),
                generator=generator,
            )
        case specs.Activation():
            return _activation(spec.function, torch_dim(len(shape), shape))
        case specs.MaxPool():
            return MaxPool(spec, shape)
        case specs.AveragePool():
            return AveragePool(spec, shape)
        case specs.GlobalAveragePool():
            return GlobalAveragePool()
        case specs.Flatten():
            return Flatten()
        case specs.Dropout():
            return nn.Dropout(spec.rate)
        case specs.Add():
            return Add()
        case specs.Concatenate():
            return Concatenate(torch_dim(spec.axis, shape))


def _activation(function: ActivationFunction, channels: int) -> nn.Module:
    """With Keras' constants; `channels` is the dimension of a softmax."""
    match function:
        case "relu":
            return nn.ReLU()
        case "sigmoid":
            return nn.Sigmoid()
        case "tanh":
            return nn.Tanh()
        case "softmax":
            return nn.Softmax(dim=channels)
        case "linear":
            return nn.Identity()
        case "elu":
            return nn.ELU()
        case "selu":
            return nn.SELU()
        case "gelu":
            return nn.GELU()
        case "silu":
            return nn.SiLU()
        case "leaky_relu":
            return nn.LeakyReLU(negative_slope=0.2)
        case "softplus":
            return nn.Softplus()


class Dense(nn.Module):
    """x: [B, F] -> [B, units]; `kernel` [units, F], `bias` [units]."""

    def __init__(self, features: int, units: int, *, use_bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.kernel = nn.Parameter(glorot_uniform((units, features), generator))
        self.bias = nn.Parameter(torch.zeros(units)) if use_bias else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.kernel, self.bias)


class Conv2D(nn.Module):
    """x: [B, C, H, W] -> [B, filters, H', W']; `kernel` [filters, C, height, width], `bias` [filters]."""

    def __init__(self, spec: specs.Conv2D, shape: Shape, generator: torch.Generator) -> None:
        super().__init__()
        window = pair(spec.kernel_size)
        self.kernel = nn.Parameter(glorot_uniform((spec.filters, shape[2], *window), generator))
        self.bias = nn.Parameter(torch.zeros(spec.filters)) if spec.use_bias else None
        self.strides = pair(spec.strides)
        self.padding = Padding(spec.padding, shape, window, self.strides)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(self.padding.beyond(x, 0.0), self.kernel, self.bias, self.strides, self.padding.both)


class Padding:
    """Keras' "same": ceil(extent / stride) windows, with the odd row or column of padding at the bottom or right.

    `both`: what the kernel of torch can add, the same at both ends; (0, 0) where the ends differ and `beyond` adds it.
    """

    def __init__(self, kind: specs.Padding, shape: Shape, window: Pair, strides: Pair) -> None:
        ends = [
            _same(*each) if kind == "same" else (0, 0)
            for each in zip(shape[:2], pair(window), pair(strides), strict=True)
        ]
        (self.top, self.bottom), (self.left, self.right) = ends
        even = self.top == self.bottom and self.left == self.right
        self.both = (self.top, self.left) if even else (0, 0)
        self.ends = None if even else (self.left, self.right, self.top, self.bottom)

    def beyond(self, x: Tensor, value: float) -> Tensor:
        """x with the padding that the kernel cannot add."""
        return x if self.ends is None else functional.pad(x, self.ends, value=value)


def _same(extent: int, window: int, stride: int) -> tuple[int, int]:
    total = max(0, (math.ceil(extent / stride) - 1) * stride + window - extent)
    return total // 2, total - total // 2


class MaxPool(nn.Module):
    """x: [B, C, H, W] -> [B, C, H', W']; padding is -inf."""

    def __init__(self, spec: specs.MaxPool, shape: Shape) -> None:
        super().__init__()
        self.window, self.strides = _pool(spec)
        self.padding = Padding(spec.padding, shape, self.window, self.strides)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(self.padding.beyond(x, -math.inf), self.window, self.strides, self.padding.both)


class AveragePool(nn.Module):
    """x: [B, C, H, W] -> [B, C, H', W']; padding is not counted."""

    counts: Tensor | None

    def __init__(self, spec: specs.AveragePool, shape: Shape) -> None:
        super().__init__()
        self.window, self.strides = _pool(spec)
        self.padding = Padding(spec.padding, shape, self.window, self.strides)
        counts = None if self.padding.ends is None else self._sums(torch.ones(1, 1, *shape[:2]))
        self.register_buffer("counts", counts, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.counts is None:
            return functional.avg_pool2d(x, self.window, self.strides, self.padding.both, count_include_pad=False)
        return self._sums(x) / self.counts.to(x.dtype)

    def _sums(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(self.padding.beyond(x, 0.0), self.window, self.strides, divisor_override=1)


def _pool(spec: specs.Pool2D) -> tuple[tuple[int, int], tuple[int, int]]:
    window = pair(spec.pool_size)
    return window, window if spec.strides is None else pair(spec.strides)


class GlobalAveragePool(nn.Module):
    """x: [B, C, H, W] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class Flatten(nn.Module):
    """x: [B, …] -> [B, F], in channels-last order."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).flatten(1)


class Add(nn.Module):
    """The sum of its inputs."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = first + other
        return first


class Concatenate(nn.Module):
    """Its inputs side by side along a torch dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=self.dim)
