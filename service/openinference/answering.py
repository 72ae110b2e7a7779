"""Scores as the outputs that were asked for.

{"model_name", "model_version", "id"?, "parameters", "outputs": [{"name", "datatype", "shape", "data" | size}]}
++ raw tensors, in the order of the outputs that have a binary_data_size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gammabeta.schemas.models import Version
from service.openinference import datatypes, signature
from service.openinference.datatypes import BYTES
from service.openinference.reading import BINARY_SIZE, Wanted


@dataclass(frozen=True, kw_only=True)
class Content:
    """A body, and how much of it is JSON where not all of it is."""

    body: bytes
    header_length: int | None


def write(version: Version, scores: NDArray[np.float32], outputs: Sequence[Wanted], request_id: str | None) -> Content:
    """scores: [B, classes], or [B] values."""
    written = [_output(wanted, scores, version.classes) for wanted in outputs]
    header = orjson.dumps(
        {
            "model_name": version.model,
            "model_version": version.version,
            **({} if request_id is None else {"id": request_id}),
            "parameters": {"batchnorm_mode": "eval", "batchnorm_digest": version.batchnorm_digest},
            "outputs": [output for output, _ in written],
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    raw = [each for _, each in written if each is not None]
    return Content(body=b"".join([header, *raw]), header_length=len(header) if raw else None)


def _output(
    wanted: Wanted, scores: NDArray[np.float32], classes: tuple[str, ...] | None
) -> tuple[dict[str, Any], bytes | None]:
    """The output as it stands in the JSON, and what follows the JSON."""
    if wanted.classification and classes is not None:
        best = np.argsort(-scores, axis=1, kind="stable")[:, : wanted.classification]
        texts = [_ranked(scores[row], codes, classes) for row, codes in enumerate(best.tolist())]
        return _texts(wanted, best.shape, [each for row in texts for each in row])
    if wanted.name == signature.LABEL and classes is not None:
        return _texts(wanted, (len(scores),), [classes[code] for code in scores.argmax(axis=1).tolist()])
    tensor = {"name": wanted.name, "datatype": "FP32", "shape": list(scores.shape)}
    if not wanted.binary:
        return {**tensor, "data": np.ascontiguousarray(scores).reshape(-1)}, None
    return _binary(tensor, scores.astype("<f4", copy=False).tobytes())


def _ranked(scores: NDArray[np.float32], codes: list[int], classes: tuple[str, ...]) -> list[str]:
    return [f"{scores[code]:f}:{code}:{classes[code]}" for code in codes]


def _texts(wanted: Wanted, shape: tuple[int, ...], texts: list[str]) -> tuple[dict[str, Any], bytes | None]:
    tensor = {"name": wanted.name, "datatype": BYTES, "shape": list(shape)}
    if not wanted.binary:
        return {**tensor, "data": texts}, None
    return _binary(tensor, datatypes.packed(each.encode() for each in texts))


def _binary(tensor: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
    return {**tensor, "parameters": {BINARY_SIZE: len(raw)}}, raw
