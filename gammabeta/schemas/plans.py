"""A network made definite: every layer named, its inputs named, its shapes known, its parameters counted. No torch.

    spec ──expand──► layers ──plan──► NetworkPlan ──(gammabeta.nets.build)──► torch module

The plan is what the dry run shows, what a version stores, and what the torch build reads. Shapes are in API layout
(channels last) without the batch.
"""

from __future__ import annotations

import math
from collections import Counter

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.base import Answer
from gammabeta.schemas.expansion import expand, refusing_as_written
from gammabeta.schemas.layers import (
    INPUT,
    Add,
    AveragePool,
    Concatenate,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    MaxPool,
)
from gammabeta.schemas.measuring import Shape, check_axes, counted, measure, pair, settled
from gammabeta.schemas.networks import AnyLayer, LayersNetwork, NetworkSpec
from gammabeta.schemas.normalization import BatchNorm

MAX_PARAMETERS = 2_000_000_000
MAX_ACTIVATION = 1_000_000_000
"""The largest number of elements that one layer may give for one row."""


class LayerPlan(Answer):
    """One layer of a plan."""

    spec: AnyLayer
    """Named, its inputs named, `units` a number, `axis` counted from 1, `fused` of batch norm decided."""
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

    @property
    def padding(self) -> int:
        """Elements that padding adds to a row of the input, at most."""
        extents, reach = self.input_shapes[0][:-1], _reach(self.spec)
        padded = math.prod(extent + each - 1 for extent, each in zip(extents, reach, strict=False))
        return (padded - math.prod(extents)) * self.input_shapes[0][-1] if reach else 0


def _reach(layer: AnyLayer) -> tuple[int, ...]:
    """Extents of the window of a layer that pads its input."""
    match layer:
        case Conv1D(padding="same" | "causal") | Conv2D(padding="same") | DepthwiseConv2D(padding="same"):
            window, spread = pair(layer.kernel_size), pair(layer.dilation_rate)
            return tuple((size - 1) * step + 1 for size, step in zip(window, spread, strict=True))
        case MaxPool(padding="same") | AveragePool(padding="same"):
            return pair(layer.pool_size)
        case _:
            return ()


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
        """Elements that one row makes, over all layers: what they give, and their padding, which can be the most of it
        where a window reaches far beyond its input."""
        return sum(math.prod(layer.output_shape) + layer.padding for layer in self.layers)

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
            none, or the output is not `[outputs]`; the field names the layer, or what in the preset wrote it.
    """
    layers = _named(expand(network, input_rank=len(input_shape)).layers)
    with refusing_as_written(network, layers):
        return _planned(layers, input_shape, outputs)


def _planned(layers: list[AnyLayer], input_shape: Shape, outputs: int | None) -> NetworkPlan:
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
    spec = _settle(layer, given[0], outputs, field).model_copy(update={"inputs": inputs})
    shape, parameters = measure(spec, given, field)
    if math.prod(shape) > MAX_ACTIVATION:
        raise InvalidRequest.of(field, f"must give at most {MAX_ACTIVATION:,} numbers a row", list(shape))
    return LayerPlan(spec=spec, input_shapes=given, output_shape=shape, parameters=parameters)


def _settle(layer: AnyLayer, shape: Shape, outputs: int | None, field: str) -> AnyLayer:
    """Replace words by numbers: `units: "classes"`, a negative `axis`, a batch norm's `fused` that is left open."""
    if isinstance(layer, Dense) and layer.units == "classes" and outputs is not None:
        return layer.model_copy(update={"units": outputs})
    if isinstance(layer, Concatenate):
        return layer.model_copy(update={"axis": counted(layer.axis, shape)})
    if isinstance(layer, BatchNorm):
        check_axes(layer, shape, field)
        return settled(layer, shape)
    return layer


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
