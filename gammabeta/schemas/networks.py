"""Networks: layers as a discriminated union, in a list or as a graph, and the presets that write such lists.

    {"layers": [{"type": "dense", "units": 64, "use_bias": false},
                {"type": "batch_norm", "momentum": 0.99, "epsilon": 0.001},
                {"type": "activation", "function": "relu"},
                {"type": "dense", "units": "classes"}]}

    {"preset": "mlp", "hidden": [64], "batch_norm": "before_activation"}

Shapes and axes are in API layout: channels last, the batch not counted in a shape and counted as axis 0. Without
`inputs` a layer follows the one before it; with `inputs` it names those it reads, and `"input"` is the data.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from gammabeta.schemas.base import AtMost, Name, Request, not_supported, refuse_not_yet, wrong
from gammabeta.schemas.initializers import Initializer

INPUT = "input"
"""The name by which a layer reads the data."""

MAX_LAYERS = 1_000
SMALLEST = 1e-37
"""Of the numbers that float32 holds in full, about."""

Size: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]
Window: TypeAlias = Annotated[int, Field(ge=1, le=1_024)]
Pair: TypeAlias = Window | tuple[Window, Window]
Padding: TypeAlias = Literal["valid", "same"]
ActivationFunction: TypeAlias = Literal[
    "relu", "sigmoid", "tanh", "softmax", "linear", "elu", "selu", "gelu", "silu", "leaky_relu", "softplus"
]


class Layer(Request):
    """What every layer has."""

    name: Name | None = None
    """None: the type, and a number from the second on (`dense`, `dense_1`)."""
    inputs: Annotated[tuple[str, ...], AtMost(64)] | None = Field(default=None, min_length=1)
    """None: the layer before."""


class Dense(Layer):
    """`y = x W + b`; x: [B, F] -> [B, units]."""

    type: Literal["dense"] = "dense"
    units: Size | Literal["classes"]
    """`"classes"`: as many as the target asks for (one for a number)."""
    use_bias: bool = True


class Conv2D(Layer):
    """Cross-correlation; x: [B, H, W, C] -> [B, H', W', filters]."""

    type: Literal["conv2d"] = "conv2d"
    filters: Size
    kernel_size: Pair
    strides: Pair = 1
    padding: Padding = "valid"
    use_bias: bool = True


class BatchNorm(Layer):
    """Batch normalization over every axis but `axis`.

    Training: `y = gamma (x - mu) / sqrt(v + epsilon) + beta`, v the biased batch variance, and
    `moving <- momentum * moving + (1 - momentum) * batch`. Prediction: the moving statistics stand in for mu and v.
    """

    type: Literal["batch_norm"] = "batch_norm"
    axis: int = -1
    """The axis that keeps its own statistics, in API layout; axis 0 is the batch and is refused."""
    momentum: float = Field(default=0.99, ge=0, le=1)
    """The weight of the OLD moving value, as in Keras. torch's momentum is one minus this."""
    epsilon: float = Field(default=1e-3, gt=0, le=1_000)
    center: bool = True
    scale: bool = True
    beta_initializer: Initializer = Initializer(name="zeros")
    gamma_initializer: Initializer = Initializer(name="ones")
    moving_mean_initializer: Initializer = Initializer(name="zeros")
    moving_variance_initializer: Initializer = Initializer(name="ones")
    trainable: bool = True
    """False: normalize with the moving statistics in training too, and change nothing."""

    NOT_YET: ClassVar[frozenset[str]] = frozenset(
        "beta_regularizer gamma_regularizer beta_constraint gamma_constraint renorm renorm_clipping renorm_momentum "
        "fused virtual_batch_size adjustment".split()
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_not_yet(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("axis"), list | tuple):
            raise not_supported("a list as 'axis' of batch_norm", "Write a single axis, for instance -1.", key="axis")
        return refuse_not_yet(value, cls.NOT_YET, "batch_norm")

    @model_validator(mode="after")
    def _check_axis_and_variance(self) -> BatchNorm:
        if self.axis == 0:
            raise wrong("axis", "must not be 0: that is the batch. Write -1 for the channels.")
        if self.epsilon < SMALLEST:
            raise wrong("epsilon", "must be at least {least:g}, or it would be 0 in float32", least=SMALLEST)
        lowest = self.moving_variance_initializer.lowest()
        if lowest is None or lowest < 0:
            raise wrong(
                "moving_variance_initializer",
                'must not give a negative variance. Write "ones", a constant >= 0 or a '
                "random_uniform with minval >= 0.",
            )
        return self


class Activation(Layer):
    """An element-wise function (softmax: over the last axis)."""

    type: Literal["activation"] = "activation"
    function: ActivationFunction


class Pool2D(Layer):
    """x: [B, H, W, C] -> [B, H', W', C]."""

    pool_size: Pair = 2
    strides: Pair | None = None
    """None: the pool size."""
    padding: Padding = "valid"


class MaxPool(Pool2D):
    """The largest value in each window."""

    type: Literal["max_pool"] = "max_pool"


class AveragePool(Pool2D):
    """The mean of each window; padding is not counted."""

    type: Literal["average_pool"] = "average_pool"


class GlobalAveragePool(Layer):
    """x: [B, H, W, C] -> [B, C], the mean over height and width."""

    type: Literal["global_average_pool"] = "global_average_pool"


class Flatten(Layer):
    """x: [B, …] -> [B, F], in channels-last order."""

    type: Literal["flatten"] = "flatten"


class Dropout(Layer):
    """In training, zeroes a fraction `rate` and scales the rest by 1 / (1 - rate); in prediction, nothing."""

    type: Literal["dropout"] = "dropout"
    rate: float = Field(ge=0, lt=1)


class Add(Layer):
    """The sum of its inputs, all of one shape."""

    type: Literal["add"] = "add"
    inputs: Annotated[tuple[str, ...], AtMost(64)] = Field(min_length=2)


class Concatenate(Layer):
    """Its inputs side by side along `axis` (API layout)."""

    type: Literal["concatenate"] = "concatenate"
    inputs: Annotated[tuple[str, ...], AtMost(64)] = Field(min_length=2)
    axis: int = -1


AnyLayer: TypeAlias = Annotated[
    Dense
    | Conv2D
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

    layers: Annotated[tuple[AnyLayer, ...], AtMost(MAX_LAYERS)] = Field(min_length=1)


Placement: TypeAlias = Literal["before_activation", "after_activation", "none"]

_BATCH_NORM_ARGUMENTS = frozenset(BatchNorm.model_fields) - {"type", "name", "inputs"}


class BatchNormOptions(Request):
    """Batch norm of a preset with arguments: those of `batch_norm`, and where to put it."""

    placement: Literal["before_activation", "after_activation"] = "before_activation"
    layer: BatchNorm = BatchNorm()

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "layer" in value:
            return value
        arguments = {k: v for k, v in value.items() if k != "placement"}
        return {"placement": value.get("placement", "before_activation"), "layer": {"type": "batch_norm", **arguments}}


def _placement_kind(value: Any) -> str:
    if isinstance(value, str):
        return "everywhere"
    return "each" if isinstance(value, list | tuple) else "options"


BatchNormChoice: TypeAlias = Annotated[
    Annotated[Placement, Tag("everywhere")]
    | Annotated[tuple[Placement, ...], Tag("each")]
    | Annotated[BatchNormOptions, Tag("options")],
    Discriminator(_placement_kind),
]
"""One placement for all hidden layers, a list with one for each, or an object with arguments."""


class Preset(Request):
    """What the presets share."""

    batch_norm: BatchNormChoice = "before_activation"
    activation: ActivationFunction = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """After each hidden dense layer."""


class MlpPreset(Preset):
    """A multi-layer perceptron: dense, batch norm and activation for each hidden layer, then the output."""

    preset: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Size, ...], AtMost(100)] = Field(default=(64,), min_length=1)

    @model_validator(mode="after")
    def _one_each(self) -> MlpPreset:
        _check_each(self.batch_norm, len(self.hidden), "hidden")
        return self


