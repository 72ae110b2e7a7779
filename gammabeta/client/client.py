"""The client: one object for one service.

with Client() as client:
    digits = client.datasets.upload((x, y), name="digits", test_fraction=0.2)
    job = client.train("digits", model="digits", network={"preset": "mlp", "hidden": [64]})
    job.wait(progress=True)
    print(client.predict("digits", x[:5]).labels)
    print(client.models.batchnorm("digits").layers[0].moving_mean)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from gammabeta.client.chunks import Rows
from gammabeta.client.connection import Connection
from gammabeta.client.predicting import Prediction, predict
from gammabeta.client.resources import Datasets, Jobs, Keys, Models, usage, workers
from gammabeta.client.settings import ClientSettings
from gammabeta.client.waiting import JobHandle
from gammabeta.errors import GammabetaError
from gammabeta.schemas.datasets import Split
from gammabeta.schemas.jobs import AnswerFormat
from gammabeta.schemas.networks import NetworkSpec
from gammabeta.schemas.preprocessing import PreprocessingSpec
from gammabeta.schemas.training import TrainingSpec
from gammabeta.schemas.usage import Usage
from gammabeta.schemas.workers import Worker


class Client:
    """A gammabeta service, from Python. Close it, or use it in a `with` statement.

    Args:
        url: None: GAMMABETA_URL, or http://127.0.0.1:8000.
        api_key: None: GAMMABETA_API_KEY, or no key.
        timeout: seconds without an answer (or a part of one) after which a request is given up.
        transport: what carries the requests; httpx.MockTransport in tests.
        sleep: waits between attempts and polls.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        settings = ClientSettings()
        stored = settings.api_key.get_secret_value() if settings.api_key else None
        self._connection = Connection(
            url or settings.url, api_key=api_key or stored, timeout=timeout, transport=transport, sleep=sleep
        )
        self.datasets = Datasets(self._connection)
        self.jobs = Jobs(self._connection)
        self.models = Models(self._connection)
        self.keys = Keys(self._connection)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return self._connection.url

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def train(
        self,
        dataset: str,
        model: str,
        *,
        network: NetworkSpec | Mapping[str, Any] | list[Any],
        training: TrainingSpec | Mapping[str, Any] | None = None,
        preprocessing: PreprocessingSpec | Mapping[str, Any] | None = None,
        priority: int = 0,
        max_seconds: int | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """Submit a job that trains `network` on `dataset` and publishes a version of `model`."""
        request = {
            "kind": "train",
            "dataset": dataset,
            "model": model,
            "network": {"layers": network} if isinstance(network, list) else network,
            "training": training,
            "preprocessing": preprocessing,
            "priority": priority,
            "max_seconds": max_seconds,
            "metadata": dict(metadata or {}),
        }
        present = {key: value for key, value in request.items() if value is not None}
        return self.jobs.submit(present, idempotency_key=idempotency_key)

    def predict(
        self, model: str, instances: Rows, *, version: str | int | None = None, alias: str | None = None
    ) -> Prediction:
        """Predict rows of raw values: an array, lists, a list of objects by column name, or a list of PNG and JPEG
        files as bytes or `Path`s. Many rows go in chunks.

        Args:
            version, alias: neither: the alias `production`, or else the newest version.
        """
        return predict(self._connection, model, instances, version=version, alias=alias)

    def predict_dataset(
        self,
        model: str,
        dataset: str,
        *,
        split: Split | None = None,
        format: AnswerFormat = "csv",
        version: str | int | None = None,
        alias: str | None = None,
        priority: int = 0,
        max_seconds: int | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """Submit a job that answers every row of a data set into a file: `job.wait()`, then `job.download(path)`.

        Args:
            split: None: `test` where the data set has one, else `train`.
            version, alias: neither: the alias `production`, or else the newest version.
        """
        request = {
            "kind": "predict",
            "model": model,
            "version": None if version is None else str(version),
            "alias": alias,
            "dataset": dataset,
            "split": split,
            "format": format,
            "priority": priority,
            "max_seconds": max_seconds,
            "metadata": dict(metadata or {}),
        }
        return self.jobs.submit(request, idempotency_key=idempotency_key)

    def workers(self) -> list[Worker]:
        """The workers that run jobs, the oldest first; `silent` marks one that has not been heard of for a lease."""
        return workers(self._connection)

    def usage(self) -> Usage:
        """How many bytes the project has stored: data sets, models and jobs, and its limit."""
        return usage(self._connection)

    def ready(self) -> bool:
        """Whether a service answers here that can do its work."""
        try:
            self._connection.request("GET", "/readyz", attempts=1)
        except GammabetaError:
            return False
        return True

    def service_version(self) -> str:
        """The version of the service."""
        answer: Any = self._connection.request("GET", "/v1/version").json()
        return str(answer["version"])
