"""Batch norm folded into the affine map beside it, for predictions.

    q = gamma / sqrt(moving_variance + epsilon)        t = beta - moving_mean q        y = q x + t

    into the layer before it    W' = q W    c' = q c + t        that layer feeds the norm alone
    into the layer after it     W' = W q    c' = c + W t        the norm feeds that layer alone; no padding, or t = 0
    neither                     q x + t by itself

A padded convolution after a norm sees 0 beyond the border, where t would have to stand: its borders would differ. The
layer after may be a dense one behind a flatten, and then the norm may have any axis. What prediction passes through
(dropout, a linear activation) is taken out first, so it stands between nothing. All arithmetic is float64, and what it
gives is stored as float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Flatten, Network
from gammabeta.nets.convolutions import Conv1D, Conv2D
from gammabeta.nets.dense import WithKernel
from gammabeta.schemas.layers import INPUT
from gammabeta.schemas.measuring import Shape


@dataclass(frozen=True)
class Folding:
    """What became of a batch norm: the layer that has it in its kernel now, or why none does."""

    layer: str
    into: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Node:
    """A layer that is left, and those it reads. `shape`: of a row of its first input, in API layout."""

    name: str
    inputs: tuple[str, ...]
    module: nn.Module
    shape: Shape


class ChannelAffine(nn.Module):
    """y = q x + t, what a batch norm is in prediction; q and t broadcast to x in torch's layout."""

    factor: Tensor
    offset: Tensor

    def __init__(self, factor: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.offset, x, self.factor)


class Folded(nn.Module):
    """A network for predictions: raw -> logits, as the network in eval mode, without a batch norm in it.

    Layers that nothing was folded into are the network's own, and share its memory. `output` names the node that gives
    the logits.
    """

    def __init__(self, network: Network, nodes: tuple[Node, ...], output: str, foldings: tuple[Folding, ...]) -> None:
        super().__init__()
        self.preprocess, self.input_shape = network.preprocess, network.plan.input_shape
        self.nodes, self.output, self.foldings = nodes, output, foldings
        self.layers = nn.ModuleList(node.module for node in nodes)
        self.layers.training = False  # its layers are the network's, as that has them
        last_reader = {name: at for at, node in enumerate(nodes) for name in node.inputs}
        self._done = [
            [name for name in dict.fromkeys(node.inputs) if last_reader[name] == at and name != output]
            for at, node in enumerate(nodes)
        ]
        self.training = False

    def forward(self, raw: Tensor) -> Tensor:
        """raw: [B, *row_shape] as the data set holds it -> logits [B, outputs]."""
        return self.logits(self.preprocess(raw))

    def logits(self, x: Tensor) -> Tensor:
        """x: [B, *input_shape], rows that `preprocess` gave -> logits [B, outputs]."""
        values = {INPUT: x.permute(0, 3, 1, 2) if len(self.input_shape) == 3 else x}
        for node, done in zip(self.nodes, self._done, strict=True):
            y = node.module(*[values[name] for name in node.inputs])
            for name in done:
                del values[name]
            values[node.name] = y
        return values[self.output]


def fold(network: Network, *, into_others: bool = True) -> Folded:
    """The network as it predicts, each batch norm folded where that is exact. The network itself stays as it is.

    Args:
        network: in float32, on the CPU.
        into_others: whether to fold at all, or to leave every batch norm by itself.
    """
    work = _Work(network)
    foldings = {name: Folding(name, None, "folding is switched off") for name in work.norms()}
    if into_others:
        for name in foldings:
            foldings[name] = _tried(work.into_the_one_before, name)
        # From the last to the first, so that of two in a row the later makes way for the earlier.
        for name in [each for each, folding in reversed(foldings.items()) if folding.into is None]:
            after = _tried(work.into_the_one_after, name)
            before = foldings[name].reason
            foldings[name] = after if after.into else replace(after, reason=f"{before}; {after.reason}")
    return Folded(network, work.finished(), work.output, tuple(foldings.values()))


class _Refused(Exception):
    """Folding here would not be exact. The message says why."""


def _tried(step: Callable[[str], str], name: str) -> Folding:
    try:
        return Folding(name, step(name))
    except _Refused as reason:
        return Folding(name, None, str(reason))


