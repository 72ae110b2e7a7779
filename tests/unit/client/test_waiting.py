from __future__ import annotations

import io

import httpx
import pytest
from rich.console import Console

from gammabeta.client import progress
from gammabeta.errors import JobFailed, ServiceFault, ServiceUnreachable, WrongState
from gammabeta.schemas.jobs import Job
from tests.unit.client.fake_service import TIME, FakeService, job, ok, problem

PATH = "/v1/jobs/job_1"
GONE = httpx.ConnectError("refused")


def event(number: int, kind: str, *, at: str = TIME) -> str:
    body = f'{{"id": {number}, "job": "job_1", "type": "{kind}", "attempt": 1, "created_at": "{at}"}}'
    return f"id: {number}\nevent: {kind}\ndata: {body}\n\n"


def stream(*parts: str) -> httpx.Response:
    return httpx.Response(200, text="".join(parts), headers={"Content-Type": "text/event-stream"})


def test_wait_returns_the_job_that_succeeded(service: FakeService) -> None:
    service.on("GET", PATH, ok(job("queued")), ok(job("running")), ok(job("succeeded", version="1")))
    done = service.client().jobs.get("job_1").wait()
    assert (done.status, done.version) == ("succeeded", "1")


def test_wait_raises_the_reason_of_a_failure(service: FakeService) -> None:
    service.on("GET", PATH, ok(job("failed", error={"code": "diverged", "message": "loss is NaN at step 7"})))
    with pytest.raises(JobFailed, match=r"job_1.*diverged: loss is NaN at step 7") as caught:
        service.client().jobs.get("job_1").wait()
    assert (caught.value.job_id, caught.value.status, caught.value.reason) == ("job_1", "failed", "diverged")


def test_a_cancelled_job_did_not_succeed(service: FakeService) -> None:
    service.on("GET", PATH, ok(job("cancelled")))
    with pytest.raises(JobFailed) as caught:
        service.client().jobs.get("job_1").wait()
    assert caught.value.status == "cancelled"


def test_wait_ends_at_its_timeout_and_leaves_the_job_alone(service: FakeService) -> None:
    service.on("GET", PATH, ok(job("running")))
    with pytest.raises(TimeoutError, match="It goes on"):
        service.client().jobs.get("job_1").wait(timeout=0)
    assert {request.method for request in service.requests} == {"GET"}


def test_wait_lives_through_a_restart_of_the_service(service: FakeService) -> None:
    away = [GONE] * 9
    service.on("GET", PATH, ok(job()), *away, problem(503, "not_ready", "starting"), ok(job("succeeded")))
    assert service.client().jobs.get("job_1").wait().status == "succeeded"


def test_polls_come_less_often_as_time_goes_by(service: FakeService) -> None:
    service.on("GET", PATH, *[ok(job())] * 12, ok(job("succeeded")))
    service.client().jobs.get("job_1").wait()
    assert service.pauses == sorted(service.pauses)
    assert (service.pauses[0], service.pauses[-1]) == (0.05, 0.5)


def test_cancel_gives_the_state_after_it(service: FakeService) -> None:
    service.on("GET", PATH, ok(job()))
    service.on("POST", f"{PATH}/cancel", ok(job("cancelling"), 202))
    assert service.client().jobs.get("job_1").cancel().status == "cancelling"


@pytest.mark.parametrize(("verb", "after"), [("pause", "running"), ("resume", "retrying"), ("retry", "retrying")])
def test_what_is_asked_of_a_job_gives_the_state_after_it(service: FakeService, verb: str, after: str) -> None:
    service.on("GET", PATH, ok(job("paused")))
    service.on("POST", f"{PATH}/{verb}", GONE, ok(job(after), 202))
    client = service.client()
    handle = client.jobs.get("job_1")
    assert getattr(handle, verb)() == handle.job
    assert handle.job.status == getattr(client.jobs, verb)("job_1").status == after


def test_what_the_state_forbids_is_raised(service: FakeService) -> None:
    service.on("GET", PATH, ok(job("succeeded")))
    service.on("POST", f"{PATH}/retry", problem(409, "wrong_state", "This one is succeeded."))
    handle = service.client().jobs.get("job_1")
    with pytest.raises(WrongState, match="This one is succeeded"):
        handle.retry()
    assert handle.job.status == "succeeded"


