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

from gammabeta.exposition import CannotListen, listening
from tests import metrics_page
from worker.metrics import Metrics


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
    with capture_logs() as lines, listening(lambda: metrics.registry, host=host, port=0):
        yield next(each["port"] for each in lines if each["event"] == "metrics are told")


def get(port: int, path: str = "/metrics", **headers: str) -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - the address stands here
        return answer.read().decode(), answer.headers["Content-Type"]


def test_names_types_and_labels_are_those_of_the_page() -> None:
    assert metrics_page.exposed(filled().registry.collect()) == metrics_page.rows("The worker")


def test_they_are_told_in_the_form_that_is_asked_for() -> None:
    with told(filled()) as port:
        text, kind = get(port)
        assert kind.startswith("text/plain; version=0.0.4")
        assert {family.name for family in plain(text)} > {"gammabeta_worker_claims"}
        text, kind = get(port, Accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text; version=1.0.0")
        claims = next(family for family in openmetrics(text) if family.name == "gammabeta_worker_claims")
        assert claims.samples[0].value == 2
        assert get(port, Accept="application/openmetrics-text; version=x")[1].startswith("text/plain")


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
    with listening(lambda: None, host="127.0.0.1", port=None):
        assert threading.active_count() == before


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"])
def test_an_address_that_cannot_be_had_is_named(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = re.escape(f"Received: {host}, port {port}")
        with pytest.raises(CannotListen, match=said), listening(lambda: None, host=host, port=port):
            pass


@pytest.mark.parametrize("host", ["evil.example:{port}", "evil.example", "127.0.0.1.evil.example:{port}", "", "::x"])
def test_a_page_of_another_site_whose_name_leads_here_is_told_nothing(host: str) -> None:
    with told(filled()) as port, pytest.raises(urllib.error.HTTPError, match="400"):
        get(port, Host=host.format(port=port))


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "10.0.0.7"])
def test_who_asks_by_an_address_is_told(host: str) -> None:
    with told(filled()) as port:
        assert get(port, Host=host.format(port=port))[0]


def test_on_an_address_that_others_reach_any_name_will_do() -> None:
    with told(filled(), host="0.0.0.0") as port:  # noqa: S104 - for a moment
        assert get(port, Host=f"worker.example:{port}")[0]


def test_where_there_is_nothing_to_tell_yet_it_says_so() -> None:
    structlog.reset_defaults()
    nothing = listening(lambda: None, host="127.0.0.1", port=0)
    with capture_logs() as lines, nothing, pytest.raises(urllib.error.HTTPError, match="503"):
        get(lines[0]["port"])


def test_a_scrape_that_breaks_is_a_line_of_the_log_and_the_next_one_is_told() -> None:
    structlog.reset_defaults()
    answers = (1 / 0 for _ in range(1))
    told = filled().registry
    with capture_logs() as lines, listening(lambda: next(answers, told), host="127.0.0.1", port=0):
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            get(lines[0]["port"])
        assert get(lines[0]["port"])[0]
    assert [each["event"] for each in lines] == ["metrics are told", "a scrape broke"]
