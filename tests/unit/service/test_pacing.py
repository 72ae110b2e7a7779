from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from gammabeta.errors import InvalidRequest, Overloaded
from gammabeta.schemas.preprocessing import FittedImage, FittedPreprocessing, FittedTable, NumericColumn
from service.runtime import media
from service.runtime.listening import while_heard
from service.runtime.pacing import SMALL_BYTES, Pace, Workbench
from tests.unit.service.desk import turns


def test_a_pace_is_learned() -> None:
    pace, quick = Pace(), Pace()
    for _ in range(20):
        pace.kept(lambda: sum(range(100_000)), SMALL_BYTES)
        quick.kept(lambda: None, SMALL_BYTES)
    assert not pace.is_short(10**5)
    assert quick.is_short(10**5)
    assert pace.is_short(SMALL_BYTES - 1)


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
