from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from gammabeta.errors import NotReady
from gammabeta.schemas.jobs import TERMINAL, Event
from service.events import Tailer, stream

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERY = 0.002


def event(number: int, type: str = "checkpoint", job: str = "job_a") -> Event:
    return Event(id=number, job=job, type=type, attempt=1, data={"text": "a\nb"}, created_at=NOW)


class Log:
    """A table of events that grows, and counts who asks."""

    def __init__(self, *events: Event) -> None:
        self.events = list(events)
        self.asked: list[dict[str, int]] = []
        self.failures = 0

    def fetch(self, cursors: dict[str, int]) -> list[Event]:
        self.asked.append(dict(cursors))
        if self.failures:
            self.failures -= 1
            raise NotReady
        return [each for each in self.events if each.id > cursors.get(each.job, 10**9)]


def runs(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test_in_a_loop() -> None:
        asyncio.run(asyncio.wait_for(test(), 10))

    test_in_a_loop.__name__ = test.__name__
    return test_in_a_loop


@asynccontextmanager
async def tailing(log: Log) -> AsyncIterator[Tailer]:
    tailer = Tailer(log.fetch, every=EVERY)
    task = asyncio.create_task(tailer.run())
    try:
        yield tailer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ids(tailer: Tailer, *, after: int = 0, job: str = "job_a") -> list[int]:
    """The ids of a whole stream."""
    sent = b"".join([part async for part in stream(tailer, job, after=after, heartbeat=5)]).decode()
    return [int(line[4:]) for line in sent.splitlines() if line.startswith("id: ")]


@runs
async def test_a_stream_has_what_was_and_what_comes_and_ends_with_the_job() -> None:
    log = Log(event(1), event(2))
    async with tailing(log) as tailer:
        following = asyncio.create_task(ids(tailer))
        for number in range(3, 50):
            log.events.append(event(number))
            await asyncio.sleep(EVERY / 5)
        log.events.append(event(50, "succeeded"))
        assert await following == list(range(1, 51))


@runs
async def test_a_stream_goes_on_behind_the_last_event_that_was_seen() -> None:
    log = Log(event(1), event(2), event(3, "failed"))
    async with tailing(log) as tailer:
        assert await ids(tailer, after=2) == [3]


@runs
async def test_streams_of_one_job_at_different_places_get_each_event_once() -> None:
    log = Log(*(event(number) for number in range(1, 20)), event(20, "cancelled"))
    async with tailing(log) as tailer:
        both = list(await asyncio.gather(ids(tailer), ids(tailer, after=10), ids(tailer, after=19)))
        assert both == [list(range(1, 21)), list(range(11, 21)), [20]]


@runs
async def test_one_question_serves_all_streams() -> None:
    log = Log(event(1), event(2, job="job_b"))
    async with tailing(log) as tailer:
        with tailer.subscribed("job_a", 0), tailer.subscribed("job_a", 5), tailer.subscribed("job_b", 1):
            while not log.asked:
                await asyncio.sleep(EVERY)
    assert log.asked[0] == {"job_a": 0, "job_b": 1}


@runs
async def test_nobody_asks_when_nobody_follows() -> None:
    log = Log(event(1, "succeeded"))
    async with tailing(log) as tailer:
        await ids(tailer)
        asked = len(log.asked)
        await asyncio.sleep(EVERY * 10)
        assert len(log.asked) <= asked + 1


@runs
async def test_a_reader_that_lags_misses_nothing() -> None:
    log = Log()
    async with tailing(log) as tailer:
        with tailer.subscribed("job_a", 0) as slow:
            for number in range(1, 40):
                log.events.append(event(number))
                await asyncio.sleep(EVERY)
            seen: list[int] = []
            while len(seen) < 39:
                seen += [each.id for each in await slow.batch(patience=1)]
    assert seen == list(range(1, 40))


@runs
async def test_a_database_that_is_away_for_a_while_ends_no_stream() -> None:
    log = Log(event(1, "succeeded"))
    log.failures = 3
    async with tailing(log) as tailer:
        assert await ids(tailer) == [1]


@runs
async def test_a_silent_stream_says_that_it_lives() -> None:
    async with tailing(Log()) as tailer:
        parts = stream(tailer, "job_a", after=0, heartbeat=EVERY)
        assert (await anext(parts)).startswith(b"retry:")
        assert (await anext(parts)).startswith(b":")
        await parts.aclose()  # type: ignore[attr-defined]


@runs
async def test_streams_end_when_the_service_stops() -> None:
    async with tailing(Log(event(1))) as tailer:
        following = asyncio.create_task(ids(tailer))
        await asyncio.sleep(EVERY * 5)
        tailer.stop()
        assert await following == [1]


@runs
async def test_an_event_is_one_line_of_data() -> None:
    async with tailing(Log(event(7, "succeeded"))) as tailer:
        sent = b"".join([part async for part in stream(tailer, "job_a", after=0, heartbeat=5)]).decode()
    assert "id: 7\nevent: succeeded\ndata: {" in sent
    assert sent.endswith("}\n\n")


def test_the_name_of_a_terminal_state_ends_a_stream() -> None:
    assert frozenset({"succeeded", "failed", "cancelled"}) == TERMINAL
