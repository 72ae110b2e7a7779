"""Where the axes of the API lie in torch, and how the kernels of Keras do.

rows     API [B, F]            torch the same
sequence API [B, L, C]         torch the same
image    API [B, H, W, C]      torch [B, C, H, W], in the channels_last memory format

dense              Keras [F, units]                      torch [units, F]
conv1d             Keras [l, C / groups, filters]        torch [filters, C / groups, l]
conv2d             Keras [h, w, C / groups, filters]     torch [filters, C / groups, h, w]
depthwise_conv2d   Keras [h, w, C, multiplier]           torch [C * multiplier, 1, h, w]
gamma, beta        Keras [C], or [1, …, C] (measuring)   torch [C]
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from gammabeta.schemas.layers import Conv1D, Conv2D, Dense, DepthwiseConv2D
from gammabeta.schemas.measuring import Shape, kernel_shape, parameter_shape
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.plans import LayerPlan

KernelSpec: TypeAlias = Dense | Conv1D | Conv2D | DepthwiseConv2D


def torch_dim(axis: int, shape: Shape) -> int:
    """The torch dimension of an axis in API layout; `shape` is a row's, and the batch is axis 0."""
    return axis if len(shape) != 3 else (0, 2, 3, 1)[axis]


def torch_kernel_shape(spec: KernelSpec, shape: Shape) -> Shape:
    """The kernel's shape in torch's layout; `shape` is that of an input row."""
    *window, inputs, outputs = kernel_shape(spec, shape)
    if isinstance(spec, DepthwiseConv2D):
        return (inputs * outputs, 1, *window)
    return (outputs, inputs, *window)


def keras_kernel(spec: KernelSpec, kernel: Tensor) -> Tensor:
    """A view of a kernel in Keras' layout."""
    if isinstance(spec, DepthwiseConv2D):
        filters, _, *window = kernel.shape
        multiplier = spec.depth_multiplier
        return kernel.view(filters // multiplier, multiplier, *window).permute(2, 3, 0, 1)
    return kernel.permute(*range(2, kernel.ndim), 1, 0)


def keras_view(layer: LayerPlan, name: str, parameter: Tensor) -> Tensor:
    """A parameter of a layer (`kernel`, `bias`, `gamma` or `beta`) in Keras' shape, to which the axes of a constraint
    refer. It is a view: what is changed in place there is changed in the parameter."""
    spec = layer.spec
    if isinstance(spec, BatchNorm):
        return parameter.view(parameter_shape(spec, layer.input_shapes[0]))
    if isinstance(spec, KernelSpec) and name == "kernel":
        return keras_kernel(spec, parameter)
    return parameter
