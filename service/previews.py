"""The first rows of a data set, as JSON values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.schemas.datasets import DatasetManifest, Feature, Split
from gammabeta.store.stored import Blobs


def first_rows(manifest: DatasetManifest, split: Split, count: int, blobs: Blobs) -> list[dict[str, object]]:
    """Rows by feature name, the target under its own; categories and classes by their labels, null where missing."""
    files = manifest.splits[split]
    x, y = _head(blobs, files.x.sha256, count), _head(blobs, files.y.sha256, count)
    labels = manifest.target.labels
    targets = [labels[int(code)] for code in y] if labels else y.tolist()
    return [{**_features(row, manifest), manifest.target.name: target} for row, target in zip(x, targets, strict=True)]


def _head(blobs: Blobs, sha256: str, count: int) -> NDArray[Any]:
    array: NDArray[Any] = np.load(blobs.path(sha256), mmap_mode="r", allow_pickle=False)
    return array[:count]


def _features(row: NDArray[Any], manifest: DatasetManifest) -> dict[str, object]:
    if manifest.kind != "table":
        return {manifest.features[0].name: row.tolist()}
    return {feature.name: _cell(value, feature) for feature, value in zip(manifest.features, row.tolist(), strict=True)}


def _cell(value: float, feature: Feature) -> object:
    if math.isnan(value):
        return None
    if feature.kind != "categorical" or feature.categories is None:
        return value
    code = int(value)
    return feature.categories[code].label if 0 <= code < len(feature.categories) else None
