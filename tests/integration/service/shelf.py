"""Puts data sets and trained versions into a store as a worker would, so that the service can be tested without one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from gammabeta.nets import state
from gammabeta.nets.build import Network, build_network
from gammabeta.schemas.batchnorm import BatchNormState, LayerState
from gammabeta.schemas.datasets import ArrayFile, Category, DatasetManifest, Feature, SplitFiles, Target
from gammabeta.schemas.jobs import Lane
from gammabeta.schemas.networks import LayersNetwork, NetworkSpec
from gammabeta.schemas.plans import plan_network
from gammabeta.schemas.preprocessing import CategoricalColumn, FittedPreprocessing, FittedTable, NumericColumn
from gammabeta.schemas.presets import MlpPreset
from gammabeta.schemas.resolution import task_of
from gammabeta.store import datasets, jobs, publishing
from gammabeta.store.blobs import FolderBlobs
from gammabeta.store.engine import Database
from gammabeta.store.tables import DEFAULT_PROJECT

PEOPLE = FittedTable(
    columns=(
        NumericColumn(name="age", fill=38.0, offset=38.0, scale=13.0),
        CategoricalColumn(name="work", categories=("Private", "State"), missing_indicator=True),
        NumericColumn(name="hours", fill=None, offset=40.0, scale=12.0),
    )
)
HIDDEN = MlpPreset(hidden=(6,))


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A store to fill."""

    database: Database
    blobs: FolderBlobs
    scratch: Path
    project: str = DEFAULT_PROJECT

    def version(
        self,
        model: str,
        preprocessing: FittedPreprocessing = PEOPLE,
        *,
        classes: tuple[str, ...] | None = ("<=50K", ">50K"),
        network: NetworkSpec = HIDDEN,
        seed: int = 0,
        variance: float | None = None,
    ) -> Network:
        """Publish a network of random weights with batch-norm statistics that are not the initial ones. `variance`:
        what to store as every moving variance instead, whether it makes sense or not."""
        outputs = None if isinstance(network, LayersNetwork) else len(classes) if classes else 1
        plan = plan_network(network, input_shape=preprocessing.input_shape, outputs=outputs)
        made = build_network(plan, preprocessing, task=task_of(classes, plan.outputs), seed=seed)
        state.load(made, state.weights_of(made), _moved(state.state_of(made), seed))
        made.eval()
        publication = self._publication(model, made, plan.as_network(), preprocessing, classes)
        if variance is not None:
            publication = replace(publication, state=_with_variance(publication.state, variance))
        with self.database.write() as session:
            job = self._claimed(session, "train", model)
            number = publishing.publish_version(session, job_id=job, fence=1, publication=publication)
        assert number is not None
        return made

    def dataset(self, name: str, x: NDArray[Any], y: NDArray[Any]) -> str:
        """A ready data set of one numeric column `x0` and one of categories, and two classes."""
        manifest = _manifest(self, x, y)
        with self.database.write() as session:
            row = datasets.create(
                session, project_id=self.project, name=name, format="csv", bytes=1, sha256="0" * 64, options={}
            )
            job = self._claimed(session, jobs.INGEST, None, row.id)
            assert publishing.publish_dataset(session, job_id=job, fence=1, dataset_id=row.id, manifest=manifest)
        return row.id

    def _claimed(self, session: Any, kind: str, model: str | None, dataset_id: str | None = None) -> str:
        new = jobs.NewJob(
            project_id=self.project,
            owner_id="test",
            kind=kind,
            lane=Lane.LIGHT,
            devices=0,
            priority=1_000,
            request={},
            model=model,
            dataset_id=dataset_id,
        )
        row = jobs.submit(session, new)
        claim = jobs.claim(session, worker_id="w", lane=Lane.LIGHT, free=0, ttl_ms=60_000, device="cpu")
        assert claim is not None
        assert claim.job_id == row.id
        return row.id

    def _publication(
        self,
        model: str,
        network: Network,
        spec: LayersNetwork,
        preprocessing: FittedPreprocessing,
        classes: tuple[str, ...] | None,
    ) -> publishing.Publication:
        sha256, size = self.store_weights(state.weights_of(network))
        return publishing.Publication(
            model=model,
            dataset_id="ds_gone",
            network=spec.model_dump(mode="json"),
            preprocessing=preprocessing.model_dump(mode="json"),
            classes=list(classes) if classes else None,
            metrics={"train": {"loss": 0.4, "accuracy": 0.9}, "test": {"loss": 0.5, "accuracy": 0.85}},
            weights_sha256=sha256,
            weights_bytes=size,
            state=state.state_of(network),
            parameters=network.plan.parameters,
        )

    def store_weights(self, weights: dict[str, torch.Tensor]) -> tuple[str, int]:
        path = self.scratch / "weights.safetensors"
        save_file(weights, path)
        return self.blobs.put_file(path)


def _moved(initial: BatchNormState, seed: int) -> BatchNormState:
    rng = np.random.default_rng(seed)

    def moved(layer: LayerState) -> LayerState:
        size = layer.channels
        arrays = {
            "gamma": rng.normal(1, 0.2, size),
            "beta": rng.normal(0, 0.3, size),
            "moving_mean": rng.normal(0, 1, size),
            "moving_variance": rng.uniform(0.5, 2, size),
        }
        present = {key: value for key, value in arrays.items() if getattr(layer, key) is not None}
        as_float32: dict[str, Any] = {key: value.astype(np.float32) for key, value in present.items()}
        return replace(layer, **as_float32, updates=100)

    return BatchNormState(tuple(moved(layer) for layer in initial.layers))


def _with_variance(initial: BatchNormState, variance: float) -> BatchNormState:
    return BatchNormState(
        tuple(replace(layer, moving_variance=np.full_like(layer.moving_variance, variance)) for layer in initial.layers)
    )


def _manifest(shelf: Shelf, x: NDArray[Any], y: NDArray[Any]) -> DatasetManifest:
    def stored(name: str, array: NDArray[Any]) -> ArrayFile:
        path = shelf.scratch / f"{name}.npy"
        np.save(path, array)
        sha256, size = shelf.blobs.put_file(path)
        return ArrayFile(sha256=sha256, bytes=size, dtype=str(array.dtype), shape=array.shape)

    files = SplitFiles(n=len(x), x=stored("x", x.astype(np.float32)), y=stored("y", y.astype(np.int64)))
    return DatasetManifest(
        kind="table",
        features=(
            Feature(name="age", kind="numeric", missing=1, min=17, max=90, mean=38, std=13, median=37),
            Feature(
                name="work",
                kind="categorical",
                categories=(Category(label="Private", count=3), Category(label="State", count=2)),
            ),
        ),
        target=Target(
            name="income",
            kind="class",
            classes=(Category(label="<=50K", count=3), Category(label=">50K", count=2)),
        ),
        splits={"train": files},
    )
