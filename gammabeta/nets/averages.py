"""The moving averages of a batch-norm layer, and what a batch brings to them.

    batch ──kernel──► Found: mean and variance of each group of columns ──pooling──► [2, C] ──► Averages

The vectors are short, and to call torch on one takes longer than the work. So the averages are the rows of one tensor,
moved by one call where one will do; and what needs more is written with operators alone, for arrays of numpy that share
the tensors' memory on a CPU, where a call takes a fifth of the time, and for the tensors themselves on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gammabeta.nets.corrections import renormed
from gammabeta.schemas.normalization import BatchNorm as BatchNormSpec

Vector: TypeAlias = Any
"""A tensor on a GPU, or the array over the memory of one that is not."""


def rows_of(spec: BatchNormSpec) -> tuple[str, ...]:
    """What each row of `averages` is. Of renorm the last four are two pairs, each an average of mu and of s."""
    if spec.renorm:
        return ("moving_variance", "moving_mean", "moving_stddev", "renorm_mean", "renorm_stddev")
    return ("moving_mean", "moving_variance")


class Found:
    """Where the kernel leaves mean and variance n/(n-1) v, as if they were moving statistics with a momentum of 0.

    `both` is the memory of `mean` and `variance` without autograd's eye on it: the graph of y holds those two, and
    never reads them.

    Args:
        averages: of the layer, [.., C].
        n: values in a column.
        groups: ghost batches.
        unbiased: whether V is v n/(n-1), as the kernel has it, or v.
    """

    def __init__(self, averages: Tensor, n: int, groups: int, *, unbiased: bool) -> None:
        both = averages.new_zeros(2, groups * averages.shape[1])
        self.n, self.groups, self.is_cuda = n, groups, both.is_cuda
        self.mean, self.variance = (row.data for row in both.unbind(0))
        self._has_looked = False
        self.both = both.data
        self.by_group = self.both.view(2 * groups, -1)
        share = 1.0 if unbiased or n == 1 else (n - 1) / n
        weights = torch.tensor([[1.0], [0.0], [0.0], [share]], dtype=torch.float64).view(2, 2, 1) / groups
        self.pooling = weights.expand(2, 2, groups).reshape(2, 2 * groups).to(averages)
        """[2, 2 groups]: times `by_group` it is the mean of the means, and V."""
        self._pooled = averages.new_zeros(2, averages.shape[1])
        self.pooled = vector_of(self._pooled)
        """[2, C]: that product, after `look_at`; after `take_root` the second row is s."""
        self.pooled_rows = (self.pooled[0], self.pooled[1])
        if not self.is_cuda:
            self._repeats = torch.arange(averages.shape[1]).repeat(groups)
            self._flat = self.both.numpy().ravel()
            self._zeros = np.zeros_like(self._flat)

    def places(self, count: int) -> Sequence[tuple[Tensor | None, Tensor | None]]:
        """Where the kernel leaves what it finds in each of so many pieces; nowhere after `look_at`."""
        if self._has_looked:
            return ((None, None),) * count
        if count == 1:
            return ((self.mean, self.variance),)
        return list(zip(self.mean.view(count, -1).unbind(0), self.variance.view(count, -1).unbind(0), strict=True))

    def look_at(self, pieces: Sequence[Tensor]) -> None:
        """Find mean and variance without normalizing; pieces: [N, groups * C, …], or `groups` of [N, C]."""
        self._has_looked = False
        for piece, (mean, variance) in zip(pieces, self.places(len(pieces)), strict=True):
            torch.batch_norm_update_stats(piece.detach(), mean, variance, 1.0)
        self._has_looked = True
        if self.n == 1:
            self.variance.data.zero_()  # 0/0 until here
        torch.mm(self.pooling, self.by_group, out=self._pooled)

    def take_root(self, epsilon: float) -> None:
        """v -> s = sqrt(v + epsilon), in `pooled`."""
        _, stddev = self.pooled_rows
        stddev += epsilon
        stddev **= 0.5

    def repeated(self, parameter: Tensor | None) -> Tensor | None:
        """A parameter [C] for each group: [groups * C]."""
        if parameter is None:
            return None
        if self.is_cuda:  # where the backward pass of index_select adds in any order
            # contiguous: of one channel this is a view without a stride, and the kernel reads gamma as if it had one
            return parameter.expand(self.groups, -1).reshape(-1).contiguous()
        return parameter.index_select(0, self._repeats)  # with its gradient, in half the time

    def is_finite(self) -> bool:
        """Whether all that was found is; on the CPU."""
        # Infinity times 0 is no number. torch's own way to ask takes ten times as long for a few channels, and
        # numpy's dot warns where vdot does not.
        return math.isfinite(np.vdot(self._flat, self._zeros))


class Averages:
    """The rows of `tensor` [.., C], and how a batch moves them."""

    def __init__(self, tensor: Tensor, spec: BatchNormSpec) -> None:
        self.tensor, self.place = tensor, tensor.data_ptr()
        self.by_name = dict(zip(rows_of(spec), tensor.unbind(0), strict=True))
        self.mean, self.variance = self.by_name["moving_mean"], self.by_name["moving_variance"]
        self._spec, self._old, self._new = spec, spec.momentum, 1.0 - spec.momentum
        self._is_renorm = spec.renorm
        if spec.renorm:
            self._rows = vector_of(tensor)
            self._pairs = self._rows[1:].reshape(2, 2, -1)
            self._old_rows = (self._rows[3], self._rows[4])
            self._clips = spec.clipping.at(0) if spec.clipping.fixed else None
            self._floor = math.sqrt(spec.epsilon)
            old = tensor.new_tensor([spec.momentum, spec.renorm_momentum], dtype=torch.float64).view(2, 1, 1)
            self._pairs_old, self._pairs_new = (vector_of(each.to(tensor.dtype)) for each in (old, 1.0 - old))

    def renormed(self, found: Found, step: int) -> tuple[Tensor, Tensor]:
        """r and d [C] of a batch, from the averages as they are before it moves them; `found` has seen the batch."""
        found.take_root(self._spec.epsilon)
        clips = self._clips or self._spec.clipping.at(step)
        r, d = renormed(*found.pooled_rows, *self._old_rows, clips=clips, floor=self._floor)
        return (r, d) if found.is_cuda else (torch.from_numpy(r), torch.from_numpy(d))

    def take(self, found: Found) -> None:
        """One update."""
        if found.n == 1:
            self._take_mean(found)
        elif self._is_renorm:
            self._take_renorm(found)
        else:  # the means over the groups, the estimator of the variance and the average, in one product
            self.tensor.addmm_(found.pooling, found.by_group, beta=self._old, alpha=self._new)

    def _take_renorm(self, found: Found) -> None:
        self._pairs *= self._pairs_old
        self._pairs += self._pairs_new * found.pooled
        variance, stddev = self._rows[0], self._rows[2]
        variance[...] = (stddev * stddev - self._spec.epsilon).clip(0.0)

    def _take_mean(self, found: Found) -> None:
        """A batch of one value a channel has a mean and no variance."""
        weights = {"moving_mean": self._new, "renorm_mean": 1.0 - self._spec.renorm_momentum}
        mean = torch.as_tensor(found.pooled[0])
        for name, weight in weights.items():
            if name in self.by_name:
                self.by_name[name].lerp_(mean, weight)


def vector_of(tensor: Tensor) -> Vector:
    """The tensor itself on a GPU, the array over its memory elsewhere."""
    return tensor if tensor.is_cuda else tensor.numpy()
