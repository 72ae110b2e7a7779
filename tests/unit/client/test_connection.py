from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gammabeta import Client
from gammabeta.client.connection import ATTEMPTS
from gammabeta.errors import ArtifactCorrupt, NotReady, ServiceFault, ServiceUnreachable, TooLargeToServe
from tests.unit.client.fake_service import FakeService, dataset, job, ok, problem

BUSY = problem(503, "not_ready", "starting", headers={"Retry-After": "2"})
LOST = httpx.ReadError("connection reset")


def test_a_service_that_is_not_ready_is_asked_again_when_it_said(service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job_1", BUSY, problem(429, "too_many", "full", headers={"Retry-After": "1"}), ok(job()))
    assert service.client().jobs.get("job_1").id == "job_1"
    assert service.pauses == [2.0, 1.0]


def test_a_service_that_stays_not_ready_is_given_up(service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job_1", BUSY)
    with pytest.raises(NotReady, match="starting"):
        service.client().jobs.get("job_1")
    assert len(service.requests) == ATTEMPTS


@pytest.mark.parametrize("error", [ArtifactCorrupt, TooLargeToServe])
def test_what_no_waiting_mends_is_not_asked_for_again(service: FakeService, error: type[NotReady]) -> None:
    service.on("GET", "/v1/jobs/job_1", problem(503, error.code, "checksum"))
    with pytest.raises(error):
        service.client().jobs.get("job_1")
    assert len(service.requests) == 1


def test_a_submission_whose_answer_was_lost_is_sent_again_under_the_same_key(service: FakeService) -> None:
    service.on("POST", "/v1/jobs", LOST, ok(job("queued"), 202))
    service.client().jobs.submit({"kind": "train"})
    first, second = service.requests
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.content == second.content


def test_two_submissions_have_two_keys(service: FakeService) -> None:
    service.on("POST", "/v1/jobs", ok(job("queued"), 202))
    client = service.client()
    client.jobs.submit({"kind": "train"})
    client.jobs.submit({"kind": "train"})
    assert len({request.headers["Idempotency-Key"] for request in service.requests}) == 2


def test_a_deletion_whose_answer_was_lost_is_not_repeated(service: FakeService) -> None:
    service.on("DELETE", "/v1/datasets/digits", LOST)
    with pytest.raises(ServiceUnreachable):
        service.client().datasets.delete("digits")
    assert len(service.requests) == 1


def test_a_deletion_that_was_never_sent_is(service: FakeService) -> None:
    service.on("DELETE", "/v1/datasets/digits", httpx.ConnectError("refused"), httpx.Response(204))
    service.client().datasets.delete("digits")
    assert len(service.requests) == 2


def test_a_broken_upload_is_sent_again_from_its_first_byte(service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"a,b\n1,2\n")
    service.on("POST", "/v1/datasets", LOST, ok(dataset("validating"), 202))
    service.client().datasets.upload(file, target="b", wait=False)
    assert [request.content for request in service.requests] == [b"a,b\n1,2\n"] * 2
    assert service.requests[0].headers["Content-Length"] == "8"


def test_the_key_travels_as_a_bearer_token(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAMMABETA_API_KEY", "key_1")
    service.on("GET", "/v1/jobs/job_1", ok(job()))
    service.client().jobs.get("job_1")
    assert service.requests[0].headers["Authorization"] == "Bearer key_1"


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAMMABETA_URL", raising=False)
    assert Client().url == "http://127.0.0.1:8000"
    monkeypatch.setenv("GAMMABETA_URL", "http://elsewhere:1/")
    assert Client().url == "http://elsewhere:1"


def test_an_answer_that_is_not_gammabetas_says_so(service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job_1", ok({"hello": "world"}))
    with pytest.raises(ServiceFault, match=r"GET /v1/jobs/job_1 must answer as gammabeta does"):
        service.client().jobs.get("job_1")
