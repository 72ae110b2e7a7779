"""Requests as no client would send them: a head, and of the body as much as one likes."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx


def begun(url: httpx.URL, method: str, path: str, *headers: str) -> socket.socket:
    """A connection over which the head of a request has gone."""
    assert url.port is not None
    connection = socket.create_connection((url.host, url.port), timeout=60)
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def announced(url: httpx.URL, method: str, path: str, *headers: str) -> tuple[int, Any]:
    """Status and JSON of what is answered to a head alone; of a service that keeps the connection, the first lines."""
    with begun(url, method, path, "Connection: close", *headers) as connection:
        received = connection.recv(65_536)
        while received.endswith(b"\r\n\r\n") and (more := connection.recv(65_536)):
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    is_json = b"json" in head
    return int(head.split()[1]), json.loads(body) if is_json and body else None
