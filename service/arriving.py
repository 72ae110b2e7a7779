"""A body as it arrives: counted, and held to its time. Nothing is ever buffered here.

receive ──► it has come ──► counted ──► the application
   │                           └─ beyond the limit: TooLarge
   └─ too late: TooSlow
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from gammabeta.errors import TooLarge, TooSlow


class Arriving:
    """The body of one request. `receive` is what the application reads it by."""

    settled = False
    """Whoever receives now waits for the client to hang up, for as long as that takes: the body is whole, or an
    answer has begun."""
    _received = 0
    _deadline: float | None = None

    def __init__(self, source: Receive, *, limit: int, seconds: float, in_all: bool) -> None:
        """`limit`: bytes. `seconds`: for all of it `in_all`, else for the longest pause."""
        self._source, self._limit, self._seconds, self._in_all = source, limit, seconds, in_all

    async def receive(self) -> Message:
        """ASGI.

        Raises:
            TooLarge
            TooSlow
        """
        if self.settled:
            return await self._source()
        try:
            async with asyncio.timeout_at(self._until()):
                message = await self._source()
        except TimeoutError:
            if self.settled:
                return await self._source()
            raise self._too_slow() from None
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise too_large(self._limit)
        if not message.get("more_body", False):
            self.settled = True
        return message

    def _until(self) -> float:
        """On the clock of the event loop."""
        if self._deadline is None or not self._in_all:
            self._deadline = asyncio.get_running_loop().time() + self._seconds
        return self._deadline

    def _too_slow(self) -> TooSlow:
        must = "arrive within" if self._in_all else "never pause for more than"
        return TooSlow(
            f"The body must {must} {self._seconds:g} s. Received: {self._received:,} bytes, and no more in time. Send "
            "it faster, or raise GAMMABETA_BODY_SECONDS."
        )


def too_large(limit: int, received: int | None = None) -> TooLarge:
    """The refusal of a body; `received` where it was declared."""
    got = f"{received:,}" if received is not None else "more"
    return TooLarge(f"The body must have at most {limit:,} bytes. Received: {got}. Send less at once.")
