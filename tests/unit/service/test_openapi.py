from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import described

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
    names = {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    assert names <= set(document["components"]["schemas"])


def test_every_operation_says_how_it_fails(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        form = (
            ("application/json", "InferenceError")
            if path.startswith("/v2")
            else ("application/problem+json", "Problem")
        )
        for operation in operations.values():
            content = operation["responses"]["default"]["content"]
            assert {(kind, each["schema"]["$ref"].rpartition("/")[2]) for kind, each in content.items()} == {form}


def test_tensors_after_the_json_are_described_beside_it(document: dict[str, Any]) -> None:
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        operation = document["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
        assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}


def test_nothing_on_paper_is_shown(document: dict[str, Any]) -> None:
    assert not [path for path in document["paths"] if "paper" in path]
