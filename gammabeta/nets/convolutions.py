"""Convolutions: what Keras calls so, a cross-correlation. All run as torch's of images, in channels_last."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gammabeta.nets.dense import WithKernel
from gammabeta.nets.windows import Padding, as_image, as_sequence
from gammabeta.schemas import layers as specs
from gammabeta.schemas.measuring import Shape, pair


class Conv2D(WithKernel):
    """x: [B, C, H, W] -> [B, filters, H', W']; `kernel` [filters, C / groups, height, width], `bias` [filters].

    A depthwise convolution has C groups and C * multiplier filters: channel c gives those from c * multiplier on.
    """

    def __init__(self, spec: specs.Conv2D | specs.DepthwiseConv2D, shape: Shape, generator: torch.Generator) -> None:
        super().__init__(spec, shape, generator)
        self.strides, self.dilation = pair(spec.strides), pair(spec.dilation_rate)
        self.groups = spec.groups if isinstance(spec, specs.Conv2D) else shape[2]
        self.padding = Padding(spec.padding, shape, pair(spec.kernel_size), self.strides, self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(
            self.padding.beyond(x, 0.0),
            self.kernel,
            self.bias,
            self.strides,
            self.padding.both,
            self.dilation,
            self.groups,
        )


class Conv1D(WithKernel):
    """x: [B, L, C] -> [B, L', filters]; `kernel` [filters, C / groups, length], `bias` [filters]."""

    def __init__(self, spec: specs.Conv1D, shape: Shape, generator: torch.Generator) -> None:
        super().__init__(spec, shape, generator)
        self.strides, self.dilation, self.groups = (1, spec.strides), (1, spec.dilation_rate), spec.groups
        self.padding = Padding(spec.padding, (1, *shape), (1, spec.kernel_size), self.strides, self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.conv2d(
            self.padding.beyond(as_image(x), 0.0),
            self.kernel.unsqueeze(2),
            self.bias,
            self.strides,
            self.padding.both,
            self.dilation,
            self.groups,
        )
        return as_sequence(y)
