"""Deleting over HTTP: what is refused and why, what stops serving on every replica, and how full a project may be."""

from __future__ import annotations

import gc
import hashlib
import socket
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from gammabeta import Client
from gammabeta.errors import JobNotFound, ModelNotFound, ProjectFull, WrongState
from gammabeta.schemas.keys import Scope
from gammabeta.schemas.preprocessing import FittedArray, FittedTable, NumericColumn
from gammabeta.store import jobs
from gammabeta.store.jobs import Outcome
from gammabeta.store.tables import DEFAULT_PROJECT, EventRow, JobRow
from service.runtime.loading import Asked, Key
from tests.integration.samples import attempt, claimed, submit
from tests.integration.service.conftest import Service, eventually
from tests.integration.service.test_datasets import CSV, upload, uploads
from tests.integration.service.test_keys import bearing, make
from tests.integration.service.test_predicting import held, held_back

FLAT = FittedArray(shape=(4,))
ROW = [[0.1, 0.2, 0.3, 0.4]]


def predict(service: Service, model: str, **query: Any) -> httpx.Response:
    return service.http.post(f"/v1/models/{model}/predict", params=query, json={"instances": ROW})


def refused(answer: httpx.Response, status: int = 409, code: str = "wrong_state") -> str:
    said = answer.json()
    assert (answer.status_code, said["code"]) == (status, code)
    return str(said["detail"])


def failed(service: Service) -> str:
    job = claimed(service.shelf.database, priority=1_000)
    with service.shelf.database.write() as session:
        jobs.stop(session, **attempt(job), outcome=Outcome.FAILURE, reason="training_error", message="no")
    return job.job_id


# ── versions and models ──


def test_a_deleted_version_is_not_there_and_its_job_says_so(service: Service) -> None:
    for seed in (1, 2):
        service.shelf.version("pruned", FLAT, seed=seed)
    job = service.http.get("/v1/models/pruned/versions/1").json()["job"]
    assert service.http.delete("/v1/models/pruned/versions/1").status_code == 204
    assert refused(service.http.get("/v1/models/pruned/versions/1"), 404, "version_not_found")
    assert refused(service.http.delete("/v1/models/pruned/versions/1"), 404, "version_not_found")
    assert [each["version"] for each in service.http.get("/v1/models/pruned").json()["versions"]] == ["2"]
    shown = service.http.get(f"/v1/jobs/{job}").json()
    assert (shown["status"], shown["version"], shown["result"]["deleted_version"]) == ("succeeded", None, "1")


def test_a_version_with_an_alias_is_refused_by_its_name(service: Service) -> None:
    service.shelf.version("aliased", FLAT)
    service.http.put("/v1/models/aliased/aliases/production", json={"version": "1"})
    for path in ("/v1/models/aliased/versions/1", "/v1/models/aliased"):
        assert "the alias production" in refused(service.http.delete(path))
    assert predict(service, "aliased").status_code == 200


def test_a_deleted_model_comes_back_with_another_number(service: Service) -> None:
    service.shelf.version("again", FLAT)
    assert predict(service, "again").json()["version"] == "1"
    assert service.http.delete("/v1/models/again").status_code == 204
    for answer in (
        service.http.get("/v1/models/again"),
        predict(service, "again"),
        predict(service, "again", version="1"),
    ):
        assert refused(answer, 404, "model_not_found")
    assert "again" not in [each["name"] for each in service.http.get("/v1/models?limit=100").json()["data"]]
    assert "again" not in [each["name"] for each in service.http.post("/v2/repository/index").json()]
    service.shelf.version("again", FLAT)
    eventually(lambda: predict(service, "again").status_code == 200)
    assert predict(service, "again").json()["version"] == "2"


@pytest.fixture(scope="module")
def replicas(start: Callable[..., Any]) -> Iterator[tuple[Service, Service]]:
    """Two services of one database."""
    with start() as one, start(home=one.settings.home) as other:
        yield one, other


