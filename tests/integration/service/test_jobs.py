from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from gammabeta import Client
from gammabeta.schemas.jobs import Lane
from gammabeta.store import events, jobs
from gammabeta.store.events import MetricRow
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.service.conftest import Service, eventually

TRAINING = {"epochs": 2, "batch_size": 4, "validation_fraction": 0}


@pytest.fixture(scope="module", autouse=True)
def data(service: Service) -> str:
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(40, 10, 20), rng.integers(0, 2, 20)], axis=1)
    return service.shelf.dataset("people", x, rng.integers(0, 2, 20))


def body(**changes: Any) -> dict[str, Any]:
    fields = {
        "kind": "train",
        "dataset": "people",
        "model": "income",
        "network": {"preset": "mlp", "hidden": [8]},
        "training": TRAINING,
    }
    return fields | changes


def submit(service: Service, *, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
    return service.http.post("/v1/jobs", json=body(**changes), headers=headers)


def claim(service: Service, job_id: str) -> dict[str, Any]:
    """Hold the job as a worker would: `{"job_id": …, "fence": …}`. Others that are before it in the queue run too."""
    while True:
        with service.shelf.database.write() as session:
            found = jobs.claim(session, worker_id="w", lane=Lane.TRAIN, free=1, ttl_ms=60_000, device="cpu")
            assert found is not None
            if found.job_id == job_id:
                return {"job_id": job_id, "fence": found.fence}


def record(service: Service, held: dict[str, Any], type: str, **data: Any) -> None:
    with service.shelf.database.write() as session:
        assert events.add_event(session, **held, type=type, data=data)


def fail(service: Service, held: dict[str, Any]) -> None:
    with service.shelf.database.write() as session:
        jobs.stop(session, **held, outcome=jobs.Outcome.FAILURE, reason="not_finite", message="The loss is NaN.")


def test_a_job_is_queued_with_everything_resolved(service: Service, data: str) -> None:
    answer = submit(service, metadata={"team": "a"}, priority=5)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["kind"], job["model"], job["dataset"]) == ("queued", "train", "income", data)
    assert job["request"]["training"]["loss"] == "sparse_categorical_crossentropy"
    assert [layer["type"] for layer in job["request"]["network"]["layers"]] == [
        "dense",
        "batch_norm",
        "activation",
        "dense",
    ]
    assert job["queue_position"] >= 1
    assert job["created_at"].endswith("Z")
    assert service.http.get(answer.headers["location"]).json()["request"] == job["request"]


def test_a_dry_run_queues_nothing(service: Service) -> None:
    before = len(service.http.get("/v1/jobs?limit=100").json()["data"])
    answer = service.http.post("/v1/jobs?dry_run=true", json=body())
    assert answer.status_code == 200
    said = answer.json()
    assert said["steps"] == 10
    assert said["parameters"] == sum(layer["parameters"] for layer in said["layers"])
    assert "moving_statistics_cold" in [message["code"] for message in said["messages"]]
    assert len(service.http.get("/v1/jobs?limit=100").json()["data"]) == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dataset": None}, "dataset"),
        ({"model": "../x"}, "model"),
        ({"network": {"preset": "mlp", "hidden": [0]}}, "network.hidden[0]"),
        ({"network": {"layers": [{"type": "densee"}]}}, "network.layers[0].type"),
        ({"network": {"layers": [{"type": "conv2d", "filters": 2, "kernel_size": 3}]}}, "network.layers[0]"),
        ({"network": {"layers": [{"type": "batch_norm", "momentum": 1.5}]}}, "network.layers[0].momentum"),
        ({"network": {"layers": [{"type": "batch_norm", "epsilon": 0}]}}, "network.layers[0].epsilon"),
        ({"training": {"optimizer": {"name": "lion"}}}, "training.optimizer.name"),
        ({"training": TRAINING | {"batch_size": 21}}, "training.batch_size"),
        ({"training": TRAINING | {"epoch": 3}}, "training.epoch"),
        (
            {"training": TRAINING | {"optimizer": {"name": "sgd", "learning_rate": float("nan")}}},
            "training.optimizer.learning_rate",
        ),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_wrong_request_names_its_field_in_both_ways(service: Service, changes: dict[str, Any], field: str) -> None:
    content = json.dumps(body(**changes)).encode()
    for path in ("/v1/jobs", "/v1/jobs?dry_run=true"):
        answer = service.http.post(path, content=content)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert field in [error["field"] for error in answer.json()["errors"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "compare"},
        {"init_from": {"model": "a", "version": "1"}},
        {"training": {"class_weights": "balanced"}},
    ],
)
def test_what_is_to_come_is_said_to_come(service: Service, changes: dict[str, Any]) -> None:
    answer = submit(service, **changes)
    assert (answer.status_code, answer.json()["code"]) == (422, "not_supported")


