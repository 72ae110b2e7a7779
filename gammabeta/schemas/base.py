"""The two kinds of schema: what a client sends (closed: an unknown key is an error), and what it gets (open: a newer
service may say more than an older client knows)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, PydanticKnownError
from pydantic_core.core_schema import no_info_before_validator_function

Number: TypeAlias = StrictFloat
"""A number in a body: 1 is one, "1" and true are not. Queries are text, and take the lenient types."""
Count: TypeAlias = StrictInt
Flag: TypeAlias = StrictBool

SMALLEST = 1e-37
"""Of the numbers that float32 holds in full, about."""


def _check_held(value: float) -> float:
    if 0 < value < SMALLEST:
        raise PydanticCustomError(
            "small", "must be at least {least}, or it would be 0 in float32", {"least": f"{SMALLEST:g}"}
        )
    return value


HELD = AfterValidator(_check_held)
"""Not 0 in float32 unless it is 0."""
Epsilon: TypeAlias = Annotated[Number, Field(gt=0, le=1_000), HELD]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


CLOSE = 0.7
"""How much alike a key and a field are, at least, where one is taken for a slip of the other."""


class Request(BaseModel):
    """A value that a client sends: frozen, closed, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    FOREIGN: ClassVar[Mapping[str, str]] = {}
    """Keys that other libraries write here, and what is said of them."""
    LISTED_IN: ClassVar[str] = "/docs"
    """Where the fields are explained."""

    @model_validator(mode="wrap")
    @classmethod
    def _tell_of_unknown_keys(cls, given: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return build(given)
        except ValidationError as exc:
            if not any(map(_is_unknown_key, exc.errors(include_url=False))):
                raise
            raise retold(exc, cls._told_if_unknown) from exc

    @classmethod
    def _told_if_unknown(cls, error: ErrorDetails) -> ErrorDetails:
        if not _is_unknown_key(error):
            return error
        return {**error, "type": "unknown", "msg": f"is not a field here{cls._remedy(str(error['loc'][0]))}"}

    @classmethod
    def _remedy(cls, key: str) -> str:
        if key in cls.FOREIGN:
            return f": {cls.FOREIGN[key]}"
        close = get_close_matches(key.lower(), cls.model_fields, n=1, cutoff=CLOSE)
        if close:
            return f". Did you mean '{close[0]}'?"
        return f". Leave it out, or look at {cls.LISTED_IN} for the fields there are"


def _is_unknown_key(error: ErrorDetails) -> bool:
    """Of the model itself, not of one within it."""
    return error["type"] == "extra_forbidden" and len(error["loc"]) == 1


def retold(error: ValidationError, tell: Callable[[ErrorDetails], ErrorDetails]) -> ValidationError:
    """The error with each of its lines as `tell` says it."""
    lines = [
        InitErrorDetails(
            type=PydanticCustomError(each["type"], each["msg"], each.get("ctx")), loc=each["loc"], input=each["input"]
        )
        for each in map(tell, error.errors(include_url=False))
    ]
    return ValidationError.from_exception_data(error.title, lines)


def told_by(tag: str) -> Callable[[dict[str, Any]], None]:
    """For `json_schema_extra`: among the kinds of a union the field must be written, although it has a default."""

    def require(schema: dict[str, Any]) -> None:
        schema["required"] = [*schema.get("required", ()), tag]

    return require


class Answer(BaseModel):
    """A value that the service gives: frozen; keys that this version does not know are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


def _check_name(value: str) -> str:
    if not re.fullmatch(NAME_PATTERN, value):
        raise PydanticCustomError(
            "name",
            "must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit. "
            "Choose a name such as 'digits' or 'churn-2'.",
        )
    return value


Name = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": NAME_PATTERN})]
"""The name of a dataset, a model or a layer."""


@dataclass(frozen=True)
class AtMost:
    """The longest list that is looked into, and the shortest: pydantic's own bounds count after complaining of each
    element."""

    length: int
    least: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | ({"minItems": self.least} if self.least else {}) | {"maxItems": self.length}

    def _check(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            counted = {"field_type": "List", "actual_length": len(value)}
            if len(value) > self.length:
                raise PydanticKnownError("too_long", {**counted, "max_length": self.length})
            if len(value) < self.least:
                raise PydanticKnownError("too_short", {**counted, "min_length": self.least})
        return value


def _arity(value: Any) -> str:
    return "many" if isinstance(value, list | tuple) else "one"


ONE, MANY = Tag("one"), Tag("many")
ONE_OR_MANY = Discriminator(_arity)
"""Of `Annotated[Annotated[int, ONE] | Annotated[tuple[int, ...], MANY], ONE_OR_MANY]`: a list decides which is meant,
so that the errors are those of that part alone."""


def not_supported(what: str, instead: str, *, key: str | None = None) -> PydanticCustomError:
    """The validation error for something that is known in the field and not built here (yet). `key` names the one key
    of the received object that is meant."""
    context = {"what": what, "instead": instead} | ({"key": key} if key else {})
    return PydanticCustomError("not_supported", "{what} is not supported yet. {instead}", context)


def refuse_not_yet(value: Any, not_yet: frozenset[str], owner: str) -> Any:
    """For a `mode="before"` validator: refuse keys that the contract knows and this version does not do."""
    if isinstance(value, dict):
        for key in sorted(not_yet & value.keys()):
            raise not_supported(f"'{key}' of {owner}", f"Leave '{key}' out.", key=key)
    return value


def wrong(key: str, message: str, **context: Any) -> PydanticCustomError:
    """The validation error of a rule that spans keys; `key` is the one that the user should change."""
    return PydanticCustomError("invalid", message, {**context, "key": key})
