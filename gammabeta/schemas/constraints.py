"""Projections of parameters, applied after each optimizer step, never at the start, never to a frozen layer.

    max_norm       w min(norm, max_value) / (1e-7 + norm)
    unit_norm      w / (1e-7 + norm)
    min_max_norm   w (rate clip(norm, min_value, max_value) + (1 - rate) norm) / (1e-7 + norm)
    non_neg        max(w, 0)

norm is taken along `axis` of the parameter in Keras' shape: of gamma `[C]`, axis 0 is the whole vector, and with
`virtual_batch_size` or several axes the shape is `[1, …, C]`, where axis 0 is each element by itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gammabeta.schemas.base import MANY, ONE, ONE_OR_MANY, AtMost, Count, Number, Request, wrong
from gammabeta.schemas.initializers import LARGEST
from gammabeta.schemas.notation import Notation

ConstraintName: TypeAlias = Literal["max_norm", "unit_norm", "min_max_norm", "non_neg"]

_TAKES = {
    "max_norm": frozenset({"max_value", "axis"}),
    "unit_norm": frozenset({"axis"}),
    "min_max_norm": frozenset({"min_value", "max_value", "rate", "axis"}),
    "non_neg": frozenset[str](),
}
_OLD = "is a name of Keras 2 alone. Write "
_NOTATION = Notation(
    kind="constraint",
    example="non_neg",
    takes=_TAKES,
    refused={
        "maxnorm": f"{_OLD}max_norm.",
        "unitnorm": f"{_OLD}unit_norm.",
        "minmaxnorm": f"{_OLD}min_max_norm.",
        "nonneg": f"{_OLD}non_neg.",
        "radial_constraint": "is not supported. Write max_norm, unit_norm, min_max_norm or non_neg.",
    },
)


Axes: TypeAlias = Annotated[Annotated[Count, ONE] | Annotated[tuple[Count, ...], AtMost(8, least=1), MANY], ONE_OR_MANY]


def check_distinct(axis: Axes) -> Axes:
    """The axis or axes, if none is named twice."""
    if isinstance(axis, tuple) and len(set(axis)) < len(axis):
        raise wrong("axis", "must name each axis once")
    return axis


class Constraint(Request):
    """Where a parameter must stay."""

    name: ConstraintName
    min_value: Number = Field(default=0.0, ge=0, le=LARGEST)
    max_value: Number = Field(default=2.0, ge=0, le=1e38)
    """2 of max_norm, 1 of min_max_norm, as in Keras."""
    rate: Number = Field(default=1.0, ge=0, le=1)
    axis: Axes = 0

    @model_validator(mode="after")
    def _ordered(self) -> Constraint:
        if self.name == "min_max_norm" and self.min_value > self.max_value:
            raise wrong("min_value", "must not be greater than max_value, which is {most}", most=self.max_value)
        return self

    @field_validator("axis")
    @classmethod
    def _each_axis_once(cls, axis: Axes) -> Axes:
        return check_distinct(axis)

    @model_validator(mode="wrap")  # around all others, and so after them
    @classmethod
    def _from_keras(cls, given: Any, build: ModelWrapValidatorHandler[Constraint]) -> Constraint:
        if isinstance(given, Constraint):
            return build(given)
        read = _NOTATION.read(given)
        flat = {"max_value": 1.0, **read} if read["name"] == "min_max_norm" else read
        return _NOTATION.build(given, flat, build)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _NOTATION.json_schema(core_schema, handler)

    @model_serializer
    def _as_keras(self) -> str | dict[str, Any]:
        config = {key: getattr(self, key) for key in sorted(_TAKES[self.name])}
        return {"class_name": self.name, "config": config} if config else self.name

    @property
    def axes(self) -> tuple[int, ...]:
        """Along which the norm is taken."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)
