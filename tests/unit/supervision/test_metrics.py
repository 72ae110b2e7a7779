"""The worker's metrics: what they are called, and the listener that tells them."""

from __future__ import annotations

import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from structlog.testing import capture_logs

from tests import metrics_page
from worker.metrics import Metrics, listening


def filled() -> Metrics:
    """With a sample of each family."""
    metrics = Metrics()
    metrics.slots.labels("train").inc()
    metrics.running.labels("train").inc()
    metrics.claims.labels("train", "train").inc(2)
    metrics.attempts.labels("train", "success").observe(61)
    metrics.steps.labels("train").inc(10)
    return metrics


@contextmanager
def told(metrics: Metrics, host: str = "127.0.0.1") -> Iterator[int]:
    """The port."""
    structlog.reset_defaults()
    with capture_logs() as lines, listening(metrics, host=host, port=0):
        yield next(each["port"] for each in lines if each["event"] == "metrics are told")


def get(port: int, path: str = "/metrics", accept: str = "*/*") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - the address stands here
        return answer.read().decode(), answer.headers["Content-Type"]


def test_names_types_and_labels_are_those_of_the_page() -> None:
    assert metrics_page.exposed(filled().registry.collect()) == metrics_page.rows("The worker")


def test_they_are_told_in_the_form_that_is_asked_for() -> None:
    with told(filled()) as port:
        text, kind = get(port)
        assert kind.startswith("text/plain; version=0.0.4")
        assert {family.name for family in plain(text)} > {"gammabeta_worker_claims"}
        text, kind = get(port, accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        claims = next(family for family in openmetrics(text) if family.name == "gammabeta_worker_claims")
        assert claims.samples[0].value == 2
        assert get(port, accept="application/openmetrics-text; version=x")[1].startswith("text/plain")


def test_nothing_else_is_there() -> None:
    with told(filled()) as port:
        for path in ("/", "/metrics/", "/../etc/passwd"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(port, path)


def test_the_listener_ends_with_its_block_whoever_is_connected() -> None:
    before = threading.active_count()
    with told(filled()) as port:
        idle = socket.create_connection(("127.0.0.1", port))
        assert get(port)[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    idle.close()
    assert "metrics" not in [each.name for each in threading.enumerate()]
    assert threading.active_count() <= before + 2  # those of connections end by themselves


def test_without_a_port_nobody_listens() -> None:
    before = threading.active_count()
    with listening(Metrics(), host="127.0.0.1", port=None):
        assert threading.active_count() == before


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"])
def test_an_address_that_cannot_be_had_is_named(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = re.escape(f"Received: {host}, port {port}")
        with pytest.raises(ValueError, match=said), listening(Metrics(), host=host, port=port):
            pass
