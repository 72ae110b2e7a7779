"""`gammabeta demo`: the whole way on real digits, in under a minute.

upload 1,797 digits ──► train Dense(64) + batch norm + ReLU ──► gamma, beta, moving mean and variance
                                                            └─► predict the test rows over HTTP ──► accuracy, twice
"""

from __future__ import annotations

import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.cli import show
from gammabeta.cli.admin import READY_SECONDS, free_port
from gammabeta.cli.failures import AccuraciesDiffer, SomethingMissing
from gammabeta.cli.options import Url
from gammabeta.cli.processes import Program, Programs
from gammabeta.cli.settings import SLACK_SECONDS, environment, from_environment
from gammabeta.client.client import Client
from gammabeta.client.settings import ClientSettings
from gammabeta.errors import NameTaken
from gammabeta.schemas.datasets import Dataset
from gammabeta.schemas.layers import Activation, Dense
from gammabeta.schemas.networks import LayersNetwork
from gammabeta.schemas.normalization import BatchNorm
from gammabeta.schemas.preprocessing import PreprocessingSpec
from gammabeta.schemas.training import TrainingSpec

TEST_ROWS = 360
NETWORK = LayersNetwork(
    layers=(Dense(units=64, use_bias=False), BatchNorm(), Activation(function="relu"), Dense(units="classes"))
)
PREPROCESSING = PreprocessingSpec(numeric="minmax")
TRAINING = TrainingSpec(epochs=30, batch_size=32)


def demo(url: Url = None) -> None:
    """Train on scikit-learn's digits, and predict from the stored moving statistics."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and the temporary folder goes too
    arrays = digits()
    with service(url) as client:
        show.heading("Upload")
        dataset = _upload(client, arrays)
        show.out(f"{dataset.name}: {dataset.splits['train']:,} training and {dataset.splits['test']:,} test rows")
        show.heading("Train Dense(64) + batch norm + ReLU")
        handle = client.train(dataset.id, "digits", network=NETWORK, preprocessing=PREPROCESSING, training=TRAINING)
        job = handle.wait(progress=True)
        show.heading(f"Batch norm of digits version {job.version}")
        show.out(show.batchnorm(client.models.batchnorm("digits", job.version), every_channel=True))
        show.heading("Predict the test rows over HTTP")
        compare(client, str(job.version), arrays)
        show.note("`gammabeta up` starts a service that stays, with a page for its jobs and models.")


def digits() -> dict[str, NDArray[Any]]:
    """The digits, shuffled once and for all: `x_train` [1437, 64], `y_train` [1437], and a test split."""
    if find_spec("sklearn") is None:
        raise SomethingMissing
    # scikit-learn takes a second to load, and is not installed with gammabeta.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order].astype(np.int64)
    return {"x_train": x[TEST_ROWS:], "y_train": y[TEST_ROWS:], "x_test": x[:TEST_ROWS], "y_test": y[:TEST_ROWS]}


@contextmanager
def service(url: str | None) -> Iterator[Client]:
    """A client of the service that was named or that runs, or of one that lives as long as the demo."""
    with Client(url) as client:
        if url or "url" in ClientSettings().model_fields_set or client.ready():
            show.out(f"Using the service at {client.url}")
            yield client
            return
    with TemporaryDirectory(prefix="gammabeta-demo-") as folder, _own_service(Path(folder)) as client:
        yield client


@contextmanager
def _own_service(home: Path) -> Iterator[Client]:
    port = free_port("127.0.0.1", 0)
    program = Program(
        name="service of the demo",
        command=[sys.executable, "-P", "-m", "gammabeta.cli", "up", "--home", str(home), "--port", str(port)],
        environment=environment(),
        log=home / "up.log",
    )
    show.out("Starting a service and a worker …")
    programs = Programs([program], say=show.note, grace=from_environment().grace_seconds + SLACK_SECONDS)
    with programs as running, Client(f"http://127.0.0.1:{port}") as client:
        running.wait_until(client.ready, seconds=READY_SECONDS)
        yield client


def _upload(client: Client, arrays: dict[str, NDArray[Any]]) -> Dataset:
    try:
        return client.datasets.upload(arrays, name="digits")
    except NameTaken:
        return client.datasets.upload(arrays, name=f"digits-{secrets.token_hex(3)}")


def compare(client: Client, version: str, arrays: dict[str, NDArray[Any]]) -> None:
    """Print the accuracy on the test rows, as the job reported it and as counted from predictions over HTTP.

    Raises:
        AccuraciesDiffer: they are not equal, to the last bit.
    """
    reported = client.models.version("digits", version).metrics["test"]["accuracy"]
    predicted = client.predict("digits", arrays["x_test"], version=version)
    right = int(np.sum(np.asarray(predicted.labels) == arrays["y_test"].astype(str)))
    counted = right / len(predicted)
    show.out(
        f"accuracy that the job reported     {reported:.4f}",
        f"accuracy counted from predictions  {counted:.4f}  ({right} of {len(predicted)})",
    )
    if reported != counted:
        raise AccuraciesDiffer(f"Both accuracies must be equal. Received: {reported!r} and {counted!r}. This is a bug.")
