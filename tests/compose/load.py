"""Clients of the proxy: those that predict as fast as they are answered, and those that never finish a request."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import numpy as np

CLIENTS = 4


@dataclass
class Seen:
    """What the clients saw. Nobody sends anything a second time here: what is repeated is repeated by the proxy."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        return self.outcomes["200"]

    @property
    def failed(self) -> int:
        return self.outcomes.total() - self.answered

    def told(self) -> str:
        """In a line."""
        p50, p99 = np.quantile(self.seconds, [0.5, 0.99]) * 1_000
        others = {name: n for name, n in self.outcomes.items() if name != "200"}
        return (
            f"{self.answered:,} predictions answered, {self.failed} failed {others or ''}; "
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, the longest {max(self.seconds):.2f} s"
        )


@contextmanager
def predicting(url: str, key: str, *, model: str, rows: list[list[float]]) -> Iterator[Seen]:
    """Clients that predict for as long as the block lasts."""
    seen, ended = Seen(), threading.Event()

    def predict() -> None:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
            while not ended.is_set():
                begun = time.monotonic()
                try:
                    outcome = str(client.post(f"/v1/models/{model}/predict", json={"instances": rows}).status_code)
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                seen.seconds.append(time.monotonic() - begun)
                seen.outcomes[outcome] += 1

    clients = [threading.Thread(target=predict, daemon=True) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        ended.set()
        for client in clients:
            client.join()


@contextmanager
def half_open(url: str, n: int) -> Iterator[list[socket.socket]]:
    """`n` connections that have sent a part of their headers, and send nothing more."""
    address = urlsplit(url)
    with ExitStack() as opened:
        sockets = [
            opened.enter_context(socket.create_connection((str(address.hostname), address.port or 80), timeout=30))
            for _ in range(n)
        ]
        for each in sockets:
            each.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
        yield sockets


def closed(sockets: list[socket.socket]) -> int:
    """How many of them the other side has closed."""
    found = 0
    for each in sockets:
        each.setblocking(False)
        try:
            found += each.recv(1) == b""
        except BlockingIOError:
            continue
        except ConnectionResetError:
            found += 1
    return found
