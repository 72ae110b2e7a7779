from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from gammabeta.errors import InvalidRequest, Overloaded
from gammabeta.schemas.preprocessing import FittedImage, FittedPreprocessing, FittedTable, NumericColumn
from service.runtime import media
from service.runtime.batching import (
    HERE_SECONDS,
    MOST_SLOWNESS,
    PIECE,
    STRAIGHT_SECONDS,
    Batcher,
    Cost,
    Limits,
    Line,
    Rows,
    Scores,
)
from service.runtime.counting import Statistics
from service.runtime.listening import while_heard
from service.runtime.pacing import SMALL_BYTES, Pace, Workbench

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
    ("limit", "batches"), [(4, [1, 4, 4, 2]), (5, [1, 4, 4, 2]), (3, [1, 2, 2, 2, 2, 2]), (1, [1] * 11)]
)
def test_a_batch_has_no_more_rows_than_it_may(limit: int, batches: list[int]) -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        others = [desk.ask(1.0, 2.0) for _ in range(5)]
        await turns()
        desk.net.gate.set()
        await asyncio.gather(first, *others)

    assert run(scene, batch_rows=limit).net.batches == batches


@settings(deadline=None)  # some hundred changes of threads
@given(st.lists(st.integers(1, 2 * PIECE + 3), min_size=1, max_size=6), st.integers(64, 1_000), st.booleans())
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
        large, small = desk.ask(*np.arange(12.0)), desk.ask(1.0)
        large.add_done_callback(lambda _: order.append("large"))
        small.add_done_callback(lambda _: order.append("small"))
        await turns()
        desk.net.gate.set()
        assert len(await large) == 12
        await asyncio.gather(first, small)

    assert run(scene, batch_rows=4).net.batches == [1, 4, 1, 4, 4]
    assert order == ["small", "large"]


@pytest.mark.parametrize(
    ("cost", "batch_rows", "batches"),
    [
        (SLOW, 4, [4, 4, 2]),
        (SLOW, 1, [1] * 10),
        (Cost(0.0, 0.025), 64, [2] * 5),
        (Cost(1.0, 0.025), 64, [2] * 5),
        (Cost(0.0, 1.0), 64, [1] * 10),
        (Cost(1.0, 0.0), 64, [10]),
    ],
)
def test_no_more_rows_are_computed_at_once_than_may_be_nor_for_long(
    cost: Cost, batch_rows: int, batches: list[int]
) -> None:
    async def scene(desk: Desk) -> None:
        await desk.ask(*np.arange(10.0))

    assert run(scene, cost, gate=True, batch_rows=batch_rows).net.batches == batches


def test_a_piece_has_a_bound_of_its_own() -> None:
    async def scene(desk: Desk) -> None:
        await desk.ask(*np.arange(PIECE + 1.0))

    assert run(scene, gate=True, batch_rows=10_000).net.batches == [PIECE, 1]


def test_who_waits_together_for_a_slow_network_is_not_computed_all_at_once() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        others = [desk.ask(1.0) for _ in range(5)]
        await turns()
        desk.net.gate.set()
        await asyncio.gather(first, *others)

    assert run(scene, Cost(0.0, 0.025)).net.batches == [1, 2, 2, 1]


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

    run(scene, queued_rows=5)


def test_nobody_waits_longer_than_a_request_may() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        waiting = [desk.ask(1.0) for _ in range(3)]
        await turns()
        with pytest.raises(
            Overloaded,
            match=r"at most 350,000 ms.*would wait (39\d|400),\d+ ms, behind 3 rows and what is.*MAX_QUEUED_MS",
        ):
            await desk.ask(1.0)
        with pytest.raises(Overloaded):
            desk.batcher.check_room(desk.line)
        desk.net.gate.set()
        await asyncio.gather(first, *waiting)

    run(scene, Cost(0.0, 100.0), queued_seconds=350.0)


def test_what_is_being_computed_counts_as_waited_for() -> None:
    async def scene(desk: Desk) -> None:
        desk.batcher.check_room(desk.line)
        first = await desk.occupy()
        with pytest.raises(Overloaded, match="behind 0 rows and what is being computed"):
            desk.batcher.check_room(desk.line)
        with pytest.raises(Overloaded, match="behind 0 rows and what is being computed"):
            await desk.ask(1.0)
        desk.net.gate.set()
        await first
        desk.batcher.check_room(desk.line)
        assert (await desk.ask(1.0)).tolist() == [2]

    run(scene, Cost(0.0, 100.0), queued_seconds=50.0)


