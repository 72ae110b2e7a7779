"""A network made definite: every layer named, its inputs named, its shapes known, its parameters counted. No torch.

    spec ──expand──► layers ──plan──► NetworkPlan ──(gammabeta.nets.build)──► torch module

The plan is what the dry run shows, what a version stores, and what the torch build reads. Shapes are in API layout
(channels last) without the batch.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TypeAlias

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.base import Answer
from gammabeta.schemas.networks import (
    INPUT,
    Activation,
    Add,
    AnyLayer,
    AveragePool,
    BatchNorm,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    LayersNetwork,
    MaxPool,
    NetworkSpec,
    Pair,
)
from gammabeta.schemas.presets import expand

Shape: TypeAlias = tuple[int, ...]

MAX_PARAMETERS = 2_000_000_000
MAX_ACTIVATION = 1_000_000_000
"""The largest number of elements that one layer may give for one row."""


class LayerPlan(Answer):
    """One layer of a plan."""

    spec: AnyLayer
    """Named, its inputs named, `units` a number, `axis` of batch norm counted from 1."""
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    parameters: int
    """Trained numbers: kernels, biases, gamma and beta."""

    @property
    def name(self) -> str:
        return self.spec.name or ""

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.spec.inputs or ()


class NetworkPlan(Answer):
    """A network whose every layer is named and has its shapes. The last layer gives the output."""

    input_shape: Shape
    layers: tuple[LayerPlan, ...]
    outputs: int

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def batch_norms(self) -> tuple[LayerPlan, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer.spec, BatchNorm))

    @property
    def activations(self) -> int:
        """Elements that one row makes, over all layers."""
        return sum(math.prod(layer.output_shape) for layer in self.layers)

    def as_network(self) -> LayersNetwork:
        """The network as a spec that plans to this again."""
        return LayersNetwork(layers=tuple(layer.spec for layer in self.layers))


def plan_network(network: NetworkSpec, *, input_shape: Shape, outputs: int | None) -> NetworkPlan:
    """Name, wire and measure every layer.

    Args:
        network: layers or a preset.
        input_shape: shape of a row after preprocessing, channels last.
        outputs: how many numbers the last layer must give: the number of classes, or 1. None for a stored network,
            which has no word left: as many as it gives.

    Raises:
        InvalidRequest: a layer does not fit what comes before it, a name is used twice or unknown, a layer is used by
            none, or the output is not `[outputs]`; the field names the layer.
    """
    layers = _named(expand(network, input_rank=len(input_shape)).layers)
    shapes: dict[str, Shape] = {INPUT: input_shape}
    plans: list[LayerPlan] = []
    for index, layer in enumerate(layers):
        plans.append(_plan_layer(index, layer, plans, shapes, outputs))
        shapes[plans[-1].name] = plans[-1].output_shape
    _refuse_unused(plans)
    given = math.prod(plans[-1].output_shape) if outputs is None else outputs
    _check_output(plans[-1], len(plans) - 1, given)
    plan = NetworkPlan(input_shape=input_shape, layers=tuple(plans), outputs=given)
    if plan.parameters > MAX_PARAMETERS:
        raise InvalidRequest.of(
            "network", f"must have at most {MAX_PARAMETERS:,} parameters. Make its layers smaller.", plan.parameters
        )
    return plan


def _named(layers: tuple[AnyLayer, ...]) -> list[AnyLayer]:
    """Give each layer a name, its type by default, numbered from the second on."""
    taken = Counter(layer.name for layer in layers if layer.name is not None)
    for given, count in taken.items():
        if count > 1 or given == INPUT:
            what = "is the name of the data" if given == INPUT else f"is the name of {count} layers"
            raise InvalidRequest.of("network.layers", f"names must be unique. '{given}' {what}.", given)
    used, seen, named = set(taken), Counter[str](), []
    for layer in layers:
        name = layer.name
        while name is None or (layer.name is None and name in used):
            number = seen[layer.type]
            seen[layer.type] += 1
            name = f"{layer.type}_{number}" if number else str(layer.type)
        used.add(name)
        named.append(layer.model_copy(update={"name": name}))
    return named


def _plan_layer(
    index: int, layer: AnyLayer, before: list[LayerPlan], shapes: dict[str, Shape], outputs: int | None
) -> LayerPlan:
    field = f"network.layers[{index}]"
    inputs = layer.inputs or ((before[-1].name if before else INPUT),)
    for name in inputs:
        if name not in shapes:
            raise InvalidRequest.of(
                f"{field}.inputs",
                f"must name layers that come before '{layer.name}', or '{INPUT}'. Known here: {', '.join(shapes)}.",
                name,
            )
    if len(inputs) > 1 and not isinstance(layer, Add | Concatenate):
        raise InvalidRequest.of(
            f"{field}.inputs", f"{layer.type} reads one input. Join several with add or concatenate.", list(inputs)
        )
    given = tuple(shapes[name] for name in inputs)
    settled = _settle(layer, given[0], outputs).model_copy(update={"inputs": inputs})
    shape, parameters = _measure(settled, given, field)
    if math.prod(shape) > MAX_ACTIVATION:
        raise InvalidRequest.of(field, f"must give at most {MAX_ACTIVATION:,} numbers a row", list(shape))
    return LayerPlan(spec=settled, input_shapes=given, output_shape=shape, parameters=parameters)


def _settle(layer: AnyLayer, shape: Shape, outputs: int | None) -> AnyLayer:
    """Replace words by numbers: `units: "classes"`, a negative `axis`."""
    if isinstance(layer, Dense) and layer.units == "classes" and outputs is not None:
        return layer.model_copy(update={"units": outputs})
    if isinstance(layer, BatchNorm | Concatenate) and layer.axis < 0:
        return layer.model_copy(update={"axis": layer.axis + len(shape) + 1})
    return layer


def _measure(layer: AnyLayer, given: tuple[Shape, ...], field: str) -> tuple[Shape, int]:
    """Output shape and number of parameters of a settled layer."""
    shape = given[0]
    match layer:
        case Dense():
            _need_rank(layer, shape, 1, field, "Put a flatten layer before it.")
            units = int(layer.units)
            return (units,), shape[0] * units + (units if layer.use_bias else 0)
        case Conv2D():
            _need_rank(layer, shape, 3, field, "It reads images.")
            size, kernel = (
                _windows(layer.kernel_size, layer.strides, layer.padding, shape, field),
                pair(layer.kernel_size),
            )
            bias = layer.filters if layer.use_bias else 0
            return (*size, layer.filters), math.prod(kernel) * shape[2] * layer.filters + bias
        case MaxPool() | AveragePool():
            _need_rank(layer, shape, 3, field, "It reads images.")
            strides = layer.pool_size if layer.strides is None else layer.strides
            return (*_windows(layer.pool_size, strides, layer.padding, shape, field), shape[2]), 0
        case GlobalAveragePool():
            _need_rank(layer, shape, 3, field, "It reads images.")
            return (shape[2],), 0
        case BatchNorm():
            channels = _channels(layer, shape, field)
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


def _need_rank(layer: AnyLayer, shape: Shape, rank: int, field: str, remedy: str) -> None:
    if len(shape) != rank:
        wanted = "[features]" if rank == 1 else "[height, width, channels]"
        raise InvalidRequest.of(
            field, f"{layer.type} '{layer.name}' needs an input of shape {wanted}. {remedy}", list(shape)
        )


def _windows(kernel: Pair, strides: Pair, padding: str, shape: Shape, field: str) -> Shape:
    """Height and width after a sliding window."""
    sizes: list[int] = []
    for extent, window, stride in zip(shape, pair(kernel), pair(strides), strict=False):
        size = -(-extent // stride) if padding == "same" else (extent - window) // stride + 1
        if size < 1:
            raise InvalidRequest.of(
                field,
                f"a window of {list(pair(kernel))} must fit into the input's height and width. Make it smaller, or "
                'write padding "same".',
                list(shape),
            )
        sizes.append(size)
    return tuple(sizes)


def _channels(layer: BatchNorm, shape: Shape, field: str) -> int:
    if not 1 <= layer.axis <= len(shape):
        raise InvalidRequest.of(
            f"{field}.axis",
            f"must be between 1 and {len(shape)}, or between {-len(shape)} and -1, for an input of shape {list(shape)}",
            layer.axis,
        )
    return shape[layer.axis - 1]


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


def _refuse_unused(plans: list[LayerPlan]) -> None:
    used = {name for plan in plans for name in plan.inputs}
    for index, plan in enumerate(plans[:-1]):
        if plan.name not in used:
            raise InvalidRequest.of(
                f"network.layers[{index}]",
                f"'{plan.name}' feeds no layer. Name it in the inputs of one, or leave it out.",
                plan.name,
            )


def _check_output(last: LayerPlan, index: int, outputs: int) -> None:
    if last.output_shape != (outputs,):
        raise InvalidRequest.of(
            f"network.layers[{index}]",
            f"the last layer must give [{outputs}], one number for each class (or one for a number or a binary loss). "
            'End with {"type": "dense", "units": "classes"}.',
            list(last.output_shape),
        )


def pair(value: Pair) -> tuple[int, int]:
    """Height and width of a window that was written as one number or two."""
    return value if isinstance(value, tuple) else (value, value)
