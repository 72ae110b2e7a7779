from __future__ import annotations

import asyncio

from service.background import running


def test_a_loop_that_breaks_begins_anew_and_ends_with_its_block() -> None:
    begun: list[int] = []

    async def loop() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise RuntimeError("a bug")
        await asyncio.Event().wait()

    async def test() -> None:
        async with running(loop, pause=0):
            while len(begun) < 3:
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(test(), 10))
    assert begun == [0, 1, 2]
