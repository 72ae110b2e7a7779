"""Predictions over HTTP: rows out in chunks, answers joined into arrays, all from one version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from gammabeta.client.chunks import MAX_BYTES, Rows, bodies
from gammabeta.client.connection import Connection, not_understood
from gammabeta.errors import ServiceFault


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says of N rows, in their order.

    A model of classes gives `labels` and `scores`; a model of a number gives `values`. The others are empty.
    """

    model: str
    version: str
    digest: str
    """The batch-norm state that was used."""
    classes: tuple[str, ...] | None
    """The labels in the order of the scores; None for a number."""
    labels: list[str]
    """The label with the highest score, for each row."""
    scores: NDArray[np.float64]
    """[N, classes]."""
    values: NDArray[np.float64]
    """[N]."""

    def __len__(self) -> int:
        return len(self.values) if self.classes is None else len(self.labels)


def predict(
    connection: Connection,
    model: str,
    instances: Rows,
    *,
    version: str | int | None = None,
    alias: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Prediction:
    """Ask for one prediction per row. The first answer's version is asked for by all later chunks."""
    parts: list[Prediction] = []
    params = {"version": None if version is None else str(version), "alias": alias}
    for body in bodies(instances, max_bytes=max_bytes):
        response = connection.request(
            "POST",
            f"/v1/models/{quote(model, safe='')}/predict",
            params=params,
            body=body,
            headers={"Content-Type": "application/json"},
            repeatable=True,
        )
        parts.append(_parsed(response))
        params = {"version": parts[0].version, "alias": None}
    return _joined(parts)


def _parsed(response: httpx.Response) -> Prediction:
    # Not by pydantic: a thousand rows with their scores are the hot path of the client too.
    try:
        answer: dict[str, Any] = orjson.loads(response.content)
        rows: list[dict[str, Any]] = answer["predictions"]
        classes = answer["classes"]
        return Prediction(
            model=answer["model"],
            version=answer["version"],
            digest=answer["batchnorm"]["digest"],
            classes=None if classes is None else tuple(classes),
            labels=[] if classes is None else [row["label"] for row in rows],
            scores=_array([] if classes is None else [row["scores"] for row in rows], (-1, len(classes or ()))),
            values=_array([row["value"] for row in rows] if classes is None else [], (-1,)),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise not_understood(response, f"{type(exc).__name__} {exc}") from exc


def _array(numbers: list[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(numbers, dtype=np.float64)
    return array.reshape(shape) if array.size else np.zeros(tuple(max(extent, 0) for extent in shape))


def _joined(parts: list[Prediction]) -> Prediction:
    first = parts[0]
    for part in parts[1:]:
        if (part.version, part.digest) != (first.version, first.digest):
            raise ServiceFault(
                f"All rows must be answered by version {first.version} with batch norm {first.digest}. "
                f"Received: version {part.version} with {part.digest}. A version never changes: this is a bug."
            )
    return Prediction(
        model=first.model,
        version=first.version,
        digest=first.digest,
        classes=first.classes,
        labels=[label for part in parts for label in part.labels],
        scores=np.concatenate([part.scores for part in parts]),
        values=np.concatenate([part.values for part in parts]),
    )
