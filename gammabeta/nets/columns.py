"""x as torch's kernel wants it, `[N, K, …]`: one column for each set of statistics.

    one axis        K = C                   x itself, or x with that axis last and the others flattened
    several axes    K = d1 d2 …             likewise; each combination has its own statistics
    ghost batches   K = G C, N = B / G      group g is the rows g, g + G, g + 2 G, …, as TensorFlow cuts them

A contiguous `[B, C, …]` becomes `[B / G, G C, …]` without moving a number: row g + G j lies where row j has the columns
of group g. Anything else is copied: large groups one by one, since whole rows are copied faster than their parts, and
small ones into one tensor, since each costs a call of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gammabeta.schemas.measuring import Shape

LARGE = 1 << 15
"""Numbers in a group that is worth a call of its own."""


class Columns:
    """The way to columns and back, for inputs with the rows of one shape.

    Args:
        axes: the axes that keep statistics, in API layout (the batch is axis 0), rising.
        shape: of a row, in API layout.
    """

    def __init__(self, axes: tuple[int, ...], shape: Shape) -> None:
        self._axes, self._image = axes, len(shape) == 3
        self.in_place = axes == (len(shape),) and len(shape) in (1, 3)
        """Whether torch has the channels second, so that x is its columns as it is."""

    def of(self, x: Tensor, groups: int = 1) -> tuple[Tensor, ...]:
        """x: [B, …] in torch's layout, B a multiple of `groups` -> one [N, groups * C, …], or `groups` of [N, C]."""
        if self._is_in_place(x, groups):
            return (x if groups == 1 else x.view(len(x) // groups, groups * x.shape[1], *x.shape[2:]),)
        if _are_large(x, groups):
            return tuple(self._flat(part, 1) for part in self._grouped(self._to_api(x), groups).unbind(1))
        return (self._flat(self._grouped(self._to_api(x), groups), groups),)

    def back(self, pieces: Sequence[Tensor], x: Tensor, groups: int = 1) -> Tensor:
        """The inverse for the columns of x after some work on each."""
        if self._is_in_place(x, groups):
            return pieces[0] if groups == 1 else pieces[0].view(x.shape)
        api = self._to_api(x)
        grouped = self._grouped(api, groups)
        if len(pieces) > 1:
            parts = zip(pieces, grouped.unbind(1), strict=True)
            y = torch.stack([self._unflat(piece, part) for piece, part in parts], dim=1)
        else:
            y = self._unflat(pieces[0], grouped, groups)
        y = y.reshape(api.shape)
        return y.permute(0, 3, 1, 2) if self._image else y

    def _is_in_place(self, x: Tensor, groups: int) -> bool:
        return self.in_place and (groups == 1 or x.is_contiguous())

    def _to_api(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1) if self._image else x

    def _grouped(self, x: Tensor, groups: int) -> Tensor:
        return x if groups == 1 else x.view(len(x) // groups, groups, *x.shape[1:])

    def _flat(self, z: Tensor, groups: int) -> Tensor:
        z = z.permute(self._order(z.ndim, groups))
        return z.reshape(-1, z.shape[-len(self._axes) - (groups > 1) :].numel())

    def _unflat(self, y: Tensor, like: Tensor, groups: int = 1) -> Tensor:
        order = self._order(like.ndim, groups)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return y.view([like.shape[dim] for dim in order]).permute(inverse)

    def _order(self, rank: int, groups: int) -> tuple[int, ...]:
        """The dimensions of an x that may be grouped, those that keep statistics last."""
        more = int(groups > 1)
        kept = (1,) * more + tuple(axis + more for axis in self._axes)
        return tuple(dim for dim in range(rank) if dim not in kept) + kept


def _are_large(x: Tensor, groups: int) -> bool:
    return groups > 1 and x.numel() >= groups * LARGE
