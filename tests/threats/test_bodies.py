"""Rows 13 and 14: bodies, ranges and connections that are made to take the memory and the time of the service."""

from __future__ import annotations

import os
import select
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from gammabeta.cli.admin import free_port
from service.limits import limit_of
from service.settings import ServiceSettings
from tests.integration.service.conftest import eventually
from tests.integration.service.test_hostile_predictions import Program, _answers
from tests.integration.service.test_keys import GUARDED
from tests.threats.conftest import Stocked
from tests.threats.wire import announced, begun

ROOT = Path(__file__).parents[2]
MIB, GIB = 1 << 20, 1 << 30
LIMITS = {"MAX_UPLOAD_BYTES": 256 * MIB, "MAX_PREDICT_BYTES": 8 * MIB, "MAX_JSON_BYTES": MIB}
RANGE_SECONDS = 0.050


class Watched(Program):
    """The service as a process, with what it takes of the processors."""

    def seconds(self) -> float:
        """Of all its threads, by the clock of the scheduler."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


@pytest.fixture(scope="module")
def program(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    home = tmp_path_factory.mktemp("bodies")
    shutil.copy(migrated, home / "gammabeta.db")
    port = free_port("127.0.0.1", 0)
    settings = {f"GAMMABETA_{name}": str(value) for name, value in LIMITS.items()}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GAMMABETA_HOME": str(home), "GAMMABETA_PORT": str(port)}
    command = [sys.executable, "-P", "-m", "service"]
    with (home / "service.log").open("xb") as log:
        process = subprocess.Popen(command, env=environment | settings, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            eventually(lambda: process.poll() is not None or _answers(http), seconds=120)
            yield Watched(process, http)
    finally:
        process.terminate()
        process.wait(timeout=60)


BUFFERS = 16 * MIB
"""What may lie between the two programs."""


def _endless(program: Program, method: str, path: str, *, limit: int) -> tuple[int | None, int]:
    """Status, and how many bytes went of 10 GiB that come chunk by chunk, until there is an answer; or, so that no
    memory is filled where the control is broken, until far more went than may. None: the answer was lost when the
    service ended the connection over what it had not read."""
    sent, status, block = 0, None, b"%x\r\n" % MIB + b"[" * MIB + b"\r\n"
    with begun(program.http.base_url, method, path, "Transfer-Encoding: chunked") as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < min(10 * GIB, limit + 2 * BUFFERS) and not select.select([connection], [], [], 0)[0]:
                connection.sendall(block)
                sent += MIB
        connection.settimeout(10)
        with suppress(ConnectionResetError):
            status = int(connection.recv(4_096).split()[1])
    return status, sent


READING = [("POST", "/v1/jobs"), ("POST", "/v1/keys"), ("POST", "/v1/datasets?name=d&format=csv&target=y")]


@pytest.mark.parametrize(("method", "path"), READING)
def test_body_limits_constant_memory(program: Watched, method: str, path: str) -> None:
    program.http.get("/v1/jobs")
    program.forget_peak()
    before = program.memory("VmRSS")
    limit, _ = limit_of(method, path.partition("?")[0], ServiceSettings(**{k.lower(): v for k, v in LIMITS.items()}))
    status, sent = _endless(program, method, path, limit=limit)
    assert status in (413, None)
    assert sent <= limit + BUFFERS
    assert program.memory("VmHWM") - before <= 32 * MIB
    assert program.is_live()


@pytest.mark.parametrize(("method", "path"), READING)
def test_a_declared_length_over_the_limit_is_413_at_once(program: Watched, method: str, path: str) -> None:
    status, said = announced(program.http.base_url, method, path, f"Content-Length: {10 * GIB}")
    assert (status, said["code"]) == (413, "too_large")


@pytest.mark.parametrize(("method", "path", "_"), GUARDED, ids=[f"{method} {path}" for method, path, _ in GUARDED])
def test_each_route_has_a_limit_and_keeps_it(stocked: Stocked, method: str, path: str, _: Any) -> None:
    address = stocked.addressed(path)
    limit, _ = limit_of(method, address, stocked.service.settings)
    assert limit <= 64 * MIB or (method, path) == ("POST", "/v1/datasets")
    key = f"Authorization: Bearer {stocked.own}"
    status, _ = announced(stocked.service.http.base_url, method, address, key, f"Content-Length: {limit + 1}")
    assert status == 413


RANGES = [
    "bytes=0-1,5-6",
    "bytes=0-1,5-6, 9-9",
    "bytes=" + ",".join(f"{start}-" for start in range(4_000)),
    "bytes=" + ",".join("0-" for _ in range(10_000)),
    "bytes=" + "0-0," * 10_000,
    "bytes=" + ",".join(f"{start}-{start}" for start in range(0, 12_000, 2)),
    "bytes=" + "," * 30_000,
]


@pytest.mark.alone
@pytest.mark.parametrize("ranges", RANGES, ids=[each[:20] for each in RANGES])
@pytest.mark.parametrize("path", ["/ui/app.js"])
def test_cve_2025_62727_range(program: Watched, path: str, ranges: str) -> None:
    whole = program.http.get(path)
    taken = []
    for _ in range(3):  # the least of three: other threads of the process do a little of their own
        before = program.seconds()
        answer = program.http.get(path, headers={"Range": ranges})
        taken.append(program.seconds() - before)
    assert (answer.status_code, answer.content) == (200, whole.content)
    assert min(taken) <= RANGE_SECONDS


def test_one_range_is_given(program: Watched) -> None:
    answer = program.http.get("/ui/app.js", headers={"Range": "bytes=0-9"})
    assert (answer.status_code, len(answer.content)) == (206, 10)


@pytest.mark.alone
def test_500_half_open_connections_hold_nobody_up(program: Watched) -> None:
    port = program.http.base_url.port or 0
    with ExitStack() as stack:
        for _ in range(500):
            connection = stack.enter_context(begun(program.http.base_url, "POST", "/v1/jobs", "Content-Length: 9"))
            connection.sendall(b"{")
        for _ in range(500):
            stack.enter_context(socket.create_connection((program.http.base_url.host, port))).sendall(b"GET / HT")
        took: list[float] = []
        for _ in range(200):
            began = time.perf_counter()
            assert program.http.get("/healthz").status_code == 200
            took.append(time.perf_counter() - began)
    assert statistics.quantiles(took, n=100)[98] < 1
