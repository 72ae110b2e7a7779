"""What a running service tells Prometheus."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from structlog.testing import capture_logs

from gammabeta.schemas.keys import Scope
from service.runtime.costs import Cost
from tests import metrics_page
from tests.integration.service.conftest import Service, eventually
from tests.integration.service.test_datasets import CSV, jobs_of, upload
from tests.integration.service.test_keys import make

ROW = {"age": 39, "work": "State", "hours": 40}
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0; q=0.8, text/plain; q=0.2"}


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in plain(text)
        for sample in family.samples
    }


def scraped(service: Service) -> dict[tuple[str, ...], float]:
    answer = service.http.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return samples(answer.text)


def predict(service: Service, model: str, rows: int = 1) -> httpx.Response:
    return service.http.post(f"/v1/models/{model}/predict", json={"instances": [ROW] * rows})


def test_what_is_told_is_what_the_page_says(start: Callable[..., Any]) -> None:
    with start() as service:
        service.shelf.version("churn")
        predict(service, "churn")
        service.http.get("/metrics")
        context = service.server.app.api.state.context
        families = openmetrics(service.http.get("/metrics", headers=OPENMETRICS).text)
    told = {row.name for row in metrics_page.exposed(families)}
    assert told == {row.name for row in metrics_page.rows("The service")}
    assert context.database.connections == 0


def test_scrapes_during_predictions_count_each_once(start: Callable[..., Any]) -> None:
    with start() as service:
        service.shelf.version("churn")
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(predict, service, "churn", rows) for rows in (1, 2, 3) for _ in range(20)]
            seen = []
            while not all(each.done() for each in answers):
                seen.append(scraped(service).get(("gammabeta_predict_rows_total", "churn", "default", "1"), 0.0))
        assert {each.result().status_code for each in answers} == {200}
        assert seen == sorted(seen)
        found = eventually(lambda: _complete(scraped(service), 60))
    assert found["gammabeta_predict_rows_total", "churn", "default", "1"] == 120
    assert found["gammabeta_predict_requests_total", "churn", "answered", "default", "1"] == 60
    assert found["gammabeta_predict_batch_rows_sum", "churn", "default", "1"] == 120
    assert found["gammabeta_predict_stage_seconds_count", "churn", "default", "compute", "1"] == 60
    assert found["gammabeta_predict_stage_seconds_sum", "churn", "default", "compute", "1"] > 0
    assert found["gammabeta_versions_loaded",] == 1
    assert 0 < found["gammabeta_versions_bytes",] < found["gammabeta_versions_limit_bytes",]


def _complete(found: dict[tuple[str, ...], float], requests: int) -> dict[tuple[str, ...], float] | None:
    """A client has its answer a moment before its request is counted."""
    route = ("POST", "/v1/models/{name}/predict")
    counted = found.get(("gammabeta_http_request_seconds_count", *route))
    return found if counted == found["gammabeta_http_requests_total", *route, "2xx"] == requests else None


def test_refused_and_failed_predictions_are_told_apart(start: Callable[..., Any]) -> None:
    with start(max_queued_ms=1) as service:
        service.shelf.version("churn")
        assert predict(service, "churn").status_code == 200
        assert service.http.post("/v1/models/churn/predict", json={"instances": [1]}).status_code == 422
        (loaded,) = service.server.app.api.state.context.models.held
        loaded.line.cost = Cost(1.0, 1.0)
        loaded.line.rows = 64  # as if so many stood in line
        assert predict(service, "churn").status_code == 429
        found = scraped(service)
        loaded.line.rows = 0
    outcomes = ("answered", "failed", "refused")
    assert [found["gammabeta_predict_requests_total", "churn", each, "default", "1"] for each in outcomes] == [1, 1, 1]
    assert found["gammabeta_predict_waiting_rows", "churn", "default", "1"] == 64


def test_jobs_streams_and_uploads_are_told(start: Callable[..., Any]) -> None:
    with start() as service:
        assert upload(service, "churn").status_code == 202
        (job,) = jobs_of(service, "ingest")
        events, headers = f"/v1/jobs/{job['id']}/events", {"Accept": "text/event-stream"}
        with service.http.stream("GET", events, headers=headers) as stream:
            lines = stream.iter_lines()  # which closes the stream when it is let go
            assert next(lines) == "retry: 1000"
            eventually(lambda: scraped(service)["gammabeta_event_streams",] == 1)
        found = scraped(service)
    assert found["gammabeta_jobs", "light", "queued"] == 1
    assert found["gammabeta_jobs", "train", "running"] == 0
    assert found["gammabeta_jobs_oldest_seconds", "light"] >= 0
    assert found["gammabeta_upload_bytes_total",] == len(CSV)
    assert found["gammabeta_database_up",] == 1


def test_a_database_that_is_away_keeps_nobody_from_scraping(start: Callable[..., Any], tmp_path: Path) -> None:
    with with_own_port(start, home=tmp_path) as (service, address):
        assert service.http.get("/metrics").status_code == 503  # there may be keys, and nobody knows them
        found = samples(httpx.get(address).text)
    assert found["gammabeta_database_up",] == 0
    assert not [name for name, *_ in found if name == "gammabeta_jobs"]


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x", "*/*", "\xff"])
def test_whatever_is_accepted_gets_an_answer(service: Service, accept: str) -> None:
    answer = service.http.get("/metrics", headers={"Accept": accept.encode("latin-1")})
    assert answer.status_code == 200
    assert ("gammabeta_database_up",) in samples(answer.text)


def test_addresses_and_methods_that_a_client_makes_up_are_not_told(service: Service) -> None:
    service.http.get("/v1/jobs/made-up")
    service.http.get("/v1/models/made-up/versions/made-up")
    service.http.post("/v2/models/made-up/infer", content=b"{}")
    service.http.get("/made-up", headers={"X-Request-Id": "made-up", "User-Agent": "made-up"})
    service.http.request("MADE-UP", "/v1/jobs")
    service.http.get("/v1/jobs", headers={"Host": "made-up"})
    assert "made-up" not in service.http.get("/metrics").text.lower()


def test_every_route_is_told_by_its_template(service: Service) -> None:
    document = service.http.get("/v1/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            service.http.request(method, path.replace("{", "").replace("}", ""))
    routes = {labels[1] for name, *labels in scraped(service) if name == "gammabeta_http_requests_total"}
    assert set(document["paths"]) - {"/metrics"} <= routes


@contextmanager
def with_own_port(start: Callable[..., Any], **settings: Any) -> Iterator[tuple[Service, str]]:
    """A service, and where it tells metrics without a key."""
    structlog.reset_defaults()
    with capture_logs() as lines, start(metrics_port=0, **settings) as service:
        port = next(each["port"] for each in lines if each["event"] == "metrics are told")
        yield service, f"http://127.0.0.1:{port}/metrics"


def test_a_port_of_their_own_asks_for_no_key_and_tells_the_same(start: Callable[..., Any]) -> None:
    with with_own_port(start) as (service, address):
        service.shelf.version("churn")
        predict(service, "churn")
        make(service.shelf.database, Scope.READ)
        eventually(lambda: service.http.get("/metrics").status_code == 401)
        found = samples(httpx.get(address).text)
        families = openmetrics(httpx.get(address, headers=OPENMETRICS).text)
        assert httpx.get(address.replace("/metrics", "/v1/jobs")).status_code == 404
    assert found["gammabeta_predict_rows_total", "churn", "default", "1"] == 1
    told = {row.name for row in metrics_page.exposed(families)}
    assert told == {row.name for row in metrics_page.rows("The service")}
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_an_address_that_cannot_be_had_ends_the_service_with_a_line(migrated: Path, tmp_path: Path) -> None:
    shutil.copy(migrated, tmp_path / "gammabeta.db")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {"HOME": tmp_path, "PORT": 0, "METRICS_PORT": taken.getsockname()[1]}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "service"],
            env={"PATH": "/usr/bin"} | {f"GAMMABETA_{name}": str(value) for name, value in settings.items()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 78
    assert "GAMMABETA_METRICS_PORT must be an address that is free" in done.stderr
    assert "Traceback" not in done.stderr