def test_what_other_versions_wait_for_counts_too() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        others = [Line(desk.net, Cost(0.0, 100.0), Statistics()) for _ in range(2)]
        waiting = [asyncio.create_task(desk.batcher.scores(each, rows(1.0))) for each in others]
        await turns()
        with pytest.raises(Overloaded, match=r"would wait (29\d|300),\d+ ms, behind 0 rows"):
            await desk.ask(1.0)
        desk.net.gate.set()
        await asyncio.gather(first, *waiting)

    run(scene, Cost(0.0, 100.0), queued_seconds=250.0)


def test_who_is_refused_is_told_when_those_that_wait_will_be_done() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        waiting = [desk.ask(1.0) for _ in range(2)]
        await turns()
        with pytest.raises(Overloaded) as caught:
            await desk.ask(1.0)
        assert 290 <= caught.value.retry_after <= 300
        desk.net.gate.set()
        await asyncio.gather(first, *waiting)

    run(scene, Cost(0.0, 100.0), queued_seconds=250.0)


def test_threads_share_what_waits() -> None:
    async def scene(desk: Desk) -> None:
        both = [await desk.occupy(), await desk.occupy()]
        waiting = [desk.ask(1.0) for _ in range(3)]
        await turns()
        with pytest.raises(Overloaded, match=r"would wait (24\d|250),\d+ ms, behind 3 rows"):
            await desk.ask(1.0)
        desk.net.gate.set()
        await asyncio.gather(*both, *waiting)

    run(scene, Cost(0.0, 100.0), queued_seconds=220.0, workers=2)


def test_a_batch_that_took_longer_than_it_costs_makes_the_next_wait_longer() -> None:
    async def scene(desk: Desk) -> None:
        for _ in range(40):  # of no cost to speak of, but for the change of threads: slow, by far
            await desk.ask(1.0)
        assert desk.line.slowness > MOST_SLOWNESS / 2
        desk.net.gate.clear()
        desk.line.cost = Cost(0.0, 100.0)
        first = await desk.occupy()
        with pytest.raises(Overloaded, match="behind 0 rows"):
            desk.batcher.check_room(desk.line)
        desk.net.gate.set()
        await first

    run(scene, Cost(2 * HERE_SECONDS, 0.0), gate=True, queued_seconds=250.0, pause=MOST_SLOWNESS * 2 * HERE_SECONDS)


def test_a_batch_that_is_overdue_is_waited_for_no_longer_than_from_now() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        loop = asyncio.get_running_loop()
        while loop.time() < desk.batcher._ends[next(iter(desk.batcher._ends))] + 0.01:
            await asyncio.sleep(0)
        second = desk.ask(1.0)
        await turns()
        assert desk.batcher._wait(desk.line, 0) == 0
        desk.net.gate.set()
        await asyncio.gather(first, second)

    run(scene, Cost(2 * HERE_SECONDS, 0.0))


def test_cheap_rows_need_no_thread_and_wait_for_none() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        cheap = Line(lambda x: x[:, 0], MIDDLING, Statistics())
        desk.batcher.check_room(cheap)
        assert (await desk.batcher.scores(cheap, rows(3.0))).tolist() == [3]
        desk.net.gate.set()
        await first

    run(scene, Cost(0.0, 100.0), queued_seconds=50.0)


def test_a_batch_takes_no_longer_than_a_request_may_wait() -> None:
    async def scene(desk: Desk) -> None:
        await desk.ask(*np.arange(6.0))

    assert run(scene, Cost(0.0, 0.005), gate=True, queued_seconds=0.01).net.batches == [2, 2, 2]


def test_how_slow_the_machine_is_of_late_is_learned() -> None:
    line = Line(Net(), Cost(0.0, 0.1), Statistics())
    for _ in range(50):
        line.took(2, 0.6)
    assert line.seconds(4) == pytest.approx(1.2, rel=0.01)
    line.took(2, 1e6)
    assert line.slowness < 4
    for _ in range(50):
        line.took(2, 0.2)
    assert line.seconds(4) == pytest.approx(0.4, rel=0.01)


def test_a_large_request_waits_for_all_that_others_have_left_and_a_small_one_for_a_piece_of_each() -> None:
    async def scene(desk: Desk) -> None:
        first = await desk.occupy()
        large = desk.ask(*np.arange(20.0))
        await turns()
        assert desk.line.rows == 1
        with pytest.raises(Overloaded, match=r"would wait 2,(09|10)\d,\d+ ms, behind 20 rows"):
            await desk.ask(1.0, 2.0)
        small = desk.ask(1.0)
        await turns()
        desk.net.gate.set()
        await asyncio.gather(first, large, small)

    run(scene, Cost(0.0, 100.0))


