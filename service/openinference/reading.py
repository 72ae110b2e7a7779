"""The body of an inference request, whole, as rows and what is wanted of them.

    JSON (Inference-Header-Content-Length bytes) ++ raw tensors, in the order of the inputs that have a binary_data_size

Without that header all of the body is JSON. With 0 in it all of the body is the one input of an array or image model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gammabeta.errors import InvalidRequest, MalformedRequest
from gammabeta.schemas.models import Version
from gammabeta.schemas.problems import shortened
from service.bodies import parsed
from service.openinference import numeric, rows, signature
from service.openinference.datatypes import BYTES, NUMBERS
from service.openinference.signature import TensorSpec
from service.openinference.tensors import Tensor
from service.runtime.rows import Floats

BINARY_SIZE = "binary_data_size"
MAX_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An output, and how it shall be written."""

    name: str
    binary: bool
    classification: int = 0
    """How many of the best classes; 0: the tensor itself."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An inference request."""

    id: str | None
    x: Floats
    outputs: tuple[Wanted, ...]


def read(body: bytes, header_length: str | None, version: Version) -> Asked:
    """The request, checked against what the version takes and gives.

    Raises:
        MalformedRequest: the body is not JSON, or the length of it is wrong.
        InvalidRequest: something in it does not fit the model; the message names it.
        TooLarge: the rows would take more memory than the rows of a request may.
    """
    outputs = signature.outputs_of(version.classes)
    if header_length == "0":
        return _raw(body, version)
    header, raw = _split(body, header_length)
    request = numeric.read(header) or parsed(header)
    if not isinstance(request, dict):
        raise InvalidRequest(f"The request must be an object with 'inputs'. Received: {shortened(request)}.")
    given = _inputs(request.get("inputs"), raw, signature.inputs_of(version.preprocessing))
    return Asked(
        id=_id(request.get("id")),
        x=rows.rows_of(given, version.preprocessing),
        outputs=_outputs(request.get("outputs"), _parameters(request, "The request"), outputs),
    )


