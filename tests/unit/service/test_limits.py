from __future__ import annotations

from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gammabeta.errors import TooLarge
from service import problems
from service.limits import BodyLimits, limit_of
from service.settings import ServiceSettings
from tests.unit.service.asgi import request

SETTINGS = ServiceSettings(home=Path("/nowhere"), max_json_bytes=10, max_predict_bytes=20, max_upload_bytes=30)


class Reader:
    """Counts what it was given, and answers as the service does."""

    def __init__(self) -> None:
        self.read = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async for chunk in Request(scope, receive).stream():
                self.read += len(chunk)
            response = Response()
        except TooLarge as error:
            response = problems.of(error)
        await response(scope, receive, send)


@pytest.mark.parametrize(
    ("method", "path", "limit"),
    [
        ("POST", "/v1/jobs", 10),
        ("GET", "/v1/datasets", 10),
        ("PUT", "/v1/models/m/aliases/a", 10),
        ("POST", "/v1/models/m/predict", 20),
        ("POST", "/v2/models/m/infer", 20),
        ("POST", "/v2/models/m/versions/1/infer", 20),
        ("POST", "/v2/repository/index", 10),
        ("POST", "/v1/datasets", 30),
    ],
)
def test_each_route_has_its_limit(method: str, path: str, limit: int) -> None:
    assert limit_of(method, path, SETTINGS)[0] == limit


def test_a_declared_length_over_the_limit_is_refused_before_a_byte_is_read() -> None:
    reader = Reader()
    sent = request(BodyLimits(reader, SETTINGS), "POST", headers={"Content-Length": "11"}, chunks=[b"x" * 11])
    assert (sent.status, sent.json["code"], reader.read) == (413, "too_large", 0)
    assert "10 bytes" in sent.json["detail"]
    assert "11" in sent.json["detail"]


def test_a_body_without_a_length_is_counted() -> None:
    reader = Reader()
    sent = request(BodyLimits(reader, SETTINGS), "POST", chunks=[b"x" * 4] * 1_000_000)
    assert (sent.status, reader.read) == (413, 8)


def test_a_body_longer_than_it_declared_is_counted() -> None:
    sent = request(BodyLimits(Reader(), SETTINGS), "POST", headers={"Content-Length": "3"}, chunks=[b"x" * 11])
    assert sent.status == 413


def test_after_a_refusal_the_connection_ends() -> None:
    for headers in ({"Content-Length": "11"}, {}):
        sent = request(BodyLimits(Reader(), SETTINGS), "POST", headers=headers, chunks=[b"x" * 11])
        assert sent.headers["connection"] == "close"


@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_refusal_before_the_body_is_read_ends_the_connection(status: int) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=status)(scope, receive, send)

    app = BodyLimits(refuse, SETTINGS)
    for headers in ({"Content-Length": "10"}, {"Transfer-Encoding": "chunked"}):
        assert request(app, "POST", headers=headers, chunks=[b"x" * 10]).headers["connection"] == "close"
    for headers in ({}, {"Content-Length": "0"}):
        assert "connection" not in request(app, "POST", headers=headers).headers


def test_a_body_at_the_limit_passes() -> None:
    reader = Reader()
    sent = request(BodyLimits(reader, SETTINGS), "POST", headers={"Content-Length": "10"}, chunks=[b"x" * 10])
    assert (sent.status, reader.read) == (200, 10)


@pytest.mark.parametrize("length", ["-1", "ten", "1e3", "²", "9" * 5_000])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    sent = request(BodyLimits(Reader(), SETTINGS), "POST", headers={"Content-Length": length})
    assert sent.status == 400
