"""What a running service tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from service.runtime.costs import Cost
from tests import metrics_page
from tests.integration.service.conftest import Service, eventually
from tests.integration.service.test_datasets import CSV, jobs_of, upload

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
                seen.append(scraped(service).get(("gammabeta_predict_rows_total", "churn", "1"), 0.0))
        assert {each.result().status_code for each in answers} == {200}
        assert seen == sorted(seen)
        found = eventually(lambda: _complete(scraped(service), 60))
    assert found["gammabeta_predict_rows_total", "churn", "1"] == 120
    assert found["gammabeta_predict_requests_total", "churn", "answered", "1"] == 60
    assert found["gammabeta_predict_batch_rows_sum", "churn", "1"] == 120
    assert found["gammabeta_predict_stage_seconds_count", "churn", "compute", "1"] == 60
    assert found["gammabeta_predict_stage_seconds_sum", "churn", "compute", "1"] > 0
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
    assert [found["gammabeta_predict_requests_total", "churn", each, "1"] for each in outcomes] == [1, 1, 1]
    assert found["gammabeta_predict_waiting_rows", "churn", "1"] == 64


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
    with start(home=tmp_path) as bare:
        found = scraped(bare)
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
