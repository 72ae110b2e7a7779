"""The batch-norm state of a network as data: gamma, beta, moving mean and moving variance of each layer, with a digest.

The digest is the name of the state. It covers position, name, axis, epsilon and the four arrays of every layer, in
order, and nothing that training alone needs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARRAYS = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True, kw_only=True)
class LayerState:
    """The state of one batch-norm layer. Each array is float32 of shape `[C]`; gamma is None with `scale` off, beta
    with `center` off. Of several axes C is the product of their extents, in the order of the axes. `momentum` is the
    weight of the old value (Keras)."""

    name: str
    axis: int | tuple[int, ...]
    epsilon: float
    momentum: float
    gamma: NDArray[np.float32] | None
    beta: NDArray[np.float32] | None
    moving_mean: NDArray[np.float32]
    moving_variance: NDArray[np.float32]
    updates: int
    """How many training batches moved the statistics."""
    skipped: int = 0
    """How many did not, since their mean or variance was not finite."""
    single: int = 0
    """How many had one value a channel: those moved the mean, and no variance."""

    @property
    def channels(self) -> int:
        return int(self.moving_mean.shape[0])

    @property
    def initial_weight(self) -> float:
        """`momentum ** updates`: the share of the moving statistics that is still their initial value."""
        return float(self.momentum**self.updates)


@dataclass(frozen=True)
class BatchNormState:
    """All batch-norm layers of a network, in the order of its layers."""

    layers: tuple[LayerState, ...]

    @cached_property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits. A network without batch norm has the digest of no layers."""
        hashed = hashlib.sha256()
        for position, layer in enumerate(self.layers):
            head: list[Any] = [position, layer.name, layer.axis, float(layer.epsilon).hex()]
            hashed.update(json.dumps(head, separators=(",", ":")).encode())
            for key in ARRAYS:
                array = getattr(layer, key)
                data = b"" if array is None else to_bytes(array)
                hashed.update(f"{key}:{'absent' if array is None else len(data)};".encode())
                hashed.update(data)
        return f"sha256:{hashed.hexdigest()}"

    def problem(self) -> str | None:
        """Why these statistics must not be served, or None."""
        for layer in self.layers:
            for key in ARRAYS:
                array = getattr(layer, key)
                if array is not None and not np.isfinite(array).all():
                    return f"{key} of layer '{layer.name}' is not finite"
            if (layer.moving_variance < 0).any():
                return f"moving_variance of layer '{layer.name}' is negative"
        return None


def to_bytes(array: NDArray[Any]) -> bytes:
    """Little-endian float32, as the rows hold it."""
    return np.ascontiguousarray(array, dtype="<f4").tobytes()


def from_bytes(data: bytes) -> NDArray[np.float32]:
    """The inverse of `to_bytes`: float32 of shape `[C]`."""
    return np.frombuffer(data, dtype="<f4").astype(np.float32)
