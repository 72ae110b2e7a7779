"""Presets written out as layers. A dense layer or convolution right before a centred batch norm has no bias: beta does
its work, and the bias would get a gradient of rounding noise that adam amplifies."""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.schemas.layers import Activation, Conv2D, Dense, Dropout, Flatten, MaxPool
from gammabeta.schemas.networks import AnyLayer, LayersNetwork, NetworkSpec
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.presets import BatchNormOptions, CnnPreset, MlpPreset, Preset, ResnetPreset, WithHiddenLayers
from gammabeta.schemas.residual import resnet


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


def _mlp(preset: MlpPreset, *, flat: bool) -> Iterator[AnyLayer]:
    if not flat:
        yield Flatten()
    yield from _head(preset, preset.hidden)


def _cnn(preset: CnnPreset) -> Iterator[AnyLayer]:
    for index, filters in enumerate(preset.filters):
        norm, before = _norm_of(preset, index)
        yield Conv2D(
            filters=filters,
            kernel_size=preset.kernel_size,
            padding="same",
            use_bias=not _makes_bias_redundant(norm, before=before),
            kernel_initializer=preset.kernel_initializer,
            kernel_regularizer=preset.kernel_regularizer,
        )
        yield from _activated(preset, norm, before=before)
        yield MaxPool()
    yield Flatten()
    yield from _head(preset, preset.hidden, first=len(preset.filters))


def _head(preset: WithHiddenLayers, hidden: tuple[int, ...], *, first: int = 0) -> Iterator[AnyLayer]:
    """Hidden dense layers and the output; `first` counts the batch norms before them."""
    kernel = {"kernel_initializer": preset.kernel_initializer, "kernel_regularizer": preset.kernel_regularizer}
    for index, units in enumerate(hidden, start=first):
        norm, before = _norm_of(preset, index)
        yield Dense(units=units, use_bias=not _makes_bias_redundant(norm, before=before), **kernel)
        yield from _activated(preset, norm, before=before)
        if preset.dropout:
            yield Dropout(rate=preset.dropout)
    yield Dense(units="classes", **kernel)


def _norm_of(preset: Preset, index: int) -> tuple[BatchNorm | None, bool]:
    """The batch norm of a hidden layer, and whether it comes before the activation."""
    choice = preset.batch_norm
    if isinstance(choice, BatchNormOptions):
        return choice.layer, choice.placement == "before_activation"
    placement = choice if isinstance(choice, str) else choice[index]
    return (None if placement == "none" else BatchNorm()), placement == "before_activation"


def _makes_bias_redundant(norm: BatchNorm | None, *, before: bool) -> bool:
    return norm is not None and before and norm.center and norm.trainable


def _activated(preset: Preset, norm: BatchNorm | None, *, before: bool) -> Iterator[AnyLayer]:
    if norm is not None and before:
        yield norm
    yield Activation(function=preset.activation)
    if norm is not None and not before:
        yield norm
