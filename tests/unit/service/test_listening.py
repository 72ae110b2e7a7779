from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from service.runtime.listening import while_heard
from tests.unit.service.desk import MIDDLING, Desk, rows, run, turns


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
