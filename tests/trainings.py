"""Jobs for the trainer, small enough to run in a moment, and a link that writes down what the trainer says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gammabeta.schemas.datasets import ArrayFile, Category, DatasetManifest, Feature, SplitFiles, Target
from gammabeta.schemas.jobs import TrainRequest
from gammabeta.schemas.resolution import resolve
from worker import messages
from worker.link import Link

T = TypeVar("T")

NETWORK = {
    "layers": [
        {"type": "dense", "units": 8, "use_bias": False},
        {"type": "batch_norm", "momentum": 0.9},
        {"type": "activation", "function": "relu"},
        {"type": "dropout", "rate": 0.2},
        {"type": "dense", "units": "classes"},
    ]
}

CONVOLUTIONS = {
    "layers": [
        {"type": "conv2d", "filters": 4, "kernel_size": 3, "padding": "same", "use_bias": False},
        {"type": "batch_norm", "momentum": 0.9},
        {"type": "activation", "function": "relu"},
        {"type": "max_pool"},
        {"type": "flatten"},
        {"type": "dropout", "rate": 0.2},
        {"type": "dense", "units": "classes"},
    ]
}

L1L2 = {"class_name": "L1L2", "config": {"l1": 1e-3, "l2": 1e-3}}

EVERYTHING = {
    "layers": [
        {
            "type": "dense",
            "units": 8,
            "kernel_regularizer": "l2",
            "kernel_constraint": "max_norm",
            "bias_constraint": "non_neg",
        },
        {
            "type": "batch_norm",
            "momentum": 0.9,
            "renorm": True,
            "renorm_momentum": 0.8,
            "renorm_clipping": {"rmax": [[5, 1], [20, 3]], "dmax": [[5, 0], [20, 5]], "rmin": "1/rmax"},
            "adjustment": {"kind": "uniform", "scale": [0.9, 1.1], "bias": [-0.1, 0.1]},
            "gamma_regularizer": L1L2,
            "gamma_constraint": "non_neg",
            "beta_constraint": {"class_name": "min_max_norm", "config": {"min_value": 0.1, "rate": 0.5}},
        },
        {"type": "activation", "function": "relu"},
        {"type": "dropout", "rate": 0.2},
        {"type": "dense", "units": "classes"},
    ]
}
"""A schedule and draws that hang on the step, averages that training alone needs, penalties and constraints."""

GHOSTS = {
    "layers": [
        {"type": "dense", "units": 8, "use_bias": False},
        {"type": "batch_norm", "momentum": 0.9, "virtual_batch_size": 5, "gamma_constraint": "max_norm"},
        {"type": "activation", "function": "relu"},
        {"type": "batch_norm", "momentum": 0.9, "virtual_batch_size": 2, "renorm": True},
        {"type": "dropout", "rate": 0.2},
        {"type": "dense", "units": "classes"},
    ]
}


class RecordingLink(Link):
    """Keeps the reports. `on_report` may set `stop`, or raise."""

    def __init__(self, on_report: Callable[[RecordingLink, messages.Report], None] | None = None) -> None:
        self.stop = None
        self.reports: list[messages.Report] = []
        self._on_report = on_report

    def send(self, report: messages.Report) -> None:
        self.reports.append(messages.decode_report(messages.encode(report)))
        if self._on_report:
            self._on_report(self, report)

    def of(self, kind: type[T]) -> list[T]:
        return [each for each in self.reports if isinstance(each, kind)]


def blobs(classes: int = 3, rows: int = 103, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Well separated classes: x [N, 5] float32, y [N] codes."""
    draws = np.random.default_rng(seed)
    y = draws.integers(0, classes, rows)
    centres = np.random.default_rng(99).normal(size=(classes, 5)) * 3
    return (centres[y] + draws.normal(size=(rows, 5))).astype(np.float32), y.astype(np.int64)


def manifest_of(folder: Path, splits: dict[str, tuple[NDArray[Any], NDArray[Any]]]) -> DatasetManifest:
    """Write the arrays as `<sha256>.npy` and describe them."""
    x, y = splits["train"]
    image = x.dtype == np.uint8
    feature = Feature(name="x", kind="image" if image else "numeric", shape=x.shape[1:])
    if y.dtype == np.float32:
        target = Target(name="y", kind="number")
    else:
        counts = np.bincount(y)
        classes = tuple(Category(label=str(code), count=int(count)) for code, count in enumerate(counts))
        target = Target(name="y", kind="class", classes=classes)
    return DatasetManifest(
        kind="image" if image else "array",
        features=(feature,),
        target=target,
        splits={
            name: SplitFiles(n=len(x), x=_stored(folder, x), y=_stored(folder, y)) for name, (x, y) in splits.items()
        },
    )


def _stored(folder: Path, array: NDArray[Any]) -> ArrayFile:
    digest = hashlib.sha256(array.tobytes() + str(array.dtype).encode()).hexdigest()
    path = folder / f"{digest}.npy"
    np.save(path, array)
    return ArrayFile(sha256=digest, bytes=path.stat().st_size, dtype=str(array.dtype), shape=array.shape)


def job_of(
    folder: Path,
    *,
    splits: dict[str, tuple[NDArray[Any], NDArray[Any]]] | None = None,
    network: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    preprocessing: dict[str, Any] | None = None,
    **options: Any,
) -> messages.JobFile:
    """A job on the given arrays, or on `blobs`; its data and its scratch lie in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = manifest_of(folder, splits or {"train": blobs(), "test": blobs(rows=40, seed=1)})
    request = TrainRequest.model_validate(
        {
            "dataset": "ds_1",
            "model": "digits",
            "network": network or NETWORK,
            "preprocessing": preprocessing or {},
            "training": {"epochs": 3, "batch_size": 10, **(training or {})},
        }
    )
    resolved = resolve(request, dataset_id="ds_1", manifest=manifest)
    files = [file for each in manifest.splits.values() for file in (each.x, each.y)]
    scratch = folder / "scratch"
    scratch.mkdir()
    return messages.JobFile(
        job_id="job_1",
        fence=1,
        request=resolved.request,
        manifest=manifest,
        arrays={file.sha256: folder / f"{file.sha256}.npy" for file in files},
        scratch=scratch,
        **{"checkpoint_seconds": 3600.0, **options},
    )


def again(job: messages.JobFile, folder: Path, **changes: Any) -> messages.JobFile:
    """The same job as another attempt, in a scratch folder of its own."""
    folder.mkdir(parents=True)
    return job.model_copy(update={"fence": job.fence + 1, "scratch": folder, **changes})
