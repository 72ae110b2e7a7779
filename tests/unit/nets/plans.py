"""Small plans, manifests and networks for the tests of this folder."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import TypeAdapter

from gammabeta.nets.build import Network, build_network
from gammabeta.schemas.datasets import ArrayFile, Category, DatasetManifest, Feature, SplitFiles, Target
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.plans import NetworkPlan, Shape, plan_network
from gammabeta.schemas.preprocessing import FittedArray
from gammabeta.schemas.resolution import Task


def plan_of(*layers: dict[str, Any], shape: Shape, outputs: int | None) -> NetworkPlan:
    """The plan of layers written as JSON."""
    network = TypeAdapter(LayersNetwork).validate_python({"layers": layers})
    return plan_network(network, input_shape=shape, outputs=outputs)


def network_of(
    *layers: dict[str, Any], shape: Shape, outputs: int | None = None, task: Task = "classes", seed: int = 0
) -> Network:
    """The network of layers written as JSON, on rows that need no preprocessing."""
    return build_network(plan_of(*layers, shape=shape, outputs=outputs), FittedArray(shape=shape), task=task, seed=seed)


def manifest_of(kind: Literal["table", "array", "image"], *features: Feature, n: int) -> DatasetManifest:
    """A data set of `n` training rows with two classes."""
    file = ArrayFile(sha256="0" * 64, bytes=1, dtype="float32", shape=(n,))
    classes = (Category(label="no", count=n), Category(label="yes", count=n))
    return DatasetManifest(
        kind=kind,
        features=features,
        target=Target(name="y", kind="class", classes=classes),
        splits={"train": SplitFiles(n=n, x=file, y=file)},
    )
