"""What is fuzzed: the whole product with a worker of its own, a data set, a model with a version, and jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx

from gammabeta.schemas.keys import Scope
from tests.acceptance.stack import Stack, descendants, running, until
from tests.fuzzing.described import Way

NAME = "digits"
"""Of data set and model: that of the example in the description."""
QUEUED = "20"
"""Jobs that may wait: the fuzzing is faster than the worker, and meets a full queue, too."""


@dataclass(frozen=True, kw_only=True)
class Fuzzed:
    """The running product."""

    stack: Stack
    home: Path

    @property
    def url(self) -> str:
        return self.stack.url

    def ways(self) -> Iterator[Way]:
        """Open first: a key, once made, closes it for those without one."""
        self.stock()
        yield Way(name="no key made yet", is_open=True)
        scopes = [scope.value for scope in Scope]
        answer = self.stack.http.post("/v1/keys", json={"name": "fuzzing", "scopes": scopes})
        assert answer.status_code == 201, answer.text
        key = answer.json()["key"]
        self.stack.http.headers["Authorization"] = f"Bearer {key}"
        self.stock()
        yield Way(name="a key of all scopes", key=key)
        self.stock()
        yield Way(name="no key, though there are some")

    def stock(self) -> None:
        """The data set, if it was deleted, and a version of the model that is trained on it."""
        http = self.stack.http
        if http.get(f"/v1/datasets/{NAME}").status_code == 404:
            query = {"name": NAME, "format": "csv", "target": "y"}
            taken = until(lambda: _accepted(http.post("/v1/datasets", params=query, content=_table())), "the upload")
            assert self.stack.settled(taken)["state"] == "ready"
        job = {"dataset": NAME, "model": NAME, "network": {"preset": "mlp", "hidden": [4]}, "training": {"epochs": 1}}
        taken = until(lambda: _accepted(http.post("/v1/jobs", json=job | {"priority": 1_000})), "the job")
        assert self.stack.finished(taken)["status"] == "succeeded"

    def alive(self) -> bool:
        return self.stack.http.get("/readyz").status_code == 200

    def resident_mib(self) -> float:
        """Of the service alone."""
        (pid,) = (pid for pid, line in descendants(self.stack.process.pid).items() if line.split()[-1] == "service")
        (kib,) = (
            line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
        )
        return int(kib) / 1024

    def logged_errors(self) -> list[str]:
        """Lines of the log that say that something happened which nobody foresaw."""
        lines = self.home.with_suffix(".log").read_text().splitlines()
        return [line for line in lines if "unexpected error" in line or "Traceback" in line]


@contextmanager
def fuzzed(home: Path, **settings: str) -> Iterator[Fuzzed]:
    """The product, until the block ends."""
    with running(home, max_queued=QUEUED, **settings) as stack:
        yield Fuzzed(stack=stack, home=home)


def _accepted(answer: httpx.Response) -> str | None:
    """The id of what was made; None where the queue is full."""
    assert answer.status_code in (202, 429), answer.text
    return answer.json().get("id")


def _table() -> bytes:
    random = Random(0)
    rows = [(random.gauss(0, 1), random.gauss(0, 1)) for _ in range(80)]
    return ("a,b,y\n" + "".join(f"{a:.3f},{b:.3f},{'yes' if a + b > 0 else 'no'}\n" for a, b in rows)).encode()
