"""A batcher with a network that answers when a test lets it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.runtime.batching import STRAIGHT_SECONDS, Batcher, Limits
from service.runtime.costs import HERE_SECONDS, Cost, Rows, Scores
from service.runtime.counting import Statistics
from service.runtime.lines import Line

SLOW, MIDDLING, FREE = Cost(1.0, 0.0), Cost((STRAIGHT_SECONDS + HERE_SECONDS) / 2, 0.0), Cost(0.0, 0.0)
POISON = -1.0


@dataclass
class Net:
    """Twice its rows, as soon as the gate is open. It remembers the batches that it was given."""

    gate: threading.Event = field(default_factory=threading.Event)
    pause: float = 0.0
    """Seconds that each batch takes at least."""
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    batches: list[int] = field(default_factory=list)

    def __call__(self, x: Rows) -> Scores:
        self.batches.append(len(x))
        self.entered.release()
        assert self.gate.wait(10)
        time.sleep(self.pause)
        if (x == POISON).any():
            raise RuntimeError("poisoned")
        with np.errstate(over="ignore"):
            return (2 * x[:, 0]).astype(np.float32)


@dataclass
class Desk:
    """A batcher of one thread, a net, and its line."""

    batcher: Batcher
    net: Net
    line: Line

    def ask(self, *values: float) -> asyncio.Task[Scores]:
        return asyncio.create_task(self.batcher.scores(self.line, rows(*values)))

    async def occupy(self) -> asyncio.Task[Scores]:
        """A request in the only thread, which stays there until the gate opens."""
        task = self.ask(0.5)
        await asyncio.to_thread(self.net.entered.acquire, timeout=10)
        return task


def rows(*values: float) -> Rows:
    return np.array(values, dtype=np.float64)[:, None]


@contextmanager
def desk(
    cost: Cost = SLOW, *, workers: int = 1, gate: bool = False, pause: float = 0.0, **limits: Any
) -> Iterator[Desk]:
    net = Net(pause=pause)
    if gate:
        net.gate.set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            chosen = Limits(**{"queued_seconds": 1_000.0} | limits)
            yield Desk(Batcher(pool, workers=workers, limits=chosen), net, Line(net, cost, Statistics()))
        finally:
            net.gate.set()


def run(scene: Callable[[Desk], Awaitable[None]], cost: Cost = SLOW, **limits: Any) -> Desk:
    with desk(cost, **limits) as opened:
        asyncio.run(scene(opened))  # type: ignore[arg-type]
    return opened


async def turns() -> None:
    """Until all that could happen without the threads has happened."""
    for _ in range(5):
        await asyncio.sleep(0)
