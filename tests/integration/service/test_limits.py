"""429 over HTTP: as many jobs are queued as may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gammabeta import Client
from gammabeta.errors import QueueFull
from tests.integration.service.conftest import Service
from tests.integration.service.test_jobs import body

CSV = b"a,y\n1,0\n2,1\n"


@pytest.fixture
def full(start: Callable[..., Any]) -> Any:
    """A service that takes one queued job of each key, and two in all."""
    with start(max_queued=2, max_queued_per_key=1) as service:
        service.shelf.dataset("people", np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1]))
        assert service.http.post("/v1/jobs", json=body()).status_code == 202
        yield service


def test_one_job_too_many_is_429_with_when_to_come_again(full: Service) -> None:
    answer = full.http.post("/v1/jobs", json=body(), headers={"Idempotency-Key": "late"})
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "cancel one" in answer.json()["detail"]


def test_the_key_of_a_refused_request_may_be_used_again(full: Service) -> None:
    again = {"Idempotency-Key": "again"}
    assert full.http.post("/v1/jobs", json=body(), headers=again).status_code == 429
    (waiting,) = full.http.get("/v1/jobs?kind=train").json()["data"]
    assert full.http.post(f"/v1/jobs/{waiting['id']}/cancel").status_code == 202
    first = full.http.post("/v1/jobs", json=body(), headers=again)
    assert first.status_code == 202
    assert full.http.post("/v1/jobs", json=body(), headers=again).json() == first.json()


def test_a_refused_upload_leaves_nothing_behind(full: Service) -> None:
    answer = full.http.post("/v1/datasets?name=rows&format=csv&target=y", content=CSV)
    assert answer.status_code == 429
    assert full.http.get("/v1/datasets/rows").status_code == 404
    assert list((full.shelf.blobs.root / "uploads").iterdir()) == []


def test_a_job_that_is_retried_is_not_refused(full: Service) -> None:
    (waiting,) = full.http.get("/v1/jobs?kind=train").json()["data"]
    full.http.post(f"/v1/jobs/{waiting['id']}/cancel")
    assert full.http.post("/v1/jobs", json=body()).status_code == 202
    assert full.http.post(f"/v1/jobs/{waiting['id']}/retry").status_code == 202


def test_the_client_raises_what_the_answer_stands_for(start: Callable[..., Any]) -> None:
    with start(max_queued=1) as service:
        service.shelf.dataset("people", np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1]))
        slept: list[float] = []
        with Client(service.url, sleep=slept.append) as client:
            client.train(
                "people", "income", network={"preset": "mlp", "hidden": [8]}, training={"epochs": 1, "batch_size": 2}
            )
            with pytest.raises(QueueFull, match="Wait until one of them runs"):
                client.train(
                    "people",
                    "income",
                    network={"preset": "mlp", "hidden": [8]},
                    training={"epochs": 1, "batch_size": 2},
                )
        assert slept == [5.0] * len(slept)
        assert slept