def test_every_replica_stops_serving_a_deleted_version_and_frees_its_memory(
    replicas: tuple[Service, Service],
) -> None:
    one, other = replicas
    for seed in (1, 2):
        one.shelf.version("shared", FLAT, seed=seed)
    for each in replicas:
        eventually(lambda each=each: predict(each, "shared").json().get("version") == "2")
        assert predict(each, "shared", version="1").status_code == 200
    networks = [weakref.ref(each.network) for replica in replicas for each in held(replica).held]
    assert len(networks) == 4
    assert one.http.delete("/v1/models/shared/versions/1").status_code == 204
    assert predict(one, "shared", version="1").status_code == 404
    eventually(lambda: predict(other, "shared", version="1").status_code == 404, seconds=2)
    assert predict(other, "shared").json()["version"] == "2"
    assert one.http.delete("/v1/models/shared").status_code == 204
    eventually(lambda: predict(other, "shared").status_code == 404, seconds=2)
    for each in replicas:
        eventually(lambda each=each: held(each).held == ())
    eventually(lambda: gc.collect() is not None and not any(ref() for ref in networks))


def test_a_name_answers_by_the_version_before_without_a_pause_when_the_newest_is_deleted(
    replicas: tuple[Service, Service],
) -> None:
    one, other = replicas
    for seed in (1, 2):
        one.shelf.version("fallen", FLAT, seed=seed)
    asked = Asked(DEFAULT_PROJECT, "fallen", None, None)
    eventually(lambda: predict(other, "fallen").json().get("version") == held(other)._resolved.get(asked) == "2")
    with ThreadPoolExecutor(1) as client, held_back(other, "fallen", "1"):
        assert client.submit(one.http.delete, "/v1/models/fallen/versions/2").result().status_code == 204
        eventually(lambda: Key(DEFAULT_PROJECT, "fallen", "1") in held(other).loading)
        # What replaces it is not there yet.
        assert predict(other, "fallen").json()["version"] == "2"
    eventually(lambda: predict(other, "fallen").json()["version"] == "1", seconds=2)
    eventually(lambda: Key(DEFAULT_PROJECT, "fallen", "2") not in keys(other))


def keys(service: Service) -> set[Key]:
    return {Key(each.project_id, each.version.model, each.version.version) for each in held(service).held}


def test_a_version_that_is_deleted_while_it_is_loaded_does_not_stay_in_memory(
    replicas: tuple[Service, Service],
) -> None:
    one, other = replicas
    for seed in (1, 2):
        one.shelf.version("early", FLAT, seed=seed)
    eventually(lambda: predict(other, "early").json().get("version") == "2")
    with ThreadPoolExecutor(1) as client:
        with held_back(other, "early", "1"):
            waiting = client.submit(predict, other, "early", version="1")
            eventually(lambda: Key(DEFAULT_PROJECT, "early", "1") in held(other).loading)
            moves = held(other)._moves
            assert one.http.delete("/v1/models/early/versions/1").status_code == 204
            eventually(lambda: held(other)._moves > moves)
        assert waiting.result().status_code in (200, 404)
    eventually(lambda: Key(DEFAULT_PROJECT, "early", "1") not in keys(other))
    assert Key(DEFAULT_PROJECT, "early", "2") in keys(other)


# ── jobs ──


def test_an_ended_job_is_deleted_with_all_that_tells_of_it(service: Service) -> None:
    job = failed(service)
    folder = service.shelf.blobs.root / "jobs" / job / "f000001" / "ckpt-1"
    folder.mkdir(parents=True)
    assert service.http.delete(f"/v1/jobs/{job}").status_code == 204
    for path in ("", "/events", "/metrics"):
        assert refused(service.http.get(f"/v1/jobs/{job}{path}"), 404, "job_not_found")
    assert refused(service.http.delete(f"/v1/jobs/{job}"), 404, "job_not_found")
    assert not folder.exists()
    assert job not in service.shelf.blobs.names("jobs")


def test_a_job_that_has_not_ended_is_refused_by_its_state(service: Service) -> None:
    job = submit(service.shelf.database)
    assert "queued" in refused(service.http.delete(f"/v1/jobs/{job}"))
    service.http.post(f"/v1/jobs/{job}/cancel")
    assert service.http.delete(f"/v1/jobs/{job}").status_code == 204


