"""What a prediction answers, in each media type.

    application/json            all that there is to say; see `schemas/predictions.py`
    text/csv                    label,score_<class>,…   or   value                          a line a row
    application/octet-stream    float32, little-endian, row by row: [rows, classes] scores or [rows] values

The last two have room for numbers only: who answered stands in their headers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gammabeta.schemas.models import Version

JSON, CSV, BYTES = "application/json", "text/csv", "application/octet-stream"

Scores = NDArray[np.float32]
"""[rows, classes] where the model knows classes, else [rows] values. All finite."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The body of an answer, and what belongs to it."""

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


def as_json(version: Version, scores: Scores) -> Answered:
    """Label and scores, or value, of each row; and which statistics were used."""
    answered = {
        "model": version.model,
        "version": version.version,
        "classes": version.classes,
        "predictions": _predictions(scores, version.classes),
        "batchnorm": {"mode": "eval", "digest": version.batchnorm_digest},
    }
    return Answered(body=orjson.dumps(answered, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON)


def as_csv(version: Version, scores: Scores) -> Answered:
    """A header row, then label and scores, or value, of each row."""
    lines = _class_lines(scores, version.classes) if version.classes is not None else _spelled(scores)
    body = b"\n".join([_line(csv_header(version.classes)), *lines, b""])
    return Answered(body=body, media_type=CSV, headers=_answered_by(version))


def as_bytes(version: Version, scores: Scores) -> Answered:
    """The scores alone; labels are those of the version, in the order of its `classes`."""
    headers = {
        **_answered_by(version),
        "Gammabeta-Datatype": "float32",
        "Gammabeta-Shape": ",".join(map(str, scores.shape)),
    }
    return Answered(body=scores.astype("<f4", copy=False).tobytes(), media_type=BYTES, headers=headers)


def csv_header(classes: tuple[str, ...] | None) -> list[str]:
    """The columns of an answer as csv."""
    return ["value"] if classes is None else ["label", *(f"score_{label}" for label in classes)]


def _answered_by(version: Version) -> dict[str, str]:
    return {
        "Gammabeta-Model": version.model,
        "Gammabeta-Version": version.version,
        "Gammabeta-Batchnorm-Digest": version.batchnorm_digest,
    }


def _predictions(scores: Scores, classes: tuple[str, ...] | None) -> list[dict[str, Any]]:
    if classes is None:
        return [{"value": value} for value in scores]
    best = scores.argmax(axis=1).tolist()
    return [
        {"label": classes[code], "scores": row} for code, row in zip(best, np.ascontiguousarray(scores), strict=True)
    ]


def _class_lines(scores: Scores, classes: tuple[str, ...]) -> Iterable[bytes]:
    labels = [_line([label]) for label in classes]
    best = scores.argmax(axis=1).tolist()
    return [labels[code] + b"," + row for code, row in zip(best, _spelled(scores), strict=True)]


def _spelled(scores: Scores) -> list[bytes]:
    """The numbers of each row as JSON spells them, with as few digits as give back the same float32."""
    text = orjson.dumps(np.ascontiguousarray(scores), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",") if scores.ndim == 1 else text[2:-2].split(b"],[")


def _line(cells: list[str]) -> bytes:
    """With quotes where they are needed, and without an end. Of line breaks Python quotes those that end its lines."""
    written = StringIO()
    csv.writer(written, lineterminator="\r\n").writerow(cells)
    return written.getvalue().removesuffix("\r\n").encode()
