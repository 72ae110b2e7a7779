"""What convolutions and poolings share: padding as Keras counts it, and sequences seen as images of height 1."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from torch import Tensor
from torch.nn import functional

Two: TypeAlias = tuple[int, int]
"""Of height and of width."""


class Padding:
    """Keras' "same": ceil(extent / stride) windows, with the odd row or column of padding at the bottom or right;
    "causal": all of it before the first.

    `both`: what the kernel of torch can add, the same at both ends; (0, 0) where the ends differ and `beyond` adds it.
    """

    def __init__(
        self,
        kind: Literal["valid", "same", "causal"],
        shape: tuple[int, ...],
        window: Two,
        strides: Two,
        dilation: Two = (1, 1),
    ) -> None:
        self.kind = kind
        reach = [(size - 1) * spread + 1 for size, spread in zip(window, dilation, strict=True)]
        ends = [self._ends(*each) for each in zip(shape[:2], reach, strides, strict=True)]
        (self.top, self.bottom), (self.left, self.right) = ends
        even = self.top == self.bottom and self.left == self.right
        self.both = (self.top, self.left) if even else (0, 0)
        self.ends = None if even else (self.left, self.right, self.top, self.bottom)

    def beyond(self, x: Tensor, value: float) -> Tensor:
        """x with the padding that the kernel cannot add."""
        return x if self.ends is None else functional.pad(x, self.ends, value=value)

    def _ends(self, extent: int, reach: int, stride: int) -> Two:
        match self.kind:
            case "valid":
                return 0, 0
            case "causal":
                return reach - 1, 0
            case "same":
                total = max(0, (math.ceil(extent / stride) - 1) * stride + reach - extent)
                return total // 2, total - total // 2


def as_image(x: Tensor) -> Tensor:
    """x: [B, L, C] -> [B, C, 1, L], a view in the channels_last memory format."""
    return x.unsqueeze(1).permute(0, 3, 1, 2)


def as_sequence(x: Tensor) -> Tensor:
    """The inverse of `as_image`."""
    return x.permute(0, 2, 3, 1).squeeze(1)
