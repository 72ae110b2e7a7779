"""Row 3: each route that reads a body takes a closed set of media types, and no other route reads one at all."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.integration.service.test_keys import GUARDED
from tests.threats.conftest import Stocked
from tests.threats.test_every_route import BODIES
from tests.threats.wire import announced

READING = [each for each in GUARDED if "requestBody" in each[2]]
OTHERS = [each for each in GUARDED if "requestBody" not in each[2]]
TYPES = ["application", "text", "image", "multipart", "message", "model", "font", "audio", "video", "x-unknown"]
SUBTYPES = (
    "vnd.bentoml+pickle pickle x-pickle python-pickle joblib x-joblib vnd.pytorch x-pytorch x-hdf5 x-keras "
    "x-protobuf msgpack x-yaml xml soap+xml form-data x-java-serialized-object mixed x-python-serialize *"
).split()


def foreign(operation: dict[str, Any]) -> list[str]:
    """200 media types that the route does not name."""
    taken = set(operation["requestBody"]["content"])
    made = [f"{kind}/{each}" for kind, each in itertools.product(TYPES, SUBTYPES)]
    assert len(made) == 200
    assert not taken & set(made)
    return made


@pytest.mark.parametrize(
    ("method", "path", "operation"), READING, ids=[f"{method} {path}" for method, path, _ in READING]
)
def test_cve_2025_27520_media_types(stocked: Stocked, method: str, path: str, operation: dict[str, Any]) -> None:
    body = BODIES.get(operation["operationId"])
    upload = {"name": "d", "format": "csv", "target": "y"} if operation["operationId"] == "upload_dataset" else None
    for media_type in foreign(operation):
        headers = {"Content-Type": media_type}
        content: dict[str, Any] = {"json": body} if body is not None else {"content": b"{}"}
        answer = stocked.ask(method, stocked.addressed(path), headers=headers, params=upload, **content)
        assert answer.status_code == 415, f"{media_type}: {answer.status_code} {answer.text[:200]}"


@pytest.mark.parametrize("method_path", [f"{method} {path}" for method, path, _ in OTHERS])
def test_a_route_without_a_body_does_not_read_one(stocked: Stocked, method_path: str) -> None:
    """It answers while nothing of the body that was announced has come."""
    method, path = method_path.split()
    key = f"Authorization: Bearer {stocked.foreign}"
    headers = (key, "Content-Type: application/x-pickle", "Content-Length: 10")
    status, _ = announced(stocked.service.http.base_url, method, stocked.addressed(path), *headers)
    assert status in (200, 404)
