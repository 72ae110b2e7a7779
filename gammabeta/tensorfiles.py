"""safetensors files, looked at before the library is given them.

    n, 8 bytes │ n bytes of JSON: {name: dtype, shape, [begin, end)} │ tensors
                 └── within the caps, and covering what follows exactly ──► load

The library refuses most of this itself, but takes headers of 100 MB, and is not ours to prove.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import orjson
from safetensors import SafetensorError

from gammabeta.errors import ArtifactCorrupt

T = TypeVar("T")

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 10_000
"""More than 1,000 layers, the most of a network, have in any file of gammabeta's."""
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""What gammabeta stores, and numpy and torch both read."""
MAX_DIMENSIONS, MAX_SIZE = 8, 1 << 48
LENGTH_BYTES = 8


def read(path: Path, load: Callable[[Path], dict[str, T]]) -> dict[str, T]:
    """The tensors of a file, by `load_file` of `safetensors.numpy` or `safetensors.torch`.

    Raises:
        ArtifactCorrupt: it is no sound safetensors file, or beyond the caps.
        FileNotFoundError.
    """
    _check(path)
    try:
        return load(path)
    except SafetensorError as exc:
        raise _unsound(path, str(exc)) from exc


def _check(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > MAX_HEADER_BYTES:
            raise _unsound(path, f"a header of {length:,} bytes, of at most {MAX_HEADER_BYTES:,}")
        header = file.read(length)
    try:
        said = orjson.loads(header)
        said.pop("__metadata__", None)
        spans = sorted(_span(each) for each in said.values())
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise _unsound(path, "a header that is none") from exc
    if len(spans) > MAX_TENSORS:
        raise _unsound(path, f"{len(spans):,} tensors, of at most {MAX_TENSORS:,}")
    bounds = [0, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != bounds[:-1] or path.stat().st_size != LENGTH_BYTES + length + bounds[-1]:
        raise _unsound(path, "tensors that do not cover the file exactly")


def _span(tensor: Any) -> tuple[int, int]:
    """Where the tensor lies.

    Raises:
        ValueError, TypeError, LookupError: its header does not agree with itself.
    """
    (begin, end), shape = tensor["data_offsets"], tensor["shape"]
    if len(shape) > MAX_DIMENSIONS or not all(
        type(each) is int and 0 <= each < MAX_SIZE for each in (begin, end, *shape)
    ):
        raise ValueError("sizes must be whole numbers, and few")
    if end - begin != ITEM_BYTES[tensor["dtype"]] * math.prod(shape):
        raise ValueError("a tensor must lie where it says")
    return begin, end


def _unsound(path: Path, received: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{path.name} is no whole safetensors file: {received}.")
