"""Bodies that come late, on a clock that goes on by itself to whatever is waited for."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from starlette.types import Message, Receive, Scope, Send

from gammabeta.errors import TooLarge, TooSlow
from service.arriving import Arriving
from service.limits import BodyLimits
from service.settings import ServiceSettings

T = TypeVar("T")
SECONDS = 10


class Clock(selectors.DefaultSelector):
    """Of an event loop: what it would sleep has passed at once."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing is left to wait for"
        self.passed += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """By that clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.passed


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)


class Client:
    """Sends a byte after each of these pauses, the last one with the end of the body, and then says no more."""

    def __init__(self, pauses: Iterable[float]) -> None:
        self._pauses = list(pauses)
        self.let_go = 0

    async def receive(self) -> Message:
        came = False
        try:
            if not self._pauses:
                await asyncio.Event().wait()
            if pause := self._pauses.pop(0):
                await asyncio.sleep(pause)
            came = True
        finally:
            self.let_go += not came
        return {"type": "http.request", "body": b"x", "more_body": bool(self._pauses)}


def arriving(client: Client, *, in_all: bool = True, limit: int = 100) -> Arriving:
    return Arriving(client.receive, limit=limit, seconds=SECONDS, in_all=in_all)


async def body(of: Arriving) -> bytes:
    read, more = b"", True
    while more:
        message = await of.receive()
        read, more = read + message["body"], message["more_body"]
    return read


@pytest.mark.parametrize(
    ("pauses", "in_all"),
    [([0], True), ([9], True), ([0, 4, 0, 5], True), ([9] * 50, False), ([0, 0, 9.9, 0, 9.9], False)],
)
def test_a_body_in_its_time_arrives(pauses: list[float], in_all: bool) -> None:
    assert run(body(arriving(Client(pauses), in_all=in_all))) == b"x" * len(pauses)


@pytest.mark.parametrize(
    ("pauses", "in_all", "received"),
    [([11], True, 0), ([4, 4, 4, 0], True, 2), ([1] * 50, True, 9), ([11], False, 0), ([9, 9, 11, 0], False, 2)],
)
def test_a_body_that_is_too_slow_is_refused(pauses: list[float], in_all: bool, received: int) -> None:
    client = Client(pauses)
    must = "arrive within 10 s" if in_all else "never pause for more than 10 s"
    with pytest.raises(TooSlow, match=f"must {must}. Received: {received} bytes"):
        run(body(arriving(client, in_all=in_all)))
    assert client.let_go == 1


def test_bytes_that_come_late_count_as_those_that_do_not() -> None:
    for pauses in ([0, 0, 0], [1, 1, 1]):
        with pytest.raises(TooLarge):
            run(body(arriving(Client(pauses), limit=2)))
        assert run(body(arriving(Client(pauses), limit=3))) == b"xxx"


def test_who_listens_for_a_hang_up_waits_as_long_as_it_takes() -> None:
    async def listen() -> float:
        of = arriving(Client([0]))
        await body(of)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(of.receive(), 50 * SECONDS)
        return asyncio.get_running_loop().time()

    assert run(listen()) == pytest.approx(50 * SECONDS)


def test_once_an_answer_has_begun_nothing_is_held_to_its_time() -> None:
    async def answer() -> float:
        of = arriving(Client([3 * SECONDS, 4 * SECONDS, 0]), in_all=False)
        receiving = asyncio.create_task(of.receive())
        await asyncio.sleep(SECONDS / 2)
        of.settled = True
        assert (await receiving)["more_body"]
        return asyncio.get_running_loop().time()

    assert run(answer()) == pytest.approx(5 * SECONDS)


def test_an_answer_that_has_begun_is_not_broken_off_by_a_slow_body() -> None:
    """As that of an event stream, which receives for as long as it lasts to hear of a hang-up."""
    settings, sent = ServiceSettings(home=Path("/nowhere"), body_seconds=SECONDS), list[Message]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert (await receive())["body"] == b"x"
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": []}
    run(BodyLimits(app, settings)(scope, Client([5 * SECONDS]).receive, send))
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]


def test_who_stops_receiving_stops_the_receiving() -> None:
    async def give_up(client: Client) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(arriving(client).receive(), 1)

    client = Client([5])
    run(give_up(client))
    assert client.let_go == 1
