"""Networks: layers as a discriminated union, in a list or as a graph, or a preset that writes such a list.

{"layers": [{"type": "dense", "units": 64, "use_bias": false},
            {"type": "batch_norm", "momentum": 0.99, "epsilon": 0.001},
            {"type": "activation", "function": "relu"},
            {"type": "dense", "units": "classes"}]}

{"preset": "mlp", "hidden": [64], "batch_norm": "before_activation"}
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Discriminator, Field, Tag

from gammabeta.schemas.base import AtMost, Request
from gammabeta.schemas.layers import (
    Activation,
    Add,
    AveragePool,
    Concatenate,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
)
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.presets import CnnPreset, MlpPreset, ResnetPreset

MAX_LAYERS = 1_000

AnyLayer: TypeAlias = Annotated[
    Dense
    | Conv1D
    | Conv2D
    | DepthwiseConv2D
    | BatchNorm
    | Activation
    | MaxPool
    | AveragePool
    | GlobalAveragePool
    | Flatten
    | Dropout
    | Add
    | Concatenate,
    Field(discriminator="type"),
]


class LayersNetwork(Request):
    """A network written out: the last layer is the output."""

    layers: Annotated[tuple[AnyLayer, ...], AtMost(MAX_LAYERS, least=1)]


def _network_kind(value: Any) -> str:
    if isinstance(value, MlpPreset | CnnPreset | ResnetPreset):
        return value.preset
    if isinstance(value, LayersNetwork) or (isinstance(value, dict) and "layers" in value):
        return "layers"
    preset = value.get("preset") if isinstance(value, dict) else None
    return preset if isinstance(preset, str) else "neither"


NetworkSpec: TypeAlias = Annotated[
    Annotated[LayersNetwork, Tag("layers")]
    | Annotated[MlpPreset, Tag("mlp")]
    | Annotated[CnnPreset, Tag("cnn")]
    | Annotated[ResnetPreset, Tag("resnet")],
    Discriminator(
        _network_kind,
        custom_error_type="network",
        custom_error_message="must have 'layers', or 'preset' with mlp, cnn or resnet",
    ),
]
