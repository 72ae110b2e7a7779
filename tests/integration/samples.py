"""Jobs, publications and data sets for tests that care for one of their fields only."""

from __future__ import annotations

from typing import Any

import numpy as np

from gammabeta.schemas.batchnorm import BatchNormState, LayerState
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.jobs import Lane
from gammabeta.store import datasets, jobs
from gammabeta.store.engine import Database
from gammabeta.store.jobs import Claim, NewJob
from gammabeta.store.publishing import Publication
from gammabeta.store.tables import DEFAULT_PROJECT

TTL = 30_000


def new_job(**changes: Any) -> NewJob:
    fields: dict[str, Any] = {
        "project_id": DEFAULT_PROJECT,
        "owner_id": "anonymous",
        "kind": "train",
        "lane": Lane.TRAIN,
        "devices": 1,
        "request": {"model": "digits"},
        "model": "digits",
    }
    return NewJob(**fields | changes)


def submit(db: Database, **changes: Any) -> str:
    with db.write() as session:
        return jobs.submit(session, new_job(**changes)).id


def claim(
    db: Database, *, worker: str = "w1", lane: Lane = Lane.TRAIN, free: int = 1, ttl_ms: int = TTL
) -> Claim | None:
    with db.write() as session:
        return jobs.claim(session, worker_id=worker, lane=lane, free=free, ttl_ms=ttl_ms, device="cpu")


def claimed(db: Database, **changes: Any) -> Claim:
    """A job that was submitted and claimed."""
    job_id = submit(db, **changes)
    lane = changes.get("lane", Lane.TRAIN)
    found = claim(db, lane=lane)
    assert found is not None
    assert found.job_id == job_id
    return found


def attempt(claim: Claim) -> dict[str, Any]:
    return {"job_id": claim.job_id, "fence": claim.fence}


def layer(name: str = "batch_norm", *, seed: int = 0, channels: int = 4, **changes: Any) -> LayerState:
    draw = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "name": name,
        "axis": -1,
        "epsilon": 1e-3,
        "momentum": 0.99,
        "gamma": draw.normal(size=channels).astype("float32"),
        "beta": draw.normal(size=channels).astype("float32"),
        "moving_mean": draw.normal(size=channels).astype("float32"),
        "moving_variance": draw.random(channels).astype("float32"),
        "updates": 100,
    }
    return LayerState(**fields | changes)


def network(state: BatchNormState) -> dict[str, Any]:
    """One that has the layers of the state."""
    norms = [
        {"type": "batch_norm", "name": each.name, "axis": each.axis, "momentum": each.momentum} for each in state.layers
    ]
    return {"layers": [*norms, {"type": "dense", "units": 2, "name": "dense"}]}


def publication(**changes: Any) -> Publication:
    state = changes.get("state", BatchNormState((layer(),)))
    fields: dict[str, Any] = {
        "model": "digits",
        "dataset_id": "ds_1",
        "network": network(state),
        "preprocessing": {"kind": "table", "columns": []},
        "classes": ["no", "yes"],
        "metrics": {"test": {"accuracy": 0.97}},
        "weights_sha256": "ab" * 32,
        "weights_bytes": 1_000,
        "state": state,
        "parameters": 50,
    }
    return Publication(**fields | changes)


def manifest(*splits: str) -> DatasetManifest:
    array = {"sha256": "cd" * 32, "bytes": 80, "dtype": "float32", "shape": [10, 2]}
    return DatasetManifest.model_validate(
        {
            "kind": "table",
            "features": [{"name": "age", "kind": "numeric"}, {"name": "size", "kind": "numeric"}],
            "target": {"name": "y", "kind": "number"},
            "splits": {split: {"n": 10, "x": array, "y": array} for split in splits or ("train",)},
        }
    )


def dataset(db: Database, name: str = "digits", **changes: Any) -> str:
    """A data set whose file was received."""
    fields: dict[str, Any] = {"format": "csv", "bytes": 100, "sha256": "ef" * 32, "options": {"target": "y"}}
    with db.write() as session:
        return datasets.create(session, project_id=DEFAULT_PROJECT, name=name, **fields | changes).id


def ingestion(db: Database, dataset_id: str) -> Claim:
    """The claimed ingestion of a data set."""
    return claimed(db, kind=jobs.INGEST, lane=Lane.LIGHT, devices=0, model=None, dataset_id=dataset_id)
