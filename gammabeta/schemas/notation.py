"""Keras' notation of small objects: a name, or a class with its config.

    "zeros"     {"class_name": "RandomNormal", "config": {"stddev": 0.01}}

What Keras 3 writes beside them (`module`, `registered_name`) is taken and left unused. So is our own flat form,
`{"name": "constant", "value": 0.5}`, which the Python classes have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticCustomError

_BESIDE = frozenset({"class_name", "config", "module", "registered_name", "shared_object_id"})


@dataclass(frozen=True, kw_only=True)
class Notation:
    """How objects of one kind are written."""

    kind: str
    example: str
    takes: Mapping[str, frozenset[str]]
    """Each name, and the keys of its config."""
    aliases: Mapping[str, str] = field(default_factory=dict)
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

    def error(self, message: str, **context: Any) -> PydanticCustomError:
        """The validation error of this kind."""
        article = "an" if self.kind[0] in "aeiou" else "a"
        return PydanticCustomError(self.kind, message, {"kind": f"{article} {self.kind}", **context})

    def _read_class(self, given: Mapping[str, Any]) -> dict[str, Any]:
        name, config = self._known(given["class_name"]), given.get("config") or {}
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
            raise self.error("must be one of {names}", names=", ".join(self.takes))
        return name


def _listed(keys: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, keys)))