class _Work:
    """The nodes of a network while norms disappear from among them."""

    def __init__(self, network: Network) -> None:
        layers = network.plan.layers
        self.output = layers[-1].name
        self._nodes = {
            layer.name: Node(layer.name, layer.inputs, module, layer.input_shapes[0])
            for layer, module in zip(layers, network.layers, strict=True)
        }
        for name in [name for name, node in self._nodes.items() if isinstance(node.module, nn.Identity | nn.Dropout)]:
            self._drop(name)

    def norms(self) -> list[str]:
        """In the order of the layers."""
        return [name for name, node in self._nodes.items() if isinstance(node.module, BatchNorm)]

    def into_the_one_before(self, name: str) -> str:
        node, affine = self._norm(name)
        source = self._nodes.get(node.inputs[0])
        if source is None or not isinstance(source.module, WithKernel):
            raise _Refused(f"what it reads, '{node.inputs[0]}', is no dense layer or convolution")
        if self._readers(source.name) != [name]:
            raise _Refused(f"what it reads, '{source.name}', feeds other layers too")
        if not affine.is_of_channels:
            raise _Refused("its axis is not that of the channels")
        self._put(source, _scaled_after(source.module, affine))
        self._drop(name)
        return source.name

    def into_the_one_after(self, name: str) -> str:
        _, affine = self._norm(name)
        reader, factor, offset = self._only_reader(name), affine.factor, affine.offset
        if isinstance(reader.module, Flatten):
            reader, factor, offset = self._only_reader(reader.name), *affine.flattened()
        elif not affine.is_of_channels:
            raise _Refused("its axis is not that of the channels")
        if not isinstance(reader.module, WithKernel):
            raise _Refused(f"what reads it, '{reader.name}', is no dense layer or convolution")
        if _pads(reader.module) and offset.any():
            raise _Refused(f"what reads it, '{reader.name}', pads with zeros, which the norm would have moved")
        self._put(reader, _scaled_before(reader.module, factor, offset))
        self._drop(name)
        return reader.name

    def finished(self) -> tuple[Node, ...]:
        """The nodes, each norm that is left as a `ChannelAffine`."""
        for name in self.norms():
            node, affine = self._norm(name)
            self._nodes[name] = replace(node, module=affine.as_module())
        return tuple(self._nodes.values())

    def _norm(self, name: str) -> tuple[Node, _Affine]:
        node = self._nodes[name]
        if not isinstance(node.module, BatchNorm):
            raise TypeError(f"'{name}' must be a batch norm. Received: {type(node.module).__name__}")
        return node, _Affine(node.module, node.shape)

    def _readers(self, name: str) -> list[str]:
        """Who asks for the logits is a reader too, without a name."""
        readers = [node.name for node in self._nodes.values() for each in node.inputs if each == name]
        return [*readers, ""] if name == self.output else readers

    def _only_reader(self, name: str) -> Node:
        readers = self._readers(name)
        if readers == [""]:
            raise _Refused("no layer comes after it")
        if len(readers) > 1:
            raise _Refused(f"'{name}' feeds several layers")
        return self._nodes[readers[0]]

    def _put(self, node: Node, module: WithKernel) -> None:
        if not all(parameter.isfinite().all() for parameter in module.parameters()):
            raise _Refused(f"the numbers of '{node.name}' would not be finite in float32")
        self._nodes[node.name] = replace(node, module=module)

    def _drop(self, name: str) -> None:
        """What read this node reads from now on what it read."""
        (source,) = self._nodes.pop(name).inputs
        self.output = source if self.output == name else self.output
        for node in self._nodes.values():
            inputs = tuple(source if each == name else each for each in node.inputs)
            self._nodes[node.name] = replace(node, inputs=inputs)


class _Affine:
    """q and t of a norm, `factor` and `offset` [C] in float64; `shape`: of a row, in API layout."""

    def __init__(self, norm: BatchNorm, shape: Shape) -> None:
        gamma = 1.0 if norm.gamma is None else norm.gamma.detach().double()
        beta = 0.0 if norm.beta is None else norm.beta.detach().double()
        self.factor = gamma / (norm.moving_variance.double() + norm.spec.epsilon).sqrt()
        self.offset = beta - norm.moving_mean.double() * self.factor
        self.is_of_channels = norm.spec.axes == (len(shape),)
        self._shape = shape
        self._kept = [extent if axis in norm.spec.axes else 1 for axis, extent in enumerate(shape, start=1)]

    def flattened(self) -> tuple[Tensor, Tensor]:
        """For each number of a flattened row: [F] and [F]."""
        factor, offset = (each.view(self._kept).expand(self._shape).flatten() for each in (self.factor, self.offset))
        return factor, offset

    def as_module(self) -> ChannelAffine:
        """In float32, laid out for torch."""
        factor, offset = (each.float().view(1, *self._kept) for each in (self.factor, self.offset))
        if len(self._shape) == 3:
            factor, offset = factor.permute(0, 3, 1, 2), offset.permute(0, 3, 1, 2)
        return ChannelAffine(factor, offset)


def _scaled_after(module: WithKernel, affine: _Affine) -> WithKernel:
    """The module and then the norm, in one."""
    kernel, bias = _numbers(module)
    kernel *= affine.factor.view(-1, *(1,) * (kernel.ndim - 1))
    return _with(module, kernel, bias * affine.factor + affine.offset)


def _scaled_before(module: WithKernel, factor: Tensor, offset: Tensor) -> WithKernel:
    """factor * x + offset and then the module, in one; `factor` and `offset`: [C] for its C input channels."""
    kernel, bias = _numbers(module)
    groups = module.groups if isinstance(module, Conv1D | Conv2D) else 1

    def seen(values: Tensor) -> Tensor:
        """[filters, C / groups, 1, …]: what each filter reads of the channels."""
        each = values.view(groups, 1, -1).expand(-1, len(kernel) // groups, -1)
        return each.reshape(*kernel.shape[:2], *(1,) * (kernel.ndim - 2))

    bias = bias + (kernel * seen(offset)).flatten(1).sum(dim=1)
    kernel *= seen(factor)
    return _with(module, kernel, bias)


def _numbers(module: WithKernel) -> tuple[Tensor, Tensor]:
    """Copies of kernel and bias in float64; without a bias, zeros."""
    kernel = module.kernel.detach().to(torch.float64, copy=True)
    return kernel, kernel.new_zeros(len(kernel)) if module.bias is None else module.bias.detach().double()


def _with(module: WithKernel, kernel: Tensor, bias: Tensor) -> WithKernel:
    """A module like this one with other numbers, in float32."""
    other = copy.copy(module)
    other._parameters = {}  # the copy still had those of the first, so that what it was given went to both
    other.kernel, other.bias = _stored(kernel), _stored(bias)
    return other


def _stored(values: Tensor) -> nn.Parameter:
    layout = torch.channels_last if values.ndim == 4 else torch.contiguous_format
    return nn.Parameter(values.float().contiguous(memory_format=layout), requires_grad=False)


def _pads(module: WithKernel) -> bool:
    if not isinstance(module, Conv1D | Conv2D):
        return False
    return module.padding.ends is not None or module.padding.both != (0, 0)
