"""Predict jobs at the door: what is accepted, what is refused and by which name, and the file at the end."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gammabeta import Client
from gammabeta.errors import NotFound, ServiceFault, WrongState
from gammabeta.schemas.jobs import Lane, PredictDatasetRequest
from gammabeta.schemas.preprocessing import FittedArray, FittedTable, NumericColumn
from gammabeta.store import datasets, jobs, publishing
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.service.conftest import Service

READ = FittedTable(columns=(NumericColumn(name="age", fill=38.0),))
"""A column of the shelf's data sets."""
CONTENT = b"row,label,score_<=50K,score_>50K,target\n0,>50K,0.25,0.75,>50K\n"


@pytest.fixture(scope="module", autouse=True)
def data(service: Service) -> str:
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(40, 10, 20), rng.integers(0, 2, 20)], axis=1)
    service.shelf.version("income", READ)
    service.shelf.version("people", FittedArray(shape=(2,)))
    service.shelf.version("strangers")  # reads a column that the data set does not have
    return service.shelf.dataset("people", x, rng.integers(0, 2, 20))


def submit(service: Service, *, dry_run: bool = False, **changes: Any) -> httpx.Response:
    body = {"kind": "predict", "model": "income", "dataset": "people"} | changes
    return service.http.post("/v1/jobs", json=body, params={"dry_run": True} if dry_run else None)


def accepted(service: Service, **changes: Any) -> str:
    answer = submit(service, **changes)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def hold(service: Service, job_id: str) -> dict[str, Any]:
    """The attempt, as a worker would have it."""
    while True:
        with service.shelf.database.write() as session:
            found = jobs.claim(session, worker_id="w", lane=Lane.TRAIN, free=1, ttl_ms=60_000, device="cpu")
        assert found is not None
        if found.job_id == job_id:
            return {"job_id": job_id, "fence": found.fence}


def publish(service: Service, job_id: str, content: bytes = CONTENT) -> str:
    """Succeed with a file of these bytes; its hash."""
    path = service.shelf.scratch / "answers"
    path.write_bytes(content)
    sha256, size = service.shelf.blobs.put_file(path)
    file = f"/v1/jobs/{job_id}/files/predictions.csv"
    result = {"file": file, "rows": 1, "bytes": size, "sha256": sha256, "split": "train", "model": "m", "version": "1"}
    held = hold(service, job_id)
    with service.shelf.database.write() as session:
        assert publishing.publish_file(session, **held, result=result)
    return sha256


def test_what_is_queued_names_version_and_data_set_whatever_moves_afterwards(service: Service, data: str) -> None:
    shown = submit(service, metadata={"team": "a"}).json()
    assert (shown["kind"], shown["status"], shown["model"], shown["dataset"]) == ("predict", "queued", "income", data)
    assert shown["request"] == {
        "kind": "predict",
        "model": "income",
        "version": "1",
        "dataset": data,
        "split": "train",
        "format": "csv",
        "priority": 0,
        "max_seconds": None,
        "metadata": {"team": "a"},
    }
    service.shelf.version("income", READ, seed=2)
    assert submit(service).json()["request"]["version"] == "2"
    assert service.http.get(f"/v1/jobs/{shown['id']}").json()["request"]["version"] == "1"
    assert submit(service, version="1").json()["request"]["version"] == "1"
    service.http.put("/v1/models/income/aliases/old", json={"version": "1"}).raise_for_status()
    assert submit(service, alias="old").json()["request"]["version"] == "1"


def test_a_dry_run_says_what_would_be_answered_and_queues_nothing(service: Service, data: str) -> None:
    before = service.http.get("/v1/jobs", params={"limit": 100}).json()["data"]
    planned = submit(service, dry_run=True, format="parquet", version="1").json()
    assert (planned["rows"], planned["unused"], planned["measured"]) == (20, ["work"], True)
    assert planned["columns"] == ["row", "label", "score_<=50K", "score_>50K", "target"]
    assert planned["request"]["dataset"] == data
    assert service.http.get("/v1/jobs", params={"limit": 100}).json()["data"] == before
    with Client(service.url) as client:
        typed = client.jobs.dry_run(PredictDatasetRequest(model="income", dataset="people", version="1"))
    assert typed.rows == 20


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("changes", "status", "code", "said"),
    [
        ({"model": "nobody"}, 404, "model_not_found", "nobody"),
        ({"version": "99"}, 404, "version_not_found", "'99'"),
        ({"alias": "nowhere"}, 404, "version_not_found", "'nowhere'"),
        ({"dataset": "nothing"}, 404, "dataset_not_found", "nothing"),
        ({"version": "1", "alias": "old"}, 422, "invalid_request", "alias"),
        ({"split": "test"}, 422, "invalid_request", "split: must be one that the data set has, which is train"),
        ({"model": "strangers"}, 422, "invalid_request", "'hours'"),
        ({"model": "people"}, 422, "invalid_request", "an array of shape [2]"),
        ({"format": "xlsx"}, 422, "invalid_request", "format"),
        ({"kind": "export"}, 422, "not_supported", "predict"),
    ],
)
def test_what_cannot_run_is_refused_by_its_name(
    service: Service, changes: dict[str, Any], status: int, code: str, said: str, dry_run: bool
) -> None:
    answer = submit(service, dry_run=dry_run, **changes)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert said in answer.json()["detail"]


