"""Bodies and headers that no honest client sends: a clear 4xx, at once, and a service that lives."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from gammabeta.schemas.preprocessing import FittedArray
from tests.integration.service.conftest import Service

DEEP = b"[" * 1_000 + b"]" * 1_000
BODIES: list[tuple[str, bytes]] = [
    ("deep", DEEP),
    ("deep in a field", b'{"network": ' + DEEP + b', "dataset": "d", "model": "m"}'),
    ("half a surrogate pair beside NaN", b'{"dataset": "\\ud800 NaN", "model": "m", "network": {"preset": "mlp"}}'),
    ("half a surrogate pair as a key", b'{"\\ud800": "NaN"}'),
    ("kind as a list", b'{"kind": ["train"], "dataset": "d", "model": "m", "network": {"preset": "mlp"}}'),
    ("preset as an object", b'{"dataset": "d", "model": "m", "network": {"preset": {}}}'),
    (
        "a list without end",
        b'{"dataset": "d", "model": "m", "network": {"preset": "mlp", "hidden": [' + b"0," * 400_000 + b"0]}}",
    ),
    ("a number without end", b'{"dataset": "d", "model": "m", "priority": ' + b"9" * 5_000 + b"}"),
    ("null", b"null"),
]


@pytest.mark.parametrize(("what", "body"), BODIES, ids=[each[0] for each in BODIES])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs?dry_run=true", "/v1/models/flat/predict"])
def test_hostile_body_is_a_short_4xx(service: Service, flat: None, path: str, what: str, body: bytes) -> None:
    answer = service.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 20_000


@pytest.fixture(scope="module")
def flat(service: Service) -> None:
    """A model that reads arrays of 4 numbers."""
    service.shelf.version("flat", preprocessing=FittedArray(shape=(4,)))


INSTANCES: list[tuple[str, Any]] = [
    ("one long text among short ones", ["a" * 1_000_000, *[""] * 250]),
    ("a long flat row", [[0] * 500_000]),
    ("texts of numbers", [["1", "2", "3", "4"]]),
    ("rows that are too deep", [[[[[[1]]]]]]),
    ("a text among numbers", [[1, 2, 3, "4"]]),
]


@pytest.mark.parametrize(("what", "instances"), INSTANCES, ids=[each[0] for each in INSTANCES])
def test_hostile_instance_is_refused_in_little_memory(service: Service, flat: None, what: str, instances: Any) -> None:
    tracemalloc.start()
    try:
        answer = service.http.post("/v1/models/flat/predict", json={"instances": instances})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("instances[0]")
    assert peak < 100_000_000


IDS = ["job_nothing", "%00", "..%2f..%2fdatasets", "job_%27%20OR%201=1--", "%F0%9F%92%A5", "%ff", "a" * 5_000, "*", "-"]


@pytest.mark.parametrize("job", IDS, ids=[each[:20] for each in IDS])
@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry"])
def test_hostile_id_of_a_job_is_a_short_4xx(service: Service, job: str, verb: str) -> None:
    answer = service.http.post(f"/v1/jobs/{job}/{verb}", content=b'{"state": "succeeded"}')
    assert answer.status_code in (404, 422), answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 20_000


@pytest.mark.parametrize("verb", ["pause", "resume", "retry"])
def test_foreign_page_changes_no_job(service: Service, verb: str) -> None:
    answer = service.http.post(f"/v1/jobs/job_1/{verb}", headers={"Origin": "https://evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
    assert service.http.get(f"/v1/jobs/job_1/{verb}").status_code == 405


@pytest.mark.parametrize("origin", ["http://[", "null", "https://evil.example", "http://127.0.0.1:1"])
def test_origin_that_is_not_the_service_is_refused(service: Service, origin: str) -> None:
    answer = service.http.get("/v1/jobs", headers={"Origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")


def test_filter_that_is_given_twice_is_refused(service: Service) -> None:
    answer = service.http.get("/v1/jobs?metadata[team]=a&metadata[team]=b")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "metadata[team]")


@pytest.mark.parametrize("path", ["/v1/jobs?dryrun=true", "/v1/models/flat/predict?verzion=1"])
def test_mistyped_parameter_is_refused_and_not_ignored(service: Service, flat: None, path: str) -> None:
    answer = service.http.post(path, json={"instances": [[1, 2, 3, 4]]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] in ("dryrun", "verzion")


def test_health_answers_head(service: Service) -> None:
    assert [service.http.head(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


def test_method_that_is_not_there_names_all_that_are(service: Service) -> None:
    answer = service.http.put("/v1/jobs")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