class CnnPreset(Preset):
    """A convolutional network: 3x3 convolution, batch norm, activation and 2x2 max pooling for each of `filters`, then
    hidden dense layers and the output. Batch norm in a list: first those of `filters`, then those of `hidden`."""

    preset: Literal["cnn"] = "cnn"
    filters: Annotated[tuple[Size, ...], AtMost(10)] = Field(default=(32, 64), min_length=1)
    hidden: Annotated[tuple[Size, ...], AtMost(100)] = (64,)
    kernel_size: Window = 3

    @model_validator(mode="after")
    def _one_each(self) -> CnnPreset:
        _check_each(self.batch_norm, len(self.filters) + len(self.hidden), "filters and hidden together")
        return self


def _check_each(choice: BatchNormChoice, count: int, what: str) -> None:
    if isinstance(choice, tuple) and len(choice) != count:
        raise wrong("batch_norm", "as a list must have one entry for each of {what}: {count}", what=what, count=count)


_PRESETS_NOT_YET = frozenset({"resnet"})


def _refuse_presets_not_yet(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("preset"), str) and value["preset"] in _PRESETS_NOT_YET:
        raise not_supported(f"the preset '{value['preset']}'", "Write the preset mlp or cnn, or layers.", key="preset")
    return value


def _network_kind(value: Any) -> str:
    if isinstance(value, MlpPreset | CnnPreset):
        return value.preset
    if isinstance(value, LayersNetwork) or (isinstance(value, dict) and "layers" in value):
        return "layers"
    preset = value.get("preset") if isinstance(value, dict) else None
    return preset if isinstance(preset, str) else "neither"


NetworkSpec: TypeAlias = Annotated[
    Annotated[LayersNetwork, Tag("layers")] | Annotated[MlpPreset, Tag("mlp")] | Annotated[CnnPreset, Tag("cnn")],
    Discriminator(
        _network_kind,
        custom_error_type="network",
        custom_error_message="must have 'layers', or 'preset' with mlp or cnn",
    ),
    BeforeValidator(_refuse_presets_not_yet),
]
