from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from jsonschema import Draft202012Validator

from service import failures, links, throttle
from service.__main__ import described
from service.app import create_app
from service.settings import ServiceSettings

SNAPSHOT = Path(__file__).parents[3] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return dict(json.loads(described()))


def test_the_snapshot_is_what_the_service_says(document: dict[str, Any]) -> None:
    assert json.loads(SNAPSHOT.read_text()) == document, (
        "docs/openapi.json must be what the service says of itself. "
        "Look at the difference, then run: python -P -m service openapi > docs/openapi.json"
    )


def test_bodies_that_routes_read_themselves_are_described(document: dict[str, Any]) -> None:
    for path, method in (("/v1/jobs", "post"), ("/v1/models/{name}/aliases/{alias}", "put")):
        schema = document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
        assert "$ref" in json.dumps(schema)
    assert "text/csv" in document["paths"]["/v1/datasets"]["post"]["requestBody"]["content"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for kind in ("schemas", "responses"):
        names = {part.split('"')[0] for part in text.split(f'"$ref": "#/components/{kind}/')[1:]}
        assert names <= set(document["components"][kind])


def test_every_operation_says_how_it_fails(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        name = "Inference" if path.startswith("/v2") else "Problem"
        for operation in operations.values():
            failing = {status: each for status, each in operation["responses"].items() if int(status) >= 400}
            assert {"400", "403"} <= failing.keys()
            assert "500" not in failing
            said = {each.get("$ref") for each in failing.values()}
            assert f"#/components/responses/{name}403" in said


def test_failures_are_said_in_the_form_of_their_protocol(document: dict[str, Any]) -> None:
    forms = {
        "Problem": ("application/problem+json", "#/components/schemas/Problem"),
        "Inference": ("application/json", "#/components/schemas/InferenceError"),
    }
    for name, response in document["components"]["responses"].items():
        ((media_type, content),) = response["content"].items()
        assert (media_type, content["schema"]["$ref"]) == forms[name[:-3]]


def test_what_says_a_status_by_hand_is_there(document: dict[str, Any]) -> None:
    names = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    assert names >= failures.MORE.keys() | links.SOURCES.keys()


def test_whoever_may_be_told_to_ask_less_often_is_told_so_before(document: dict[str, Any]) -> None:
    operations = {each["operationId"]: each for path in document["paths"].values() for each in path.values()}
    paced = {
        route.name
        for route in iter_route_contexts(create_app(ServiceSettings()).api.routes)
        if isinstance(route.original_route, APIRoute) and throttle.PACED in route.original_route.dependencies
    }
    assert len(paced) == 3
    assert [name for name in paced if "429" not in operations[name]["responses"]] == []


def test_links_lead_to_what_takes_the_id_that_an_answer_names(document: dict[str, Any]) -> None:
    accepted = document["paths"]["/v1/jobs"]["post"]["responses"]["202"]
    assert accepted["links"]["cancel_job"] == {
        "operationId": "cancel_job",
        "parameters": {"job_id": "$response.body#/id"},
    }
    assert "Location" in accepted["headers"]


def test_what_tells_a_kind_of_a_union_must_be_written(document: dict[str, Any]) -> None:
    job = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    check = Draft202012Validator({**job, "components": document["components"]})
    train = {"dataset": "d", "model": "m", "network": {"layers": [{"type": "dense", "units": 2}]}}
    assert check.is_valid(train)
    assert not check.is_valid({**train, "network": {"layers": [{"units": 2}]}})
    assert not check.is_valid({**train, "network": {"hidden": [2]}})
    assert not check.is_valid({"dataset": "d", "model": "m"})
    assert check.is_valid({"kind": "predict", "dataset": "d", "model": "m"})


def test_no_parameter_is_null(document: dict[str, Any]) -> None:
    parameters = [
        parameter
        for path in document["paths"].values()
        for operation in path.values()
        for parameter in operation.get("parameters", ())
    ]
    assert len(parameters) > 50
    assert not [each for each in parameters if "null" in json.dumps(each["schema"])]


def test_tensors_after_the_json_are_described_beside_it(document: dict[str, Any]) -> None:
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        operation = document["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
        assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}


def test_nothing_on_paper_is_shown(document: dict[str, Any]) -> None:
    assert not [path for path in document["paths"] if "paper" in path]
