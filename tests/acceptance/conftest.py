"""One running product for the tests that share it, and the data they train on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.stack import Stack, running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("shared") / "home") as started:
        yield started


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is not."""
    folder = os.environ.get("GAMMABETA_TEST_DATA")
    if not folder:
        pytest.skip("GAMMABETA_TEST_DATA does not name the folder with mnist.npz and adult-train.csv")
    return Path(folder)


MNIST_JOB: dict[str, Any] = {
    "network": {
        "layers": [
            {"type": "flatten"},
            {"type": "dense", "units": 64, "use_bias": False},
            {"type": "batch_norm"},
            {"type": "activation", "function": "relu"},
            {"type": "dense", "units": "classes"},
            {"type": "activation", "function": "softmax"},
        ]
    },
    "training": {
        "epochs": 10,
        "batch_size": 32,
        "optimizer": {"name": "adam"},
        "loss": "sparse_categorical_crossentropy",
        "validation_fraction": 0.1,
        "seed": 7,
    },
}
"""Dense(64) on 784 inputs, batch norm, ReLU, softmax: the example that every tutorial has."""


@pytest.fixture(scope="session")
def mnist(stack: Stack, data: Path) -> dict[str, Any]:
    """The MNIST data set, uploaded."""
    found = stack.upload((data / "mnist.npz").read_bytes(), name="mnist", format="npz")
    assert found["state"] == "ready", found
    return found


@pytest.fixture(scope="session")
def trained(stack: Stack, mnist: dict[str, Any]) -> dict[str, Any]:
    """The MNIST job, finished without disturbance."""
    job = stack.finished(stack.submit(dataset=mnist["id"], model="mnist", **MNIST_JOB))
    assert job["status"] == "succeeded", job
    return job
