"""What layers with a kernel share, and the plainest of them. Kernels are in torch's layout (see layouts.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gammabeta.nets.initializers import fill, initial
from gammabeta.nets.layouts import KernelSpec, keras_kernel, torch_kernel_shape
from gammabeta.schemas.layers import DepthwiseConv2D
from gammabeta.schemas.measuring import Shape


class WithKernel(nn.Module):
    """`kernel`, and `bias` or None, drawn from one generator, the kernel first. `shape` is that of an input row."""

    bias: nn.Parameter | None

    def __init__(self, spec: KernelSpec, shape: Shape, generator: torch.Generator) -> None:
        super().__init__()
        start = spec.depthwise_initializer if isinstance(spec, DepthwiseConv2D) else spec.kernel_initializer
        kernel = torch.empty(torch_kernel_shape(spec, shape))
        self.kernel = nn.Parameter(fill(kernel, start, generator, keras=keras_kernel(spec, kernel)))
        self.bias = nn.Parameter(initial(spec.bias_initializer, kernel.shape[:1], generator)) if spec.use_bias else None


class Dense(WithKernel):
    """x: [B, F] -> [B, units]; `kernel` [units, F], `bias` [units]."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.kernel, self.bias)
