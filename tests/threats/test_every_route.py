"""Rows 9 and 12: each route of the description without a key, with the wrong scope, and of another owner; none missing.

All cases are made of the OpenAPI document, which `test_the_description_has_every_route_there_is` holds against the
router. What a route can be asked by, and what of that names something, has to be said in the tables below: a new route,
parameter or field that is not there fails a test.
"""

from __future__ import annotations

from typing import Any

import pytest

from gammabeta.schemas.keys import Scope
from service import access
from tests.integration.service.test_keys import DOCUMENT, GUARDED, OPERATIONS
from tests.threats.conftest import ROWS, Stocked

IDS = [f"{method} {path}" for method, path, _ in GUARDED]
Operation = dict[str, Any]

NAMING: dict[str, str] = {
    "dataset": "dataset",
    "of": "dataset",
    "job_id": "job_id",
    "name": "name",
    "version": "version",
    "alias": "alias",
    "file": "file",
    "key": "key",
    "model": "name",
    "after": "job_id",
}
"""Parameters and fields of bodies that name something that somebody has, and what there is of the kind."""
SILENT = set(
    "format target categorical ignore test_fraction seed split idempotency-key limit order rows dry_run status kind "
    "names max_points last-event-id range if-none-match".split()
)
"""Parameters that name nothing of anybody."""
SILENT_FIELDS = set(
    "kind network preprocessing training resources priority max_seconds metadata split format scopes expires owner "
    "instances id parameters inputs outputs ready".split()
)
BODIES: dict[str, Any] = {
    "set_alias": {"version": "1"},
    "predict": ROWS,
    "infer": {"inputs": [{"name": "age", "datatype": "FP32", "shape": [1], "data": [40]}]},
    "infer_of_version": {"inputs": [{"name": "age", "datatype": "FP32", "shape": [1], "data": [40]}]},
    "submit_job": {"dataset": "people", "model": "income", "network": {"preset": "mlp"}},
    "create_key": {},
    **dict.fromkeys(("repository_index", "load_model", "unload_model")),
}
"""With the names that `stocked` has; `upload_dataset` reads a file."""
TELLING = {"GET /v1/datasets", "GET /v1/jobs", "GET /v1/models", "GET /v1/keys", "POST /v2/repository/index"}
"""Routes without a name in their address that tell of names, as far as the asker's project has them."""
CREATING = {"upload_dataset", "create_key"}
MISSING = {"dataset_not_found", "job_not_found", "model_not_found", "key_not_found"}


def parameters(operation: Operation) -> set[str]:
    return {each["name"] for each in operation.get("parameters", [])}


def fields(operation: Operation) -> set[str]:
    """Of the JSON body, at its top."""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    return _properties(body["schema"]) if body else set()


