"""Presets: networks by a few numbers. `gammabeta.schemas.expansion` writes them out as layers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gammabeta.schemas.base import AtMost, Flag, Number, Request, told_by, wrong
from gammabeta.schemas.initializers import Initializer
from gammabeta.schemas.layers import GLOROT, ActivationFunction, Size, Window
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.regularizers import Regularizer

Placement: TypeAlias = Literal["before_activation", "after_activation", "none"]


class BatchNormOptions(BatchNorm):
    """Batch norm of a preset with arguments: those of `batch_norm`, and where to put it."""

    placement: Literal["before_activation", "after_activation"] = "before_activation"

    @field_validator("name", "inputs", mode="before")
    @classmethod
    def _refuse_wiring(cls, given: Any) -> Any:
        if given is not None:
            raise PydanticCustomError("invalid", "is for layers: a preset names its own. Leave it out.")
        return given

    @property
    def layer(self) -> BatchNorm:
        """What the preset writes at each place."""
        return BatchNorm.model_validate({key: getattr(self, key) for key in BatchNorm.model_fields})


def _placement_kind(value: Any) -> str | None:
    match value:
        case str():
            return "everywhere"
        case list() | tuple():
            return "each"
        case dict() | BatchNorm():
            return "options"
    return None


BatchNormChoice: TypeAlias = Annotated[
    Annotated[Placement, Tag("everywhere")]
    | Annotated[tuple[Placement, ...], Tag("each")]
    | Annotated[BatchNormOptions, Tag("options")],
    Discriminator(
        _placement_kind,
        custom_error_type="batch_norm",
        custom_error_message='must be "before_activation", "after_activation" or "none", a list with one of these for '
        'each hidden layer, or an object with arguments. Write "none" for a network without batch norm.',
    ),
]
"""One placement for all hidden layers, a list with one for each, or an object with arguments."""


class Preset(Request):
    """What the presets share."""

    model_config = ConfigDict(json_schema_extra=told_by("preset"))

    batch_norm: BatchNormChoice = "before_activation"
    activation: ActivationFunction = "relu"
    kernel_initializer: Initializer = GLOROT
    """Of every kernel."""
    kernel_regularizer: Regularizer | None = None
    """Of every kernel."""

    @property
    def kernel(self) -> dict[str, Any]:
        """The arguments that every kernel takes from here."""
        return {"kernel_initializer": self.kernel_initializer, "kernel_regularizer": self.kernel_regularizer}

    def norm_at(self, index: int) -> tuple[BatchNorm | None, bool]:
        """The batch norm of a hidden layer, and whether it comes before the activation."""
        choice = self.batch_norm
        if isinstance(choice, BatchNormOptions):
            return choice.layer, choice.placement == "before_activation"
        placement = choice if isinstance(choice, str) else choice[index]
        return (None if placement == "none" else BatchNorm()), placement == "before_activation"


class WithHiddenLayers(Preset):
    """Presets that end in dense layers."""

    dropout: Number = Field(default=0.0, ge=0, lt=1)
    """After each hidden dense layer."""


class MlpPreset(WithHiddenLayers):
    """A multi-layer perceptron: dense, batch norm and activation for each hidden layer, then the output."""

    preset: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Size, ...], AtMost(100, least=1)] = (64,)

    @model_validator(mode="after")
    def _one_each(self) -> MlpPreset:
        _check_each(self.batch_norm, len(self.hidden), "hidden")
        return self


class CnnPreset(WithHiddenLayers):
    """A convolutional network: 3x3 convolution, batch norm, activation and 2x2 max pooling for each of `filters`, then
    hidden dense layers and the output. Batch norm in a list: first those of `filters`, then those of `hidden`."""

    preset: Literal["cnn"] = "cnn"
    filters: Annotated[tuple[Size, ...], AtMost(10, least=1)] = (32, 64)
    hidden: Annotated[tuple[Size, ...], AtMost(100)] = (64,)
    kernel_size: Window = 3

    @model_validator(mode="after")
    def _one_each(self) -> CnnPreset:
        _check_each(self.batch_norm, len(self.filters) + len(self.hidden), "filters and hidden together")
        return self


class ResnetPreset(Preset):
    """A residual network (He et al. 2015, arXiv:1512.03385): 20, 32 and 56 layers in the shape for CIFAR, 18, 34 and 50
    in the shape for ImageNet, with 1x1 convolutions where a shortcut changes its shape (the paper's option B), and the
    stride of 50's blocks in their 3x3 convolution."""

    preset: Literal["resnet"] = "resnet"
    depth: Literal[18, 20, 32, 34, 50, 56] = 20
    kernel_initializer: Initializer = Initializer(name="he_normal")
    zero_init_residual: Flag = False
    """Whether gamma of the last batch norm of each block starts at 0, so that the block starts as its shortcut."""

    @model_validator(mode="after")
    def _before_or_not_at_all(self) -> ResnetPreset:
        choice = self.batch_norm
        placement = choice.placement if isinstance(choice, BatchNormOptions) else choice
        if placement not in ("before_activation", "none"):
            raise wrong("batch_norm", 'of resnet must be "before_activation", "none" or an object with arguments')
        if self.zero_init_residual:
            self._check_gamma(self.norm_at(0)[0])
        return self

    def _check_gamma(self, norm: BatchNorm | None) -> None:
        if norm is None or not norm.scale:
            raise wrong("zero_init_residual", "needs a batch norm with gamma")
        if not norm.trainable:
            raise wrong(
                "zero_init_residual",
                'must not come together with "trainable": false of batch_norm: a gamma that stays 0 switches each '
                "block off for good. Leave one of them out.",
            )


PRESETS: dict[str, type[Preset]] = {"mlp": MlpPreset, "cnn": CnnPreset, "resnet": ResnetPreset}


def _check_each(choice: BatchNormChoice, count: int, what: str) -> None:
    if isinstance(choice, tuple) and len(choice) != count:
        raise wrong("batch_norm", "as a list must have one entry for each of {what}: {count}", what=what, count=count)
