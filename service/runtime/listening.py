"""Work for somebody who may hang up: done for as long as there is someone to hear the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def while_heard(work: Callable[[], Coroutine[Any, Any, T]], receive: Receive) -> T:
    """What `work` gives; it is cancelled when the client goes, and not begun where the client has gone already. The
    body must have been received.

    Raises:
        ClientDisconnect: nobody hears the answer.
    """
    hanging_up = asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.sleep(0)  # the turn in which one who has gone is found to have
        if hanging_up.done():
            raise ClientDisconnect
        return await _until(hanging_up, work())
    finally:
        hanging_up.cancel()


async def _until(hanging_up: asyncio.Task[None], work: Coroutine[Any, Any, T]) -> T:
    working = asyncio.create_task(work)
    try:
        await asyncio.wait((working, hanging_up), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        del working  # its error knows this frame: a ring that would keep what the work has read


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