def test_a_data_set_that_is_not_ready_is_a_conflict_and_one_that_is_used_stays(service: Service) -> None:
    with service.shelf.database.write() as session:
        datasets.create(
            session, project_id=DEFAULT_PROJECT, name="raw", format="csv", bytes=1, sha256="0" * 64, options={}
        )
    assert submit(service, dataset="raw").status_code == 409
    accepted(service)
    assert service.http.delete("/v1/datasets/people").status_code == 409


def test_a_finished_file_is_served_with_its_hash(service: Service, tmp_path: Path) -> None:
    job_id = accepted(service)
    sha256 = publish(service, job_id)
    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    shown = service.http.get(f"/v1/jobs/{job_id}").json()
    assert (shown["status"], shown["version"], shown["result"]["sha256"]) == ("succeeded", None, sha256)
    answer = service.http.get(shown["result"]["file"])
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["etag"] == f'"{sha256}"'
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="predictions.csv"'
    known = service.http.get(shown["result"]["file"], headers={"If-None-Match": answer.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    part = service.http.get(shown["result"]["file"], headers={"Range": "bytes=4-8"})
    assert (part.status_code, part.content) == (206, b"label")
    with Client(service.url) as client:
        handle = client.jobs.get(job_id)
        assert handle.download(tmp_path) == tmp_path / "predictions.csv"
        assert handle.download(str(tmp_path / "mine.csv")).read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.csv", "predictions.csv"]


def test_there_is_no_file_before_the_job_has_succeeded_and_none_of_another_name(service: Service) -> None:
    job_id = accepted(service)
    queued = service.http.get(f"/v1/jobs/{job_id}/files/predictions.csv")
    assert (queued.status_code, queued.json()["code"]) == (404, "not_found")
    assert "is queued" in queued.json()["detail"]
    publish(service, job_id)
    for name in ("predictions.parquet", "predictions", "weights.safetensors"):
        assert service.http.get(f"/v1/jobs/{job_id}/files/{name}").status_code == 404, name
    training = service.http.get("/v1/jobs", params={"kind": "train", "status": "succeeded"}).json()["data"][0]["id"]
    assert service.http.get(f"/v1/jobs/{training}/files/predictions.csv").status_code == 404
    assert service.http.get("/v1/jobs/job_none/files/predictions.csv").json()["code"] == "job_not_found"


def test_a_damaged_file_is_not_served(service: Service, tmp_path: Path) -> None:
    job_id = accepted(service)
    sha256 = publish(service, job_id, CONTENT + b"1,x,0,1,x\n")
    service.shelf.blobs.path(sha256).write_bytes(b"something else")
    answer = service.http.get(f"/v1/jobs/{job_id}/files/predictions.csv")
    assert (answer.status_code, answer.json()["code"]) == (503, "artifact_corrupt")


def test_the_client_refuses_bytes_of_another_hash_and_leaves_nothing(service: Service, tmp_path: Path) -> None:
    job_id = accepted(service)
    publish(service, job_id)
    with Client(service.url) as client:
        handle = client.jobs.get(job_id)
        assert handle.job.result is not None
        handle.job.result["sha256"] = "0" * 64
        with pytest.raises(ServiceFault, match="sha256"):
            handle.download(tmp_path / "answers.csv")
        handle.job.result["file"] = f"/v1/jobs/{job_id}/files/none.csv"
        with pytest.raises(NotFound):
            handle.download(tmp_path / "answers.csv")
    assert list(tmp_path.iterdir()) == []


def test_the_client_says_that_there_is_no_file_yet(service: Service, tmp_path: Path) -> None:
    with Client(service.url) as client:
        handle = client.predict_dataset("income", "people", version=1, format="parquet")
        assert handle.job.request["format"] == "parquet"
        with pytest.raises(WrongState, match="queued"):
            handle.download(tmp_path)


def test_a_prediction_that_failed_is_retried_and_one_that_succeeded_is_not(service: Service) -> None:
    job_id = accepted(service)
    held = hold(service, job_id)
    with service.shelf.database.write() as session:
        jobs.stop(session, **held, outcome=jobs.Outcome.FAILURE, reason="non_finite_score", message="row 3")
    assert service.http.post(f"/v1/jobs/{job_id}/retry").json()["status"] == "retrying"
    publish(service, job_id)
    assert service.http.post(f"/v1/jobs/{job_id}/retry").status_code == 409
