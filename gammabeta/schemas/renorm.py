"""How far batch renormalization (Ioffe 2017, arXiv:1702.03275) may correct: bounds of r and d, fixed or by step.

    {"rmax": 3, "rmin": "1/rmax", "dmax": 5}
    {"rmax": [[5000, 1], [40000, 3]], "dmax": [[5000, 0], [25000, 5]], "rmin": "1/rmax"}      = "paper"

A schedule is a list of [step, bound]: linear between them, constant before the first and after the last. As in
TensorFlow a bound that is missing does not bind: rmax and dmax are infinite, and rmin is 0, NOT 1/rmax.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from gammabeta.schemas.base import MANY, ONE, ONE_OR_MANY, AtMost, Count, Number, Request, wrong

Bound: TypeAlias = Annotated[Number, Field(ge=0, le=1e38)]
Step: TypeAlias = Annotated[Count, Field(ge=0, le=1_000_000_000)]

RECIPROCAL = "1/rmax"
PAPER = "paper"
_PAPER: dict[str, Any] = {
    "rmax": ((5_000, 1.0), (40_000, 3.0)),
    "dmax": ((5_000, 0.0), (25_000, 5.0)),
    "rmin": RECIPROCAL,
}


def _check_rising(schedule: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    if any(later[0] <= earlier[0] for earlier, later in pairwise(schedule)):
        raise PydanticCustomError("schedule", "the steps of a schedule must rise")
    return schedule


Knots: TypeAlias = Annotated[tuple[tuple[Step, Bound], ...], AtMost(1_000, least=1), AfterValidator(_check_rising)]
Scheduled: TypeAlias = Annotated[Annotated[Bound, ONE] | Annotated[Knots, MANY], ONE_OR_MANY]


def _rmin_kind(value: object) -> str:
    if isinstance(value, str):
        return "word"
    return "many" if isinstance(value, list | tuple) else "one"


class Clips(NamedTuple):
    """r is kept in [rmin, rmax], d in [-dmax, dmax]."""

    rmin: float
    rmax: float
    dmax: float


class RenormClipping(Request):
    """The bounds of r and d."""

    rmax: Scheduled | None = None
    rmin: (
        Annotated[
            Annotated[Bound, ONE] | Annotated[Knots, MANY] | Annotated[Literal["1/rmax"], Tag("word")],
            Discriminator(_rmin_kind),
        ]
        | None
    ) = None
    dmax: Scheduled | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        if given == PAPER:
            return _PAPER
        if isinstance(given, str):
            raise PydanticCustomError(
                "renorm_clipping", 'must be an object with rmax, rmin, dmax, or "paper" for the schedules of the paper'
            )
        return given

    @model_validator(mode="after")
    def _ordered(self) -> RenormClipping:
        if self.rmin == RECIPROCAL and self.rmax is None:
            raise wrong("rmin", 'as "1/rmax" needs rmax')
        for step in sorted({step for bound in (self.rmax, self.rmin) for step in _steps(bound)}):
            clips = self.at(step)
            if clips.rmax <= 0:
                raise wrong("rmax", "must be greater than 0, or nothing would be left of the values")
            if clips.rmin > clips.rmax:
                raise wrong(
                    "rmin",
                    "must not be greater than rmax; at step {step} they are {rmin} and {rmax}",
                    step=step,
                    rmin=clips.rmin,
                    rmax=clips.rmax,
                )
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        bounds = {key: schema.pop(key) for key in ("type", "properties", "additionalProperties") if key in schema}
        schema["anyOf"] = [bounds, {"type": "string", "const": PAPER}]
        return reference

    def at(self, step: int) -> Clips:
        """The bounds of the update that follows `step` others."""
        rmax = _at(self.rmax, step, math.inf)
        rmin = 1 / rmax if self.rmin == RECIPROCAL and rmax else _at(self.rmin, step, 0.0)
        return Clips(rmin, rmax, _at(self.dmax, step, math.inf))

    @property
    def fixed(self) -> bool:
        """Whether the bounds are the same at each step."""
        return not any(isinstance(each, tuple) for each in (self.rmax, self.rmin, self.dmax))


def _steps(bound: Scheduled | str | None) -> tuple[int, ...]:
    return tuple(step for step, _ in bound) if isinstance(bound, tuple) else (0,)


def _at(bound: Scheduled | str | None, step: int, missing: float) -> float:
    if bound is None or isinstance(bound, str):
        return missing
    if not isinstance(bound, tuple):
        return bound
    after = bisect_right(bound, step, key=lambda knot: knot[0])
    if after in (0, len(bound)):
        return bound[max(after - 1, 0)][1]
    (start, low), (end, high) = bound[after - 1 : after + 1]
    return low + (high - low) * (step - start) / (end - start)


NO_CLIPPING = RenormClipping()
