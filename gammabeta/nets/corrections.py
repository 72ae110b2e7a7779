"""What batch norm does to the normalized values before gamma and beta, in training only.

    y = ((x_hat r + d) a + b) gamma + beta

r, d     batch renormalization (Ioffe 2017, arXiv:1702.03275): what leads from the batch's statistics to the moving ones
a, b     the adjustment, drawn at each step

All four are constants to the gradient, so that `factor` = r a and `offset` = d a + b say it all.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gammabeta.schemas.adjustments import Adjustment, ConstantAdjustment, UniformAdjustment
from gammabeta.schemas.renorm import Clips


class Affine(NamedTuple):
    """`factor * x_hat + offset`, each `[C]`."""

    factor: Tensor
    offset: Tensor

    def then(self, other: Affine) -> Affine:
        """This first, the other one after it."""
        return Affine(self.factor * other.factor, self.offset * other.factor + other.offset)


Array: TypeAlias = NDArray[Any]
TOGETHER = 64
"""Steps whose numbers are drawn at once, since to set up a generator takes as long as to draw thousands."""

MOST_NUMBERS = 1 << 18
"""Of a channel's two, at once: fewer steps where there are many channels."""

Values = TypeVar("Values", Tensor, Array)


def renormed(
    mean: Values, stddev: Values, old_mean: Values, old_stddev: Values, *, clips: Clips, floor: float
) -> tuple[Values, Values]:
    """r and d of a batch.

    Args:
        mean: of the batch, [C].
        stddev: sqrt(v + epsilon) of the batch, [C].
        old_mean: renorm's average before this batch moves it, [C].
        old_stddev: likewise.
        clips: the bounds of r and d at this step.
        floor: sqrt(epsilon), the least that the old deviation counts as.
    """
    scale = old_stddev.clip(floor)
    r = (stddev / scale).clip(clips.rmin, clips.rmax)
    return r, ((mean - old_mean) / scale).clip(-clips.dmax, clips.dmax)


def joined(affine: Affine | None, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The gamma and beta of a plain batch norm that gives `(x_hat factor + offset) gamma + beta`."""
    if affine is None:
        return gamma, beta
    factor, offset = affine
    if gamma is None:
        return factor, offset if beta is None else offset + beta
    return factor * gamma, offset * gamma if beta is None else beta + offset * gamma


class Draws:
    """a and b of each step. They hang on the arguments and the step alone, so that a resumed job has the same.

    Args:
        adjustment: how they are drawn, or what they are.
        channels: how many.
        seed: of the job; `adjustment.seed` goes before it.
        layer: the name of the layer, so that each draws its own.
    """

    def __init__(self, adjustment: Adjustment, channels: int, *, seed: int, layer: str) -> None:
        self._adjustment, self._channels = adjustment, channels
        self._together = max(1, min(TOGETHER, MOST_NUMBERS // channels))
        chosen = seed if isinstance(adjustment, ConstantAdjustment) or adjustment.seed is None else adjustment.seed
        self._key = int.from_bytes(hashlib.sha256(f"{chosen}/{layer}".encode()).digest()[:16], "little")
        self._number, self._block = -1, torch.empty(0)

    def at(self, step: int, like: Tensor) -> Affine:
        """a and b [C] of a step, on the device of `like` and in its dtype."""
        number, place = divmod(step, self._together)
        if isinstance(self._adjustment, ConstantAdjustment):
            number, place = 0, 0
        if number != self._number or self._block.device != like.device or self._block.dtype != like.dtype:
            self._number, self._block = number, like.new_tensor(self._drawn(self._adjustment, number))
        return Affine(*self._block[place].unbind(0))

    def _drawn(self, of: Adjustment, number: int) -> Array:
        """[steps, 2, C]: those of block `number`."""
        if isinstance(of, ConstantAdjustment):
            return np.stack([np.broadcast_to(each, (1, self._channels)) for each in (of.scale, of.bias)], axis=1)
        # A generator that counts: the numbers of a block are there without those of the blocks before it.
        draws = np.random.Generator(np.random.Philox(key=self._key, counter=number << 64))
        size = (self._together, self._channels if of.per == "feature" else 1)
        if isinstance(of, UniformAdjustment):
            drawn = [draws.uniform(*each, size=size) for each in (of.scale, of.bias)]
        else:
            drawn = [draws.normal(each.mean, each.std, size=size) for each in (of.scale, of.bias)]
        return np.broadcast_to(np.stack(drawn, axis=1), (self._together, 2, self._channels))