def _raw(body: bytes, version: Version) -> Asked:
    inputs = signature.inputs_of(version.preprocessing)
    if len(inputs) > 1 or inputs[0].datatype == BYTES:
        raise InvalidRequest(
            f"Inference-Header-Content-Length must not be 0 for this model, which has {len(inputs)} inputs or one of "
            "texts. Send JSON, with the tensors after it."
        )
    shape = inputs[0].shape[1:]
    size = math.prod(shape) * NUMBERS["FP32"].itemsize
    if not body or len(body) % size:
        raise InvalidRequest(f"The body must be FP32 rows of {size:,} bytes. Received: {len(body):,} bytes.")
    tensor = Tensor(name=inputs[0].name, datatype="FP32", shape=(len(body) // size, *shape), raw=memoryview(body))
    outputs = tuple(Wanted(name=each.name, binary=True) for each in signature.outputs_of(version.classes))
    return Asked(id=None, x=rows.rows_of({tensor.name: tensor}, version.preprocessing), outputs=outputs)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    digits = header_length.strip()
    known = digits.isascii() and digits.isdecimal() and len(digits) < 20
    if not known or int(digits) > len(body):
        raise MalformedRequest(
            "Inference-Header-Content-Length must be how many bytes of the body, before it was compressed, are JSON: "
            f"at most {len(body):,}. Received: {digits[:40]!r}."
        )
    return body[: int(digits)], memoryview(body)[int(digits) :]


def _id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise InvalidRequest(f"'id' must be a string. Received: {shortened(value)}.")


def _parameters(owner: dict[str, Any], name: str) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"{name}: 'parameters' must be an object. Received: {shortened(parameters)}.")
    if "shared_memory_region" in parameters:
        raise InvalidRequest(f"{name}: there is no shared memory here. Send the tensor in the body.")
    return parameters


# ── inputs ──


def _inputs(given: Any, raw: memoryview, known: Sequence[TensorSpec]) -> dict[str, Tensor]:
    """By name, exactly the inputs that are known; together they take all that stands after the JSON."""
    if not isinstance(given, list) or len(given) != len(known):
        received = f"{len(given):,} of them" if isinstance(given, list) else shortened(given)
        raise InvalidRequest(f"'inputs' must be a list of {_listed(known)}. Received: {received}.")
    names = {each.name for each in known}
    tensors: dict[str, Tensor] = {}
    start = 0
    for index, each in enumerate(given):
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise InvalidRequest(f"inputs[{index}] must be an object with 'name'. Received: {shortened(each)}.")
        name = each["name"]
        if name not in names or name in tensors:
            why = "stands there twice" if name in tensors else "is not an input of this model"
            raise InvalidRequest(f"inputs[{index}]: {shortened(name)!r} {why}. Send {_listed(known)}.")
        size = _binary_size(each, name)
        tensors[name] = _tensor(each, name, None if size is None else raw[start : start + size])
        start += size or 0
    if start != len(raw):
        raise InvalidRequest(
            f"The binary_data_size of all inputs must be, in sum, the bytes after the JSON: {len(raw):,}. Received: "
            f"{start:,}. Look whether Inference-Header-Content-Length is right and the body whole."
        )
    return tensors


def _listed(known: Sequence[TensorSpec]) -> str:
    names = ", ".join(f"'{each.name}'" for each in known[:MAX_SHOWN])
    return f"{len(known)}: {names}" + (", …" if len(known) > MAX_SHOWN else "")


def _binary_size(given: dict[str, Any], name: str) -> int | None:
    size = _parameters(given, f"Input {name!r}").get(BINARY_SIZE)
    if size is None or (type(size) is int and size >= 0 and given.get("data") is None):
        return size
    wanted = "be a whole number of bytes, and without 'data' beside it"
    raise InvalidRequest(f"Input {name!r}: binary_data_size must {wanted}. Received: {shortened(size)}.")


def _tensor(given: dict[str, Any], name: str, raw: memoryview | None) -> Tensor:
    datatype, shape = given.get("datatype"), given.get("shape")
    if not isinstance(datatype, str) or datatype not in {*NUMBERS, BYTES}:
        known = ", ".join([*NUMBERS, BYTES])
        raise InvalidRequest(f"Input {name!r} must have a datatype of {known}. Received: {shortened(datatype)}.")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidRequest(
            f"Input {name!r} must have a shape, a list of whole numbers. Received: {shortened(shape)}."
        )
    return Tensor(name=name, datatype=datatype, shape=tuple(shape), data=given.get("data"), raw=raw)


# ── outputs ──


def _outputs(given: Any, parameters: dict[str, Any], known: Sequence[TensorSpec]) -> tuple[Wanted, ...]:
    binary = _flag(parameters, "binary_data_output", default=False)
    if given is None or given == []:
        return tuple(Wanted(name=each.name, binary=binary) for each in known)
    if not isinstance(given, list) or len(given) > len(known):
        received = f"{len(given):,} of them" if isinstance(given, list) else shortened(given)
        raise InvalidRequest(f"'outputs' must be a list of at most {_listed(known)}. Received: {received}.")
    wanted: dict[str, Wanted] = {}
    for index, each in enumerate(given):
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or name in wanted or name not in {tensor.name for tensor in known}:
            raise InvalidRequest(
                f"outputs[{index}] must name one of {_listed(known)}, once. Received: {shortened(each)}."
            )
        wanted[name] = _wanted(name, _parameters(each, f"Output {name!r}"), binary)
    return tuple(wanted.values())


def _wanted(name: str, parameters: dict[str, Any], binary: bool) -> Wanted:
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0 or (count and name != signature.SCORES):
        wanted = f"be how many of the best classes are wanted, and of the output '{signature.SCORES}'"
        raise InvalidRequest(f"Output {name!r}: classification must {wanted}. Received: {shortened(count)}.")
    return Wanted(name=name, binary=_flag(parameters, "binary_data", default=binary), classification=count)


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"'{name}' must be true or false. Received: {shortened(value)}.")
    return value
