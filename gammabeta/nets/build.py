"""A plan built as a torch module.

    raw ──Preprocess──► rows in API layout ──layers──► logits ──scores_of──► scores

Shapes are channels last in the API. Inside, an image is [B, C, H, W] in torch's channels_last memory format, so that
the change between the two is a view; every other shape stays as it is. Kernels are in torch's layout (layouts.py), and
the inputs of a dense layer after a flatten come in channels-last order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.convolutions import Conv1D, Conv2D
from gammabeta.nets.dense import Dense
from gammabeta.nets.initializers import layer_generator
from gammabeta.nets.layouts import torch_dim
from gammabeta.nets.losses import scores_of
from gammabeta.nets.pooling import AveragePool, GlobalAveragePool, MaxPool
from gammabeta.nets.preprocessing import Preprocess, preprocess_of
from gammabeta.schemas import layers as specs
from gammabeta.schemas import normalization
from gammabeta.schemas.plans import LayerPlan, NetworkPlan
from gammabeta.schemas.preprocessing import FittedPreprocessing
from gammabeta.schemas.resolution import Task


def build_network(plan: NetworkPlan, preprocessing: FittedPreprocessing, *, task: Task, seed: int = 0) -> Network:
    """The network of a plan, on the CPU, in training mode, with its initial values.

    Args:
        plan: named layers with their shapes.
        preprocessing: what turns raw rows into rows of `plan.input_shape`.
        task: what the outputs mean. A last activation that `task` implies is left to `Network.scores`.
        seed: with the name of a layer, fixes its initial values and the draws of its adjustment.
    """
    layers = [_module(layer, seed) for layer in plan.layers]
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


def _module(layer: LayerPlan, seed: int) -> nn.Module:
    spec, shape, draws = layer.spec, layer.input_shapes[0], layer_generator(seed, layer.name)
    match spec:
        case specs.Dense():
            return Dense(spec, shape, draws)
        case specs.Conv1D():
            return Conv1D(spec, shape, draws)
        case specs.Conv2D() | specs.DepthwiseConv2D():
            return Conv2D(spec, shape, draws)
        case normalization.BatchNorm():
            return BatchNorm(spec, shape, generator=draws, seed=seed)
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


def _activation(function: specs.ActivationFunction, channels: int) -> nn.Module:
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
