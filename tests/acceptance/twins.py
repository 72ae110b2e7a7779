"""The same job once more, in this process and without the service: the module that a version's rows must be equal to.

file ──► upload ──► job ──► version: rows, weights, predictions     over HTTP
  └────► ingest ──► train ──► module                                here
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.torch import load_file

from gammabeta.nets import state
from gammabeta.nets.batchnorm import BatchNorm
from gammabeta.nets.build import Network, build_network
from gammabeta.schemas.batchnorm import ARRAYS
from gammabeta.schemas.datasets import DatasetManifest
from gammabeta.schemas.jobs import ResolvedTrainRequest
from gammabeta.schemas.resolution import plan_of
from tests.acceptance.stack import Stack
from tests.trainings import RecordingLink
from tests.unit.ingestion.conftest import Ingest
from worker import messages, results
from worker.trainer import run_job

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set of the service, and the same file read here."""

    name: str
    instances: list[Any]
    """Rows as a prediction is asked for them."""
    manifest: DatasetManifest
    arrays: dict[str, Path]


def upload(stack: Stack, folder: Path, name: str, body: bytes, instances: list[Any], **options: Any) -> Data:
    """Upload a file, and read it here too."""
    folder.mkdir(parents=True)
    found = stack.upload(body, name=name, **options)
    assert found["state"] == "ready", found
    read = Ingest(folder)(body, **options)
    arrays = {
        file.sha256: read.folder / f"{split}-{key}.npy"
        for split, files in read.manifest.splits.items()
        for key, file in (("x", files.x), ("y", files.y))
    }
    return Data(name=name, instances=instances, manifest=read.manifest, arrays=arrays)


@dataclass(frozen=True)
class Outcome:
    """A job that succeeded, and its version as the service shows them."""

    stack: Stack
    job: dict[str, Any]

    @property
    def path(self) -> str:
        return f"/v1/models/{self.job['model']}/versions/{self.job['version']}"

    def layer(self, kind: str) -> dict[str, Any]:
        """The first layer of this type in the request that ran."""
        layers: list[dict[str, Any]] = self.job["request"]["network"]["layers"]
        return next(layer for layer in layers if layer["type"] == kind)

    @cached_property
    def batchnorm(self) -> dict[str, Any]:
        return self._get("batchnorm").json()

    @cached_property
    def row(self) -> dict[str, Any]:
        """Of the first batch norm."""
        return self.batchnorm["layers"][0]

    @cached_property
    def weights(self) -> dict[str, Array]:
        """`weights.safetensors`: weights, rows and renorm's averages."""
        return load_arrays(self._get("files/weights.safetensors").content)

    @cached_property
    def warnings(self) -> set[str]:
        return {each["code"] for each in self.job["warnings"]}

    def stored(self, key: str) -> Array:
        """gamma, beta, moving_mean or moving_variance of the first batch norm."""
        assert self.row[key] is not None, key
        return np.array(self.row[key], np.float32)

    def served(self) -> dict[str, Any]:
        return self._get("served").json()

    def predict(self, instances: list[Any]) -> tuple[Array, str]:
        """Scores [N, classes], and the digest that the answer names."""
        answer = self.stack.predict(self.job["model"], instances, version=self.job["version"])
        scores = [each["scores"] for each in answer["predictions"]]
        return np.array(scores, np.float32), answer["batchnorm"]["digest"]

    def series(self) -> dict[str, dict[str, Any]]:
        found = self.stack.http.get(f"/v1/jobs/{self.job['id']}/metrics").json()["series"]
        return {each["name"]: each for each in found}

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.stack.http.get(f"/v1/jobs/{self.job['id']}/events").json()["data"]
        return found

    def _get(self, what: str) -> Any:
        answer = self.stack.http.get(f"{self.path}/{what}")
        assert answer.status_code == 200, answer.text
        return answer


def finished(stack: Stack, job: str) -> Outcome:
    """Wait for a job that must succeed."""
    found = stack.finished(job)
    assert found["status"] == "succeeded", found
    return Outcome(stack, found)


@dataclass(frozen=True)
class Twin:
    """What the same request gave in this process: a network in eval mode."""

    network: Network

    @property
    def norms(self) -> list[BatchNorm]:
        return [layer for layer in self.network.layers if isinstance(layer, BatchNorm)]

    @property
    def digest(self) -> str:
        return state.state_of(self.network).digest

    def scores(self, x: Array) -> Array:
        """Of raw rows."""
        with torch.inference_mode():
            return self.network.scores(torch.from_numpy(x)).numpy()


def trained_here(outcome: Outcome, data: Data, scratch: Path) -> Twin:
    """Train what the job resolved to, by the trainer's own code, and put the result into a module."""
    request = ResolvedTrainRequest.model_validate(outcome.job["request"])
    scratch.mkdir(parents=True)
    job = messages.JobFile(
        job_id="job_1", fence=1, request=request, manifest=data.manifest, arrays=data.arrays, scratch=scratch
    )
    link = RecordingLink()
    with _as_in_a_trainer():
        run_job(job, link)
    assert not link.of(messages.Failed)
    folder = link.of(messages.Done)[0].path
    result, found = results.read(folder)
    plan, task = plan_of(request, data.manifest)
    network = build_network(plan, result.preprocessing, task=task)
    state.load(network, load_file(folder / results.WEIGHTS), found)
    return Twin(network.eval())


@contextmanager
def _as_in_a_trainer() -> Iterator[None]:
    """Numbers below 1.2e-38 are 0 there, for the whole life of the process."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def assert_served(outcome: Outcome, data: Data, twin: Twin) -> None:
    """The version answers from its rows, and its rows and weights are those of the module, bit by bit."""
    assert len(outcome.batchnorm["layers"]) == len(twin.norms)
    for row, norm in zip(outcome.batchnorm["layers"], twin.norms, strict=True):
        _assert_rows(row, norm)
        for key, tensor in norm.training_buffers().items():
            assert np.array_equal(outcome.weights[f"{row['name']}.{key}"], tensor.numpy()), key
    for key, tensor in state.weights_of(twin.network).items():
        assert np.array_equal(outcome.weights[key], tensor.numpy()), key
    scores, digest = outcome.predict(data.instances)
    served = outcome.served()
    assert {digest, served["digest"], served["stored_digest"], outcome.batchnorm["digest"]} == {twin.digest}
    assert served["training"] is False
    assert served["predictions"] >= len(data.instances)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, twin.scores(np.array(data.instances, np.float32)), atol=1e-6)


def _assert_rows(row: dict[str, Any], norm: BatchNorm) -> None:
    counts = (row["name"], row["channels"], row["updates"], row["skipped"], row["single"])
    assert counts == (norm.spec.name, norm.channels, norm.updates, norm.skipped, norm.single)
    for key in ARRAYS:
        own = getattr(norm, key)
        assert (row[key] is None) == (own is None), key
        if own is not None:
            stored = np.array(row[key], np.float32)
            assert np.isfinite(stored).all(), key
            assert np.array_equal(stored, own.detach().numpy()), key
