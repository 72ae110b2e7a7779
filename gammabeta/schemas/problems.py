"""Errors on the wire: RFC 9457 problem details, and pydantic's errors in our words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gammabeta.errors import FieldError, InvalidRequest, NotSupported
from gammabeta.schemas.base import Answer

_OBJECT = "must be an object, {…}, with the fields that %s and /docs list"
_OF_BATCH_NORM = frozenset({"batch_norm", "adjustment", "renorm_clipping"})
"""The parts of a request that docs/batchnorm.md explains."""
_REMEDIES = {
    "missing": "is required",
    "json_invalid": "must be JSON",
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "dict_type": _OBJECT,
    "tuple_type": "must be a list",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a string",
    "union_tag_not_found": 'must be an object that says which of its kinds it is, such as {"type": "dense", …} for a '
    'layer, {"name": "adam", …} for an optimizer and {"kind": "uniform", …} for an adjustment',
}
MAX_FIELDS = 20
"""How many wrong fields an error names."""
MAX_RECEIVED = 200
"""How many characters of a received value an error repeats."""
MAX_LEVELS, MAX_ENTRIES, MAX_TEXT = 4, 12, 80
"""Of an object or a list: how deep it is shown, how much of each level, and how many characters of each text."""


class ProblemField(Answer):
    """One wrong field."""

    field: str
    message: str
    received: Any = None
    """A long one is cut, and then text."""
    code: str = "invalid"


class Problem(Answer):
    """`application/problem+json`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: tuple[ProblemField, ...] = ()


def invalid(error: ValidationError | Sequence[ErrorDetails], *, within: str = "") -> InvalidRequest:
    """The error tree's form of a pydantic error. NotSupported when every complaint is that."""
    details = error.errors() if isinstance(error, ValidationError) else error
    fields = tuple(_field(each, within) for each in details[:MAX_FIELDS])
    cls = NotSupported if fields and all(each.code == "not_supported" for each in fields) else InvalidRequest
    more = f"; and {len(details) - MAX_FIELDS:,} more" if len(details) > MAX_FIELDS else ""
    return cls("; ".join(f"{each.field}: {each.message}" for each in fields) + more, errors=fields)


def _field(error: ErrorDetails, within: str) -> FieldError:
    kind, context, received = error["type"], error.get("ctx", {}), error.get("input")
    message = _REMEDIES.get(kind, error["msg"].removeprefix("Value error, ").replace("Input should be", "must be"))
    place = error["loc"]
    if message == _OBJECT:
        message %= "docs/training.md" if _OF_BATCH_NORM.isdisjoint(place) else "docs/batchnorm.md"
    if kind == "union_tag_not_found" and isinstance(received, dict) and isinstance(received.get("class_name"), str):
        message = _class_message(received["class_name"], context["discriminator"].strip("'"))
    if kind in ("too_short", "too_long") and "actual_length" in context:
        message = _length_message(context)
    if kind == "union_tag_invalid":
        discriminator = context["discriminator"].strip("'")
        message = f"must be one of {context['expected_tags']}"
        place, received = (*place, discriminator), context["tag"]
    elif "key" in context and isinstance(received, dict):
        place, received = (*place, context["key"]), received.get(context["key"], received)
    received = None if kind == "missing" else shortened(received)
    return FieldError(
        field=dotted(place, within),
        message=message,
        received=received,
        code="not_supported" if kind == "not_supported" else "invalid",
    )


def _length_message(context: Mapping[str, Any]) -> str:
    least, most = context.get("min_length"), context.get("max_length")
    count = least if most is None else most
    entries = "entry" if count == 1 else "entries"
    return f"must have at {'least' if most is None else 'most'} {count} {entries}; this has {context['actual_length']}"


def _class_message(class_name: str, discriminator: str) -> str:
    """Of an object as Keras stores it."""
    name = class_name.lower()
    kind = "batch_norm" if name == "batchnormalization" else name
    written = f'"{kind}"' if discriminator != "type" or kind in LAYER_TAGS else "…"
    return f'must have "{discriminator}", not "class_name". Write "{discriminator}": {written}, and the keys of its \
config beside it.'


def dotted(location: tuple[int | str, ...], within: str = "") -> str:
    """`network.layers[2].units`. The tags of unions, which no request contains, are left out."""
    path, before = within, within
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not _is_tag(part, before):
            path += f".{part}" if path else part
        before = f"{before}[]" if isinstance(part, int) else part
    return printable(path) or "body"


LAYER_TAGS = frozenset(
    "dense conv1d conv2d depthwise_conv2d batch_norm activation max_pool average_pool global_average_pool flatten "
    "dropout add concatenate".split()
)
"""The types of layers."""
_ARITY = frozenset({"one", "many"})
_TAGS = {
    "": frozenset({"body", "train", "predict"}),
    "body": frozenset({"train", "predict"}),
    "network": frozenset({"layers", "mlp", "cnn", "resnet"}),
    "batch_norm": frozenset({"everywhere", "each", "options"}),
    "optimizer": frozenset({"adam", "adamw", "rmsprop", "sgd"}),
    "schedule": frozenset({"constant", "cosine", "step"}),
    "adjustment": frozenset({"uniform", "normal", "constant"}),
    "rmin": _ARITY | {"word"},
    **dict.fromkeys(
        "axis value scale bias rmax dmax kernel_size strides dilation_rate pool_size".split(),
        _ARITY,
    ),
}
"""By the part before it."""


def _is_tag(part: str, before: str) -> bool:
    if before == "layers[]":
        return part in LAYER_TAGS
    return part in _TAGS.get(before, ()) or part in ("int", "constrained-int") or part.endswith("]")


def shortened(value: Any) -> Any:
    """A received value small enough to repeat in an error, and such that JSON can hold it: itself, or where that would
    be long, its beginning as text."""
    match value:
        case bool() | int() | None:
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str() | bytes() if len(value) > MAX_RECEIVED:
            return f"{printable(str(value[:MAX_RECEIVED]))}… ({len(value):,} characters)"
        case str():
            return printable(value)
    text = printable(_json(value))
    if len(text) > MAX_RECEIVED:
        return f"{text[:MAX_RECEIVED]}…"
    try:
        return json.loads(text)
    except ValueError:
        return text


def _json(value: Any, levels: int = MAX_LEVELS) -> str:
    """JSON, with … for what is left out."""
    match value:
        case dict():
            pairs = (f"{_json(str(key))}: {_json(each, levels - 1)}" for key, each in value.items())
            return f"{{{_listed(pairs, len(value), levels)}}}"
        case list() | tuple():
            return f"[{_listed((_json(each, levels - 1) for each in value), len(value), levels)}]"
        case None | bool() | int():
            return json.dumps(value)
        case float() if math.isfinite(value):
            return json.dumps(value)
    text = str(value)
    return json.dumps(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…", ensure_ascii=False)


def _listed(parts: Iterator[str], count: int, levels: int) -> str:
    shown = list(islice(parts, MAX_ENTRIES if levels > 0 else 0))
    return ", ".join(shown + ["…"] * (count > len(shown)))


def printable(text: str) -> str:
    """The text without halves of surrogate pairs, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()
