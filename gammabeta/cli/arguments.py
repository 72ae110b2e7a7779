"""Arguments of batch norm in words: `scale false, gamma_constraint max_norm(axis 0, max_value 2), renorm true`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gammabeta.schemas.normalization import BATCH_NORM_ARGUMENTS, BatchNorm

FEW_NUMBERS = 8
SETTLED = frozenset({"name", "axis", "fused"})
"""Which a stored network always says, whether or not they were written."""


def changed(arguments: Mapping[str, Any], *, without: Collection[str] = ()) -> str:
    """Those that are not at their defaults, in the order of the signature."""
    defaults = BatchNorm().model_dump(mode="json")
    wanted = [key for key in defaults if key in BATCH_NORM_ARGUMENTS - SETTLED and key not in without]
    return ", ".join(
        f"{key} {_words(arguments[key])}" for key in wanted if key in arguments and arguments[key] != defaults[key]
    )


def axes(axis: int | Collection[int]) -> str:
    """`axis 3`, or `axes 1 and 3`."""
    if isinstance(axis, int):
        return f"axis {axis}"
    *first, last = map(str, axis)
    return f"axes {', '.join(first)} and {last}"


def _words(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case {"class_name": str(name), "config": dict(config)}:
            return f"{name}({_pairs(config)})"
        case dict():
            return f"({_pairs(value)})"
        case list():
            rest = [f"… {len(value):,} in all"] if len(value) > FEW_NUMBERS else []
            return f"[{', '.join([*map(_words, value[:FEW_NUMBERS]), *rest])}]"
    return str(value)


def _pairs(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_words(value)}" for key, value in config.items() if value is not None)
