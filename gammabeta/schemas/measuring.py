"""Shapes and parameters of a layer whose inputs are known, and whether its arguments fit them.

Shapes are in API layout without the batch: `(F,)` rows of numbers, `(L, C)` sequences, `(H, W, C)` images.
"""

from __future__ import annotations

import math
from typing import TypeAlias

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.adjustments import ConstantAdjustment
from gammabeta.schemas.constraints import Constraint
from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.layers import (
    Activation,
    Add,
    AveragePool,
    Biased,
    Concatenate,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Pair,
    Pool,
)
from gammabeta.schemas.networks import AnyLayer
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.problems import shortened

Shape: TypeAlias = tuple[int, ...]

_WANTED = {1: "[features]", 2: "[length, channels]", 3: "[height, width, channels]"}


def pair(value: Pair) -> tuple[int, int]:
    """Height and width of a window that was written as one number or two."""
    return value if isinstance(value, tuple) else (value, value)


def measure(layer: AnyLayer, given: tuple[Shape, ...], field: str) -> tuple[Shape, int]:
    """Output shape and number of trained parameters of a settled layer.

    Raises:
        InvalidRequest: the layer cannot read these shapes, or an argument does not fit them; `field` is where.
    """
    shape = given[0]
    match layer:
        case Dense() | Conv1D() | Conv2D() | DepthwiseConv2D():
            output = _kernel_output(layer, shape, field)
            kernel = kernel_shape(layer, shape)
            _check_kernel_arguments(layer, kernel, output[-1], field)
            return output, math.prod(kernel) + (output[-1] if layer.use_bias else 0)
        case MaxPool() | AveragePool():
            return _pooled(layer, shape, field), 0
        case GlobalAveragePool():
            _need_rank(layer, shape, (2, 3), field, "It reads sequences and images.")
            return (shape[-1],), 0
        case BatchNorm():
            channels = _check_batch_norm(layer, shape, field)
            return shape, channels * (int(layer.center) + int(layer.scale))
        case Flatten():
            return (math.prod(shape),), 0
        case Activation() | Dropout():
            return shape, 0
        case Add():
            if any(other != shape for other in given):
                raise InvalidRequest.of(
                    f"{field}.inputs", "the inputs of add must have one shape", [list(other) for other in given]
                )
            return shape, 0
        case Concatenate():
            return _concatenated(layer, given, field), 0