def _properties(schema: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    branches = [*schema.get("anyOf", []), *schema.get("oneOf", [])]
    return set(schema.get("properties", {})).union(*map(_properties, branches))


def test_every_route_is_guarded_or_known_to_be_open() -> None:
    assert {path for _, path, _ in OPERATIONS} - {path for _, path, _ in GUARDED} <= access.OPEN
    assert len(GUARDED) > 40


@pytest.mark.parametrize(("method", "path", "operation"), GUARDED, ids=IDS)
def test_each_parameter_and_field_is_known_to_name_something_or_not(
    method: str, path: str, operation: Operation
) -> None:
    assert parameters(operation) - set(NAMING) - SILENT == set(), "say in NAMING or SILENT what it names"
    assert fields(operation) - set(NAMING) - SILENT_FIELDS == set(), "say in NAMING or SILENT_FIELDS what it names"
    if "requestBody" in operation:
        assert operation["operationId"] in {*BODIES, "upload_dataset"}, "say in BODIES what it may be sent"


@pytest.mark.parametrize(("method", "path", "operation"), GUARDED, ids=IDS)
def test_no_route_answers_without_a_key(stocked: Stocked, method: str, path: str, operation: Operation) -> None:
    body = BODIES.get(operation["operationId"])
    answer = stocked.service.http.request(method, stocked.addressed(path), json=body)
    assert answer.status_code == 401


@pytest.mark.parametrize(("method", "path", "operation"), GUARDED, ids=IDS)
def test_no_route_answers_a_key_of_another_scope(
    stocked: Stocked, method: str, path: str, operation: Operation
) -> None:
    enough = {scope for each in operation["security"] for scope in each["key"]}
    assert enough < {scope.value for scope in Scope}
    for scope, key in stocked.scoped.items():
        if scope not in enough:
            body = BODIES.get(operation["operationId"])
            answer = stocked.ask(method, stocked.addressed(path), key, json=body)
            assert answer.status_code == 403, f"with {scope}: {answer.text[:200]}"


@pytest.mark.parametrize(("method", "path", "operation"), GUARDED, ids=IDS)
def test_no_route_tells_another_project_or_does_for_it_what_it_would_for_its_own(
    stocked: Stocked, method: str, path: str, operation: Operation
) -> None:
    if operation["operationId"] in CREATING:
        return  # what the first make is the asker's own; what they name is below
    body = BODIES.get(operation["operationId"])
    answer = stocked.ask(method, stocked.addressed(path), stocked.foreign, json=body)
    if "{" in path or operation["operationId"] == "submit_job":
        assert answer.status_code == 404, answer.text[:200]
        assert path.startswith("/v2") or answer.json()["code"] in MISSING
    else:
        secret = [stocked.ids[each] for each in ("dataset", "job_id", "key")] + ["people", "income"]
        assert answer.status_code == 200
        assert [each for each in secret if each in answer.text] == []
        own = stocked.ask(method, path, json=body).text
        assert any(each in own for each in secret) or f"{method} {path}" not in TELLING


NAMED_IN_QUERIES = [
    (method, path, operation, name)
    for method, path, operation in GUARDED
    for each in operation.get("parameters", [])
    if (name := each["name"]) in NAMING and each["in"] == "query" and operation["operationId"] != "upload_dataset"
]


@pytest.mark.parametrize(
    ("method", "path", "operation", "name"),
    NAMED_IN_QUERIES,
    ids=[f"{method} {path} {name}" for method, path, _, name in NAMED_IN_QUERIES],
)
def test_no_parameter_reaches_what_another_project_has(
    stocked: Stocked, method: str, path: str, operation: Operation, name: str
) -> None:
    body = BODIES.get(operation["operationId"])
    query = {name: "1" if path.endswith("/events") else stocked.ids[NAMING[name]]}
    answer = stocked.ask(method, stocked.addressed(path), stocked.foreign, params=query, json=body)
    assert answer.status_code == (404 if "{" in path else 200)
    assert answer.status_code == 404 or answer.json()["data"] == []


NETWORK = {"network": {"preset": "mlp"}, "training": {"batch_size": 4}}
FOREIGN_BODIES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/jobs", {"dataset": "people", "model": "mine", **NETWORK}),
    ("POST", "/v1/jobs?dry_run=true", {"dataset": "people", "model": "mine", **NETWORK}),
    ("POST", "/v1/jobs", {"kind": "predict", "dataset": "people", "model": "income"}),
    ("POST", "/v1/jobs", {"kind": "predict", "dataset": "people", "model": "income", "alias": "best"}),
]


@pytest.mark.parametrize(("method", "path", "body"), FOREIGN_BODIES)
def test_no_body_reaches_what_another_project_has(
    stocked: Stocked, method: str, path: str, body: dict[str, Any]
) -> None:
    answer = stocked.ask(method, path, stocked.foreign, json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "dataset_not_found")
    assert stocked.ask(method, path.partition("?")[0] + "?dry_run=true", json=body).status_code == 200


def test_no_second_file_joins_what_another_project_has(stocked: Stocked) -> None:
    query = {"format": "csv", "split": "test", "of": "people"}
    answer = stocked.ask("POST", "/v1/datasets", stocked.foreign, params=query, content=b"a,y\n1,2\n")
    assert (answer.status_code, answer.json()["code"]) == (404, "dataset_not_found")


def test_after_all_that_everything_is_as_it_was(stocked: Stocked) -> None:
    for method, path, operation in GUARDED:
        if "{" in path:
            stocked.ask(method, stocked.addressed(path), stocked.foreign, json=BODIES.get(operation["operationId"]))
    assert stocked.ask("GET", f"/v1/jobs/{stocked.ids['job_id']}").json()["status"] == "queued"
    assert stocked.ask("GET", "/v1/datasets/people").json()["splits"] == {"train": 20}
    assert stocked.ask("GET", "/v1/models/income").json()["aliases"] == {"best": "1"}
    assert stocked.ask("GET", "/v1/keys").json()["data"][0]["state"] == "active"