def test_rows_of_all_versions_together_take_only_so_many_bytes() -> None:
    async def scene(desk: Desk) -> None:
        first, other = await desk.occupy(), Line(desk.net, SLOW, Statistics())
        waiting = desk.ask(*np.arange(10.0))
        await turns()
        for line in (desk.line, other):
            with pytest.raises(Overloaded, match=r"at most 100 bytes.*24 more, while 80 wait.*MAX_QUEUED_BYTES"):
                await desk.batcher.scores(line, rows(1.0, 2.0, 3.0))
        waiting.cancel()
        await turns()
        small = asyncio.create_task(desk.batcher.scores(other, rows(1.0, 2.0, 3.0)))
        desk.net.gate.set()
        await asyncio.gather(first, small)
        assert len(await desk.ask(*np.arange(100.0))) == 100
        assert desk.line.bytes == other.bytes == 0

    run(scene, queued_bytes=100)


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
        assert desk.batcher.straight(desk.line, rows(*range(65))) is None
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
    async def answered() -> str:
        await asyncio.sleep(0)
        return "done"

    async def scene() -> None:
        hangs_up: asyncio.Queue[Any] = asyncio.Queue()
        assert await while_heard(answered, hangs_up.get) == "done"
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            await never

        hangs_up.put_nowait({"type": "http.request", "body": b""})
        heard = asyncio.create_task(while_heard(work, hangs_up.get))
        await turns()
        hangs_up.put_nowait({"type": "http.disconnect"})
        with pytest.raises(ClientDisconnect):
            await heard
        await turns()
        assert never.cancelled()

    asyncio.run(scene())


@pytest.mark.parametrize("also_hangs_up", [False, True])
def test_a_request_that_is_cancelled_has_not_hung_up(also_hangs_up: bool) -> None:
    async def scene() -> None:
        hangs_up: asyncio.Queue[Any] = asyncio.Queue()
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            await never

        heard = asyncio.create_task(while_heard(work, hangs_up.get))
        await turns()
        if also_hangs_up:
            hangs_up.put_nowait({"type": "http.disconnect"})
        heard.cancel()
        with pytest.raises(asyncio.CancelledError):
            await heard
        assert never.cancelled()

    asyncio.run(scene())


def test_who_hears_of_a_hang_up_may_go_on() -> None:
    async def request() -> int:
        hangs_up: asyncio.Queue[Any] = asyncio.Queue()
        asyncio.get_running_loop().call_later(0.01, hangs_up.put_nowait, {"type": "http.disconnect"})
        with pytest.raises(ClientDisconnect):
            await while_heard(asyncio.Event().wait, hangs_up.get)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(request()) == 0


def test_no_work_is_begun_for_who_has_gone_already() -> None:
    begun = []

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def work() -> None:
        begun.append(True)

    async def scene(desk: Desk) -> None:
        for each in (work, partial(desk.batcher.scores, desk.line, rows(1.0))):
            with pytest.raises(ClientDisconnect):
                await while_heard(each, gone)

    assert run(scene, MIDDLING, gate=True).net.batches == begun == []


def test_a_pace_is_learned() -> None:
    pace, quick = Pace(), Pace()
    for _ in range(20):
        pace.kept(lambda: sum(range(100_000)), SMALL_BYTES)
        quick.kept(lambda: None, SMALL_BYTES)
    assert not pace.is_short(10**5)
    assert quick.is_short(10**5)
    assert pace.is_short(SMALL_BYTES - 1)


# ── the workbench ──


@dataclass
class Bench:
    """A workbench of one thread, and work that ends when the gate opens."""

    bench: Workbench
    gate: threading.Event = field(default_factory=threading.Event)
    done: list[str] = field(default_factory=list)

    def ask(self, name: str, size: int = 100) -> asyncio.Task[None]:
        def work() -> None:
            assert self.gate.wait(10)
            self.done.append(name)

        return asyncio.create_task(self.bench.do(work, size, Pace(), held=size))


def at_bench(scene: Callable[[Bench], Awaitable[None]], *, seconds: float = 1.0, size: int = 10**9) -> Bench:
    with ThreadPoolExecutor(1) as pool:

        async def opened() -> Bench:
            bench = Bench(Workbench(pool, threads=1, seconds=seconds, size=size, doing="read"))
            try:
                await scene(bench)
            finally:
                bench.gate.set()
            return bench

        return asyncio.run(opened())


