"""Initial values by their Keras names: `"zeros"`, or `{"class_name": "constant", "config": {"value": 0.5}}`.

Each becomes one `Initializer`. `orthogonal` and `identity` need two dimensions, and a batch-norm parameter has one, so
they are refused here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from gammabeta.schemas.base import Request

InitializerName = Literal[
    "zeros",
    "ones",
    "constant",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
]

_ALIASES = {"zero": "zeros", "one": "ones", "normal": "random_normal", "uniform": "random_uniform"}
_CONFIG: dict[str, frozenset[str]] = {
    "zeros": frozenset(),
    "ones": frozenset(),
    "constant": frozenset({"value"}),
    "random_normal": frozenset({"mean", "stddev", "seed"}),
    "truncated_normal": frozenset({"mean", "stddev", "seed"}),
    "random_uniform": frozenset({"minval", "maxval", "seed"}),
}
_SCALED = frozenset({"seed"})


Single: TypeAlias = Annotated[float, Field(ge=-1e38, le=1e38)]
"""A number that float32 holds."""


class Initializer(Request):
    """How a parameter of shape `[C]` starts. Unused numbers keep their defaults."""

    name: InitializerName
    value: Single = 0.0
    """`constant`: every element."""
    mean: Single = 0.0
    stddev: Single = Field(default=0.05, ge=0)
    minval: Single = -0.05
    maxval: Single = 0.05
    seed: int | None = None
    """None: drawn from the job's seed."""

    @model_validator(mode="before")
    @classmethod
    def _from_keras(cls, given: Any) -> Any:
        if isinstance(given, Initializer):
            return given
        if isinstance(given, str):
            given = {"class_name": given, "config": {}}
        if isinstance(given, dict) and "name" in given and "class_name" not in given:
            given = {"class_name": given["name"], "config": {k: v for k, v in given.items() if k != "name"}}
            return {"name": _known_name(given["class_name"]), **given["config"]}
        if not isinstance(given, dict) or not isinstance(given.get("class_name"), str):
            raise PydanticCustomError(
                "initializer",
                'must be the name of an initializer such as "zeros", or {{"class_name": …, "config": {{…}}}}',
            )
        name = _known_name(given["class_name"])
        config = given.get("config") or {}
        if not isinstance(config, dict):
            raise PydanticCustomError("initializer", "'config' must be an object")
        allowed = _CONFIG.get(name, _SCALED)
        unknown = sorted(set(config) - allowed)
        if unknown:
            raise PydanticCustomError(
                "initializer",
                "{name} does not take {unknown}. It takes {allowed}.",
                {"name": name, "unknown": ", ".join(unknown), "allowed": ", ".join(sorted(allowed)) or "no config"},
            )
        if name == "constant" and "value" not in config:
            raise PydanticCustomError("initializer", "constant needs config.value")
        return {"name": name, **config}

    @model_validator(mode="after")
    def _ordered(self) -> Initializer:
        if self.minval > self.maxval:
            raise PydanticCustomError("initializer", "minval must not be greater than maxval")
        return self

    def lowest(self) -> float | None:
        """The smallest value that it can give; None where a draw is as often negative as positive."""
        return {"zeros": 0.0, "ones": 1.0, "constant": self.value, "random_uniform": self.minval}.get(self.name)


def _known_name(given: str) -> str:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", given).lower()
    name = _ALIASES.get(snake, snake)
    if name not in InitializerName.__args__:  # type: ignore[attr-defined]
        raise PydanticCustomError(
            "initializer",
            "must be one of {names}; a batch-norm parameter has one dimension, so that no other applies",
            {"names": ", ".join(InitializerName.__args__)},  # type: ignore[attr-defined]
        )
    return name
