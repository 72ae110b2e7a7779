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
        return await _until(hanging_up, work)
    finally:
        hanging_up.cancel()


async def _until(hanging_up: asyncio.Task[None], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """In the task of the request itself, as `asyncio.timeout` does: another task for each would cost as much as the
    rest of what a batch does for it."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("A request must be answered in a task. Received: none.")
    others, gone = task.cancelling(), False

    def end(_: asyncio.Task[None]) -> None:
        nonlocal gone
        gone = True
        task.cancel()

    hanging_up.add_done_callback(end)
    try:
        return await work()
    except asyncio.CancelledError:
        if gone and task.cancelling() <= others + 1:
            raise ClientDisconnect from None
        raise
    finally:
        hanging_up.remove_done_callback(end)
        if gone:
            task.uncancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
