"""Batch normalization (Ioffe & Szegedy 2015), with the arguments and numbers of Keras.

    training     y = gamma (x - mu) / sqrt(v + epsilon) + beta        mu, v: mean and biased variance (1/n) of the batch
                 moving_mean     <- momentum moving_mean     + (1 - momentum) mu
                 moving_variance <- momentum moving_variance + (1 - momentum) V
    prediction   the moving statistics stand in for mu and v, and nothing is written

n counts the values of a channel in the batch. V is v, or v n/(n-1) in a layer that Keras 2 runs with its fused kernel:
images normalized over axis 1 or 3. torch always takes the latter. A batch with n = 1 has y = beta and V = 0, as in
TensorFlow on a CPU; torch's kernel would write NaN.

`momentum` is the weight of the OLD value (0.99); torch's is one minus it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gammabeta.nets.initializers import initial
from gammabeta.schemas import networks as specs


class BatchNorm(nn.Module):
    """One batch-norm layer. Parameters and moving statistics are float32 `[channels]`, whatever the input is.

    Args:
        spec: the layer of a plan.
        channels: how many statistics it keeps.
        dim: the torch dimension of x that has `channels` elements.
        fused_effective: whether the moving variance takes the unbiased v n/(n-1).
        generator: random numbers for the initializers that draw.
    """

    gamma: nn.Parameter | None
    beta: nn.Parameter | None
    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(
        self,
        spec: specs.BatchNorm,
        channels: int,
        *,
        dim: int = 1,
        fused_effective: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.channels, self.dim, self.fused_effective = spec, channels, dim, fused_effective
        self.updates = 0
        """How many training batches moved the statistics: a number of Python's, since a tensor would cost an addition
        for each batch."""
        draws = generator or torch.Generator().manual_seed(0)
        self.gamma = self._parameter(initial(spec.gamma_initializer, channels, draws)) if spec.scale else None
        self.beta = self._parameter(initial(spec.beta_initializer, channels, draws)) if spec.center else None
        self.register_buffer("moving_mean", initial(spec.moving_mean_initializer, channels, draws))
        self.register_buffer("moving_variance", initial(spec.moving_variance_initializer, channels, draws))
        self._new_weight, self._epsilon = 1.0 - spec.momentum, spec.epsilon
        self._momentum = torch.tensor(spec.momentum)  # times a tensor is three times faster than times a float
        self.train()

    def _parameter(self, value: Tensor) -> nn.Parameter:
        return nn.Parameter(value, requires_grad=self.spec.trainable)

    def train(self, mode: bool = True) -> BatchNorm:
        """A layer with `trainable` off stays in prediction mode, whatever its network is told."""
        super().train(mode and self.spec.trainable)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, …] with `channels` elements along `dim` -> the same shape and dtype."""
        if self.dim == 1:
            return self._normalized(x)
        return self._normalized(x.movedim(self.dim, 1)).movedim(1, self.dim)

    def _normalized(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._kernel(x, self.moving_variance)
        n = x.numel() // self.channels
        if n < 2:
            return self._of_one_value(x) if n else x
        self.updates += 1
        variance = self.moving_variance
        if self.fused_effective:
            return self._kernel(x, variance)
        # The kernel added (1 - momentum) v n/(n-1); 1/n of the way back to the decayed old value takes n/(n-1) out.
        decayed = variance * self._momentum
        y = self._kernel(x, variance)
        variance.data.lerp_(decayed, 1.0 / n)  # .data: autograd must not see the buffer change before backward
        return y

    def _kernel(self, x: Tensor, variance: Tensor) -> Tensor:
        return torch.batch_norm(
            x,
            self.gamma,
            self.beta,
            self.moving_mean,
            variance,
            self.training,
            self._new_weight,
            self._epsilon,
            torch.backends.cudnn.enabled,
        )

    def _of_one_value(self, x: Tensor) -> Tensor:
        """n = 1: the mean is the value itself, and the variance is 0. The gradients of x and gamma are zeros."""
        self.updates += 1
        self.moving_mean.data.lerp_(x.detach().reshape(self.channels).float(), self._new_weight)
        self.moving_variance.data.mul_(self._momentum)
        shape = (1, self.channels, *(1,) * (x.ndim - 2))
        y = (x - x).float()
        if self.gamma is not None:
            y = y * self.gamma.view(shape)
        if self.beta is not None:
            y = y + self.beta.view(shape)
        return y.to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm:
        """`.half()` and the like cast nothing here: in float16 a variance above 65,504 would become infinite."""

        def without_cast(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(without_cast, recurse)  # type: ignore[no-untyped-call]
        return self

    def get_extra_state(self) -> Tensor:
        """`updates`, so that a `state_dict` has it too."""
        return torch.tensor(self.updates, dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)

    def extra_repr(self) -> str:
        s = self.spec
        return f"{self.channels}, dim={self.dim}, momentum={s.momentum}, epsilon={s.epsilon}, trainable={s.trainable}"