def test_the_job_of_a_version_is_refused_until_that_is_deleted(service: Service) -> None:
    service.shelf.version("kept", FLAT)
    job = service.http.get("/v1/models/kept/versions/1").json()["job"]
    assert "Delete version 1 of 'kept' first" in refused(service.http.delete(f"/v1/jobs/{job}"))
    service.http.delete("/v1/models/kept")
    assert service.http.delete(f"/v1/jobs/{job}").status_code == 204


READ = FittedTable(columns=(NumericColumn(name="age", fill=38.0),))


@pytest.fixture(scope="module")
def people(service: Service) -> str:
    """A data set that the model `ages` can answer."""
    service.shelf.version("ages", READ)
    return service.shelf.dataset("people", np.zeros((20, 2)), np.zeros(20))


def test_a_submission_sent_again_after_its_job_was_deleted_is_answered_as_before(service: Service, people: str) -> None:
    body = {"kind": "predict", "model": "ages", "dataset": people}
    headers = {"Idempotency-Key": "once"}
    first = service.http.post("/v1/jobs", json=body, headers=headers)
    path = f"/v1/jobs/{first.json()['id']}"
    service.http.post(f"{path}/cancel")
    assert service.http.delete(path).status_code == 204
    again = service.http.post("/v1/jobs", json=body, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert refused(service.http.get(path), 404, "job_not_found")


def test_a_version_that_a_queued_prediction_names_is_refused_by_the_job(service: Service, people: str) -> None:
    job = service.http.post("/v1/jobs", json={"kind": "predict", "model": "ages", "dataset": people}).json()["id"]
    for path in ("/v1/models/ages/versions/1", "/v1/models/ages", f"/v1/datasets/{people}"):
        assert f"{job} " in refused(service.http.delete(path))
    service.http.post(f"/v1/jobs/{job}/cancel")


def test_a_stream_of_a_job_that_ended_and_was_deleted_unseen_ends(start: Callable[..., Any]) -> None:
    with start(stream_heartbeat_seconds=0.1) as service:
        job = claimed(service.shelf.database)
        with service.http.stream(
            "GET", f"/v1/jobs/{job.job_id}/events", headers={"Accept": "text/event-stream"}
        ) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "retry: 1000"
            with service.shelf.database.write() as session:  # at once, so that nobody reads its last event
                session.execute(EventRow.__table__.delete())
                session.execute(JobRow.__table__.delete())
            rest = [*lines]
        assert not [line for line in rest if line.startswith("event: failed")]


# ── how much a project may have ──


def test_usage_says_what_there_is(start: Callable[..., Any]) -> None:
    with start() as service:
        nothing = {"datasets": 0, "models": 0, "jobs": 0, "total": 0}
        assert service.http.get("/v1/usage").json() == {"bytes": nothing, "limit": None}
        upload(service, "one")
        service.shelf.version("flat", FLAT)
        weights = service.http.get("/v1/models/flat/versions/1/files/weights.safetensors")
        used = service.http.get("/v1/usage").json()["bytes"]
        assert used["datasets"] == len(CSV)
        assert 0 < used["models"] < len(weights.content)  # which has the batch-norm state, too
        assert used["total"] == used["datasets"] + used["models"]


@pytest.fixture
def full(start: Callable[..., Any]) -> Iterator[Service]:
    """A service whose projects may have as much as ten times the file, and has it six times."""
    with start(project_bytes=10 * len(CSV)) as service:
        for number in range(6):
            assert upload(service, f"data-{number}").status_code == 202
        yield service


def endless() -> Iterator[bytes]:
    for _ in range(10_000):
        yield CSV * 1_000


def declared(service: Service, size: int) -> httpx.Response:
    """The answer to an upload of which no more than its length came."""
    address = (service.http.base_url.host, service.http.base_url.port or 80)
    with socket.create_connection(address, timeout=10) as connection:
        head = f"POST /v1/datasets?name=more&format=csv&target=income HTTP/1.1\r\nHost: {address[0]}\r\n"
        connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    first, _, rest = received.partition(b"\r\n")
    return httpx.Response(int(first.split()[1]), content=rest.partition(b"\r\n\r\n")[2])


ASK: dict[str, Callable[[Service], httpx.Response]] = {
    "by its length": lambda service: declared(service, 5 * len(CSV)),
    "while it comes": lambda service: upload(service, "more", endless()),
    "when it is there": lambda service: upload(service, "more", CSV * 5),
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_an_upload_that_would_be_too_much_is_refused_and_nothing_is_stored(
    full: Service, ask: Callable[[Service], httpx.Response]
) -> None:
    before, traffic = uploads(full), full.server.app.api.state.context.traffic
    came = traffic.uploaded
    answer = ask(full)
    assert traffic.uploaded - came < 10_000_000  # of 500 MB
    said = refused(answer, 507, "project_full")
    for part in (f"{10 * len(CSV):,} bytes", f"has {6 * len(CSV):,}", "Delete data sets, versions or jobs"):
        assert part in said
    assert uploads(full) == before
    assert not [*full.settings.home.rglob("*.part")]
    assert full.http.get("/v1/datasets/more").status_code == 404
    assert upload(full, "fits", CSV * 4).status_code == 202


def test_uploads_at_once_do_not_go_over_it_together(full: Service) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = [*clients.map(lambda number: upload(full, f"at-once-{number}").status_code, range(8))]
    assert sorted(answers) == [202] * 4 + [507] * 4
    assert full.http.get("/v1/usage").json()["bytes"]["total"] == 10 * len(CSV)


def test_a_full_project_takes_no_job_until_something_was_deleted(start: Callable[..., Any]) -> None:
    with start() as roomy:
        people = roomy.shelf.dataset("people", np.zeros((20, 2)), np.zeros(20))
        roomy.shelf.version("ages", READ)
        used = roomy.http.get("/v1/usage").json()["bytes"]["total"]
        body = {"kind": "predict", "model": "ages", "dataset": people}
        with start(home=roomy.settings.home, project_bytes=used) as service:
            refused(service.http.post("/v1/jobs", json=body), 507, "project_full")
            assert service.http.post("/v1/jobs", json=body, params={"dry_run": True}).status_code == 200
            job = submit(service.shelf.database)
            service.http.post(f"/v1/jobs/{job}/cancel")
            assert service.http.post(f"/v1/jobs/{job}/retry").status_code == 202  # it was accepted once
        with start(home=roomy.settings.home, project_bytes=used + 1) as service:
            assert service.http.post("/v1/jobs", json=body).status_code == 202


def test_an_upload_that_was_stored_is_answered_again_when_it_has_filled_the_project(full: Service) -> None:
    headers = {"Idempotency-Key": "the-last"}
    first = upload(full, "last", CSV * 4, headers=headers)
    again = upload(full, "last", CSV * 4, headers=headers)
    assert (first.status_code, again.status_code, again.json()) == (202, 202, first.json())
    assert first.json()["sha256"] == hashlib.sha256(CSV * 4).hexdigest()


def test_each_project_has_its_own_limit(full: Service) -> None:
    database = full.shelf.database
    make(database, Scope.READ)
    key = make(database, Scope.TRAIN, Scope.READ).key
    eventually(lambda: full.http.get("/v1/usage").status_code == 401)
    eventually(lambda: full.http.get("/v1/usage", headers=bearing(key)).status_code == 200)
    used = full.http.get("/v1/usage", headers=bearing(key)).json()
    assert used["limit"] == 10 * len(CSV)
    assert used["bytes"]["datasets"] == 6 * len(CSV)


# ── the client ──


def test_the_client_deletes_and_says_what_there_is(start: Callable[..., Any]) -> None:
    with start(project_bytes=10_000) as service, Client(service.url) as client:
        for seed in (1, 2, 3):
            service.shelf.version("flat", FLAT, seed=seed)
        job = client.models.version("flat", 1).job
        with pytest.raises(WrongState, match="Delete version 1"):
            client.jobs.delete(job)
        client.models.delete("flat", 1)
        client.jobs.get(job).delete()
        with pytest.raises(JobNotFound):
            client.jobs.get(job)
        before = client.usage()
        assert before.limit == 10_000
        client.models.delete("flat")
        with pytest.raises(ModelNotFound):
            client.models.get("flat")
        assert client.usage().bytes.models == 0 < before.bytes.models
        ended = failed(service)
        client.jobs.delete(ended)
        with pytest.raises(ProjectFull, match="10,000 bytes"):
            client.datasets.upload(CSV * 1_000, name="much", format="csv", target="income", wait=False)
