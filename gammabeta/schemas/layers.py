"""The layers that a network can have, but for batch norm.

Shapes and axes are in API layout: channels last, the batch not counted in a shape and counted as axis 0. Without
`inputs` a layer follows the one before it; with `inputs` it names those it reads, and `"input"` is the data.
Names and defaults of arguments are Keras'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from gammabeta.schemas.base import MANY, ONE, ONE_OR_MANY, AtMost, Count, Flag, Name, Number, Request, wrong
from gammabeta.schemas.constraints import Constraint
from gammabeta.schemas.initializers import Initializer, VectorInitializer
from gammabeta.schemas.regularizers import Regularizer

INPUT = "input"
"""The name by which a layer reads the data."""

Size: TypeAlias = Annotated[Count, Field(ge=1, le=1_000_000)]
Window: TypeAlias = Annotated[Count, Field(ge=1, le=1_024)]
Pair: TypeAlias = Annotated[Annotated[Window, ONE] | Annotated[tuple[Window, Window], MANY], ONE_OR_MANY]
Several: TypeAlias = Annotated[tuple[str, ...], AtMost(64, least=2)]
"""The names of layers that are put together."""
Padding: TypeAlias = Literal["valid", "same"]
ActivationFunction: TypeAlias = Literal[
    "relu", "sigmoid", "tanh", "softmax", "linear", "elu", "selu", "gelu", "silu", "leaky_relu", "softplus"
]

GLOROT = Initializer(name="glorot_uniform")
ZEROS = Initializer(name="zeros")


class Layer(Request):
    """What every layer has."""

    FOREIGN: ClassVar[Mapping[str, str]] = {
        "dtype": "parameters and statistics are float32 always. Leave it out.",
        "build_config": "the data say what shape the input has. Leave it out.",
        "config": "its keys belong here. Write them without it.",
    }

    name: Name | None = None
    """None: the type, and a number from the second on (`dense`, `dense_1`)."""
    inputs: Annotated[tuple[str, ...], AtMost(64, least=1)] | None = None
    """None: the layer before."""


class Biased(Layer):
    """A layer with a kernel, and perhaps a bias."""

    use_bias: Flag = True
    bias_initializer: VectorInitializer = ZEROS
    bias_regularizer: Regularizer | None = None
    bias_constraint: Constraint | None = None

    @model_validator(mode="after")
    def _needs_bias(self) -> Self:
        for key in ("bias_regularizer", "bias_constraint"):
            if not self.use_bias and getattr(self, key) is not None:
                raise wrong(key, 'needs a bias, and "use_bias" is false')
        return self


class Kernel(Biased):
    """Its kernel's arguments. Constraints take the axes of the kernel in Keras' shape."""

    kernel_initializer: Initializer = GLOROT
    kernel_regularizer: Regularizer | None = None
    kernel_constraint: Constraint | None = None


class Dense(Kernel):
    """`y = x W + b`; x: [B, F] -> [B, units]; W in Keras' shape: [F, units]."""

    type: Literal["dense"] = "dense"
    units: Size | Literal["classes"]
    """`"classes"`: as many as the target asks for (one for a number)."""


class Conv2D(Kernel):
    """Cross-correlation; x: [B, H, W, C] -> [B, H', W', filters]; kernel in Keras' shape: [h, w, C / groups,
    filters]."""

    type: Literal["conv2d"] = "conv2d"
    filters: Size
    kernel_size: Pair
    strides: Pair = 1
    padding: Padding = "valid"
    dilation_rate: Pair = 1
    groups: Size = 1

    @model_validator(mode="after")
    def _groups_divide_filters(self) -> Conv2D:
        _check_groups(self.groups, self.filters)
        return self


class Conv1D(Kernel):
    """Cross-correlation along a sequence; x: [B, L, C] -> [B, L', filters]; kernel in Keras' shape: [l, C / groups,
    filters]. Padding `causal` looks back only: y[t] does not depend on x[t + 1:]."""

    type: Literal["conv1d"] = "conv1d"
    filters: Size
    kernel_size: Window
    strides: Window = 1
    padding: Literal["valid", "same", "causal"] = "valid"
    dilation_rate: Window = 1
    groups: Size = 1

    @model_validator(mode="after")
    def _groups_divide_filters(self) -> Conv1D:
        _check_groups(self.groups, self.filters)
        return self


class DepthwiseConv2D(Biased):
    """Each channel by itself, with `depth_multiplier` kernels; x: [B, H, W, C] -> [B, H', W', C * depth_multiplier];
    kernel in Keras' shape: [h, w, C, depth_multiplier]."""

    type: Literal["depthwise_conv2d"] = "depthwise_conv2d"
    kernel_size: Pair
    strides: Pair = 1
    padding: Padding = "valid"
    depth_multiplier: Window = 1
    dilation_rate: Pair = 1
    depthwise_initializer: Initializer = GLOROT
    depthwise_regularizer: Regularizer | None = None
    depthwise_constraint: Constraint | None = None


class Activation(Layer):
    """An element-wise function (softmax: over the last axis)."""

    type: Literal["activation"] = "activation"
    function: ActivationFunction


class Pool(Layer):
    """x: [B, H, W, C] -> [B, H', W', C], or [B, L, C] -> [B, L', C]."""

    pool_size: Pair = 2
    strides: Pair | None = None
    """None: the pool size."""
    padding: Padding = "valid"


class MaxPool(Pool):
    """The largest value in each window."""

    type: Literal["max_pool"] = "max_pool"


class AveragePool(Pool):
    """The mean of each window; padding is not counted."""

    type: Literal["average_pool"] = "average_pool"


class GlobalAveragePool(Layer):
    """x: [B, H, W, C] or [B, L, C] -> [B, C], the mean over all but the channels."""

    type: Literal["global_average_pool"] = "global_average_pool"


class Flatten(Layer):
    """x: [B, …] -> [B, F], in channels-last order."""

    type: Literal["flatten"] = "flatten"


class Dropout(Layer):
    """In training, zeroes a fraction `rate` and scales the rest by 1 / (1 - rate); in prediction, nothing."""

    type: Literal["dropout"] = "dropout"
    rate: Number = Field(ge=0, lt=1)


class Add(Layer):
    """The sum of its inputs, all of one shape."""

    type: Literal["add"] = "add"
    inputs: Several


class Concatenate(Layer):
    """Its inputs side by side along `axis` (API layout)."""

    type: Literal["concatenate"] = "concatenate"
    inputs: Several
    axis: Count = -1


def _check_groups(groups: int, filters: int) -> None:
    if filters % groups:
        raise wrong("groups", "must divide filters, which are {filters}", filters=filters)