def kernel_shape(layer: Dense | Conv1D | Conv2D | DepthwiseConv2D, shape: Shape) -> Shape:
    """The kernel's shape in Keras' layout."""
    match layer:
        case Dense():
            return (shape[0], int(layer.units))
        case Conv1D():
            return (layer.kernel_size, shape[1] // layer.groups, layer.filters)
        case Conv2D():
            return (*pair(layer.kernel_size), shape[2] // layer.groups, layer.filters)
        case DepthwiseConv2D():
            return (*pair(layer.kernel_size), shape[2], layer.depth_multiplier)


def counted(axis: int, shape: Shape) -> int:
    """An axis counted from the front; the batch is axis 0."""
    return axis + len(shape) + 1 if axis < 0 else axis


def settled(layer: BatchNorm, shape: Shape) -> BatchNorm:
    """A batch norm with its axes counted from the front, in rising order, and `fused` decided."""
    axes = sorted(counted(axis, shape) for axis in layer.axes)
    layer = layer.model_copy(update={"axis": axes[0] if len(axes) == 1 else tuple(axes)})
    return layer.model_copy(update={"fused": can_be_fused(layer, shape) if layer.fused is None else layer.fused})


def check_axes(layer: BatchNorm, shape: Shape, field: str) -> None:
    """Look at the axes of a batch norm as they were written.

    Raises:
        InvalidRequest: the input has no such axis, or two of them are the same.
    """
    rank = len(shape)
    wanted = "1 or -1" if rank == 1 else f"between 1 and {rank}, or between {-rank} and -1,"
    for axis in layer.axes:
        if not (1 <= axis <= rank or -rank <= axis <= -1):
            raise InvalidRequest.of(
                f"{field}.axis",
                f"must be {wanted} for an input of shape {list(shape)}",
                axis,
            )
    if len({counted(axis, shape) for axis in layer.axes}) < len(layer.axes):
        raise InvalidRequest.of(f"{field}.axis", "must name each axis once; -1 is the last", list(layer.axes))


def channels_of(layer: BatchNorm, shape: Shape) -> int:
    """How many statistics a batch norm keeps of an input of this shape."""
    return math.prod(shape[axis - 1] for axis in layer.axes)


def parameter_shape(layer: BatchNorm, shape: Shape) -> Shape:
    """gamma's shape in Keras: `(C,)`, or with a virtual batch or several axes as many dimensions as the input has, and
    one more for the virtual batch."""
    if len(layer.axes) == 1 and layer.virtual_batch_size is None:
        return (channels_of(layer, shape),)
    kept = tuple(extent if axis in layer.axes else 1 for axis, extent in enumerate(shape, start=1))
    return (1, *kept) if layer.virtual_batch_size is None else (1, 1, *kept)


def can_be_fused(layer: BatchNorm, shape: Shape) -> bool:
    """Whether Keras 2 has a fused kernel for this layer."""
    fitting = {3: (1, 3), 4: (1, 4)}.get(len(shape), ())
    return not layer.never_fused and layer.axes[0] in fitting


def _need_rank(layer: AnyLayer, shape: Shape, ranks: tuple[int, ...], field: str, remedy: str) -> None:
    if len(shape) not in ranks:
        wanted = " or ".join(_WANTED[rank] for rank in ranks)
        raise InvalidRequest.of(
            field, f"{layer.type} '{layer.name}' needs an input of shape {wanted}. {remedy}", list(shape)
        )


def _kernel_output(layer: Dense | Conv1D | Conv2D | DepthwiseConv2D, shape: Shape, field: str) -> Shape:
    match layer:
        case Dense():
            _need_rank(layer, shape, (1,), field, "Put a flatten layer before it.")
            return (int(layer.units),)
        case Conv1D():
            _need_rank(layer, shape, (2,), field, "It reads sequences.")
            _check_groups(layer, shape, field)
            windows = ((layer.kernel_size,), (layer.strides,), (layer.dilation_rate,))
            return (*_windows(*windows, layer.padding, shape, field), layer.filters)
        case Conv2D():
            _need_rank(layer, shape, (3,), field, "It reads images.")
            _check_groups(layer, shape, field)
        case DepthwiseConv2D():
            _need_rank(layer, shape, (3,), field, "It reads images.")
    two = (pair(layer.kernel_size), pair(layer.strides), pair(layer.dilation_rate))
    channels = layer.filters if isinstance(layer, Conv2D) else shape[2] * layer.depth_multiplier
    return (*_windows(*two, layer.padding, shape, field), channels)


def _check_groups(layer: Conv1D | Conv2D, shape: Shape, field: str) -> None:
    if shape[-1] % layer.groups:
        raise InvalidRequest.of(f"{field}.groups", f"must divide the input's {shape[-1]} channels", layer.groups)


def _pooled(layer: Pool, shape: Shape, field: str) -> Shape:
    if len(shape) not in (2, 3):
        raise InvalidRequest.of(
            field, f"'{layer.name}' needs an input of shape {_WANTED[2]} or {_WANTED[3]}.", list(shape)
        )
    strides = layer.pool_size if layer.strides is None else layer.strides
    if len(shape) == 3:
        return (*_windows(pair(layer.pool_size), pair(strides), (1, 1), layer.padding, shape, field), shape[2])
    for key, value in (("pool_size", layer.pool_size), ("strides", strides)):
        if isinstance(value, tuple):
            raise InvalidRequest.of(f"{field}.{key}", "must be one number for a sequence", list(value))
    window, stride = pair(layer.pool_size)[0], pair(strides)[0]
    return (*_windows((window,), (stride,), (1,), layer.padding, shape, field), shape[1])


def _windows(kernel: Shape, strides: Shape, dilation: Shape, padding: str, shape: Shape, field: str) -> tuple[int, ...]:
    """The extents after a sliding window."""
    if max(strides) > 1 and max(dilation) > 1:
        raise InvalidRequest.of(
            f"{field}.dilation_rate", "must be 1 where strides are greater than 1, or strides must be 1", list(dilation)
        )
    sizes: list[int] = []
    for extent, window, stride, spread in zip(shape, kernel, strides, dilation, strict=False):
        reach = (window - 1) * spread + 1
        size = (extent - reach) // stride + 1 if padding == "valid" else -(-extent // stride)
        if size < 1:
            raise InvalidRequest.of(
                field,
                f'a window of {list(kernel)} must fit into the input. Make it smaller, or write padding "same".',
                list(shape),
            )
        sizes.append(size)
    return tuple(sizes)


def _check_kernel_arguments(layer: Biased, kernel: Shape, outputs: int, field: str) -> None:
    key = "depthwise" if isinstance(layer, DepthwiseConv2D) else "kernel"
    if isinstance(given := getattr(layer, f"{key}_initializer").value, tuple):
        raise InvalidRequest.of(
            f"{field}.{key}_initializer",
            "must be one number for a kernel; a list is for parameters of one dimension",
            shortened(list(given)),
        )
    _check_length(layer.bias_initializer, outputs, f"{field}.bias_initializer")
    _check_constraint(getattr(layer, f"{key}_constraint"), kernel, f"{field}.{key}_constraint")
    _check_constraint(layer.bias_constraint, (outputs,), f"{field}.bias_constraint")


def _check_batch_norm(layer: BatchNorm, shape: Shape, field: str) -> int:
    if layer.fused and not can_be_fused(layer, shape):
        raise InvalidRequest.of(
            f"{field}.fused",
            "can be true only for images normalized over axis 1 or 3 (or -1), and for volumes over axis 1 or 4. Write "
            f"false, or leave it out; the input has the shape {list(shape)} and axis is {layer.axis}",
            True,
        )
    channels = channels_of(layer, shape)
    for key in ("beta", "gamma", "moving_mean", "moving_variance"):
        _check_length(getattr(layer, f"{key}_initializer"), channels, f"{field}.{key}_initializer")
    for key in ("beta", "gamma"):
        _check_constraint(
            getattr(layer, f"{key}_constraint"), parameter_shape(layer, shape), f"{field}.{key}_constraint"
        )
    if isinstance(layer.adjustment, ConstantAdjustment):
        for key in ("scale", "bias"):
            _check_count(getattr(layer.adjustment, key), channels, f"{field}.adjustment.{key}")
    return channels


def _check_length(initializer: Initializer, count: int, field: str) -> None:
    if initializer.name == "constant":
        _check_count(initializer.value, count, field)


def _check_count(value: float | tuple[float, ...], count: int, field: str) -> None:
    if isinstance(value, tuple) and len(value) != count:
        message = f"must be one number, or a list of {count}, one for each channel; this has {len(value)}"
        raise InvalidRequest.of(field, message, shortened(list(value)))


def _check_constraint(constraint: Constraint | None, shape: Shape, field: str) -> None:
    if constraint is None or constraint.name == "non_neg":
        return
    rank = len(shape)
    if any(not -rank <= axis < rank for axis in constraint.axes):
        raise InvalidRequest.of(
            f"{field}.config.axis",
            f"must be between {-rank} and {rank - 1}: the shape is {list(shape)}",
            constraint.axis,
        )
    if len({axis % rank for axis in constraint.axes}) < len(constraint.axes):
        raise InvalidRequest.of(
            f"{field}.config.axis", "must name each axis once; -1 is the last", list(constraint.axes)
        )


def _concatenated(layer: Concatenate, given: tuple[Shape, ...], field: str) -> Shape:
    shape, at = given[0], layer.axis - 1
    if not 0 <= at < len(shape):
        raise InvalidRequest.of(f"{field}.axis", f"must be between 1 and {len(shape)}", layer.axis)
    for other in given[1:]:
        if len(other) != len(shape) or other[:at] + other[at + 1 :] != shape[:at] + shape[at + 1 :]:
            raise InvalidRequest.of(
                f"{field}.inputs",
                f"the inputs of concatenate must agree but for axis {layer.axis}",
                [list(each) for each in given],
            )
    return (*shape[:at], sum(other[at] for other in given), *shape[at + 1 :])
