from __future__ import annotations

import asyncio
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gammabeta.errors import InvalidRequest, Overloaded
from service.runtime.batching import PIECE
from service.runtime.costs import HERE_SECONDS, Cost, Rows, Scores
from service.runtime.counting import Statistics
from service.runtime.lines import MOST_SLOWNESS, Line
from tests.unit.service.desk import FREE, MIDDLING, POISON, SLOW, Desk, Net, rows, run, turns


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
