"""S3 as moto plays it: a server of its own process on this machine, and what goes wrong between it and its clients."""

from __future__ import annotations

import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import httpx
import pytest

BUCKET = "weights"
Server = TypeVar("Server", bound=ThreadingHTTPServer)


class S3:
    """A running server with a bucket in it. `environment`: what its clients need to know."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.environment = {
            "AWS_ACCESS_KEY_ID": "an-access-key-that-no-child-may-see",
            "AWS_SECRET_ACCESS_KEY": "a-secret-key-that-no-child-may-see",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "NO_PROXY": "127.0.0.1",
        }

    def address(self) -> str:
        """A place in the bucket that nobody else has."""
        return f"s3://{BUCKET}/{secrets.token_hex(6)}/deeper"


@contextmanager
def running_s3() -> Iterator[S3]:
    """On a port of loopback that was free."""
    command = [sys.executable, "-P", "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            endpoint = next(found[0] for line in process.stderr if (found := re.search(r"http://127[\d.:]+", line)))
            reader = threading.Thread(target=process.stderr.read)  # what it logs must go somewhere
            reader.start()
            with httpx.Client(trust_env=False) as http:
                assert http.put(f"{endpoint}/{BUCKET}").status_code == 200
            yield S3(endpoint)
        finally:
            process.terminate()
            process.wait(20)
    reader.join(20)


class Refusing(ThreadingHTTPServer):
    """A store that answers everything with the same status and code, and counts how often it was asked."""

    def __init__(self, status: int, code: str) -> None:
        self.asked = 0
        body = f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                server.asked += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - as the library asks for them

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refusing(status: int, code: str) -> AbstractContextManager[Refusing]:
    return serving(Refusing(status, code))


@contextmanager
def silent() -> Iterator[str]:
    """The endpoint of a store that takes every connection, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with running_s3() as server:
        yield server
