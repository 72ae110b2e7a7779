"""Work for somebody who may hang up: done for as long as there is someone to hear the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def while_heard(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """What `work` gives; it is cancelled when the client goes. The body must have been received.

    Raises:
        ClientDisconnect: nobody hears the answer.
    """
    working, hanging_up = asyncio.create_task(work), asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait((working, hanging_up), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        hanging_up.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
