"""Load on a service of this machine: as fast as sixteen connections go (wrk), or at a given rate whatever comes back.

closed loop   wrk -t1 -c16      each connection sends when it was answered: how much is done
open loop     `at_rate`         requests come when they come, as from the world: what overload does
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from bench.peers import Body
from tests.lines import Line

SCRIPT = Path(__file__).with_name("reference") / "post.lua"
CONNECTIONS = 16


@dataclass(frozen=True, kw_only=True)
class Driven:
    """What wrk saw."""

    rate: float
    """Requests answered a second."""
    p50_ms: float
    p99_ms: float
    refused: int
    """Answers that were not 2xx or 3xx."""
    broken: int
    """Connections that broke, and time-outs."""


def driven(url: str, body: Body, folder: Path, *, seconds: float, connections: int = CONNECTIONS) -> Driven:
    """Drive an address for so long.

    Raises:
        RuntimeError: wrk failed.
    """
    content = folder / "body"
    content.write_bytes(body.content)
    headers = [f"{name}={value}" for name, value in body.headers.items()]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s", "-s", str(SCRIPT)]
    command += [url + body.path, "--", str(content), *headers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    if done.returncode or not last.startswith("RESULT "):
        raise RuntimeError(f"wrk must end with a result. Received: {done.returncode} {done.stdout} {done.stderr}")
    found = json.loads(last.removeprefix("RESULT "))
    return Driven(
        rate=(found["requests"] - found["refused"]) / found["seconds"],
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        refused=found["refused"],
        broken=found["broken"],
    )


@dataclass(kw_only=True)
class Offered:
    """What became of requests that came at a rate."""

    seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    """Latencies in seconds, from when a request was due."""
    refused: int = 0
    """Answered with 429."""
    broken: list[str] = field(default_factory=list)
    """Anything else."""

    @property
    def rate(self) -> float:
        return len(self.accepted) / self.seconds

    @property
    def p99(self) -> float:
        return float(np.quantile(self.accepted, 0.99)) if self.accepted else float("nan")


def at_rate(url: str, body: Body, *, rate: float, seconds: float) -> Offered:
    """Send so many requests a second, evenly, whatever comes back. A request waits for a connection as long as it must:
    that is a part of its latency, which counts from when it was due."""
    return asyncio.run(_at_rate(url, body, rate, seconds))


async def _at_rate(url: str, body: Body, rate: float, seconds: float) -> Offered:
    offered, address = Offered(), httpx.URL(url)
    lines: list[Line] = []
    pending: set[asyncio.Task[None]] = set()
    began = time.perf_counter()
    for number in range(round(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(_once(address, body, due, lines, offered))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    offered.seconds = time.perf_counter() - began
    for line in lines:
        line.close()
    return offered


async def _once(address: httpx.URL, body: Body, due: float, idle: list[Line], offered: Offered) -> None:
    line = idle.pop() if idle else Line(address)
    try:
        status, _ = await asyncio.wait_for(line.post(body.path, body.content, body.headers), 60)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        offered.broken.append(repr(error))
        line.close()
        return
    idle.append(line)
    if status == 200:
        offered.accepted.append(time.perf_counter() - due)
    elif status == 429:
        offered.refused += 1
    else:
        offered.broken.append(str(status))
