"""Batch norm in numpy and float64, straight from its formulas: what the layer is compared with.

    training      x_hat = (x - mu_g) / sqrt(v_g + epsilon)                  g: the ghost batch of a row
                  y = ((x_hat r + d) a + b) gamma + beta
                  dx = gamma a r / s_g (dy - mean_g(dy) - x_hat mean_g(dy x_hat))      r, d, a, b: constants
    prediction    y = (x - moving_mean) / sqrt(moving_variance + epsilon) gamma + beta

x is in API layout, channels last. Of several axes, the statistics come in the order of the axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


def normalized(x: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    """x: [n, C]; mean, variance: [C]."""
    return (x - mean) / np.sqrt(variance + epsilon)


def pool(parts: Iterable[tuple[int, Array, Array]]) -> tuple[int, Array, Array]:
    """Number, mean and biased variance of all values together, from those of each part (Chan et al. 1979)."""
    counts, means, variances = zip(*parts, strict=True)
    n, weights = sum(counts), np.asarray(counts, float)[:, None]
    mean = (weights * means).sum(0) / n
    return n, mean, (weights * (np.asarray(variances) + (np.asarray(means) - mean) ** 2)).sum(0) / n


@dataclass
class Pass:
    """What a training step leaves for its gradient: of each ghost batch x_hat [n, C] and s [C]."""

    ghosts: list[tuple[Array, Array]]
    factor: Array
    offset: Array


@dataclass(kw_only=True)
class Reference:
    """One layer. Arrays are [C]; gamma and beta may be None."""

    axes: Sequence[int] = (-1,)
    momentum: float = 0.99
    epsilon: float = 1e-3
    gamma: Array | None = None
    beta: Array | None = None
    moving_mean: Array
    moving_variance: Array
    unbiased: bool = False
    virtual_batch_size: int | None = None
    adjustment: tuple[Array | float, Array | float] = (1.0, 0.0)
    renorm: bool = False
    renorm_momentum: float = 0.99
    clips: tuple[float, float, float] = (0.0, math.inf, math.inf)
    """rmin, rmax, dmax."""
    last: Pass = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.renorm_mean = self.moving_mean
        self.renorm_stddev = self.moving_stddev = np.sqrt(self.moving_variance)

    def train(self, x: Array) -> Array:
        ghosts = [self._columns(each) for each in self._ghosts_of(x)]
        moments = [(each.mean(0), each.var(0)) for each in ghosts]
        mean, variance = (np.mean(each, 0) for each in zip(*moments, strict=True))
        r, d = self._corrections(mean, variance)
        a, b = self.adjustment
        passes = [
            (normalized(each, *own, self.epsilon), np.sqrt(own[1] + self.epsilon))
            for each, own in zip(ghosts, moments, strict=True)
        ]
        self.last = Pass(passes, r * a, d * a + b)
        self._move(mean, variance, len(ghosts[0]))
        return self._joined([self._scaled(x_hat * self.last.factor + self.last.offset) for x_hat, _ in passes], x)

    def backward(self, dy: Array) -> tuple[Array, Array, Array]:
        """Of the last training step: dx, dgamma, dbeta."""
        last, gamma = self.last, 1.0 if self.gamma is None else self.gamma
        dx, dgamma, dbeta = [], 0.0, 0.0
        for (x_hat, s), part in zip(last.ghosts, map(self._columns, self._ghosts_of(dy)), strict=True):
            dx.append(gamma * last.factor / s * (part - part.mean(0) - x_hat * (part * x_hat).mean(0)))
            dgamma = dgamma + (part * (x_hat * last.factor + last.offset)).sum(0)
            dbeta = dbeta + part.sum(0)
        return self._joined(dx, dy), np.asarray(dgamma), np.asarray(dbeta)

    def predict(self, x: Array) -> Array:
        y = self._scaled(normalized(self._columns(x), self.moving_mean, self.moving_variance, self.epsilon))
        return self._uncolumned(y, x.shape)

    def _corrections(self, mean: Array, variance: Array) -> tuple[Array | float, Array | float]:
        """r and d, from the averages before this step moves them."""
        if not self.renorm:
            return 1.0, 0.0
        rmin, rmax, dmax = self.clips
        scale = np.maximum(self.renorm_stddev, math.sqrt(self.epsilon))
        r = np.sqrt(variance + self.epsilon) / scale
        return np.clip(r, rmin, rmax), np.clip((mean - self.renorm_mean) / scale, -dmax, dmax)

    def _move(self, mean: Array, variance: Array, n: int) -> None:
        """With one value a channel there is no variance to learn from."""
        self.moving_mean = _average(self.moving_mean, mean, self.momentum)
        if self.renorm:
            self.renorm_mean = _average(self.renorm_mean, mean, self.renorm_momentum)
        if n == 1:
            return
        if not self.renorm:
            found = variance * n / (n - 1) if self.unbiased else variance
            self.moving_variance = _average(self.moving_variance, found, self.momentum)
            return
        s = np.sqrt(variance + self.epsilon)
        self.renorm_stddev = _average(self.renorm_stddev, s, self.renorm_momentum)
        self.moving_stddev = _average(self.moving_stddev, s, self.momentum)
        self.moving_variance = np.maximum(self.moving_stddev**2 - self.epsilon, 0)

    def _scaled(self, x_hat: Array) -> Array:
        scaled = x_hat if self.gamma is None else x_hat * self.gamma
        return scaled if self.beta is None else scaled + self.beta

    def _ghosts_of(self, x: Array) -> list[Array]:
        count = 1 if self.virtual_batch_size is None else len(x) // self.virtual_batch_size
        return [x[ghost::count] for ghost in range(count)]

    def _joined(self, parts: list[Array], like: Array) -> Array:
        whole = np.empty_like(like)
        for ghost, part in enumerate(parts):
            rows = whole[ghost :: len(parts)]
            rows[...] = self._uncolumned(part, rows.shape)
        return whole

    def _columns(self, x: Array) -> Array:
        """[B, …] -> [n, C]."""
        order, kept = self._order(x.ndim)
        return x.transpose(order).reshape(-1, math.prod(x.shape[axis] for axis in kept))

    def _uncolumned(self, columns: Array, shape: tuple[int, ...]) -> Array:
        order, _ = self._order(len(shape))
        return columns.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))

    def _order(self, rank: int) -> tuple[list[int], list[int]]:
        kept = sorted(axis % rank for axis in self.axes)
        return [axis for axis in range(rank) if axis not in kept] + kept, kept


def _average(old: Array, new: Array, momentum: float) -> Array:
    return momentum * old + (1 - momentum) * new
