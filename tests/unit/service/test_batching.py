from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from gammabeta.errors import InvalidRequest, Overloaded
from service.runtime.batching import HERE_SECONDS, PIECE, STRAIGHT_SECONDS, Batcher, Cost, Limits, Line, Rows, Scores
from service.runtime.counting import Statistics
from service.runtime.listening import while_heard
from service.runtime.pacing import SMALL_BYTES, Pace

SLOW, MIDDLING, FREE = Cost(1.0, 0.0), Cost((STRAIGHT_SECONDS + HERE_SECONDS) / 2, 0.0), Cost(0.0, 0.0)
POISON = -1.0


@dataclass
class Net:
    """Twice its rows, as soon as the gate is open. It remembers the batches that it was given."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    batches: list[int] = field(default_factory=list)

    def __call__(self, x: Rows) -> Scores:
        self.batches.append(len(x))
        self.entered.release()
        assert self.gate.wait(10)
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
def desk(cost: Cost = SLOW, *, workers: int = 1, gate: bool = False, **limits: Any) -> Iterator[Desk]:
    net = Net()
    if gate:
        net.gate.set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield Desk(Batcher(pool, workers=workers, limits=Limits(**limits)), net, Line(net, cost, Statistics()))
        finally:
            net.gate.set()


def run(scene: Callable[[Desk], Awaitable[None]], cost: Cost = SLOW, **settings: Any) -> Desk:
    with desk(cost, **settings) as opened:
        asyncio.run(scene(opened))  # type: ignore[arg-type]
    return opened


async def turns() -> None:
    """Until all that could happen without the threads has happened."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_waits_for_the_thread_is_computed_together() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        others = [desk.ask(float(value), value + 0.5) for value in range(3)]
        await turns()
        assert desk.line.rows == 6
        desk.net.gate.set()
        assert (await first).tolist() == [1.0]
        assert [(await each).tolist() for each in others] == [[0, 1], [2, 3], [4, 5]]

    assert run(scene).net.batches == [1, 6]


def test_what_comes_in_one_turn_is_computed_together() -> None:
    async def scene(desk: Desk) -> None:
        assert [x.tolist() for x in await asyncio.gather(*map(desk.ask, (1.0, 2.0, 3.0)))] == [[2], [4], [6]]

    assert run(scene, gate=True).net.batches == [3]
    assert run(scene, MIDDLING, gate=True).net.batches == [3]


@pytest.mark.parametrize(
    ("limit", "batches"), [(4, [1, 4, 4, 2]), (5, [1, 4, 4, 2]), (3, [1, 2, 2, 2, 2, 2]), (1, [1] + [2] * 5)]
)
def test_a_batch_has_no_more_rows_than_it_may(limit: int, batches: list[int]) -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        others = [desk.ask(1.0, 2.0) for _ in range(5)]
        await turns()
        desk.net.gate.set()
        await asyncio.gather(first, *others)

    assert run(scene, batch_rows=limit).net.batches == batches


@given(st.lists(st.integers(1, 2 * PIECE + 3), min_size=1, max_size=12), st.integers(1, 100), st.booleans())
def test_each_gets_its_own_rows_in_their_order(sizes: list[int], limit: int, in_thread: bool) -> None:
    async def scene(desk: Desk) -> None:
        starts = np.cumsum([0, *sizes])
        asked = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=False)]
        answers = await asyncio.gather(*(desk.ask(*each.tolist()) for each in asked))
        for each, answer in zip(asked, answers, strict=True):
            np.testing.assert_array_equal(answer, 2 * each)
        assert desk.line.rows == 0
        assert not desk.line

    done = run(scene, SLOW if in_thread else MIDDLING, gate=True, batch_rows=limit, queued_rows=10**6, workers=2)
    assert sum(done.net.batches) == sum(sizes) == done.line.statistics.rows
    assert done.line.statistics.executions == len(done.net.batches)


def test_a_request_that_fails_touches_no_neighbour() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        good, poisoned, infinite, also_good = desk.ask(1.0), desk.ask(POISON), desk.ask(2.0, 1e300), desk.ask(3.0)
        await turns()
        desk.net.gate.set()
        assert [(await each).tolist() for each in (first, good, also_good)] == [[1], [2], [6]]
        with pytest.raises(RuntimeError, match="poisoned"):
            await poisoned
        with pytest.raises(InvalidRequest) as caught:
            await infinite
        assert [error.field for error in caught.value.errors] == ["instances[1]"]

    assert run(scene).net.batches == [1, 5, 1, 1, 2, 1]


def test_a_row_that_is_not_finite_fails_its_own_request_without_a_second_try() -> None:
    async def scene(desk: Desk) -> None:
        good, infinite = desk.ask(1.0), desk.ask(1e300)
        assert (await good).tolist() == [2]
        with pytest.raises(InvalidRequest):
            await infinite

    assert run(scene, gate=True).net.batches == [2]


def test_a_large_request_goes_in_turn_with_small_ones() -> None:
    order: list[str] = []

    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        large, small = desk.ask(*np.arange(3.0 * PIECE)), desk.ask(1.0)
        large.add_done_callback(lambda _: order.append("large"))
        small.add_done_callback(lambda _: order.append("small"))
        await turns()
        desk.net.gate.set()
        assert len(await large) == 3 * PIECE
        await asyncio.gather(first, small)

    assert run(scene).net.batches == [1, PIECE, 1, PIECE, PIECE]
    assert order == ["small", "large"]


