"""Clients that begin a request and take their time over its body: 408, and the connection ends."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from typing import Any

import pytest

from gammabeta.schemas.preprocessing import FittedArray
from tests.integration.service.conftest import Service

SECONDS = 0.3
PREDICT, INFER, JOBS = "/v1/models/flat/predict", "/v2/models/flat/infer", "/v1/jobs"
UPLOAD = "/v1/datasets?name=rows&format=csv&target=y"
LENGTH = "Content-Length: 100000"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def impatient(start: Callable[..., Any]) -> Iterator[Service]:
    """A service whose bodies must come quickly, and a model that reads arrays of 4 numbers."""
    with start(body_seconds=SECONDS) as service:
        service.shelf.version("flat", preprocessing=FittedArray(shape=(4,)))
        yield service


def begun(service: Service, path: str, framing: str) -> socket.socket:
    """A connection over which the headers of a request have gone."""
    port = service.http.base_url.port
    assert port is not None
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{framing}\r\n\r\n".encode())
    return connection


def answered(connection: socket.socket) -> tuple[int, Any]:
    """Status and JSON of the answer, after which the service must have ended the connection."""
    received = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
@pytest.mark.parametrize("path", [PREDICT, INFER, JOBS, UPLOAD])
@pytest.mark.parametrize("beginning", [b"", b'1\r\n{\r\n2\r\n"a\r\n'])
def test_a_body_that_stalls_is_408(impatient: Service, path: str, framing: str, beginning: bytes) -> None:
    with begun(impatient, path, framing) as connection:
        connection.sendall(beginning)
        status, said = answered(connection)
    assert status == 408
    if path == INFER:
        assert "The body must arrive within 0.3 s" in said["error"]
    else:
        assert said["code"] == "too_slow"
        assert ("must never pause" if path == UPLOAD else "must arrive within") in said["detail"]


@pytest.mark.parametrize("path", [PREDICT, INFER, JOBS])
def test_a_body_that_trickles_is_408(impatient: Service, path: str) -> None:
    """A byte every few milliseconds, so that there is no pause at all, until there is an answer."""
    with begun(impatient, path, LENGTH) as connection:
        while not select.select([connection], [], [], SECONDS / 30)[0]:
            connection.sendall(b" ")
        status, _ = answered(connection)
    assert status == 408


def test_an_upload_that_stalls_leaves_nothing_behind(impatient: Service) -> None:
    with begun(impatient, UPLOAD, LENGTH) as connection:
        connection.sendall(b"a,y\n1,u\n")
        assert answered(connection)[0] == 408
    assert impatient.http.get("/v1/datasets/rows").status_code == 404
    assert list((impatient.shelf.blobs.root / "uploads").iterdir()) == []


def test_a_body_in_pieces_and_the_next_request_of_its_connection_are_answered(service: Service) -> None:
    service.shelf.version("flat", preprocessing=FittedArray(shape=(4,)))
    rows = json.dumps({"instances": [[1, 2, 3, 4]]}).encode()
    with begun(service, PREDICT, f"Content-Length: {len(rows)}") as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(rows)):
            connection.sendall(rows[place : place + 1])
        assert _next_status(connection) == 200
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert _next_status(connection) == 200


def _next_status(connection: socket.socket) -> int:
    with HTTPResponse(connection) as answer:
        answer.begin()
        answer.read()
        return answer.status
