"""The product with its bytes in a bucket: uploads, trainings, predictions, and what is left when a worker is killed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from gammabeta.schemas.jobs import JobState
from gammabeta.store import workers
from gammabeta.store.stored import ASIDE
from service.__main__ import EX_CONFIG
from tests.buckets import S3, refusing, silent
from tests.integration.databases import Databases
from tests.integration.test_supervisor import STEPS, version
from tests.integration.workshop import Workshop, until, workshop
from tests.trainings import NETWORK
from worker import keeping

pytestmark = pytest.mark.parametrize("kind", ["sqlite"])


@pytest.fixture
def shop(
    kind: str, databases: Databases, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workshop]:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    url = databases.migrated(kind, tmp_path)
    with workshop(tmp_path, url, blobs=s3.address(), environment=s3.environment) as made:
        yield made


@contextmanager
def served(shop: Workshop) -> Iterator[httpx.Client]:
    """A client of a service, once that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shop.run("service", GAMMABETA_PORT=str(port))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as http:

        def ready() -> bool:
            try:
                return http.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(ready, "the service to be ready")
        yield http


def asked(http: httpx.Client, method: str, path: str, **request: Any) -> Any:
    answer = http.request(method, path, **request)
    assert answer.status_code < 300, answer.text
    return answer.json()


def test_what_is_uploaded_is_trained_on_and_predicted_by_way_of_the_bucket(shop: Workshop) -> None:
    shop.start()
    with served(shop) as http:
        csv = "a,b,y\n" + "".join(f"{n % 7},{n % 5},{'left' if n % 7 < 3 else 'right'}\n" for n in range(210))
        query = {"name": "sides", "format": "csv", "target": "y", "test_fraction": 0.2}
        dataset = asked(
            http, "POST", "/v1/datasets", params=query, content=csv.encode(), headers={"Content-Type": "text/csv"}
        )["id"]
        until(lambda: asked(http, "GET", f"/v1/datasets/{dataset}")["state"] == "ready", "the data set")
        assert len(asked(http, "GET", f"/v1/datasets/{dataset}/preview", params={"rows": 3})["rows"]) == 3
        body = {"kind": "train", "dataset": dataset, "model": "toy", "network": NETWORK}
        job = asked(http, "POST", "/v1/jobs", json=body | {"training": {"epochs": 20, "batch_size": 20}})["id"]
        assert shop.ended(job).state == JobState.SUCCEEDED
        rows = {"instances": [{"a": 1, "b": 2}, {"a": 5, "b": 2}]}
        assert len(asked(http, "POST", "/v1/models/toy/predict", json=rows)["predictions"]) == 2
        job = asked(http, "POST", "/v1/jobs", json={"kind": "predict", "model": "toy", "dataset": dataset})["id"]
        result = shop.ended(job).result
        assert result is not None
        assert len(http.get(result["file"]).text.splitlines()) == 1 + result["rows"]
    until(lambda: not list(shop.blobs.listed("uploads")), "the upload to be removed")
    assert not list(shop.blobs.listed("incoming"))
    assert not (shop.home / "blobs").exists()
    keeping.sweep(shop.db, shop.blobs, seconds=-60)
    assert not list(shop.blobs.listed(ASIDE))


def test_a_killed_worker_goes_on_from_its_checkpoint_in_the_bucket_and_no_child_sees_its_keys(
    shop: Workshop, s3: S3
) -> None:
    worker = shop.start()
    dataset_id = shop.ready_dataset()
    undisturbed = shop.train(dataset_id, epochs=1_000, max_steps=STEPS)
    shop.ended(undisturbed)
    job_id = shop.train(dataset_id, epochs=1_000, max_steps=STEPS)
    shop.checkpoints(job_id)
    family = worker.family()
    assert worker.attempts() <= family
    for pid in family:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert [name for name in s3.environment if f"{name}=".encode() in environment] == []
    os.kill(worker.pid, signal.SIGKILL)
    worker.process.wait()
    shop.start()
    assert shop.said(job_id, "resumed")["step"] > 0
    job = shop.ended(job_id)
    assert (job.state, job.fence, job.losses, job.version) == (JobState.SUCCEEDED, 2, 1, 2)
    assert version(shop, job_id).weights_sha256 == version(shop, undisturbed).weights_sha256
    until(lambda: not shop.blobs.names("jobs"), "its checkpoints to be removed")


@pytest.mark.parametrize("module", ["service", "worker"])
def test_a_program_whose_credentials_are_refused_says_so_and_ends(shop: Workshop, module: str) -> None:
    with refusing(403, "InvalidAccessKeyId") as store:
        program = shop.run(module, AWS_ENDPOINT_URL=store.endpoint, GAMMABETA_PORT="0")
        assert program.process.wait(60) == EX_CONFIG
    assert "Look at the credentials in the environment" in program.log
    assert "InvalidAccessKeyId" in program.log


def test_a_worker_whose_bucket_is_silent_says_all_the_time_that_it_lives(shop: Workshop) -> None:
    beats: set[int] = set()
    with silent() as endpoint:
        worker = shop.run("worker", AWS_ENDPOINT_URL=endpoint, GAMMABETA_HEARTBEAT_SECONDS="0.2")

        def swept_in_vain() -> bool:
            with shop.db.read() as session:
                beats.update(row.beat_ms for row in workers.find(session))
            return "not swept" in worker.log

        until(swept_in_vain, "a sweep")
    assert len(beats) > 3
    assert max(after - before for before, after in pairwise(sorted(beats))) < 3_000


def test_a_service_whose_bucket_is_away_starts_and_says_that_it_is_not_ready(shop: Workshop, s3: S3) -> None:
    with refusing(503, "SlowDown") as store:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shop.run("service", AWS_ENDPOINT_URL=store.endpoint, GAMMABETA_PORT=str(port))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:

            def unready() -> httpx.Response | None:
                try:
                    answer = http.get("/readyz")
                except httpx.TransportError:
                    return None
                return answer if "did not do" in answer.text else None

            answer = until(unready, "the service to say why")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "must answer, and did not do: put" in answer.json()["detail"]