def test_too_many_rows_are_refused_at_once() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        waiting = [desk.ask(1.0, 2.0) for _ in range(2)]
        await turns()
        with pytest.raises(Overloaded, match=r"At most 5 rows.*while 4 wait") as caught:
            await desk.ask(1.0, 2.0)
        assert caught.value.retry_after >= 1
        desk.batcher.check_room(desk.line)
        last = desk.ask(3.0)
        await turns()
        with pytest.raises(Overloaded):
            desk.batcher.check_room(desk.line)
        desk.net.gate.set()
        await asyncio.gather(first, last, *waiting)
        assert len(await desk.ask(1.0, 2.0)) == 2

    assert run(scene, queued_rows=5).line.statistics.refused == 2


def test_a_request_of_any_size_is_taken_where_nobody_waits() -> None:
    async def scene(desk: Desk) -> None:
        assert len(await desk.ask(*np.arange(2.0 * PIECE))) == 2 * PIECE

    run(scene, gate=True, queued_rows=1)


def test_rows_that_nobody_wants_any_more_are_not_computed() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        gone, kept = desk.ask(1.0, 2.0, 3.0), desk.ask(4.0)
        await turns()
        gone.cancel()
        await turns()
        assert desk.line.rows == 1
        desk.net.gate.set()
        await asyncio.gather(first, kept)

    assert run(scene).net.batches == [1, 1]


def test_a_request_that_is_given_up_while_it_is_computed_holds_nobody_up() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        first.cancel()
        await turns()
        after = desk.ask(4.0)
        desk.net.gate.set()
        assert (await after).tolist() == [8]

    assert run(scene).line.statistics.rows == 1


def test_versions_take_turns() -> None:
    turn: list[str] = []

    def noting(name: str, desk: Desk, x: Rows) -> Scores:
        turn.append(name)
        return desk.net(x)

    async def scene(desk: Desk) -> None:
        lines = {name: Line(partial(noting, name, desk), SLOW, Statistics()) for name in "ab"}
        first = await desk.occupy()
        asked = [desk.batcher.scores(lines[name], rows(1.0)) for name in "aaabb"]
        tasks = [asyncio.create_task(each) for each in asked]
        await turns()
        desk.net.gate.set()
        await asyncio.gather(first, *tasks)

    run(scene, batch_rows=1)
    assert turn == list("ababa")


def test_those_who_wait_together_wait_for_more_where_that_is_set() -> None:
    async def scene(desk: Desk) -> None:
        assert (await desk.ask(1.0)).tolist() == [2]  # alone: at once
        two = [desk.ask(1.0), desk.ask(2.0)]
        await turns()
        assert desk.line.rows == 2
        await asyncio.gather(*two, desk.ask(3.0))

    assert run(scene, gate=True, wait_seconds=60, batch_rows=3).net.batches == [1, 3]


def test_they_do_not_wait_for_ever() -> None:
    async def scene(desk: Desk) -> None:
        await asyncio.gather(desk.ask(1.0), desk.ask(2.0))

    assert run(scene, gate=True, wait_seconds=0.01).net.batches == [2]


def test_cheap_rows_are_computed_where_they_stand_unless_others_wait() -> None:
    async def scene(desk: Desk) -> None:
        scores = desk.batcher.straight(desk.line, rows(1.0, 2.0))
        assert scores is not None
        assert scores.tolist() == [2, 4]
        assert desk.batcher.straight(desk.line, rows(*range(PIECE + 1))) is None
        waiting = desk.ask(1.0)
        await asyncio.sleep(0)
        assert desk.line
        assert desk.batcher.straight(desk.line, rows(1.0)) is None
        await waiting
        assert desk.batcher.straight(Line(desk.net, MIDDLING, Statistics()), rows(1.0)) is None

    run(scene, FREE, gate=True)


def test_statistics_tell_what_was_done() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        others = [desk.ask(1.0, 2.0), desk.ask(3.0)]
        await turns()
        desk.net.gate.set()
        await asyncio.gather(first, *others)

    told = run(scene).line.statistics
    assert (told.rows, told.executions, told.queue.count, told.compute_infer.count) == (4, 2, 3, 3)
    assert {size: each.count for size, each in told.batches.items()} == {1: 1, 3: 1}
    assert told.queue.ns > 0
    assert told.compute_infer.ns == told.batches[1].ns + 2 * told.batches[3].ns


def test_the_cost_of_a_batch_is_measured() -> None:
    def net(x: Rows) -> Scores:
        return np.zeros(len(x), dtype=np.float32)

    assert 0 < Cost.measured(net, lambda n: np.zeros((n, 2))).of(1) < HERE_SECONDS
    assert Cost(1.0, 0.5).of(4) == 3.0


def test_work_goes_on_while_somebody_hears_the_answer() -> None:
    async def scene() -> None:
        hangs_up: asyncio.Queue[Any] = asyncio.Queue()
        assert await while_heard(asyncio.sleep(0, "done"), hangs_up.get) == "done"
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            await never

        hangs_up.put_nowait({"type": "http.request", "body": b""})
        hangs_up.put_nowait({"type": "http.disconnect"})
        with pytest.raises(ClientDisconnect):
            await while_heard(work(), hangs_up.get)
        await turns()
        assert never.cancelled()

    asyncio.run(scene())


def test_a_pace_is_learned() -> None:
    pace, quick = Pace(), Pace()
    for _ in range(20):
        pace.kept(lambda: sum(range(100_000)), SMALL_BYTES)
        quick.kept(lambda: None, SMALL_BYTES)
    assert not pace.is_short(10**5)
    assert quick.is_short(10**5)
    assert pace.is_short(SMALL_BYTES - 1)
