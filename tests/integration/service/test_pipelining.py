"""Several requests at once on one connection, and a client that leaves, or goes mad, before the first is answered."""

from __future__ import annotations

import socket
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.integration.samples import submit
from tests.integration.service.conftest import Service, eventually


def connected(service: Service) -> socket.socket:
    address = urlsplit(service.url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=10)


def asking(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def received(connection: socket.socket, wanted: bytes | None = None) -> bytes:
    """All until these bytes; None: until the service closes."""
    found = b""
    while (wanted is None or wanted not in found) and (part := connection.recv(4_096)):
        found += part
    return found


def test_stream_before_another_request_ends_with_its_connection(service: Service) -> None:
    tailer = service.server.app.api.state.context.tailer
    job = submit(service.shelf.database)
    with closing(connected(service)) as connection:
        connection.sendall(asking(f"/v1/jobs/{job}/events", "Accept: text/event-stream") + asking("/healthz"))
        received(connection, b"retry: 1000")
        eventually(lambda: tailer.streams == 1)
    eventually(lambda: tailer.streams == 0)


def test_requests_before_one_that_is_no_http_leave_no_error(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        with closing(connected(service)) as connection:
            connection.sendall(asking("/v1/jobs") * 5 + b"\0 is no request\r\n\r\n")
            assert b"400 Bad Request" in received(connection)
    assert service.http.get("/healthz").status_code == 200
    assert [each.message for each in caplog.records if each.levelname == "ERROR"] == []
    assert "Invalid HTTP request received." in caplog.text