def test_wait_goes_on_over_a_pause(service: FakeService) -> None:
    service.on("GET", PATH, ok(job()), ok(job("paused")), ok(job("paused")), ok(job("running")), ok(job("succeeded")))
    assert service.client().jobs.get("job_1").wait().status == "succeeded"


def test_events_go_on_without_a_gap_where_the_connection_broke(service: FakeService) -> None:
    service.on("GET", PATH, ok(job()), ok(job()), ok(job()), ok(job("succeeded")))
    service.on(
        "GET",
        f"{PATH}/events",
        stream(": hello\n\n", event(1, "submitted"), event(2, "started")),
        GONE,
        stream(event(3, "succeeded")),
    )
    seen = [each.type for each in service.client().jobs.get("job_1").events()]
    asked = [r.headers["Last-Event-ID"] for r in service.requests if r.url.path.endswith("/events")]
    assert seen == ["submitted", "started", "succeeded"]
    assert asked == ["0", "2", "2"]


def test_events_of_a_finished_job_end(service: FakeService) -> None:
    service.on("GET", PATH, ok(job("succeeded")))
    service.on("GET", f"{PATH}/events", stream(event(1, "submitted")))
    assert [each.id for each in service.client().jobs.get("job_1").events()] == [1]


def test_events_of_a_retried_job_go_on_behind_its_earlier_end(service: FakeService) -> None:
    later = "2026-01-02T03:04:06Z"
    ended = ok(job("cancelled", finished_at=later))
    service.on("GET", PATH, ok(job("cancelling")), ok(job("cancelling")), ended)
    history = [event(1, "failed"), event(2, "retry_requested"), event(3, "cancelled", at=later)]
    service.on("GET", f"{PATH}/events", stream(*history, event(4, "never")))
    assert [each.id for each in service.client().jobs.get("job_1").events()] == [1, 2, 3]


def test_an_event_that_is_none_is_a_fault(service: FakeService) -> None:
    service.on("GET", PATH, ok(job()))
    service.on("GET", f"{PATH}/events", stream("data: nonsense\n\n"))
    with pytest.raises(ServiceFault, match="nonsense"):
        list(service.client().jobs.get("job_1").events())


def test_metrics_are_asked_for_by_name(service: FakeService) -> None:
    series = {"name": "loss", "step": [1, 2], "epoch": [1, 1], "value": [0.5, None]}
    service.on("GET", PATH, ok(job()))
    service.on("GET", f"{PATH}/metrics", ok({"job": "job_1", "series": [series]}))
    metrics = service.client().jobs.get("job_1").metrics(["loss", "val_loss"], max_points=10)
    assert metrics.series[0].value == [0.5, None]
    assert dict(service.requests[-1].url.params) == {"names": "loss,val_loss", "max_points": "10"}


RUNNING = Job.model_validate(
    job(
        progress={
            "step": 900,
            "steps": 1500,
            "epoch": 7,
            "epochs": 10,
            "fraction": 0.6,
            "eta_seconds": 3.4,
            "samples_per_second": 45_120.4,
            "metrics": {"loss": 0.0213, "accuracy": 0.9951, "val_loss": 0.081, "val_accuracy": 0.9722},
        }
    )
)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_progress_shows_epoch_metrics_speed_and_time_left(width: int) -> None:
    console = Console(width=width, record=True, force_terminal=True, file=io.StringIO())
    console.print(progress.panel(RUNNING))
    text = console.export_text()
    for part in ("digits", "epoch 7/10", "60%", "0:00:03 left", "loss 0.0213", "accuracy 0.9722", "45,120 samples/s"):
        assert part in text
    assert max(map(len, text.splitlines())) <= width


def test_where_there_is_no_terminal_an_epoch_is_one_line() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    with progress.display(console) as show:
        for _ in range(3):
            show(RUNNING)
    assert console.export_text().splitlines() == [
        "digits  running  epoch 7/10  loss 0.0213  accuracy 0.9951  val_loss 0.0810  val_accuracy 0.9722"
    ]


def test_the_wait_gives_up_when_the_service_never_comes_back(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gammabeta.client.waiting.PATIENCE", 0.0)
    service.on("GET", PATH, ok(job()), GONE)
    handle = service.client().jobs.get("job_1")
    with pytest.raises(ServiceUnreachable):
        handle.wait()
