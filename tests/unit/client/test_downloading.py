"""Files that jobs make, saved: whole, with their hash, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from gammabeta import JobHandle, PredictDatasetRequest, ServiceFault, ServiceUnreachable, WrongState
from tests.unit.client.fake_service import FakeService, job, ok

CONTENT = b"row,value,target\n0,1.5,2\n"
FILE = "/v1/jobs/job_1/files/predictions.csv"


def answered(**other: Any) -> dict[str, Any]:
    result = {"file": FILE, "sha256": hashlib.sha256(CONTENT).hexdigest(), "rows": 1} | other
    return job("succeeded", kind="predict", result=result)


def handle(service: FakeService, shown: dict[str, Any]) -> JobHandle:
    service.on("GET", "/v1/jobs/job_1", ok(shown))
    return service.client().jobs.get("job_1")


class Broken(httpx.SyncByteStream):
    """A body that breaks off in the middle."""

    def __iter__(self) -> Iterator[bytes]:
        yield CONTENT[:5]
        raise httpx.ReadError("connection reset")


@pytest.mark.parametrize("place", ["", "answers.csv"])
def test_a_file_is_saved_under_its_own_name_or_another(service: FakeService, tmp_path: Path, place: str) -> None:
    service.on("GET", FILE, httpx.Response(200, content=CONTENT))
    saved = handle(service, answered()).download(tmp_path / place)
    assert saved == tmp_path / (place or "predictions.csv")
    assert saved.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [saved]


def test_a_download_that_broke_off_begins_again(service: FakeService, tmp_path: Path) -> None:
    service.on("GET", FILE, httpx.Response(200, stream=Broken()), httpx.Response(200, content=CONTENT))
    assert handle(service, answered()).download(tmp_path).read_bytes() == CONTENT
    assert len(service.pauses) == 1


def test_what_breaks_off_each_time_leaves_the_file_that_was_there(service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("before")
    service.on("GET", FILE, httpx.ReadError("connection reset"))
    with pytest.raises(ServiceUnreachable):
        handle(service, answered()).download(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_bytes_of_another_hash_are_refused(service: FakeService, tmp_path: Path) -> None:
    service.on("GET", FILE, httpx.Response(200, content=CONTENT + b"x"))
    with pytest.raises(ServiceFault, match="sha256"):
        handle(service, answered()).download(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shown", [job("running", kind="predict"), job("succeeded", result={"metrics": {}})])
def test_a_job_without_a_file_says_so(service: FakeService, tmp_path: Path, shown: dict[str, Any]) -> None:
    with pytest.raises(WrongState, match="must have made a file"):
        handle(service, shown).download(tmp_path)


def test_a_prediction_is_submitted_as_it_was_asked_for(service: FakeService) -> None:
    service.on("POST", "/v1/jobs", ok(job("queued", kind="predict"), 202))
    asked = PredictDatasetRequest(
        model="digits", version="3", dataset="new", split="train", format="parquet", max_seconds=9, metadata={"a": "b"}
    )
    client = service.client()
    client.jobs.submit(asked)
    client.predict_dataset(
        "digits", "new", version=3, split="train", format="parquet", max_seconds=9, metadata={"a": "b"}
    )
    assert [PredictDatasetRequest.model_validate_json(sent.content) for sent in service.requests] == [asked, asked]


def test_a_dry_run_of_a_prediction_is_one_of_its_own(service: FakeService) -> None:
    request = {"model": "m", "version": "1", "dataset": "ds_1", "split": "test", "format": "csv", "priority": 0}
    planned = {"request": request | {"metadata": {}}, "rows": 7, "columns": ["row"], "unused": [], "measured": False}
    service.on("POST", "/v1/jobs", ok(planned))
    client = service.client()
    assert client.jobs.dry_run(PredictDatasetRequest(model="m", dataset="d")).rows == 7
    assert client.jobs.dry_run({"kind": "predict", "model": "m", "dataset": "d"}).rows == 7
    assert orjson.loads(service.requests[0].content)["kind"] == "predict"
