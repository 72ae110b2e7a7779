"""Events of jobs as a stream. One task per process asks the database, for all streams at once.

    job_events ──Tailer, every 250 ms──► Subscription (one per stream) ──► text/event-stream

Each subscription has a cursor of its own and takes every event behind it by this one way, so that nothing is lost or
doubled between what was there before and what comes. Events of one job get their ids under the lock of its row: a
larger id is never visible before a smaller one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio.to_thread

from gammabeta import logs
from gammabeta.errors import NotReady
from gammabeta.schemas.jobs import TERMINAL, Event

Fetch: TypeAlias = Callable[[dict[str, int]], list[Event]]
"""The events of each job behind its cursor, in order, some of them at a time."""

log = logs.get(__name__)


@dataclass(eq=False)
class Subscription:
    """One reader of the events of one job."""

    job_id: str
    cursor: int
    _batches: asyncio.Queue[list[Event]] = field(default_factory=lambda: asyncio.Queue(maxsize=8))

    def offer(self, events: list[Event]) -> None:
        """Take what is new. A reader that lags does not take any, and is offered the same again."""
        new = [event for event in events if event.id > self.cursor]
        if new and not self._batches.full():
            self._batches.put_nowait(new)
            self.cursor = new[-1].id

    def wake(self) -> None:
        """Let a reader that waits look up."""
        if self._batches.empty():
            self._batches.put_nowait([])

    async def batch(self, *, patience: float) -> list[Event]:
        """The next events; none when there were none for so many seconds."""
        try:
            return await asyncio.wait_for(self._batches.get(), patience)
        except TimeoutError:
            return []


class Tailer:
    """Asks for the events of all jobs that someone follows."""

    def __init__(self, fetch: Fetch, *, every: float) -> None:
        self._fetch, self._every = fetch, every
        self._subscriptions: set[Subscription] = set()
        self._threads = anyio.CapacityLimiter(1)
        self._someone = asyncio.Event()
        self.stopped = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._someone.wait()
            try:
                await self._poll()
            except NotReady as error:
                log.warning("events not read, trying again", error=error.message)
            await asyncio.sleep(self._every)

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._subscriptions)

    def stop(self) -> None:
        """End every stream, so that the service can stop without waiting for its followers."""
        self.stopped = True
        self.look_up()

    def look_up(self) -> None:
        """Let every stream look whether it may go on."""
        for each in self._subscriptions:
            each.wake()

    @contextmanager
    def subscribed(self, job_id: str, after: int) -> Iterator[Subscription]:
        """Follow a job from behind the event `after`."""
        subscription = Subscription(job_id, after)
        self._subscriptions.add(subscription)
        self._someone.set()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            if not self._subscriptions:
                self._someone.clear()

    async def _poll(self) -> None:
        cursors: dict[str, int] = {}
        for each in self._subscriptions:
            cursors[each.job_id] = min(each.cursor, cursors.get(each.job_id, each.cursor))
        events = await anyio.to_thread.run_sync(self._fetch, cursors, limiter=self._threads)
        of_job: dict[str, list[Event]] = {}
        for event in events:
            of_job.setdefault(event.job, []).append(event)
        for each in self._subscriptions:
            each.offer(of_job.get(each.job_id, []))


async def always() -> bool:
    """Of a job that nobody deletes."""
    return True


async def stream(
    tailer: Tailer,
    job_id: str,
    *,
    after: int,
    heartbeat: float,
    allowed: Callable[[], bool] = lambda: True,
    there: Callable[[], Awaitable[bool]] = always,
) -> AsyncIterator[bytes]:
    """The events of a running job as server-sent events, until its last one, until the service stops, or until the
    reader is not allowed to read on. `there`: whether the job is; one that ended and was deleted before its last event
    was read has none."""
    yield b"retry: 1000\n\n"
    with tailer.subscribed(job_id, after) as subscription:
        while not tailer.stopped:
            events = await subscription.batch(patience=heartbeat)
            if not allowed():
                return
            if not events:
                if not await _is_there(there):
                    return
                yield b": waiting\n\n"
            for event in events:
                yield as_sse(event)
            if events and events[-1].type in TERMINAL:
                return


async def _is_there(there: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await there()
    except NotReady:
        return True  # nobody knows; it is asked again


def as_sse(event: Event) -> bytes:
    """One server-sent event. JSON has no line breaks, so one data line is enough."""
    return f"id: {event.id}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()
