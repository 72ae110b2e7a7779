"""Metrics as text, in the form that whoever scrapes asks for, and a listener of their own. Only programs import this.

GAMMABETA_METRICS_PORT ─► listener, a thread ─► GET /metrics, a thread each ─► tell ─► text
                            └─ ends with its block
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn

from prometheus_client import exposition
from prometheus_client.registry import Collector

from gammabeta import logs

PATIENCE_SECONDS = 10.0
"""How long a connection may say nothing."""
LOOK_SECONDS = 0.2
"""How soon the listener sees that it is to end."""

Tell = Callable[[], Collector | None]
"""What there is to tell now; None: nothing yet. Any thread calls it."""

log = logs.get(__name__)


class CannotListen(ValueError):
    """The address cannot be had."""


def written(metrics: Collector, accept: str | None) -> tuple[bytes, str]:
    """The text, and its media type: OpenMetrics where `accept` names it, the text format of Prometheus elsewhere."""
    try:
        write, media_type = exposition.choose_encoder(accept or "")
    except TypeError:  # a version that is no number
        write, media_type = exposition.choose_encoder("")
    return write(metrics), media_type


@contextmanager
def listening(tell: Tell, *, host: str, port: int | None) -> Iterator[None]:
    """Whoever asks is told, until the end of the block. `port`: None, nobody is; 0, any free one, which the log names.

    Raises:
        CannotListen
    """
    if port is None:
        yield
        return
    try:
        server = _Server(host.strip("[]"), port, tell)
    except OSError as exc:
        raise CannotListen(
            "GAMMABETA_METRICS_HOST and GAMMABETA_METRICS_PORT must be an address that is free here. Received: "
            f"{host}, port {port}: {exc.strerror}."
        ) from exc
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(LOOK_SECONDS,), name="metrics", daemon=True)
        thread.start()
        log.info("metrics are told", host=host, port=server.server_address[1])
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingMixIn, TCPServer):
    """Not http.server's, which looks for the name of its own address and may wait long for it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, tell: Tell) -> None:
        self.tell = tell
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    @property
    def on_loopback(self) -> bool:
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - as it is called
        """Where the standard library prints a traceback, a line of the log."""
        log.warning("a scrape broke", who=str(client_address), exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE_SECONDS
    server_version, sys_version = "gammabeta", ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, explain="Metrics are at /metrics.")
            return
        if self.server.on_loopback and not _is_of_here(self.headers.get("Host", "")):
            self.send_error(400, explain="The Host must be an address or localhost.")
            return
        if (metrics := self.server.tell()) is None:
            self.send_error(503, explain="There is nothing to tell yet.")
            return
        body, media_type = written(metrics, self.headers.get("Accept"))
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape is no news."""


def _is_of_here(host: str) -> bool:
    """Whether who asks does so by an address. A page of another site, in a browser of this machine, comes by a name
    that its owner has bound to 127.0.0.1 meanwhile."""
    name, colon, port = host.rpartition(":")
    name = name if colon and port.isdecimal() else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower() == "localhost"
    return True
