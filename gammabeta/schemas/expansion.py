"""Presets written out as layers, and what is said of such a layer turned into words about the preset.

    {"preset": "mlp"} ──expand──► network.layers[1].momentum ──as_written──► network.batch_norm.momentum

A dense layer or convolution right before a centred batch norm has no bias: beta does its work, and the bias would get a
gradient of rounding noise that adam amplifies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.layers import Activation, Conv2D, Dense, Dropout, Flatten, MaxPool
from gammabeta.schemas.networks import AnyLayer, LayersNetwork, NetworkSpec
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.presets import BatchNormOptions, CnnPreset, MlpPreset, Preset, ResnetPreset, WithHiddenLayers
from gammabeta.schemas.residual import resnet

_OF_LAYER = re.compile(r"network\.layers\[(\d+)\]\.?(.*)")
_OF_EVERY_KERNEL = re.compile(r"kernel_(initializer|regularizer)\b")


def expand(network: NetworkSpec, *, input_rank: int) -> LayersNetwork:
    """The network as layers; `input_rank` counts the dimensions of a row."""
    match network:
        case MlpPreset():
            return LayersNetwork(layers=tuple(_mlp(network, flat=input_rank == 1)))
        case CnnPreset():
            return LayersNetwork(layers=tuple(_cnn(network)))
        case ResnetPreset():
            return LayersNetwork(layers=tuple(resnet(network)))
        case LayersNetwork():
            return network


def as_written(field: str, message: str, *, network: NetworkSpec, layers: Sequence[AnyLayer]) -> tuple[str, str]:
    """A field and what is said of it, as fields of the request: of a preset, the argument that wrote the layer, or the
    network itself, and a message that names the layer. `layers` are those written out, all named."""
    found = _OF_LAYER.fullmatch(field)
    if isinstance(network, LayersNetwork) or found is None:
        return field, message
    layer, argument = layers[int(found[1])], found[2]
    told = message if f"'{layer.name}'" in message else f"{message} (layer '{layer.name}')"
    if isinstance(layer, BatchNorm):
        argument = argument if isinstance(network.batch_norm, BatchNormOptions) else ""
        return f"network.batch_norm.{argument}".rstrip("."), told
    return (f"network.{argument}" if _OF_EVERY_KERNEL.match(argument) else "network"), told


@contextmanager
def refusing_as_written(network: NetworkSpec, layers: Sequence[AnyLayer]) -> Iterator[None]:
    """Within it, what is refused of a layer is refused of the preset that wrote it."""
    try:
        yield
    except InvalidRequest as exc:
        told = [as_written(each.field, each.message, network=network, layers=layers) for each in exc.errors]
        pairs = zip(exc.errors, told, strict=True)
        raise type(exc)(errors=tuple(replace(each, field=f, message=m) for each, (f, m) in pairs)) from exc


def _mlp(preset: MlpPreset, *, flat: bool) -> Iterator[AnyLayer]:
    if not flat:
        yield Flatten()
    yield from _head(preset, preset.hidden)


def _cnn(preset: CnnPreset) -> Iterator[AnyLayer]:
    for index, filters in enumerate(preset.filters):
        norm, before = preset.norm_at(index)
        yield Conv2D(
            filters=filters,
            kernel_size=preset.kernel_size,
            padding="same",
            use_bias=not _makes_bias_redundant(norm, before=before),
            **preset.kernel,
        )
        yield from _activated(preset, norm, before=before)
        yield MaxPool()
    yield Flatten()
    yield from _head(preset, preset.hidden, first=len(preset.filters))


def _head(preset: WithHiddenLayers, hidden: tuple[int, ...], *, first: int = 0) -> Iterator[AnyLayer]:
    """Hidden dense layers and the output; `first` counts the batch norms before them."""
    for index, units in enumerate(hidden, start=first):
        norm, before = preset.norm_at(index)
        yield Dense(units=units, use_bias=not _makes_bias_redundant(norm, before=before), **preset.kernel)
        yield from _activated(preset, norm, before=before)
        if preset.dropout:
            yield Dropout(rate=preset.dropout)
    yield Dense(units="classes", **preset.kernel)


def _makes_bias_redundant(norm: BatchNorm | None, *, before: bool) -> bool:
    return norm is not None and before and norm.makes_bias_redundant


def _activated(preset: Preset, norm: BatchNorm | None, *, before: bool) -> Iterator[AnyLayer]:
    if norm is not None and before:
        yield norm
    yield Activation(function=preset.activation)
    if norm is not None and not before:
        yield norm
