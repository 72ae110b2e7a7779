"""Arrays on their way in and out: a data set as an npz file, a batch-norm state as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gammabeta.errors import ArtifactCorrupt, InvalidRequest
from gammabeta.schemas.batchnorm import BatchNormState, LayerState
from gammabeta.schemas.models import BatchNormAnswer, BatchNormLayer
from gammabeta.schemas.normalization import VarianceEstimator


@dataclass(frozen=True, kw_only=True)
class StoredLayer(LayerState):
    """A batch-norm layer of a version."""

    fused_effective: bool
    """What `fused` came to."""
    variance_estimator: VarianceEstimator
    """What `moving_variance` is made of: `biased` or `unbiased` batch variances, or `renorm`'s moving standard
    deviation."""
    arguments: dict[str, Any]
    """The whole signature by its classic names."""


@dataclass(frozen=True)
class StoredState(BatchNormState):
    """All batch-norm layers of a version, in the order of its layers."""

    layers: tuple[StoredLayer, ...]


@contextmanager
def npz_file(arrays: Mapping[str, ArrayLike]) -> Iterator[Path]:
    """A temporary npz file of the arrays."""
    ready = {name: _plain(name, np.asarray(values)) for name, values in arrays.items()}
    with TemporaryDirectory(prefix="gammabeta-") as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(path, allow_pickle=False, **ready)
        yield path


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array as one that a file holds without pickle: Python strings become numpy's."""
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        return array.astype(np.str_)
    if array.dtype.kind not in "biufU":
        raise InvalidRequest.of(name, "must be an array of numbers, or of text for labels", str(array.dtype))
    return array


def state_of(answer: BatchNormAnswer) -> StoredState:
    """The state as float32 arrays.

    Raises:
        ArtifactCorrupt: the digest, computed again from the numbers that arrived, is not the one that came with them.
    """
    state = StoredState(tuple(map(_layer, answer.layers)))
    if state.digest != answer.digest:
        raise ArtifactCorrupt(
            f"The batch-norm state must have the digest {answer.digest}. Received: numbers with {state.digest}. "
            "Something between here and the database changed them."
        )
    return state


def _layer(layer: BatchNormLayer) -> StoredLayer:
    return StoredLayer(
        name=layer.name,
        axis=layer.axis,
        epsilon=layer.epsilon,
        momentum=layer.momentum,
        gamma=None if layer.gamma is None else _float32(layer.gamma),
        beta=None if layer.beta is None else _float32(layer.beta),
        moving_mean=_float32(layer.moving_mean),
        moving_variance=_float32(layer.moving_variance),
        updates=layer.updates,
        skipped=layer.skipped,
        single=layer.single,
        fused_effective=layer.fused_effective,
        variance_estimator=layer.variance_estimator,
        arguments=layer.arguments,
    )


def _float32(values: list[float]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)
