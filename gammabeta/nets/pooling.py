"""Poolings of images [B, C, H, W] and of sequences [B, L, C]."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from gammabeta.nets.windows import Padding, Two, as_image, as_sequence
from gammabeta.schemas import layers as specs
from gammabeta.schemas.measuring import Shape, pair


class Pool(nn.Module, ABC):
    """A sequence is pooled as an image of height 1."""

    def __init__(self, spec: specs.Pool, shape: Shape) -> None:
        super().__init__()
        size, strides = pair(spec.pool_size), pair(spec.strides or spec.pool_size)
        if len(shape) == 2:
            size, strides, shape = (1, size[0]), (1, strides[0]), (1, *shape)
        self.window: Two = size
        self.strides: Two = strides
        self.padding = Padding(spec.padding, shape, size, strides)

    def forward(self, x: Tensor) -> Tensor:
        return as_sequence(self.pooled(as_image(x))) if x.ndim == 3 else self.pooled(x)

    @abstractmethod
    def pooled(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] -> [B, C, H', W']."""


class MaxPool(Pool):
    """Padding is -inf."""

    def pooled(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(self.padding.beyond(x, -math.inf), self.window, self.strides, self.padding.both)


class AveragePool(Pool):
    """Padding is not counted."""

    counts: Tensor | None

    def __init__(self, spec: specs.AveragePool, shape: Shape) -> None:
        super().__init__(spec, shape)
        extents = shape[:2] if len(shape) == 3 else (1, shape[0])
        counts = None if self.padding.ends is None else self._sums(torch.ones(1, 1, *extents))
        self.register_buffer("counts", counts, persistent=False)

    def pooled(self, x: Tensor) -> Tensor:
        if self.counts is None:
            return functional.avg_pool2d(x, self.window, self.strides, self.padding.both, count_include_pad=False)
        return self._sums(x) / self.counts.to(x.dtype)

    def _sums(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(self.padding.beyond(x, 0.0), self.window, self.strides, divisor_override=1)


class GlobalAveragePool(nn.Module):
    """x: [B, C, H, W] or [B, L, C] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3) if x.ndim == 4 else 1)
