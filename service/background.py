"""Loops that run beside the requests for as long as the service does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gammabeta import logs

Loop = Callable[[], Awaitable[None]]


@asynccontextmanager
async def running(*loops: Loop, pause: float = 1.0) -> AsyncIterator[None]:
    """Run the loops until the end of the block. One that breaks is logged and begins anew after `pause` seconds."""
    tasks = [asyncio.create_task(_kept(loop, pause)) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _kept(loop: Loop, pause: float) -> None:
    while True:
        try:
            await loop()
        except Exception as error:
            logs.get(__name__).exception("a loop broke and begins anew", error=repr(error))
        await asyncio.sleep(pause)
