"""Keras' notation of small objects: a name, or a class with its config.

    "zeros"     {"class_name": "RandomNormal", "config": {"stddev": 0.01}}

What Keras 3 writes beside them (`module`, `registered_name`) is taken and left unused. So is our own flat form,
`{"name": "constant", "value": 0.5}`, which the Python classes have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError

from gammabeta.schemas.base import retold

T = TypeVar("T")

_BESIDE = frozenset({"class_name", "config", "module", "registered_name", "shared_object_id"})


@dataclass(frozen=True, kw_only=True)
class Notation:
    """How objects of one kind are written."""

    kind: str
    example: str
    takes: Mapping[str, frozenset[str]]
    """Each name, and the keys of its config."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    never_bare: frozenset[str] = frozenset()
    """Names that say nothing without a config."""
    bare_list: str | None = None
    """The key of a config whose list may stand by itself."""
    choices: str | None = None
    """What is said of the names that there are, where a list of them is not enough."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Names that mean different things in different places, and what to write instead."""

    def read(self, given: Any, *, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`{"name": …}` and the config, flat.

        Args:
            given: in one of the three forms.
            defaults: what may stand in the flat form though the name does not take it; networks were once stored so.

        Raises:
            PydanticCustomError: no such name, or the config has a key that it does not take.
        """
        if isinstance(given, str):
            return {"name": self._known(given)}
        if isinstance(given, Mapping) and isinstance(given.get("class_name"), str):
            return self._read_class(given)
        if isinstance(given, Mapping) and isinstance(given.get("name"), str):
            name = self._known(given["name"])
            idle = {**(defaults or {}), "name": given["name"]}
            self._check_config(name, [key for key in given if key not in idle or given[key] != idle[key]])
            return {**given, "name": name}
        raise self.error(
            'must be the name of {kind} such as "{example}", or {"class_name": …, "config": {…}}', example=self.example
        )

    def build(self, given: Any, flat: Any, build: Callable[[Any], T]) -> T:
        """`build(flat)`.

        Raises:
            ValidationError: it is wrong; the places are those of `given`, as the user wrote it.
        """
        try:
            return build(flat)
        except ValidationError as exc:
            raise retold(exc, lambda error: _as_written(_at_its_key(error), given)) from exc

    def json_schema(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Of a class that is written so. What pydantic gives by itself is the flat form."""
        reference = handler(core_schema)
        if handler.mode == "validation":
            schema = handler.resolve_ref_schema(reference)
            config = {key: each for key, each in schema["properties"].items() if key != "name"}
            for key in ("type", "properties", "required", "additionalProperties"):
                schema.pop(key, None)
            bare = {"type": "string", "enum": self._spellings(self.takes.keys() - self.never_bare)}
            beside: JsonSchemaValue = {key: {} for key in sorted(_BESIDE)}
            written = {
                "class_name": {"type": "string", "enum": self._spellings(self.takes)},
                "config": {"type": ["object", "null"], "properties": config, "additionalProperties": False},
            }
            whole = {
                "type": "object",
                "properties": beside | written,
                "required": ["class_name"],
                "additionalProperties": False,
            }
            schema["anyOf"] = [bare, whole]
            if self.bare_list is not None:
                schema["anyOf"] += [each for each in config[self.bare_list]["oneOf"] if each["type"] == "array"]
        return reference

    def error(self, message: str, **context: Any) -> PydanticCustomError:
        """The validation error of this kind."""
        article = "an" if self.kind[0] in "aeiou" else "a"
        return PydanticCustomError(self.kind, message, {"kind": f"{article} {self.kind}", **context})

    def _read_class(self, given: Mapping[str, Any]) -> dict[str, Any]:
        name, config = self._known(given["class_name"]), given.get("config")
        config = {} if config is None else config
        if not isinstance(config, Mapping):
            raise self.error("'config' must be an object")
        beside = given.keys() - _BESIDE
        if beside:
            raise self.error("must have class_name and config alone. Put {keys} into its config.", keys=_listed(beside))
        self._check_config(name, config.keys())
        return {"name": name, **config}

    def _check_config(self, name: str, keys: Iterable[Any]) -> None:
        allowed = self.takes[name]
        unknown = set(keys) - allowed
        if unknown:
            raise self.error(
                "{name} does not take {unknown}. It takes {allowed}.",
                name=name,
                unknown=_listed(unknown),
                allowed=_listed(allowed) or "nothing",
            )

    def _known(self, given: str) -> str:
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", given).lower()
        if snake in self.refused:
            raise self.error("'{given}' {why}", given=given, why=self.refused[snake])
        name = self.aliases.get(snake, snake)
        if name not in self.takes:
            raise self.error("must be {choices}", choices=self.choices or f"one of {', '.join(self.takes)}")
        return name

    def _spellings(self, names: Collection[str]) -> list[str]:
        """As names, as Keras' classes, and by their other names."""
        snake = [name for name in self.takes if name in names]
        classes = ["".join(part.capitalize() for part in name.split("_")) for name in snake]
        return [*snake, *classes, *(alias for alias, name in self.aliases.items() if name in names)]


def _at_its_key(error: ErrorDetails) -> ErrorDetails:
    """An error of a rule that spans keys, at the one that it names."""
    context, received = error.get("ctx", {}), error["input"]
    if "key" not in context or not isinstance(received, dict):
        return error
    left = {key: value for key, value in context.items() if key != "key"}
    place, value = (*error["loc"], context["key"]), received.get(context["key"], received)
    return {**error, "loc": place, "input": value, "ctx": left}


def _as_written(error: ErrorDetails, given: Any) -> ErrorDetails:
    """`stddev` of the flat form is `config.stddev` of a class, and `value[0]` (whose tag is "many") `[0]` of a list."""
    place = error["loc"]
    if isinstance(given, list | tuple):
        return {**error, "loc": place[2:]}
    return {**error, "loc": ("config", *place)} if place and "class_name" in given else error


def _listed(keys: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, keys)))
