"""The `adjustment` of batch norm as data: a random (or given) scale and bias of the normalized values, in training.

    y = ((x_hat r + d) scale + bias) gamma + beta

Keras 2 takes a Python function here and cannot store it. These are stored, and drawn from a generator that the job's
seed, the layer and the step determine, so that a resumed job draws the same again.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from gammabeta.schemas.base import Count, Request, wrong
from gammabeta.schemas.initializers import Deviation, EachOrAll, Single


class Normal(Request):
    """A normal distribution."""

    LISTED_IN: ClassVar[str] = "docs/batchnorm.md"

    mean: Single
    std: Deviation = 0.0


class Adjusting(Request):
    """What changes the scale, the bias, or both."""

    LISTED_IN: ClassVar[str] = "docs/batchnorm.md"

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set & {"scale", "bias"}:
            raise PydanticCustomError("invalid", "must change something: give scale or bias")
        return self


class Draw(Adjusting):
    """What is drawn anew at each step."""

    per: Literal["feature", "layer"] = "feature"
    """Whether each channel has a draw of its own. The rows of a batch share it."""
    seed: Count | None = Field(default=None, ge=0, lt=2**63)
    """None: the job's."""


class UniformAdjustment(Draw):
    """Drawn between a low and a high end."""

    kind: Literal["uniform"] = "uniform"
    scale: tuple[Single, Single] = (1.0, 1.0)
    bias: tuple[Single, Single] = (0.0, 0.0)

    @model_validator(mode="after")
    def _ordered(self) -> UniformAdjustment:
        for key, (low, high) in (("scale", self.scale), ("bias", self.bias)):
            if low > high:
                raise wrong(key, "must be [low, high] with low <= high")
        return self


class NormalAdjustment(Draw):
    """Drawn from normal distributions."""

    kind: Literal["normal"] = "normal"
    scale: Normal = Normal(mean=1.0)
    bias: Normal = Normal(mean=0.0)


class ConstantAdjustment(Adjusting):
    """Given: one number for all channels, or a list with one for each."""

    kind: Literal["constant"] = "constant"
    scale: EachOrAll = 1.0
    bias: EachOrAll = 0.0


Adjustment: TypeAlias = Annotated[
    UniformAdjustment | NormalAdjustment | ConstantAdjustment, Field(discriminator="kind")
]
