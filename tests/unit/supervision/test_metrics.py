"""The worker's metrics: what they are called, the listener that tells them, and the memory of GPUs."""

from __future__ import annotations

import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.registry import Collector
from structlog.testing import capture_logs

from gammabeta.exposition import CannotListen, listening
from tests import metrics_page
from worker.gpus import GpuMemory, Memory, Unreadable
from worker.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class FakeGpu:
    """A GPU of a machine that has none."""

    uuid: str
    used: int = 0

    def memory(self) -> Memory:
        if self.used < 0:
            raise Unreadable("GPU is lost")
        return Memory(used=self.used, total=100)


FOUR = tuple(FakeGpu(uuid=f"GPU-{letter}{letter}", used=number) for number, letter in enumerate("abcd"))


def memory_of(gpus: Collector) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["device"], sample.labels["kind"]): sample.value
        for family in gpus.collect()
        for sample in family.samples
    }


def filled() -> Metrics:
    """With a sample of each family."""
    metrics = Metrics()
    metrics.slots.labels("train").inc()
    metrics.running.labels("train").inc()
    metrics.claims.labels("train", "train").inc(2)
    metrics.attempts.labels("train", "success").observe(61)
    metrics.steps.labels("train").inc(10)
    metrics.registry.register(GpuMemory(["cuda:0"], visible=None, present=lambda: FOUR))
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


@pytest.mark.parametrize(
    ("visible", "used"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        (" 3 , 1 ", [3, 1]),
        ("GPU-dd,GPU-b", [3, 1]),
        ("1,9,2", [1]),
        ("1,-1,2", [1]),
        ("", []),
    ],
)
def test_gpus_are_numbered_as_cuda_numbers_them(visible: str | None, used: list[int]) -> None:
    names = [f"cuda:{number}" for number in range(len(used))]
    found = memory_of(GpuMemory(names, visible=visible, present=lambda: FOUR))
    assert [found[name, "used"] for name in names] == used
    assert all(found[name, "total"] == 100 for name in names)


@pytest.mark.parametrize(
    ("names", "present"),
    [
        (["cuda:0", "cuda:4"], FOUR),
        (["cuda:x"], FOUR),
        (["cuda:0"], ()),
        (["cuda:0", "cuda:1"], (FOUR[0], FakeGpu(uuid="GPU-x", used=-1))),
    ],
)
def test_gpus_that_cannot_be_read_are_left_out_and_logged_once(names: list[str], present: tuple[FakeGpu, ...]) -> None:
    structlog.reset_defaults()
    metrics = Metrics()
    metrics.registry.register(GpuMemory(names, visible=None, present=lambda: present))
    with capture_logs() as lines:
        families = [[each.name for each in metrics.registry.collect()] for _ in range(3)]
    assert all(
        "gammabeta_worker_slots" in each and "gammabeta_worker_gpu_memory_bytes" not in each for each in families
    )
    assert [each["event"] for each in lines] == ["the memory of GPUs is not told"]


def test_gpus_that_can_be_read_again_are_told_again_and_their_next_fault_too() -> None:
    structlog.reset_defaults()
    present: list[FakeGpu] = []
    gpus = GpuMemory(["cuda:0"], visible=None, present=lambda: present)
    with capture_logs() as lines:
        assert memory_of(gpus) == {}
        present.append(FOUR[3])
        assert memory_of(gpus) == {("cuda:0", "used"): 3, ("cuda:0", "total"): 100}
        present.clear()
        assert memory_of(gpus) == {}
    assert len(lines) == 2


def test_a_worker_on_a_cpu_has_no_gpus_to_tell_of() -> None:
    on_cpu = Metrics()
    on_cpu.watch_gpus(["cpu", "cpu"])
    assert "gpu" not in generate_latest(on_cpu.registry).decode()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_without_the_library_of_the_driver_everything_else_is_told() -> None:
    structlog.reset_defaults()
    metrics = Metrics()
    metrics.watch_gpus(["cuda:1", "cuda:0", "cuda:0"])
    with capture_logs() as lines:
        text = generate_latest(metrics.registry).decode()
    assert "gammabeta_worker_slots" in text
    assert "gpu" not in text
    assert [each["why"] for each in lines] == ["NVML Shared Library Not Found"]


@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="this machine has no GPU")
def test_the_memory_of_a_real_gpu_is_told() -> None:
    metrics = Metrics()
    metrics.watch_gpus(["cuda:0"])
    used, total = (
        metrics.registry.get_sample_value("gammabeta_worker_gpu_memory_bytes", {"device": "cuda:0", "kind": kind})
        for kind in ("used", "total")
    )
    assert used is not None
    assert total is not None
    assert 0 < used < total
