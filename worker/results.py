"""The folder that a finished training hands over, written by the trainer, read by the supervisor; without its weights,
the folder of a version that the supervisor hands to a child that predicts. No torch here.

weights.safetensors   everything but gamma, beta and the moving statistics; renorm's own averages too
state.safetensors     "<position>.gamma", "<position>.beta", "<position>.moving_mean", "<position>.moving_variance"
result.json           network, preprocessing, classes, metrics, parameters, the layers of the state, warnings
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load_file, save_file

from gammabeta import failpoints, tensorfiles
from gammabeta.failpoints import Failpoint
from gammabeta.schemas.batchnorm import ARRAYS, BatchNormState, LayerState
from gammabeta.schemas.jobs import JobWarning
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.preprocessing import FittedPreprocessing

Array: TypeAlias = NDArray[np.float32]

WEIGHTS = "weights.safetensors"
STATE = "state.safetensors"
RESULT = "result.json"


class StateLayer(BaseModel):
    """What a batch-norm layer has besides its four arrays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    axis: int | tuple[int, ...]
    epsilon: float
    momentum: float
    updates: int
    skipped: int = 0
    single: int = 0


class Result(BaseModel):
    """What a version is made of, but for its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: LayersNetwork
    preprocessing: FittedPreprocessing
    classes: tuple[str, ...] | None
    metrics: dict[str, dict[str, Any]]
    """`train`, `validation`, `test`, as far as there are such rows."""
    parameters: int
    state_layers: tuple[StateLayer, ...]
    warnings: tuple[JobWarning, ...] = ()


def read(folder: Path) -> tuple[Result, BatchNormState]:
    """The result and its state; the weights stay in their file, `folder / WEIGHTS`."""
    result = Result.model_validate_json((folder / RESULT).read_bytes())
    return result, state_from(tensorfiles.read(folder / STATE, load_file), result.state_layers)


def write(folder: Path, *, weights: Mapping[str, Array], state: BatchNormState, result: Result) -> None:
    """Fill a folder; `worker.folders.complete` makes it one that is complete or not there."""
    save_file(dict(weights), folder / WEIGHTS)
    failpoints.reached(Failpoint.RESULT_PARTIAL)
    describe(folder, state=state, result=result)


def describe(folder: Path, *, state: BatchNormState, result: Result) -> None:
    """Everything but the weights."""
    save_file(state_arrays(state), folder / STATE)
    (folder / RESULT).write_text(result.model_dump_json())


def state_arrays(state: BatchNormState) -> dict[str, Array]:
    """The arrays of a state, as one safetensors file holds them."""
    return {
        f"{position}.{key}": array
        for position, layer in enumerate(state.layers)
        for key in ARRAYS
        if (array := getattr(layer, key)) is not None
    }


def state_layers(state: BatchNormState) -> tuple[StateLayer, ...]:
    """The rest of a state."""
    return tuple(
        StateLayer(
            name=each.name,
            axis=each.axis,
            epsilon=each.epsilon,
            momentum=each.momentum,
            updates=each.updates,
            skipped=each.skipped,
            single=each.single,
        )
        for each in state.layers
    )


def state_from(arrays: Mapping[str, Array], layers: tuple[StateLayer, ...]) -> BatchNormState:
    """The state that `state_arrays` and `state_layers` took apart.

    Raises:
        ValueError: a layer has no moving statistics.
    """
    return BatchNormState(tuple(_layer(position, layer, arrays) for position, layer in enumerate(layers)))


def _layer(position: int, layer: StateLayer, arrays: Mapping[str, Array]) -> LayerState:
    gamma, beta, mean, variance = (arrays.get(f"{position}.{key}") for key in ARRAYS)
    if mean is None or variance is None:
        raise ValueError(f"layer {position}, '{layer.name}', must have moving_mean and moving_variance")
    return LayerState(
        name=layer.name,
        axis=layer.axis,
        epsilon=layer.epsilon,
        momentum=layer.momentum,
        gamma=gamma,
        beta=beta,
        moving_mean=mean,
        moving_variance=variance,
        updates=layer.updates,
        skipped=layer.skipped,
        single=layer.single,
    )