def test_work_of_any_size_is_taken_where_a_thread_is_free_and_little_where_none_is() -> None:
    async def scene(bench: Bench) -> None:
        bench.bench.check_room(10**12)
        first = bench.ask("first")
        await turns()
        bench.bench.check_room(100)
        with pytest.raises(
            Overloaded, match=r"250 bytes may wait to be read.*151 bytes more.*100 bytes wait"
        ) as caught:
            bench.bench.check_room(151)
        assert caught.value.retry_after == 1
        bench.gate.set()
        await first
        bench.bench.check_room(10**12)

    at_bench(scene, size=250)


def test_work_waits_only_for_so_long() -> None:
    async def scene(bench: Bench) -> None:
        size = 10**7  # 0.1 s at the pace that is taken to begin with
        tasks = [bench.ask("first", size), bench.ask("second", size)]
        await turns()
        bench.bench.check_room()
        tasks.append(bench.ask("third", size))
        await turns()
        with pytest.raises(Overloaded, match=r"At most 250 ms.* while 300 ms"):
            bench.bench.check_room()
        bench.gate.set()
        await asyncio.gather(*tasks)

    assert at_bench(scene, seconds=0.25).done == ["first", "second", "third"]


def test_work_that_is_given_up_while_it_waits_is_not_done_and_leaves_room() -> None:
    async def scene(bench: Bench) -> None:
        first, gone, kept = bench.ask("first"), bench.ask("gone"), bench.ask("kept")
        await turns()
        with pytest.raises(Overloaded):
            bench.bench.check_room(100)
        gone.cancel()
        await turns()
        bench.bench.check_room(100)
        bench.gate.set()
        await asyncio.gather(first, kept)

    assert at_bench(scene, size=350).done == ["first", "kept"]


def test_work_that_is_given_up_while_it_is_done_keeps_its_thread_until_it_ends() -> None:
    async def scene(bench: Bench) -> None:
        first = bench.ask("first")
        await turns()
        first.cancel()
        after = bench.ask("after")
        await turns()
        assert bench.bench.wait_seconds > 0
        bench.gate.set()
        await after

    assert at_bench(scene).done == ["first", "after"]


def test_nobody_complains_of_the_error_of_work_that_was_given_up() -> None:
    complaints: list[dict[str, Any]] = []

    async def scene(bench: Bench) -> None:
        def work() -> None:
            assert bench.gate.wait(10)
            raise InvalidRequest

        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        given_up = asyncio.create_task(bench.bench.do(work, 1, Pace(), held=1))
        await turns()
        given_up.cancel()
        after = bench.ask("after")
        bench.gate.set()
        await after
        gc.collect()

    assert at_bench(scene).done == ["after"]
    assert complaints == []


def test_what_was_read_before_an_error_is_kept_by_nobody() -> None:
    """Not even until rings of objects are looked for, which may be long after many such bodies."""
    kept: list[weakref.ref[Any]] = []

    def work() -> None:
        body = np.zeros(1)
        kept.append(weakref.ref(body))
        raise InvalidRequest(f"{len(body)} bytes are too many.")

    async def scene(bench: Bench) -> None:
        never: asyncio.Queue[Any] = asyncio.Queue()
        with pytest.raises(InvalidRequest):
            await while_heard(lambda: bench.bench.do(work, 1, Pace(), held=1), never.get)
        await turns()

    gc.disable()
    try:
        at_bench(scene)
        assert [each() for each in kept] == [None]
    finally:
        gc.enable()


# ── what a body comes to ──

IMAGE, TABLE = (
    FittedImage(shape=(100, 100)),
    FittedTable(columns=(NumericColumn(name="a", fill=0.0), NumericColumn(name="b", fill=0.0)) * 50),
)


@pytest.mark.parametrize(
    ("content_type", "body", "preprocessing", "extent"),
    [
        ("image/png", b"small", IMAGE, 10_000),
        (None, b'{"instances": [{"b64": ""}, {"b64": ""}]}', IMAGE, 20_000),
        (None, b'{"instances": [[1], [2]]}', IMAGE, 25),
        (None, b'{"instances": [{}, {}]}', TABLE, 200),
        ("text/csv", b"a\r\n1\r\n", TABLE, 400),
        (None, b"{" * (1 << 20), TABLE, 1 << 20),
    ],
)
def test_a_small_body_that_comes_to_much_is_no_short_work(
    content_type: str | None, body: bytes, preprocessing: FittedPreprocessing, extent: int
) -> None:
    assert media.extent(media.reader(content_type), body, preprocessing) == extent


def test_a_small_body_of_large_images_is_read_in_a_thread() -> None:
    large = FittedImage(shape=(4096, 4096))
    assert not Pace().is_short(media.extent(media.reader("image/png"), b"x" * 20_000, large))
