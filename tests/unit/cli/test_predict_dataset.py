"""`gammabeta predict-dataset` and `gammabeta jobs download`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.unit.cli.conftest import Run
from tests.unit.client.fake_service import FakeService, job, ok

CONTENT = b"PAR1"
RESULT: dict[str, Any] = {
    "file": "/v1/jobs/job_1/files/predictions.parquet",
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
    "rows": 12_345,
    "bytes": 4,
    "split": "test",
    "model": "digits",
    "version": "2",
    "metrics": {"accuracy": 0.9725, "loss": 0.1},
}


@pytest.fixture(autouse=True)
def answered(service: FakeService) -> None:
    done = job("succeeded", kind="predict", result=RESULT)
    service.on("POST", "/v1/jobs", ok(job("queued", kind="predict"), 202))
    service.on("GET", "/v1/jobs/job_1", ok(done))
    service.on("GET", RESULT["file"], httpx.Response(200, content=CONTENT))


def test_the_answers_are_waited_for_and_saved(run: Run, service: FakeService, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    ran = run("predict-dataset", "digits", "new", "--split", "test", "--version", "2", "-o", str(output))
    assert ran.code == 0, ran.err
    assert output.read_bytes() == CONTENT
    sent = orjson.loads(service.requests[0].content)
    assert {key: sent[key] for key in ("kind", "model", "dataset", "split", "version", "format")} == {
        "kind": "predict",
        "model": "digits",
        "dataset": "new",
        "split": "test",
        "version": "2",
        "format": "parquet",
    }
    assert all(word in ran.out for word in ("12,345 rows of test", "digits version 2", "accuracy 0.9725"))


def test_json_is_alone_on_standard_output(run: Run, tmp_path: Path) -> None:
    ran = run("predict-dataset", "digits", "new", "-o", str(tmp_path / "out.parquet"), "--json")
    assert json.loads(ran.out)["result"]["rows"] == 12_345


def test_without_waiting_the_job_is_named(run: Run, service: FakeService) -> None:
    ran = run("predict-dataset", "digits", "new", "--no-wait")
    assert "gammabeta jobs wait job_1" in ran.out
    assert len(service.requests) == 1


def test_a_place_that_is_not_there_is_refused_before_anything_is_computed(run: Run, service: FakeService) -> None:
    ran = run("predict-dataset", "digits", "new", "-o", "/nowhere/at/all/out.csv")
    assert ran.code == 2
    assert "a folder that exists" in ran.err
    assert service.requests == []


def test_the_file_of_a_finished_job_is_saved_later(run: Run, tmp_path: Path) -> None:
    ran = run("jobs", "download", "job_1", "-o", str(tmp_path))
    assert ran.code == 0, ran.err
    assert (tmp_path / "predictions.parquet").read_bytes() == CONTENT


def test_a_finished_job_shows_what_it_has_made(run: Run) -> None:
    ran = run("jobs", "show", "job_1")
    assert "gammabeta jobs download job_1" in ran.out
    assert "12,345 rows of test" in ran.out


def test_a_running_prediction_shows_its_rows(run: Run, service: FakeService) -> None:
    progress = {"step": 1_000, "steps": 12_345, "fraction": 0.081}
    service.on("GET", "/v1/jobs/job_2", ok(job("running", kind="predict", id="job_2", progress=progress)))
    assert "row 1,000 of 12,345" in run("jobs", "show", "job_2").out


def test_a_dry_run_of_a_prediction_says_what_it_would_answer(run: Run, service: FakeService, tmp_path: Path) -> None:
    request = {"model": "m", "version": "1", "dataset": "ds_1", "split": "test", "format": "csv", "priority": 0}
    planned = {
        "request": request | {"metadata": {}},
        "rows": 7,
        "columns": ["row", "value", "target"],
        "unused": ["id"],
        "measured": False,
    }
    service._lines["POST", "/v1/jobs"].clear()
    service.on("POST", "/v1/jobs", ok(planned))
    (tmp_path / "job.yaml").write_text("kind: predict\nmodel: m\ndataset: d\n")
    ran = run("train", str(tmp_path / "job.yaml"), "--dry-run")
    assert all(word in ran.out for word in ("7 of test of ds_1", "row, value, target", "id", "m version 1"))
