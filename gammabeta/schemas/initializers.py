"""Initial values by their Keras names: `"zeros"`, or `{"class_name": "RandomNormal", "config": {"stddev": 0.01}}`, or
the numbers themselves in a list."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gammabeta.schemas.base import MANY, ONE, ONE_OR_MANY, AtMost, Count, Number, Request, wrong
from gammabeta.schemas.notation import Notation

InitializerName: TypeAlias = Literal[
    "zeros",
    "ones",
    "constant",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variance_scaling",
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "orthogonal",
]

_SCALED = frozenset({"seed"})
_TAKES: dict[str, frozenset[str]] = {
    "zeros": frozenset(),
    "ones": frozenset(),
    "constant": frozenset({"value"}),
    "random_normal": frozenset({"mean", "stddev", "seed"}),
    "random_uniform": frozenset({"minval", "maxval", "seed"}),
    "truncated_normal": frozenset({"mean", "stddev", "seed"}),
    "variance_scaling": frozenset({"scale", "mode", "distribution", "seed"}),
    "glorot_uniform": _SCALED,
    "glorot_normal": _SCALED,
    "he_uniform": _SCALED,
    "he_normal": _SCALED,
    "lecun_uniform": _SCALED,
    "lecun_normal": _SCALED,
    "orthogonal": frozenset({"gain", "seed"}),
}
_NOTATION = Notation(
    kind="initializer",
    example="zeros",
    takes=_TAKES,
    aliases={"zero": "zeros", "one": "ones", "normal": "random_normal", "uniform": "random_uniform"},
    never_bare=frozenset({"constant"}),
    bare_list="value",
)

LARGEST = 1e6
"""Of what is drawn: from there on, squares of activations and gradients leave float32 (3e38) within a few layers, and a
run would fail with a loss that is not finite."""

Single: TypeAlias = Annotated[Number, Field(ge=-LARGEST, le=LARGEST)]
Deviation: TypeAlias = Annotated[Number, Field(ge=0, le=LARGEST)]
Given: TypeAlias = Annotated[Number, Field(ge=-(LARGEST**2), le=LARGEST**2)]
"""A number that is written out: it may be the variance of numbers up to the largest."""
Singles: TypeAlias = Annotated[tuple[Given, ...], Field(fail_fast=True), AtMost(1_000_000, least=1)]
"""Refused at the first that is wrong: a million errors would take seconds and gigabytes."""
EachOrAll: TypeAlias = Annotated[Annotated[Given, ONE] | Annotated[Singles, MANY], ONE_OR_MANY]
"""One number for all channels, or a list with one for each."""


class Initializer(Request):
    """How a parameter starts. Numbers that `name` has no use for keep their defaults."""

    name: InitializerName
    value: EachOrAll = 0.0
    """`constant`: every element, or each of them in a list."""
    mean: Single = 0.0
    stddev: Deviation = 0.05
    minval: Single = -0.05
    maxval: Single = 0.05
    scale: Annotated[Number, Field(gt=0, le=LARGEST)] = 1.0
    mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_in"
    distribution: Literal["truncated_normal", "untruncated_normal", "uniform"] = "truncated_normal"
    gain: Single = 1.0
    seed: Count | None = Field(default=None, ge=-(2**63), lt=2**64)
    """None: drawn from the job's seed."""

    @model_validator(mode="after")
    def _ordered(self) -> Initializer:
        if self.minval > self.maxval:
            raise wrong("minval", "must not be greater than maxval")
        return self

    @model_validator(mode="wrap")  # around all others, and so after them
    @classmethod
    def _from_keras(cls, given: Any, build: ModelWrapValidatorHandler[Initializer]) -> Initializer:
        if isinstance(given, Initializer):
            return build(given)
        return _NOTATION.build(given, cls._flat(given), build)

    @classmethod
    def _flat(cls, given: Any) -> dict[str, Any]:
        if isinstance(given, list | tuple):
            return {"name": "constant", "value": given}
        read = _NOTATION.read(given, defaults={key: field.default for key, field in cls.model_fields.items()})
        if read["name"] == "constant" and "value" not in read:
            raise _NOTATION.error("constant needs config.value")
        return read

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _NOTATION.json_schema(core_schema, handler)

    @model_serializer
    def _as_keras(self) -> str | dict[str, Any]:
        config = {key: getattr(self, key) for key in sorted(_TAKES[self.name]) if getattr(self, key) is not None}
        return {"class_name": self.name, "config": config} if config else self.name

    def lowest(self) -> float | None:
        """The smallest value that it can give; None where there is none, or a draw is as often negative as positive."""
        match self.name:
            case "zeros":
                return 0.0
            case "ones":
                return 1.0
            case "constant":
                return min(self.value) if isinstance(self.value, tuple) else self.value
            case "random_uniform":
                return self.minval
            case "truncated_normal":
                return self.mean - 2 * self.stddev
            case _:
                return None


def _refuse_matrices(initializer: Initializer) -> Initializer:
    if initializer.name == "orthogonal":
        raise _NOTATION.error("orthogonal needs two dimensions, and this parameter has one")
    return initializer


VectorInitializer: TypeAlias = Annotated[Initializer, AfterValidator(_refuse_matrices)]
"""Of a parameter of one dimension."""
