"""What the worker tells Prometheus: counted as it happens, by any thread, and written by a thread of its own.

    GAMMABETA_METRICS_PORT ─► listener ─► GET /metrics ─► text
                                 └─ ends with the worker

Labels are lanes, kinds of jobs and outcomes. `docs/operations.md` has the table, and a test that holds both together.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary

from gammabeta import exposition, logs

SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 4 * 3_600.0, 12 * 3_600.0, 86_400.0, 7 * 86_400.0)
"""The bounds of the histogram: attempts take from a second to days."""
PATIENCE_SECONDS = 10.0
"""How long a connection may say nothing."""
LOOK_SECONDS = 0.2
"""How soon the listener sees that it is to end."""

log = logs.get(__name__)


class Metrics:
    """Of one worker."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.slots = Gauge("gammabeta_worker_slots", "Slots.", ["lane"], registry=registry)
        self.running = Gauge("gammabeta_worker_running", "Attempts that run now.", ["kind"], registry=registry)
        self.claims = Counter("gammabeta_worker_claims", "Jobs that were claimed.", ["lane", "kind"], registry=registry)
        self.attempts = Histogram(
            "gammabeta_worker_attempt_seconds",
            "How long attempts took that ended.",
            ["kind", "outcome"],
            buckets=SECONDS,
            registry=registry,
        )
        self.steps = Counter(
            "gammabeta_worker_steps", "Steps of trainings, rows of predictions.", ["kind"], registry=registry
        )
        self.renewals_failed = Counter(
            "gammabeta_worker_lease_renewals_failed", "Heartbeats that were not written.", registry=registry
        )
        self.leases_lost = Counter("gammabeta_worker_leases_lost", "Attempts that lost the fence.", registry=registry)
        self.reaped = Counter("gammabeta_worker_reaped", "Attempts of any worker that were reaped.", registry=registry)
        self.checkpoints = Summary(
            "gammabeta_worker_checkpoint_seconds", "What it took to store checkpoints.", registry=registry
        )
        self.checkpoint_bytes = Counter(
            "gammabeta_worker_checkpoint_bytes", "Bytes of checkpoints that were stored.", registry=registry
        )
        ProcessCollector(registry=registry)


class _Server(ThreadingMixIn, TCPServer):
    """Not http.server's, which looks for the name of its own address and may wait long for it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, metrics: Metrics) -> None:
        self.metrics = metrics
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE_SECONDS
    server_version, sys_version = "gammabeta", ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, explain="Metrics are at /metrics.")
            return
        body, media_type = exposition.written(self.server.metrics.registry, self.headers.get("Accept"))
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape is no news."""


@contextmanager
def listening(metrics: Metrics, *, host: str, port: int | None) -> Iterator[None]:
    """Whoever asks is told, until the end of the block. `port`: None, nobody is; 0, any free one, which the log names.

    Raises:
        ValueError: the address cannot be had.
    """
    if port is None:
        yield
        return
    try:
        server = _Server(host.strip("[]"), port, metrics)
    except OSError as exc:
        raise ValueError(
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
