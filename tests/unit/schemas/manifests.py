"""A data set as the schemas see it, and requests against it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from gammabeta.errors import InvalidRequest
from gammabeta.schemas.datasets import ArrayFile, Category, DatasetManifest, Feature, SplitFiles, Target
from gammabeta.schemas.jobs import JobRequest
from gammabeta.schemas.resolution import Resolved, resolve


def manifest(classes: int | None = 3, n: int = 100, *, test: bool = True) -> DatasetManifest:
    """A table of a number, a number with holes, and a category with holes."""
    features = (
        Feature(name="age", kind="numeric"),
        Feature(name="height", kind="numeric", missing=3),
        Feature(
            name="colour",
            kind="categorical",
            missing=10,
            categories=(Category(label="blue", count=40), Category(label="red", count=50)),
        ),
    )
    return _manifest("table", features, classes, n, test=test)


def images(n: int = 100, shape: tuple[int, ...] = (4, 4, 3), *, largest: float | None = None) -> DatasetManifest:
    """Images of three classes."""
    return _manifest("image", (Feature(name="x", kind="image", shape=shape, max=largest),), 3, n, test=True)


def _manifest(kind: Any, features: tuple[Feature, ...], classes: int | None, n: int, *, test: bool) -> DatasetManifest:
    file = ArrayFile(sha256="0" * 64, bytes=1, dtype="float32", shape=(n, len(features)))
    split = SplitFiles(n=n, x=file, y=file)
    labels = None if classes is None else tuple(Category(label=str(i), count=n // classes) for i in range(classes))
    return DatasetManifest(
        kind=kind,
        features=features,
        target=Target(name="y", kind="number" if classes is None else "class", classes=labels),
        splits={"train": split, "test": split} if test else {"train": split},
    )


def resolved(data: DatasetManifest, **body: Any) -> Resolved:
    request = TypeAdapter(JobRequest).validate_python(
        {"dataset": "d", "model": "m", "network": {"preset": "mlp"}, **body}
    )
    return resolve(request, dataset_id="ds_1", manifest=data)


def refusal(data: DatasetManifest, **body: Any) -> tuple[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolved(data, **body)
    return caught.value.errors[0].field, caught.value.errors[0].message
