"""What one project has, a key of another does not see: every route of the description, from outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pytest

from gammabeta.schemas.keys import KeyRequest, Scope
from gammabeta.schemas.preprocessing import FittedArray
from gammabeta.store import keys, projects, workers
from gammabeta.store.tables import DEFAULT_PROJECT
from tests.integration.samples import submit
from tests.integration.service.conftest import Service, eventually
from tests.integration.service.test_keys import GUARDED, bearing, code

CSV = b"a,y\n1,2\n"
UPLOAD = "/v1/datasets?format=csv&target=y&name="
LISTS = {
    "list_datasets",
    "list_jobs",
    "list_models",
    "list_keys",
    "list_workers",
    "statistics",
    "repository_index",
    "scraped",
}
"""The operations that name things without being asked for one."""
CREATE = {"upload_dataset", "submit_job", "create_key"}


def made_key(service: Service, project: str, owner: str | None = None) -> str:
    """With every scope."""
    with service.shelf.database.write() as session:
        request = KeyRequest(name="test", scopes=tuple(Scope), owner=owner)
        return keys.create(session, projects.ensure(session, project), request).key or ""


def wait_for(service: Service, *made: str) -> None:
    """Until the service knows these keys; before, it may let everybody in."""
    eventually(lambda: [code(service, key) for key in (None, *made)] == [401, *[200] * len(made)])


@dataclass(frozen=True, kw_only=True)
class Walled:
    """A service, what the project `default` has there, and keys of it and of another."""

    service: Service
    own: str
    foreign: str
    ids: dict[str, str]

    def ask(self, key: str, method: str, path: str, **more: Any) -> httpx.Response:
        return self.service.http.request(method, path, headers=bearing(key), **more)

    def addressed(self, path: str) -> str:
        known = self.ids | ({"name": "predictions.csv"} if "/files/{name}" in path else {})
        return re.sub(r"\{(\w+)\}", lambda found: known[found[1]], path)


@pytest.fixture(scope="module")
def walled(start: Callable[..., Any]) -> Iterator[Walled]:
    with start() as service:
        shelf = service.shelf
        shelf.version("walled", preprocessing=FittedArray(shape=(4,)), seed=1)
        dataset = shelf.dataset("walled-data", np.zeros((4, 2)), np.array([0, 1, 0, 1]))
        job = submit(shelf.database, dataset_id=dataset)
        with shelf.database.write() as session:
            slots = {"light": job}
            workers.register(session, "w1", hostname="h", pid=1, devices=[], slots=slots)
        own, foreign = made_key(service, DEFAULT_PROJECT), made_key(service, "elsewhere")
        wait_for(service, own, foreign)
        put = service.http.put("/v1/models/walled/aliases/best", json={"version": "1"}, headers=bearing(own))
        assert put.status_code == 200
        ids = {
            "dataset": dataset,
            "job_id": job,
            "name": "walled",
            "version": "1",
            "alias": "best",
            "file": "spec.json",
            "key": keys.id_of(own),
        }
        yield Walled(service=service, own=own, foreign=foreign, ids=ids)


ADDRESSED = [each for each in GUARDED if "{" in each[1]]
BODIES: dict[str, Any] = {"set_alias": {"version": "1"}, "predict": {"instances": [[1, 2, 3, 4]]}}


@pytest.mark.parametrize(("method", "path", "operation"), ADDRESSED, ids=[f"{each[0]} {each[1]}" for each in ADDRESSED])
def test_what_another_project_has_is_not_there(
    walled: Walled, method: str, path: str, operation: dict[str, Any]
) -> None:
    body = BODIES.get(operation["operationId"])
    answer = walled.ask(walled.foreign, method, walled.addressed(path), json=body)
    assert answer.status_code == 404
    if path.startswith("/v2"):
        assert "There is no model 'walled'" in answer.json()["error"]
    else:
        assert answer.json()["code"] in {"dataset_not_found", "job_not_found", "model_not_found", "key_not_found"}
    if method == "GET" and not path.endswith("/events"):
        own = walled.ask(walled.own, method, walled.addressed(path))
        assert own.status_code == 200 or "has no file" in own.json()["detail"]


OTHERS = [each for each in GUARDED if "{" not in each[1] and each[2]["operationId"] not in CREATE]


@pytest.mark.parametrize(("method", "path", "operation"), OTHERS, ids=[f"{each[0]} {each[1]}" for each in OTHERS])
def test_no_list_names_what_another_project_has(
    walled: Walled, method: str, path: str, operation: dict[str, Any]
) -> None:
    rows = {"instances": [[1, 2, 3, 4]]}
    assert walled.ask(walled.own, "POST", "/v1/models/walled/predict", json=rows).status_code == 200
    names = [walled.ids["dataset"], walled.ids["job_id"], walled.ids["key"], "walled"]
    own, foreign = (walled.ask(key, method, path).text for key in (walled.own, walled.foreign))
    assert [name for name in names if name in foreign] == []
    assert any(name in own for name in names) is (operation["operationId"] in LISTS)


def test_what_another_project_has_cannot_be_named_in_a_request(walled: Walled) -> None:
    split = walled.ask(
        walled.foreign,
        "POST",
        f"/v1/datasets?format=csv&split=test&of={walled.ids['dataset']}",
        content=CSV,
    )
    assert split.json()["code"] == "dataset_not_found"
    training = {"dataset": walled.ids["dataset"], "model": "m", "network": {"preset": "mlp"}}
    for query in ("", "?dry_run=true"):
        for key, expected in ((walled.foreign, 404), (walled.own, 422)):
            body = training | ({} if expected == 404 else {"network": {"preset": "none"}})
            assert walled.ask(key, "POST", f"/v1/jobs{query}", json=body).status_code == expected


def test_nothing_was_changed_from_outside(walled: Walled) -> None:
    for method, path, operation in ADDRESSED:
        if method != "GET":
            walled.ask(walled.foreign, method, walled.addressed(path), json=BODIES.get(operation["operationId"]))
    assert walled.ask(walled.own, "GET", f"/v1/jobs/{walled.ids['job_id']}").json()["status"] == "queued"
    assert walled.ask(walled.own, "GET", f"/v1/datasets/{walled.ids['dataset']}").json()["state"] == "ready"
    assert walled.ask(walled.own, "GET", "/v1/models/walled").json()["aliases"] == {"best": "1"}
    assert walled.ask(walled.own, "GET", "/v1/keys").json()["data"][0]["state"] == "active"


def test_a_name_means_in_each_project_its_own_model(walled: Walled) -> None:
    service, rows = walled.service, {"instances": [[1, 2, 3, 4]]}
    foreign = made_key(service, "twins")
    wait_for(service, foreign)
    shelf = replace(service.shelf, project="twins")
    for seed in (2, 3):
        shelf.version("walled", preprocessing=FittedArray(shape=(4,)), seed=seed)
    own, theirs = (
        walled.ask(key, "POST", "/v1/models/walled/predict", json=rows).json() for key in (walled.own, foreign)
    )
    assert (own["version"], theirs["version"]) == ("1", "2")
    assert own["predictions"] != theirs["predictions"]
    older = walled.ask(foreign, "POST", "/v1/models/walled/predict?version=1", json=rows).json()
    assert older["batchnorm"]["digest"] not in (own["batchnorm"]["digest"], theirs["batchnorm"]["digest"])
    assert walled.ask(foreign, "POST", "/v1/models/walled/predict?alias=best", json=rows).status_code == 404
    put = walled.ask(foreign, "PUT", "/v1/models/walled/aliases/production", json={"version": "1"})
    assert put.status_code == 200
    moved = walled.ask(foreign, "POST", "/v1/models/walled/predict", json=rows).json()
    assert (moved["version"], moved["predictions"]) == ("1", older["predictions"])
    again = walled.ask(walled.own, "POST", "/v1/models/walled/predict", json=rows).json()
    assert again == own
    unloaded = walled.ask(foreign, "POST", "/v2/repository/models/walled/unload")
    assert unloaded.status_code == 200
    states = {
        key: {each["state"] for each in walled.ask(key, "POST", "/v2/repository/index").json()}
        for key in (walled.own, foreign)
    }
    assert states == {walled.own: {"READY"}, foreign: {"UNAVAILABLE"}}


def test_jobs_are_counted_by_the_owner_of_the_key(start: Callable[..., Any]) -> None:
    with start(max_queued_per_key=1) as service:
        made = {
            "alone": made_key(service, DEFAULT_PROJECT),
            "a1": made_key(service, DEFAULT_PROJECT, "a"),
            "a2": made_key(service, DEFAULT_PROJECT, "a"),
            "elsewhere": made_key(service, "elsewhere", "a"),
        }
        wait_for(service, *made.values())

        def upload(who: str, name: str) -> int:
            return service.http.post(UPLOAD + name, content=CSV, headers=bearing(made[who])).status_code

        assert [upload("a1", "one"), upload("a1", "two"), upload("a2", "three")] == [202, 429, 429]
        assert [upload("alone", "four"), upload("elsewhere", "one")] == [202, 202]


def test_an_idempotency_key_is_of_its_owner(start: Callable[..., Any]) -> None:
    with start() as service:
        first, second = made_key(service, DEFAULT_PROJECT), made_key(service, "elsewhere")
        wait_for(service, first, second)
        headers = [bearing(key) | {"Idempotency-Key": "k"} for key in (first, second, first)]
        answers = [service.http.post(f"{UPLOAD}d", content=CSV, headers=each) for each in headers]
        assert [answer.status_code for answer in answers] == [202] * 3, answers[-1].text
        one, two, again = (answer.json()["id"] for answer in answers)
        assert one == again != two
