"""Batch normalization (Ioffe & Szegedy 2015), with the arguments and numbers of Keras.

    training     y = gamma (x - mu) / sqrt(v + epsilon) + beta        mu, v: mean and biased variance (1/n) of the batch
                 moving_mean     <- momentum moving_mean     + (1 - momentum) mu
                 moving_variance <- momentum moving_variance + (1 - momentum) V
    prediction   the moving statistics stand in for mu and v, and nothing is written

n counts the values of a channel in the batch. V is v, or v n/(n-1) in a layer that is `fused`. torch always takes the
latter. `momentum` is the weight of the OLD value (0.99); torch's is one minus it.

    ghost batches    each group of `virtual_batch_size` rows has its own mu and v; the averages take the means of those
    renorm           s = sqrt(v + epsilon)    S' = max(S, sqrt(epsilon))    r = clip(s / S')    d = clip((mu - R) / S')
                     y = ((x - mu) / s r + d) gamma + beta                  R, S: averages before this batch moves them
                     R, S, moving_mean and moving_stddev are averages of mu and s, and
                     moving_variance = max(moving_stddev² - epsilon, 0)
    adjustment       x_hat a + b instead of x_hat, drawn at each step; the moving statistics do not see it

With n = 1 there is no variance to learn: y = beta (and renorm's d), the mean moves, no variance does. (torch's kernel
would write NaN.) Nor does anything move after a batch whose statistics are not finite: it counts as `skipped`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.nets.averages import Averages, Found, rows_of
from gammabeta.nets.columns import Columns
from gammabeta.nets.corrections import Affine, Draws, joined
from gammabeta.nets.initializers import initial
from gammabeta.schemas.measuring import Shape, channels_of, parameter_shape, settled
from gammabeta.schemas.normalization import BatchNorm as BatchNormSpec

TRAINING_BUFFERS = ("renorm_mean", "renorm_stddev", "moving_stddev")
"""What renorm keeps for training alone."""


class BatchNorm(nn.Module):
    """One batch-norm layer. Parameters and moving statistics are float32 `[C]`, whatever the input is; of several axes
    C is the product of their extents, in the order of the axes. (After `.double()` they are float64.)

    All averages are the rows of one buffer, `averages` [2, C] (renorm: [5, C]), so that one call moves several.

    Args:
        spec: its arguments. Kept as `spec` with the axes positive and `fused` decided.
        shape: of a row, in API layout.
        generator: random numbers for the initializers that draw.
        seed: of the job, for the adjustment.
    """

    gamma: nn.Parameter | None
    beta: nn.Parameter | None
    averages: Tensor

    def __init__(
        self, spec: BatchNormSpec, shape: Shape, *, generator: torch.Generator | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        spec = settled(spec, shape)
        self.spec = spec
        self.channels, self.parameter_shape = channels_of(spec, shape), parameter_shape(spec, shape)
        self.steps = 0
        """Training batches seen: a number of Python's, since a tensor would cost an addition for each batch."""
        self.single = 0
        """Those with one value a channel."""
        self._skipped: int | Tensor = 0
        self._columns = Columns(spec.axes, shape)
        name, adjustment = spec.name or "", spec.adjustment
        self._draws = None if adjustment is None else Draws(adjustment, self.channels, seed=seed, layer=name)
        self._rows: Averages | None = None
        self._found: Found | None = None
        self._is_plain = self._columns.in_place and not spec.never_fused
        self._fill(generator or torch.Generator().manual_seed(0))
        self.train()

    def _fill(self, draws: torch.Generator) -> None:
        spec, channels = self.spec, (self.channels,)
        for key, wanted in (("gamma", spec.scale), ("beta", spec.center)):
            value = initial(getattr(spec, f"{key}_initializer"), channels, draws) if wanted else None
            parameter = None if value is None else nn.Parameter(value, requires_grad=spec.trainable)
            self.register_parameter(key, parameter)
        mean = initial(spec.moving_mean_initializer, channels, draws)
        variance = initial(spec.moving_variance_initializer, channels, draws)
        start = {"moving_variance": variance, "moving_mean": mean}
        if spec.renorm:
            start |= {"moving_stddev": variance.sqrt(), "renorm_mean": mean, "renorm_stddev": variance.sqrt()}
        self.register_buffer("averages", torch.stack([start[key] for key in rows_of(spec)]))

    @property
    def moving_mean(self) -> Tensor:
        """[C]; the memory of `averages`, as are the others."""
        return self._cut().mean

    @property
    def moving_variance(self) -> Tensor:
        """[C]."""
        return self._cut().variance

    def training_buffers(self) -> dict[str, Tensor]:
        """Renorm's averages by name, each [C]: R, S and the average of s. Empty without renorm."""
        return {key: row for key, row in self._cut().by_name.items() if key in TRAINING_BUFFERS}

    def _cut(self) -> Averages:
        """The rows of `averages`, cut again where the buffer has become another (on a GPU, say)."""
        averages, rows = self._buffers["averages"], self._rows
        if rows is None or rows.tensor is not averages or rows.place != averages.data_ptr():
            rows = self._rows = Averages(self.averages, self.spec)
        return rows

    @property
    def skipped(self) -> int:
        """Training batches that moved nothing, since their statistics were not finite."""
        return int(self._skipped)

    @property
    def updates(self) -> int:
        """Training batches that moved all the statistics."""
        return self.steps - self.skipped - self.single

    def restore(self, *, updates: int, skipped: int, single: int) -> None:
        """Go on from the counts of another layer like this; schedules and draws hang on their sum."""
        self.steps, self._skipped, self.single = updates + skipped + single, skipped, single

    def train(self, mode: bool = True) -> BatchNorm:
        """A layer with `trainable` off stays in prediction mode, whatever its network is told."""
        super().train(mode and self.spec.trainable)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, …] in torch's layout -> the same shape and dtype.

        Raises:
            ValueError: in training, `virtual_batch_size` does not divide B.
        """
        if not self.training:
            return self._predicted(x)
        n = x.numel() // self.channels
        if n == 0:
            return x
        y = self._plain(x, n) if self._is_plain and n > 1 else self._general(x)
        self.steps += 1
        return y

    def _predicted(self, x: Tensor) -> Tensor:
        rows, (columns,) = self._cut(), self._columns.of(x)
        y = _kernel(columns, self.gamma, self.beta, rows.mean, rows.variance, self.spec.epsilon, False)
        return self._columns.back((y,), x)

    def _plain(self, x: Tensor, n: int) -> Tensor:
        """What `_general` does for the common layer, in half its time for a small batch."""
        found, parameters = self._found, self._parameters  # self.gamma would take three times as long
        if found is None or found.n != n:
            found = self._place_for(n, 1)
        gamma, beta = parameters["gamma"], parameters["beta"]
        y = _kernel(x, gamma, beta, found.mean, found.variance, self.spec.epsilon, True)
        self._move(found)
        return y

    def _general(self, x: Tensor) -> Tensor:
        spec, groups = self.spec, self._groups_of(x)
        pieces = self._columns.of(x, groups)
        found = self._place_for(x.numel() // (groups * self.channels), groups)
        if spec.renorm or found.n == 1:
            found.look_at(pieces)
        affine = Affine(*self._cut().renormed(found, self.steps)) if spec.renorm else None
        if self._draws is not None:
            a_b = self._draws.at(self.steps, self.averages)
            affine = a_b if affine is None else affine.then(a_b)
        gamma, beta = joined(affine, self._parameters["gamma"], self._parameters["beta"])
        if groups > len(pieces):
            gamma, beta = found.repeated(gamma), found.repeated(beta)
        if found.n == 1:
            self.single += 1
            done = [_beta_alone(piece, gamma, beta) for piece in pieces]
        else:
            done = [
                _kernel(piece, gamma, beta, mean, variance, spec.epsilon, True)
                for piece, (mean, variance) in zip(pieces, found.places(len(pieces)), strict=True)
            ]
        self._move(found)
        return self._columns.back(done, x, groups)

    def _groups_of(self, x: Tensor) -> int:
        size = self.spec.virtual_batch_size
        if size is None:
            return 1
        if len(x) % size:
            raise ValueError(
                f"virtual_batch_size {size} must divide the rows of a batch in training. Received: {len(x)}"
            )
        return len(x) // size

    def _place_for(self, n: int, groups: int) -> Found:
        found = self._found
        if found is None or found.n != n or found.groups != groups:
            unbiased = bool(self.spec.fused)
            found = self._found = Found(self.averages, n, groups, unbiased=unbiased)
        return found

    def _move(self, found: Found) -> None:
        """Let what was found into the averages, if it is finite."""
        if found.is_cuda:
            # To ask the GPU would be to wait for it.
            finite, before = found.both.isfinite().all(), self.averages.clone()
            self._cut().take(found)
            self.averages.copy_(torch.where(finite, self.averages, before))
            self._skipped = self._skipped + (~finite & (found.n > 1))
            found.both.zero_()  # a NaN would stay: the kernel adds 0 times what was there
        elif found.is_finite():
            self._cut().take(found)
        else:
            self._skipped = self._skipped + (found.n > 1)
            found.both.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm:
        """`.half()` and the like cast nothing here: in float16 a variance above 65,504 would become infinite."""

        def without_loss(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        self._rows = self._found = None
        super()._apply(without_loss, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what looks into the memory of this layer's averages stays here."""
        return self.__dict__ | {"_rows": None, "_found": None}

    def get_extra_state(self) -> Tensor:
        """`updates`, `skipped` and `single`, so that a `state_dict` has them too."""
        return torch.tensor([self.updates, self.skipped, self.single], dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        updates, skipped, single = state.tolist()
        self.restore(updates=updates, skipped=skipped, single=single)

    def extra_repr(self) -> str:
        s = self.spec
        return f"{self.channels}, axis={s.axis}, momentum={s.momentum}, epsilon={s.epsilon}, trainable={s.trainable}"


def _kernel(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    epsilon: float,
    training: bool,
) -> Tensor:
    """torch's own. In training its momentum of 1 writes what it finds over mean and variance, n/(n-1) v."""
    cudnn = x.is_cuda and torch.backends.cudnn.enabled
    return torch.batch_norm(x, gamma, beta, mean, variance, training, 1.0, epsilon, cudnn)


def _beta_alone(columns: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    """One value a column is its own mean: x_hat is 0, and so are the gradients of x and gamma."""
    shape, y = (1, -1, *(1,) * (columns.ndim - 2)), columns - columns
    if gamma is not None:
        y = y * gamma.view(shape)
    if beta is not None:
        y = y + beta.view(shape)
    return y.to(columns.dtype)