@pytest.mark.parametrize("content", [b"", b"{", b"kind: train", b'"x', b"\xff\xfe\x00", b'{"a":1,}', b"[" * 100_000])
def test_a_body_that_is_not_json_is_malformed(service: Service, content: bytes) -> None:
    answer = service.http.post("/v1/jobs", content=content)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("value", [None, 3, "train", [], [1], {}])
def test_a_body_that_is_no_request_is_invalid(service: Service, value: Any) -> None:
    assert service.http.post("/v1/jobs", content=json.dumps(value)).status_code == 422


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-yaml", "multipart/form-data", "application/jsonp"])
def test_other_media_types_are_refused(service: Service, media_type: str) -> None:
    answer = service.http.post("/v1/jobs", content=b"{}", headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_body_over_a_megabyte_is_refused(service: Service) -> None:
    answer = service.http.post("/v1/jobs", json=body(metadata={"a": "x" * (1 << 20)}))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_dataset_that_is_not_there_or_not_ready_is_named(service: Service) -> None:
    missing = submit(service, dataset="nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "dataset_not_found")
    service.http.post("/v1/datasets?name=unread&format=npz", content=b"x")
    early = submit(service, dataset="unread")
    assert (early.status_code, early.json()["code"]) == (409, "wrong_state")
    assert "validating" in early.json()["detail"]


def test_the_same_key_and_body_give_the_first_answer_again(service: Service) -> None:
    key = {"Idempotency-Key": "job-1"}
    first = submit(service, headers=key)
    reordered = dict(reversed(body().items()))
    again = service.http.post("/v1/jobs", json=reordered, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    other = submit(service, headers=key, model="other")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


def test_a_key_whose_request_was_refused_is_free(service: Service) -> None:
    key = {"Idempotency-Key": "job-2"}
    assert submit(service, headers=key, dataset="nothing").status_code == 404
    assert submit(service, headers=key).status_code == 202


def test_the_same_request_sent_many_times_at_once_makes_one_job(service: Service) -> None:
    answers: list[str] = []
    key = {"Idempotency-Key": "job-3"}
    threads = [
        threading.Thread(target=lambda: answers.append(submit(service, headers=key, model="stampede").json()["id"]))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12
    assert len(set(answers)) == 1
    assert len(service.http.get("/v1/jobs?model=stampede").json()["data"]) == 1


def test_jobs_are_filtered(service: Service) -> None:
    job = submit(service, model="filtered", metadata={"team": "red", "x.y": "1"}).json()["id"]
    for query in (
        {"model": "filtered"},
        {"model": "filtered", "status": "queued"},
        {"model": "filtered", "status": "running,queued"},
        {"model": "filtered", "kind": "train"},
        {"metadata[team]": "red"},
        {"metadata[team]": "red", "metadata[x.y]": "1"},
    ):
        assert [each["id"] for each in service.http.get("/v1/jobs", params=query).json()["data"]] == [job], query
    for query in ({"model": "filtered", "status": "failed"}, {"metadata[team]": "blue"}, {"metadata[x.y]": "2"}):
        assert service.http.get("/v1/jobs", params=query).json()["data"] == [], query


@pytest.mark.parametrize(
    "query", ["status=asleep", "metadata=a", "metadata[]=a", "nothing=1", "limit=1000", "kind=%00"]
)
def test_a_wrong_filter_is_refused(service: Service, query: str) -> None:
    assert service.http.get(f"/v1/jobs?{query}").status_code == 422


def test_a_queued_job_is_cancelled_at_once_and_once(service: Service) -> None:
    job = submit(service).json()["id"]
    answer = service.http.post(f"/v1/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    again = service.http.post(f"/v1/jobs/{job}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "wrong_state")
    assert "cancelled" in again.json()["detail"]
    assert service.http.post("/v1/jobs/job_nothing/cancel").status_code == 404


def test_a_running_job_is_cancelling_until_its_worker_stops(service: Service) -> None:
    job = submit(service).json()["id"]
    held = claim(service, job)
    assert service.http.post(f"/v1/jobs/{job}/cancel").json()["status"] == "cancelling"
    assert service.http.post(f"/v1/jobs/{job}/cancel").status_code == 202
    with service.shelf.database.write() as session:
        jobs.stop(session, **held, outcome=jobs.Outcome.CANCEL)
    assert service.http.get(f"/v1/jobs/{job}").json()["status"] == "cancelled"


def ask(service: Service, job: str, verb: str) -> httpx.Response:
    return service.http.post(f"/v1/jobs/{job}/{verb}")


def types(service: Service, job: str) -> list[str]:
    return [event["type"] for event in service.http.get(f"/v1/jobs/{job}/events").json()["data"]]


def test_a_running_job_is_paused_once_its_worker_has_stopped_it(service: Service) -> None:
    job = submit(service).json()["id"]
    held = claim(service, job)
    asked = [ask(service, job, "pause") for _ in range(2)]
    assert [(each.status_code, each.json()["status"]) for each in asked] == [(202, "running")] * 2
    with service.shelf.database.write() as session:
        flags = jobs.heartbeat(session, **held, ttl_ms=60_000)
        assert flags is not None
        assert flags.pause_requested
        jobs.stop(session, **held, outcome=jobs.Outcome.PAUSE)
    shown = service.http.get(f"/v1/jobs/{job}").json()
    assert (shown["status"], shown["error"], shown["finished_at"]) == ("paused", None, None)
    assert job in [each["id"] for each in service.http.get("/v1/jobs?status=paused").json()["data"]]
    assert types(service, job) == ["submitted", "claimed", "pause_requested", "paused"]


def test_a_paused_job_is_resumed_in_its_old_place(service: Service) -> None:
    job, later = paused(service), submit(service).json()["id"]
    answer = ask(service, job, "resume")
    assert (answer.status_code, answer.json()["status"]) == (202, "retrying")
    assert answer.json()["queue_position"] < service.http.get(f"/v1/jobs/{later}").json()["queue_position"]
    assert claim(service, job)["fence"] == 2


def test_a_paused_job_can_be_cancelled(service: Service) -> None:
    assert ask(service, paused(service), "cancel").json()["status"] == "cancelled"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_an_ended_job_is_retried_and_shows_no_error(service: Service, end: str) -> None:
    job = {"failed": failed, "cancelled": cancelled}[end](service)
    answer = ask(service, job, "retry")
    assert (answer.status_code, answer.json()["error"], answer.json()["finished_at"]) == (202, None, None)
    assert answer.json()["status"] in ("queued", "retrying")
    assert types(service, job)[-1] == "retry_requested"
    assert claim(service, job)["job_id"] == job


def cancel(service: Service, job: str) -> None:
    assert ask(service, job, "cancel").status_code == 202


def queued(service: Service) -> str:
    return str(submit(service).json()["id"])


def running(service: Service) -> str:
    return str(claim(service, queued(service))["job_id"])


def paused(service: Service) -> str:
    held = claim(service, queued(service))
    ask(service, held["job_id"], "pause")
    with service.shelf.database.write() as session:
        jobs.stop(session, **held, outcome=jobs.Outcome.PAUSE)
    return str(held["job_id"])


def failed(service: Service) -> str:
    held = claim(service, queued(service))
    fail(service, held)
    return str(held["job_id"])


def cancelled(service: Service) -> str:
    job = queued(service)
    ask(service, job, "cancel")
    return job


def succeeded(service: Service) -> str:
    service.shelf.version("published")
    return str(service.http.get("/v1/jobs?status=succeeded&limit=1").json()["data"][0]["id"])


STATES: dict[str, tuple[Callable[[Service], str], set[str]]] = {
    "queued": (queued, set()),
    "running": (running, {"pause"}),
    "paused": (paused, {"resume"}),
    "failed": (failed, {"retry"}),
    "cancelled": (cancelled, {"retry"}),
    "succeeded": (succeeded, set()),
}


@pytest.mark.parametrize(
    ("state", "verb"),
    [
        (state, verb)
        for state, (_, legal) in STATES.items()
        for verb in ("pause", "resume", "retry")
        if verb not in legal
    ],
)
def test_what_the_state_forbids_is_a_conflict_that_names_it_and_changes_nothing(
    service: Service, state: str, verb: str
) -> None:
    job = STATES[state][0](service)
    before = service.http.get(f"/v1/jobs/{job}").json(), types(service, job)
    answer = ask(service, job, verb)
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")
    assert f"To {verb} a job" in answer.json()["detail"]
    assert f"This one is {state}" in answer.json()["detail"]
    assert (service.http.get(f"/v1/jobs/{job}").json(), types(service, job)) == before


@pytest.mark.parametrize(("state", "verb"), [("paused", "resume"), ("failed", "retry"), ("cancelled", "retry")])
def test_asking_again_is_refused_by_the_new_state_and_does_nothing_twice(
    service: Service, state: str, verb: str
) -> None:
    job = STATES[state][0](service)
    assert [ask(service, job, verb).status_code for _ in range(2)] == [202, 409]
    assert types(service, job).count(f"{verb}_requested") == 1


def test_many_who_resume_at_once_queue_it_once(service: Service) -> None:
    job, codes = paused(service), []
    threads = [threading.Thread(target=lambda: codes.append(ask(service, job, "resume").status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [202] + [409] * 7
    assert types(service, job).count("resume_requested") == 1


def test_whoever_cannot_pause_a_queued_job_is_told_to_cancel_it(service: Service) -> None:
    assert "cancel it" in ask(service, queued(service), "pause").json()["detail"]


def test_an_ingestion_is_not_retried_without_its_file(service: Service) -> None:
    service.http.post("/v1/datasets?name=half&format=npz", content=b"x")
    ingestion = service.http.get("/v1/jobs?kind=ingest&limit=1").json()["data"][0]["id"]
    ask(service, ingestion, "cancel")
    answer = ask(service, ingestion, "retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")
    assert "Upload it again" in answer.json()["detail"]


def test_a_limit_of_seconds_is_kept_with_the_request(service: Service) -> None:
    job = submit(service, max_seconds=3600).json()
    assert job["request"]["max_seconds"] == 3600
    assert submit(service).json()["request"]["max_seconds"] is None
    assert service.http.post("/v1/jobs?dry_run=true", json=body(max_seconds=5)).json()["request"]["max_seconds"] == 5
    with service.shelf.database.write() as session:
        assert jobs.get(session, DEFAULT_PROJECT, job["id"]).request["max_seconds"] == 3600


@pytest.mark.parametrize("value", [0, -1, 30 * 86_400 + 1, 1.5, "60", True, []])
def test_a_limit_of_seconds_is_a_whole_number_up_to_30_days(service: Service, value: Any) -> None:
    answer = submit(service, max_seconds=value)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "max_seconds")


def test_a_failed_job_says_why(service: Service) -> None:
    job = submit(service).json()["id"]
    fail(service, claim(service, job))
    shown = service.http.get(f"/v1/jobs/{job}").json()
    assert (shown["status"], shown["error"]) == ("failed", {"code": "not_finite", "message": "The loss is NaN."})


def test_metrics_are_series_thinned_evenly(service: Service) -> None:
    job = submit(service).json()["id"]
    held = claim(service, job)
    rows = [MetricRow(step=step, epoch=1, values={"loss": 1 / step, "lr": 0.1}) for step in range(1, 1001)]
    with service.shelf.database.write() as session:
        assert events.add_metrics(session, **held, rows=rows)
    every = service.http.get(f"/v1/jobs/{job}/metrics").json()["series"]
    assert {series["name"]: len(series["step"]) for series in every} == {"loss": 500, "lr": 500}
    (loss,) = service.http.get(f"/v1/jobs/{job}/metrics?names=loss&max_points=10").json()["series"]
    assert loss["step"] == [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]
    assert loss["value"] == [1 / step for step in loss["step"]]
    assert service.http.get(f"/v1/jobs/{job}/metrics?names=nothing").json()["series"] == []
    assert service.http.get("/v1/jobs/job_nothing/metrics").status_code == 404


def test_events_are_a_list_with_a_cursor(service: Service) -> None:
    job = submit(service).json()["id"]
    held = claim(service, job)
    for step in range(5):
        record(service, held, "checkpoint", step=step)
    page = service.http.get(f"/v1/jobs/{job}/events?limit=3").json()
    assert [event["type"] for event in page["data"]] == ["submitted", "claimed", "checkpoint"]
    assert page["has_more"]
    rest = service.http.get(f"/v1/jobs/{job}/events", params={"after": page["last_id"]}).json()
    assert [event["data"]["step"] for event in rest["data"]] == [1, 2, 3, 4]
    assert not rest["has_more"]


def follow(
    service: Service, job: str, seen: list[tuple[int, str]], *, last: str | None = None, stop: int = 10**9
) -> None:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    with service.http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        number = 0
        for line in answer.iter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("event: "):
                seen.append((number, line[7:]))
                if len(seen) >= stop:
                    return


def test_a_stream_follows_the_job_to_its_end(service: Service) -> None:
    job = submit(service).json()["id"]
    seen: list[tuple[int, str]] = []
    thread = threading.Thread(target=follow, args=(service, job, seen))
    thread.start()
    held = claim(service, job)
    eventually(lambda: len(seen) >= 2)
    record(service, held, "checkpoint", step=1)
    fail(service, held)
    thread.join(10)
    assert not thread.is_alive()
    assert [type for _, type in seen] == ["submitted", "claimed", "checkpoint", "failed"]


def test_a_stream_that_broke_goes_on_without_a_gap(service: Service) -> None:
    job = submit(service).json()["id"]
    held = claim(service, job)
    seen: list[tuple[int, str]] = []

    def write() -> None:
        for step in range(40):
            record(service, held, "checkpoint", step=step)
        fail(service, held)

    writer = threading.Thread(target=write)
    writer.start()
    for stop in (5, 6, 20, 10**9):
        follow(service, job, seen, last=str(seen[-1][0]) if seen else None, stop=stop)
    writer.join()
    listed = service.http.get(f"/v1/jobs/{job}/events?limit=1000").json()["data"]
    assert seen == [(event["id"], event["type"]) for event in listed]
    assert len(seen) == 43


def test_the_stream_of_a_retried_job_goes_on_behind_its_earlier_end(service: Service) -> None:
    job = failed(service)
    ask(service, job, "retry")
    seen: list[tuple[int, str]] = []
    thread = threading.Thread(target=follow, args=(service, job, seen))
    thread.start()
    eventually(lambda: len(seen) >= 4)
    fail(service, claim(service, job))
    thread.join(10)
    assert not thread.is_alive()
    assert [type for _, type in seen] == ["submitted", "claimed", "failed", "retry_requested", "claimed", "failed"]


@pytest.mark.parametrize("end_again", [lambda service, job: fail(service, claim(service, job)), cancel])
def test_the_client_follows_a_retried_job_to_its_last_end(service: Service, end_again: Callable[..., None]) -> None:
    job = failed(service)
    ask(service, job, "retry")
    end_again(service, job)
    with Client(service.url) as client:
        assert [event.type for event in client.jobs.get(job).events()] == types(service, job)


def test_the_stream_of_an_ended_job_is_its_whole_history(service: Service) -> None:
    job = submit(service).json()["id"]
    service.http.post(f"/v1/jobs/{job}/cancel")
    seen: list[tuple[int, str]] = []
    follow(service, job, seen)
    assert [type for _, type in seen] == ["submitted", "cancelled"]
    behind: list[tuple[int, str]] = []
    follow(service, job, behind, last=str(seen[-1][0]))
    assert behind == []


@pytest.mark.parametrize("last", ["x", "-1", "1.5"])
def test_a_last_event_id_that_is_none_is_refused(service: Service, last: str) -> None:
    job = submit(service).json()["id"]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
    answer = service.http.get(f"/v1/jobs/{job}/events", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    missing = service.http.get("/v1/jobs/job_nothing/events", headers={"Accept": "text/event-stream"})
    assert missing.status_code == 404


def test_stopping_the_service_ends_its_streams(start: Any) -> None:
    seen: list[tuple[int, str]] = []
    with start() as running:
        running.shelf.dataset("people", np.zeros((20, 2)), np.arange(20) % 2)
        job = submit(running).json()["id"]
        thread = threading.Thread(target=follow, args=(running, job, seen))
        thread.start()
        eventually(lambda: seen)
        running.server.should_exit = True
        thread.join(5)
        assert not thread.is_alive()
