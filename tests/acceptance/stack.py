"""The whole product as a user starts it: `gammabeta up` with a home of its own, spoken to over HTTP alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
PATIENCE = 120.0


def until(look: Callable[[], T | None], what: str, *, patience: float = PATIENCE) -> T:
    """Look again and again, until there is something to see."""
    deadline = time.monotonic() + patience
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience:g} s in vain for {what}")
        time.sleep(0.05)


@dataclass
class Stack:
    """A running `gammabeta up`."""

    home: Path
    process: subprocess.Popen[str]
    url: str
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def upload(self, body: bytes | Iterator[bytes], **query: Any) -> dict[str, Any]:
        """Upload a data set and wait until it is ready."""
        answer = self.http.post("/v1/datasets", params=query, content=body)
        assert answer.status_code == 202, answer.text
        return self.settled(answer.json()["id"])

    def settled(self, dataset: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self.http.get(f"/v1/datasets/{dataset}").json()
            return found if found["state"] != "validating" else None

        return until(look, f"data set {dataset}")

    def submit(self, **body: Any) -> str:
        answer = self.http.post("/v1/jobs", json={"kind": "train", **body})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/jobs/{job}").json()
        return found

    def finished(self, job: str, *, patience: float = 300.0) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.job(job)
            return found if found["status"] in ("succeeded", "failed", "cancelled") else None

        return until(look, f"job {job}", patience=patience)

    def predict(self, model: str, instances: Any, **query: Any) -> dict[str, Any]:
        answer = self.http.post(f"/v1/models/{model}/predict", params=query, json={"instances": instances})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def processes(self) -> dict[int, str]:
        """Every process below `up`, and what it was started as."""
        return descendants(self.process.pid)


def descendants(root: int) -> dict[int, str]:
    """Process id and command line of all below `root`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: dict[int, str] = {}
    for pid in parents:
        above, seen = pid, set()
        while above not in (0, root) and above not in seen:
            seen.add(above)
            above = parents.get(above, 0)
        if above == root and pid != root:
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return found


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def running(home: Path, **settings: str) -> Iterator[Stack]:
    """`gammabeta up` on a free port, until the block ends."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GAMMABETA_")}
    environment = inherited | {
        "GAMMABETA_HOME": str(home),
        "GAMMABETA_DEVICES": "cpu",  # some tests compare two trainings bit by bit
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    log = home.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gammabeta.cli", "up", "--port", "0"],
            env=environment | {f"GAMMABETA_{key.upper()}": value for key, value in settings.items()},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home.parent,
        )
    below: dict[int, str] = {}
    try:
        stack = Stack(home, process, until(lambda: _address(log, process), "the address that `up` prints"))
        with stack.http:
            yield stack
        below = stack.processes()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, f"`up` ended with {process.returncode}: {log.read_text()[-3000:]}"
    until(lambda: not [pid for pid in below if alive(pid)], "every process of `up` to end", patience=10)


def _address(log: Path, process: subprocess.Popen[str]) -> str | None:
    if process.poll() is not None:
        raise RuntimeError(f"`up` ended with {process.returncode}: {log.read_text()[-3000:]}")
    for word in log.read_text().split():
        if word.startswith("http://127.0.0.1:"):
            return word.rstrip(".,/")
    return None
