"""Penalties on parameters, added to the loss at each step: `l1 sum|w| + l2 sum w²`, not divided by the batch."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Field, GetJsonSchemaHandler, ModelWrapValidatorHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gammabeta.schemas.base import Number, Request
from gammabeta.schemas.notation import Notation

DEFAULT = 0.01
"""Of `"l1"` and `"l2"` without a number, in Keras 2 and 3."""

_WRITE = '{"class_name": "L1L2", "config": {"l1": 0.01, "l2": 0.01}}'
_NOTATION = Notation(
    kind="regularizer",
    example="l2",
    takes={"l1": frozenset({"l1"}), "l2": frozenset({"l2"}), "l1_l2": frozenset({"l1", "l2"})},
    aliases={"l1l2": "l1_l2"},
    never_bare=frozenset({"l1_l2"}),
    choices=f"l1, l2, or L1L2 with both numbers: {_WRITE}",
    refused={
        "orthogonal_regularizer": "is for matrices, and is not supported. Write l1, l2 or L1L2.",
    },
)


Weight: TypeAlias = Annotated[Number, Field(ge=0, le=1e6)]


class Regularizer(Request):
    """`l1 sum|w| + l2 sum w²`, as Keras' L1, L2 and L1L2."""

    l1: Weight = 0.0
    l2: Weight = 0.0

    @model_validator(mode="wrap")
    @classmethod
    def _from_keras(cls, given: Any, build: ModelWrapValidatorHandler[Regularizer]) -> Regularizer:
        if isinstance(given, Regularizer) or (isinstance(given, dict) and given and given.keys() <= {"l1", "l2"}):
            return build(given)
        return _NOTATION.build(given, cls._flat(given), build)

    @staticmethod
    def _flat(given: Any) -> dict[str, Any]:
        read = _NOTATION.read(given)
        name = read.pop("name")
        if name == "l1_l2" and read.keys() != {"l1", "l2"}:
            # bare: 0.01 and 0.01 in Keras 2, an error in Keras 3; "L1L2" and "l1l2" give no penalty at all
            raise _NOTATION.error(
                "must say both numbers: without them, Keras gives 0.01 or nothing, depending on its version and on how "
                "the name is spelt. Write {write}.",
                write=_WRITE,
            )
        return read or {name: DEFAULT}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _NOTATION.json_schema(core_schema, handler)

    @model_serializer
    def _as_keras(self) -> dict[str, Any]:
        return {"class_name": "L1L2", "config": {"l1": self.l1, "l2": self.l2}}
